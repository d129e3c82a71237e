"""Records to rows and back, both ways exact. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from fastgpu_hub.broker.ports.records import AuditEntry, Hold, IdempotencyKey, Workload, WorkloadEvent
from fastgpu_hub.pricing.explain import Explained, Refused
from fastgpu_hub.pricing.ledger import Transfer
from fastgpu_hub.pricing.metering import GPU_HOUR, Line
from fastgpu_hub.pricing.pricebook import PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Promotion
from fastgpu_hub.pricing.quotas import Quota
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
_HOLD = tuple(name for name in _names(Hold) if name not in ("id", "lines"))
_KEY = _names(IdempotencyKey)
_PROMOTION = tuple(name for name in _names(Promotion) if name != "id")


def workload_row(workload: Workload) -> dict[str, Any]:
    """All columns of a workload."""
    row = {name: getattr(workload, name) for name in _WORKLOAD}
    row["classes"] = to_json(workload.classes)
    row["gpu_uuids"] = to_json(workload.gpu_uuids)
    row["spec"] = to_json(workload.spec)
    row["explanation"] = _explained_text(workload.explanation)
    row["stop_reason"] = _explained_text(workload.stop_reason)
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
        {**whose, "position": position, "gpu_ms": _gpu_ms(line), **{name: getattr(line, name) for name in _LINE}}
        for position, line in enumerate(hold.lines)
    ]


def line_of(row: Row) -> Line:
    """The line in the columns of a hold line or of a charge."""
    return Line(**{name: row[name] for name in _LINE})


def _gpu_ms(line: Line | None) -> int:
    return line.quantity if line is not None and line.unit == GPU_HOUR else 0


def transfer_row(transfer: Transfer) -> dict[str, Any]:
    """All columns of a transfer but its id. Raises ValueError when its amount is not its line's."""
    line = transfer.line
    if line is not None and line.amount_micros != transfer.amount_micros:
        raise ValueError(f"a transfer of {transfer.amount_micros} cannot carry a line of {line.amount_micros}")
    return {
        **{name: getattr(line, name, None) for name in _LINE},
        "kind": transfer.kind,
        "debit": transfer.debit,
        "credit": transfer.credit,
        "amount_micros": transfer.amount_micros,
        "at_ms": transfer.at_ms,
        "workload_id": transfer.workload_id,
        "owner": transfer.owner,
        "gpu_type": transfer.gpu_type,
        "gpu_ms": _gpu_ms(line),
        "note": transfer.note,
        "made_by": transfer.by,
    }


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
        note=row["note"],
        by=row["made_by"],
    )


def price_of(row: Row) -> PriceVersion:
    """The price version of a row."""
    rate = Rate(row["per_gpu_hour_micros"], row["per_task_hour_micros"], row["per_start_micros"])
    return PriceVersion(row["id"], row["gpu_type"], rate, row["valid_from_ms"], row["created_by"])


def promotion_row(promotion: Promotion) -> dict[str, Any]:
    """All columns of a promotion but its id."""
    row = {name: getattr(promotion, name) for name in _PROMOTION}
    row["gpu_types"] = to_json(promotion.gpu_types)
    row["audience"] = to_json(promotion.audience)
    row["weekly"] = to_json([[window.days, window.from_minute, window.to_minute] for window in promotion.weekly])
    return row


def promotion_of(row: Row) -> Promotion:
    """The promotion of a row."""
    weekly = tuple(WeeklyWindow(tuple(days), start, end) for days, start, end in from_json(row["weekly"]))
    return Promotion(
        **{
            **row,
            "gpu_types": tuple(from_json(row["gpu_types"])),
            "audience": tuple(from_json(row["audience"])),
            "weekly": weekly,
        }
    )


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
    )


def key_row(entry: IdempotencyKey) -> dict[str, Any]:
    """All columns of an idempotency key."""
    return {name: getattr(entry, name) for name in _KEY}


def key_of(row: Row) -> IdempotencyKey:
    """The idempotency key of a row."""
    return IdempotencyKey(**row)


def audit_row(entry: AuditEntry) -> dict[str, Any]:
    """All columns of an audit entry but its id."""
    return {
        "at_ms": entry.at_ms,
        "actor": entry.actor,
        "action": entry.action,
        "subject": entry.subject,
        "before": None if entry.before is None else to_json(entry.before),
        "after": None if entry.after is None else to_json(entry.after),
    }


def audit_of(row: Row) -> AuditEntry:
    """The audit entry of a row."""
    before, after = (None if text is None else from_json(text) for text in (row["before"], row["after"]))
    return AuditEntry(row["at_ms"], row["actor"], row["action"], row["subject"], before, after)
