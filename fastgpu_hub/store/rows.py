"""Records to rows and back, both ways exact. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from typing import Any

from fastgpu_hub.broker.ports import chain
from fastgpu_hub.broker.ports.records import (
    Artifact,
    Ask,
    AuditEntry,
    AuditLink,
    Hold,
    IdempotencyKey,
    Notice,
    PromotionCode,
    Redemption,
    RunRecord,
    Workload,
    WorkloadEvent,
)
from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.explain import Explained, Refused
from fastgpu_hub.pricing.ledger import Transfer
from fastgpu_hub.pricing.metering import GPU_HOUR, Line
from fastgpu_hub.pricing.pricebook import PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Promotion
from fastgpu_hub.pricing.quotas import Extra, Quota
from fastgpu_hub.pricing.windows import WeeklyWindow

Row = Mapping[str, Any]


def to_json(value: Any) -> str:
    """Plain data as ASCII text, the same for equal data. Raises TypeError or ValueError for what JSON cannot hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def from_json(text: str) -> Any:
    """The inverse of ``to_json``."""
    return json.loads(text)


def _names(record: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(record))


_WORKLOAD = _names(Workload)
_LINE = _names(Line)
_TRANSFER = _names(Transfer)[1:]  # without its id
_AT_LINE = _TRANSFER.index("line")
_OF_LINE = tuple(name for name in _LINE if name != "amount_micros")
_NO_LINE = (*(None for _ in _OF_LINE), 0, 0)
# In the table, the amount of a transfer is its line's too, and ``by`` is called otherwise.
TRANSFER_COLUMNS = (
    "id",
    *("made_by" if name == "by" else name for name in _TRANSFER if name != "line"),
    *(*_OF_LINE, "gpu_ms", "saved_micros"),
)
_but_id = attrgetter(*_TRANSFER)
_of_line = attrgetter(*_OF_LINE)
_HOLD = tuple(name for name in _names(Hold) if name not in ("id", "lines"))
_KEY = _names(IdempotencyKey)
_ARTIFACT = tuple(name for name in _names(Artifact) if name != "id")
_PROMOTION = tuple(name for name in _names(Promotion) if name not in ("id", "family"))


def workload_row(workload: Workload) -> dict[str, Any]:
    """All columns of a workload."""
    row = {name: getattr(workload, name) for name in _WORKLOAD}
    row["classes"] = to_json(workload.classes)
    row["gpu_uuids"] = to_json(workload.gpu_uuids)
    row["spec"] = to_json(workload.spec)
    row["explanation"] = _explained_text(workload.explanation)
    row["stop_reason"] = _explained_text(workload.stop_reason)
    row["ending"] = _explained_text(workload.ending)
    row["artifacts_note"] = _explained_text(workload.artifacts_note)
    return row


def workload_of(row: Row) -> Workload:
    """The workload of a row."""
    return Workload(
        **{
            **row,
            "classes": tuple(from_json(row["classes"])),
            "gpu_uuids": tuple(from_json(row["gpu_uuids"])),
            "spec": from_json(row["spec"]),
            "explanation": _explained_of(row["explanation"]),
            "stop_reason": _explained_of(row["stop_reason"]),
            "ending": _explained_of(row["ending"]),
            "artifacts_note": _explained_of(row["artifacts_note"]),
        }
    )


def _explained_text(explained: Explained | None) -> str | None:
    if explained is None:
        return None
    plain: dict[str, Any] = {name: getattr(explained, name) for name in _names(Explained)}
    return to_json({**plain, "refused": isinstance(explained, Refused)})


def _explained_of(text: str | None) -> Explained | None:
    if text is None:
        return None
    plain = from_json(text)
    kind = Refused if plain.pop("refused") else Explained
    return kind(**plain)


def artifact_row(artifact: Artifact) -> dict[str, Any]:
    """All columns of an artifact but its id."""
    return {name: getattr(artifact, name) for name in _ARTIFACT}


def run_record_row(record: RunRecord) -> dict[str, Any]:
    """All columns of a run's record."""
    gpu_use = None if record.gpu_use is None else to_json(record.gpu_use)
    return {
        "workload_id": record.workload_id,
        "metrics": to_json(record.metrics),
        "gpu_use": gpu_use,
        "progress": record.progress,
    }


def run_record_of(row: Row) -> RunRecord:
    """The run's record of a row."""
    gpu_use = None if row["gpu_use"] is None else from_json(row["gpu_use"])
    return RunRecord(row["workload_id"], tuple(from_json(row["metrics"])), gpu_use, row["progress"])


def event_row(event: WorkloadEvent) -> dict[str, Any]:
    """All columns of an event but its id."""
    return {
        "workload_id": event.workload_id,
        "at_ms": event.at_ms,
        "kind": event.kind,
        "detail": to_json(event.detail),
    }


def event_of(row: Row) -> WorkloadEvent:
    """The event of a row."""
    return WorkloadEvent(row["workload_id"], row["at_ms"], row["kind"], from_json(row["detail"]))


def hold_row(hold: Hold) -> dict[str, Any]:
    """All columns of a hold but its id; its lines are rows of their own."""
    return {name: getattr(hold, name) for name in _HOLD}


def hold_of(row: Row, lines: Iterable[Line]) -> Hold:
    """The hold of a row and its lines in order."""
    return Hold(**row, lines=tuple(lines))


def hold_line_rows(hold: Hold) -> list[dict[str, Any]]:
    """The rows of an open hold's lines."""
    whose = {"hold_id": hold.id, "owner": hold.owner, "account": hold.account, "gpu_type": hold.gpu_type}
    return [
        {
            **whose,
            "position": position,
            "gpu_ms": gpu_ms(line),
            "saved_micros": line.saved_micros,
            **{name: getattr(line, name) for name in _LINE},
        }
        for position, line in enumerate(hold.lines)
    ]


def line_of(row: Row) -> Line:
    """The line in the columns of a hold line or of a charge."""
    return Line(**{name: row[name] for name in _LINE})


def gpu_ms(line: Line | None) -> int:
    """GPU time that a line adds to a sum."""
    return line.quantity if line is not None and line.unit == GPU_HOUR else 0


def numbered(transfers: Sequence[Transfer], ids: Iterable[int]) -> tuple[list[Transfer], list[tuple[Any, ...]]]:
    """The transfers with these ids, and the values of TRANSFER_COLUMNS of each.

    Raises ValueError when an amount is not its line's, and for a charge or refund without line, owner or GPU type.
    """
    written: list[Transfer] = []
    values: list[tuple[Any, ...]] = []
    for new, transfer in zip(ids, transfers, strict=True):
        fields = _but_id(transfer)
        written.append(Transfer(new, *fields))
        line = transfer.line
        if line is None:
            of_line = _NO_LINE
            if transfer.kind in ("charge", "refund"):
                raise ValueError(f"a {transfer.kind} carries its line")
        elif line.amount_micros != transfer.amount_micros:
            raise ValueError(f"a transfer of {transfer.amount_micros} cannot carry a line of {line.amount_micros}")
        elif transfer.owner is None or transfer.gpu_type is None:
            raise ValueError(f"a {transfer.kind} carries its owner and GPU type")
        else:
            saved_micros = line.saved_micros if line.rate_micros != line.list_rate_micros else 0
            of_line = (*_of_line(line), gpu_ms(line), saved_micros)
        values.append((new, *fields[:_AT_LINE], *fields[_AT_LINE + 1 :], *of_line))
    return written, values


def transfer_of(row: Row) -> Transfer:
    """The transfer of a row."""
    return Transfer(
        id=row["id"],
        kind=row["kind"],
        debit=row["debit"],
        credit=row["credit"],
        amount_micros=row["amount_micros"],
        at_ms=row["at_ms"],
        workload_id=row["workload_id"],
        owner=row["owner"],
        gpu_type=row["gpu_type"],
        line=None if row["unit"] is None else line_of(row),
        reverses=row["reverses"],
        grant_id=row["grant_id"],
        note=row["note"],
        by=row["made_by"],
    )


def price_of(row: Row) -> PriceVersion:
    """The price version of a row."""
    rate = Rate(row["per_gpu_hour_micros"], row["per_task_hour_micros"], row["per_start_micros"])
    return PriceVersion(row["id"], row["gpu_type"], rate, row["valid_from_ms"], row["created_by"])


def promotion_row(promotion: Promotion) -> dict[str, Any]:
    """All columns of a version of a promotion but its id; the first version's family is its own id, kept as NULL."""
    row = {name: getattr(promotion, name) for name in _PROMOTION}
    row["family"] = promotion.family or None
    row["gpu_types"] = to_json(promotion.gpu_types)
    row["audience"] = to_json(promotion.audience)
    row["weekly"] = to_json([[window.days, window.from_minute, window.to_minute] for window in promotion.weekly])
    return row


def promotion_of(row: Row) -> Promotion:
    """The version of a promotion of a row."""
    weekly = tuple(WeeklyWindow(tuple(days), start, end) for days, start, end in from_json(row["weekly"]))
    return Promotion(
        **{
            **row,
            "family": row["family"] or row["id"],
            "gpu_types": tuple(from_json(row["gpu_types"])),
            "audience": tuple(from_json(row["audience"])),
            "weekly": weekly,
        }
    )


def code_row(code: PromotionCode) -> dict[str, Any]:
    """All columns of a code; its uses are counted, not kept."""
    return {name: value for name, value in _plain(code).items() if name != "uses"}


def redemption_row(redemption: Redemption) -> dict[str, Any]:
    """All columns of a redemption but its id."""
    return _plain(redemption)


def _plain(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _names(type(record)) if name != "id"}


def quota_row(quota: Quota) -> dict[str, Any]:
    """All columns of a quota but its id."""
    return {
        "scope": quota.scope,
        "name": quota.name,
        "metric": quota.metric,
        "maximum": quota.limit,
        "period": quota.window,
        "gpu_type": quota.gpu_type,
        "time_zone": quota.time_zone,
        "soft": quota.soft,
        "starts_ms": quota.starts_ms,
        "ends_ms": quota.ends_ms,
        "rolling_ms": quota.rolling_ms,
    }


def quota_of(row: Row) -> Quota:
    """The quota of a row."""
    return Quota(
        id=row["id"],
        scope=row["scope"],
        name=row["name"],
        metric=row["metric"],
        limit=row["maximum"],
        window=row["period"],
        gpu_type=row["gpu_type"],
        time_zone=row["time_zone"],
        soft=row["soft"],
        starts_ms=row["starts_ms"],
        ends_ms=row["ends_ms"],
        rolling_ms=row["rolling_ms"],
    )


def extra_row(extra: Extra) -> dict[str, Any]:
    """All columns of an extra but its id."""
    return _plain(extra)


def extra_of(row: Row) -> Extra:
    """The extra of a row."""
    return Extra(**row)


def grant_row(grant: Grant) -> dict[str, Any]:
    """All columns of a grant but its id."""
    row = _plain(grant)
    row["made_by"] = row.pop("by")
    return row


def grant_of(row: Row) -> Grant:
    """The grant of a row."""
    plain = dict(row)
    by = plain.pop("made_by")
    return Grant(**plain, by=by)


def ask_row(ask: Ask) -> dict[str, Any]:
    """All columns of a request for more but its id."""
    return _plain(ask)


def ask_of(row: Row) -> Ask:
    """The request for more of a row."""
    return Ask(**row)


def notice_row(notice: Notice) -> dict[str, Any]:
    """All columns of a notice but its id."""
    return {**_plain(notice), "explanation": _explained_text(notice.explanation)}


def notice_of(row: Row) -> Notice:
    """The notice of a row."""
    return Notice(**{**row, "explanation": _explained_of(row["explanation"])})


def key_row(entry: IdempotencyKey) -> dict[str, Any]:
    """All columns of an idempotency key."""
    return {name: getattr(entry, name) for name in _KEY}


def key_of(row: Row) -> IdempotencyKey:
    """The idempotency key of a row."""
    return IdempotencyKey(**row)


def audit_link(entry: AuditEntry, new_id: int, previous: str) -> AuditLink:
    """The entry as it is stored, chained to the one whose SHA-256 is ``previous``."""
    before, after = (None if plain is None else to_json(plain) for plain in (entry.before, entry.after))
    link = AuditLink(new_id, entry.at_ms, entry.actor, entry.action, entry.subject, before, after, "")
    return replace(link, sha256=chain.sha256_of(previous, link))


def audit_of(row: Row) -> AuditEntry:
    """The audit entry of a row."""
    before, after = (None if text is None else from_json(text) for text in (row["before"], row["after"]))
    return AuditEntry(**{**row, "before": before, "after": after})
