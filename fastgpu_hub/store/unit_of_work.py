"""One transaction's view of the database: the broker's UnitOfWork in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Insert,
    Table,
    delete,
    func,
    insert,
    literal_column,
    or_,
    select,
    union,
    update,
)

from fastgpu_hub.broker.ports.records import AuditEntry, Hold, IdempotencyKey, Workload, WorkloadEvent
from fastgpu_hub.pricing.ledger import Transfer
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.pricebook import PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Promotion
from fastgpu_hub.pricing.quotas import Quota, Scope, Totals
from fastgpu_hub.store import rows
from fastgpu_hub.store import tables as t

# Written into the statement, not bound: a database uses the index of open holds only where it sees its condition.
_OPEN: ColumnElement[str] = literal_column("'open'")


class SqlUnitOfWork:
    """The UnitOfWork over one connection whose transaction somebody else opens and ends."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def _all(self, statement: Executable) -> list[rows.Row]:
        return [cast("rows.Row", row) for row in self._connection.execute(statement).mappings()]

    def _first(self, statement: Executable) -> rows.Row | None:
        return cast("rows.Row | None", self._connection.execute(statement).mappings().first())

    def _changed(self, statement: Executable) -> int:
        return self._connection.execute(statement).rowcount

    def _insert(self, table: Table, row: dict[str, Any]) -> int:
        return self._insert_all(table, [row])[0]

    def _insert_all(self, table: Table, new: list[dict[str, Any]]) -> list[int]:
        statement: Insert = insert(table).returning(table.c.id, sort_by_parameter_order=True)
        return list(self._connection.execute(statement, new).scalars()) if new else []

    # ------------------------------------------------------------ workloads

    def add_workload(self, workload: Workload) -> None:
        """Insert a workload; its id must be new."""
        self._connection.execute(insert(t.workloads), rows.workload_row(workload))

    def save_workload(self, workload: Workload) -> None:
        """Replace a workload. Raises LookupError when there is none of its id."""
        statement = update(t.workloads).where(t.workloads.c.id == workload.id)
        if self._changed(statement.values(rows.workload_row(workload))) != 1:
            raise LookupError(f"there is no workload {workload.id}")

    def workload(self, workload_id: str) -> Workload | None:
        """The workload of that id."""
        row = self._first(select(t.workloads).where(t.workloads.c.id == workload_id))
        return None if row is None else rows.workload_of(row)

    def workloads(
        self,
        *,
        kind: str | None = None,
        owner: str | None = None,
        account: str | None = None,
        states: Sequence[str] | None = None,
        fingerprint: str | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[Workload]:
        """Workloads matching every given filter, ordered by request time then id."""
        c = t.workloads.c
        given = [(c.kind, kind), (c.owner, owner), (c.account, account), (c.fingerprint, fingerprint)]
        statement = select(t.workloads).where(*(column == value for column, value in given if value is not None))
        if states is not None:
            statement = statement.where(c.state.in_(states))
        order = [c.requested_ms, c.id]
        statement = statement.order_by(*((column.desc() for column in order) if newest_first else order))
        return [rows.workload_of(row) for row in self._all(statement.limit(limit))]

    def add_event(self, event: WorkloadEvent) -> None:
        """Append evidence about a workload."""
        self._connection.execute(insert(t.workload_events), rows.event_row(event))

    def events(self, workload_id: str) -> list[WorkloadEvent]:
        """All evidence about a workload, in the order it was written."""
        c = t.workload_events.c
        statement = select(t.workload_events).where(c.workload_id == workload_id).order_by(c.id)
        return [rows.event_of(row) for row in self._all(statement)]

    # ------------------------------------------------------------ holds

    def add_hold(self, hold: Hold) -> Hold:
        """Insert with its open lines; returns it with its id. Raises ValueError when the workload has an open hold."""
        c = t.holds.c
        if self._first(select(c.id).where(c.workload_id == hold.workload_id, c.state == _OPEN)) is not None:
            raise ValueError(f"workload {hold.workload_id} has an open hold already")
        hold = replace(hold, id=self._insert(t.holds, rows.hold_row(hold)))
        self._insert_lines(hold)
        return hold

    def save_hold(self, hold: Hold) -> None:
        """Replace lines and state of an open hold. Raises ValueError when it is resolved already, or unknown."""
        c = t.holds.c
        changed = self._changed(
            update(t.holds)
            .where(c.id == hold.id, c.state == _OPEN)
            .values(state=hold.state, until_ms=hold.until_ms, resolved_ms=hold.resolved_ms)
        )
        if changed != 1:
            raise ValueError(f"hold {hold.id} of workload {hold.workload_id} is not open")
        self._connection.execute(delete(t.hold_lines).where(t.hold_lines.c.hold_id == hold.id))
        self._insert_lines(hold)

    def _insert_lines(self, hold: Hold) -> None:
        if hold.state == "open" and hold.lines:
            self._connection.execute(insert(t.hold_lines), rows.hold_line_rows(hold))

    def open_hold(self, workload_id: str) -> Hold | None:
        """The open hold of a workload."""
        return next(iter(self._open_holds(t.holds.c.workload_id == workload_id)), None)

    def open_holds(self) -> list[Hold]:
        """Every open hold, oldest first."""
        return self._open_holds()

    def _open_holds(self, *conditions: ColumnElement[bool]) -> list[Hold]:
        h, lines = t.holds, t.hold_lines
        found = self._all(select(h).where(h.c.state == _OPEN, *conditions).order_by(h.c.id))
        of_these = select(lines).join(h).where(h.c.state == _OPEN, *conditions)
        lines_of: dict[int, list[Line]] = {row["id"]: [] for row in found}
        for row in self._all(of_these.order_by(lines.c.hold_id, lines.c.position)):
            lines_of[row["hold_id"]].append(rows.line_of(row))
        return [rows.hold_of(row, lines_of[row["id"]]) for row in found]

    def held(self, scope: Scope, from_ms: int | None = None, until_ms: int | None = None) -> Totals:
        """Sum of open hold lines that start in ``[from_ms, until_ms)``."""
        conditions = _within(t.hold_lines, t.hold_lines.c.account, scope, from_ms, until_ms)
        return self._totals(t.hold_lines, conditions)

    def _totals(self, table: Table, conditions: list[ColumnElement[bool]]) -> Totals:
        sums = (func.coalesce(func.sum(table.c[name]), 0) for name in ("amount_micros", "gpu_ms"))
        amount_micros, gpu_ms = self._connection.execute(select(*sums).where(*conditions)).one()
        return Totals(int(amount_micros), int(gpu_ms))

    # ------------------------------------------------------------ ledger

    def append(self, transfers: Sequence[Transfer]) -> list[Transfer]:
        """Append-only; returns them with their ids. Raises ValueError when an amount is not its line's."""
        ids = self._insert_all(t.transfers, [rows.transfer_row(transfer) for transfer in transfers])
        return [replace(transfer, id=new) for transfer, new in zip(transfers, ids, strict=True)]

    def charged(self, scope: Scope, from_ms: int | None = None, until_ms: int | None = None) -> Totals:
        """Sum of charge transfers whose line starts in ``[from_ms, until_ms)``."""
        conditions = _within(t.transfers, t.transfers.c.debit, scope, from_ms, until_ms)
        return self._totals(t.transfers, [t.transfers.c.kind == "charge", *conditions])

    def granted(self, account: str) -> int:
        """All credit ever given to the account, in micro-units."""
        c = t.transfers.c
        granted = select(func.coalesce(func.sum(c.amount_micros), 0)).where(c.kind == "grant", c.credit == account)
        return int(self._connection.execute(granted).scalar_one())

    def transfers(
        self,
        *,
        workload_id: str | None = None,
        owner: str | None = None,
        account: str | None = None,
        kind: str | None = None,
        since_ms: int | None = None,
        after_id: int | None = None,
        limit: int | None = None,
    ) -> list[Transfer]:
        """Transfers matching every given filter, in the order they were written: at most ``limit`` after ``after_id``.

        ``account`` is either side of the transfer; ``since_ms`` is when it was booked, inclusive.
        """
        c = t.transfers.c
        statement = select(t.transfers).order_by(c.id)
        if kind is not None:
            statement = statement.where(c.kind == kind)
        if workload_id is not None:
            statement = statement.where(c.workload_id == workload_id)
        if owner is not None:
            statement = statement.where(c.owner == owner)
        if account is not None:
            statement = statement.where(or_(c.debit == account, c.credit == account))
        if since_ms is not None:
            statement = statement.where(c.at_ms >= since_ms)
        if after_id is not None:
            statement = statement.where(c.id > after_id)
        return [rows.transfer_of(row) for row in self._all(statement.limit(limit))]

    def accounts(self) -> list[str]:
        """Every account that was ever granted credit or charged."""
        c = t.transfers.c
        both = union(select(c.credit).where(c.kind == "grant"), select(c.debit).where(c.kind == "charge"))
        return sorted(self._connection.execute(both).scalars())

    # ------------------------------------------------------------ rules

    def prices(self) -> list[PriceVersion]:
        """Every price version, oldest entry first."""
        return [rows.price_of(row) for row in self._all(select(t.prices).order_by(t.prices.c.id))]

    def add_price(self, gpu_type: str, rate: Rate, valid_from_ms: int, created_by: str) -> PriceVersion:
        """Insert a price version; returns it with its id."""
        row = {
            "gpu_type": gpu_type,
            "per_gpu_hour_micros": rate.per_gpu_hour_micros,
            "per_task_hour_micros": rate.per_task_hour_micros,
            "per_start_micros": rate.per_start_micros,
            "valid_from_ms": valid_from_ms,
            "created_by": created_by,
        }
        return PriceVersion(self._insert(t.prices, row), gpu_type, rate, valid_from_ms, created_by)

    def promotions(self) -> list[Promotion]:
        """Promotions, past ones too, oldest entry first."""
        return [rows.promotion_of(row) for row in self._all(select(t.promotions).order_by(t.promotions.c.id))]

    def add_promotion(self, promotion: Promotion) -> Promotion:
        """Insert (its ``id`` is ignored); returns it with its id."""
        return replace(promotion, id=self._insert(t.promotions, rows.promotion_row(promotion)))

    def end_promotion(self, promotion_id: int, at_ms: int) -> Promotion | None:
        """Make it end at ``at_ms`` if it would end later; None when there is none. Settled lines keep naming it."""
        c = t.promotions.c
        self._changed(update(t.promotions).where(c.id == promotion_id, c.ends_ms > at_ms).values(ends_ms=at_ms))
        row = self._first(select(t.promotions).where(c.id == promotion_id))
        return None if row is None else rows.promotion_of(row)

    def promotion_names(self) -> dict[int, str]:
        """The name of every promotion there ever was, by id."""
        return {row["id"]: row["name"] for row in self._all(select(t.promotions.c.id, t.promotions.c.name))}

    def quotas(self) -> list[Quota]:
        """The limits in force, oldest first."""
        return [rows.quota_of(row) for row in self._all(select(t.quotas).order_by(t.quotas.c.id))]

    def add_quota(self, quota: Quota) -> Quota:
        """Insert (its ``id`` is ignored); returns it with its id."""
        return replace(quota, id=self._insert(t.quotas, rows.quota_row(quota)))

    def remove_quota(self, quota_id: int) -> Quota | None:
        """Take a limit out of force; returns it, None when there is none."""
        row = self._first(select(t.quotas).where(t.quotas.c.id == quota_id))
        self._changed(delete(t.quotas).where(t.quotas.c.id == quota_id))
        return None if row is None else rows.quota_of(row)

    # ------------------------------------------------------------ idempotency, audit, seeds

    def idempotency_key(self, actor: str, key: str) -> IdempotencyKey | None:
        """The claimed key of that actor."""
        c = t.idempotency_keys.c
        row = self._first(select(t.idempotency_keys).where(c.actor == actor, c.key == key))
        return None if row is None else rows.key_of(row)

    def add_idempotency_key(self, entry: IdempotencyKey) -> None:
        """Claim a key, once per actor (the primary key)."""
        self._connection.execute(insert(t.idempotency_keys), rows.key_row(entry))

    def forget_idempotency_keys(self, before_ms: int) -> int:
        """Delete the keys claimed before that instant; returns how many."""
        return self._changed(delete(t.idempotency_keys).where(t.idempotency_keys.c.created_ms < before_ms))

    def add_audit(self, entry: AuditEntry) -> None:
        """Append who changed what."""
        self._connection.execute(insert(t.audit), rows.audit_row(entry))

    def audit(self, limit: int = 100) -> list[AuditEntry]:
        """The latest entries, newest first."""
        statement = select(t.audit).order_by(t.audit.c.id.desc()).limit(limit)
        return [rows.audit_of(row) for row in self._all(statement)]

    def setting(self, name: str) -> Any | None:
        """The JSON value kept under a name."""
        row = self._first(select(t.settings.c.value).where(t.settings.c.name == name))
        return None if row is None else rows.from_json(row["value"])

    def set_setting(self, name: str, value: Any) -> None:
        """Keep a small JSON value under a name."""
        text = rows.to_json(value)
        if not self._changed(update(t.settings).where(t.settings.c.name == name).values(value=text)):
            self._connection.execute(insert(t.settings), {"name": name, "value": text})


def _within(
    table: Table, account: ColumnElement[str], scope: Scope, from_ms: int | None, until_ms: int | None
) -> list[ColumnElement[bool]]:
    c = table.c
    wanted = [(account, scope.account), (c.owner, scope.owner), (c.gpu_type, scope.gpu_type)]
    conditions = [column == value for column, value in wanted if value is not None]
    if from_ms is not None:
        conditions.append(c.from_ms >= from_ms)
    if until_ms is not None:
        conditions.append(c.from_ms < until_ms)
    return conditions
