"""One transaction's view of the database: the broker's UnitOfWork in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import ColumnElement, bindparam, delete, func, insert, literal_column, select, update

from fastgpu_hub.broker.ports.records import Hold, IdempotencyKey, Workload, WorkloadEvent
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.quotas import Scope, Totals
from fastgpu_hub.store import rows
from fastgpu_hub.store import tables as t
from fastgpu_hub.store.prepared import Prepared
from fastgpu_hub.store.run_tables import RunTables

# Written into the statement, not bound: a database uses the index of open holds only where it sees its condition.
_OPEN: ColumnElement[str] = literal_column("'open'")

_WORKLOAD = Prepared(select(t.workloads).where(t.workloads.c.id == bindparam("key")))
_OPEN_HOLD = Prepared(select(t.holds).where(t.holds.c.state == _OPEN, t.holds.c.workload_id == bindparam("key")))
_LINES = Prepared(
    select(t.hold_lines).where(t.hold_lines.c.hold_id == bindparam("key")).order_by(t.hold_lines.c.position)
)
_KEY = Prepared(
    select(t.idempotency_keys).where(
        t.idempotency_keys.c.actor == bindparam("whose"), t.idempotency_keys.c.key == bindparam("name")
    )
)
_ADD_KEY = Prepared(insert(t.idempotency_keys), [column.name for column in t.idempotency_keys.c])


class SqlUnitOfWork(RunTables):
    """The UnitOfWork over one connection whose transaction somebody else opens and ends."""

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
        found = _WORKLOAD.records(self._bare, {"key": workload_id})
        return rows.workload_of(found[0]) if found else None

    def workloads(
        self,
        *,
        kind: str | None = None,
        owner: str | None = None,
        account: str | None = None,
        states: Sequence[str] | None = None,
        fingerprint: str | None = None,
        array_id: str | None = None,
        one_of_array: bool = False,
        newest_first: bool = False,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Workload]:
        """Workloads matching every given filter, ordered by request time then id.

        ``one_of_array``: of each array the one that comes first in that order.
        """
        c = t.workloads.c
        given = [(c.kind, kind), (c.owner, owner), (c.account, account), (c.fingerprint, fingerprint)]
        given.append((c.array_id, array_id))
        statement = select(t.workloads).where(*(column == value for column, value in given if value is not None))
        if states is not None:
            statement = statement.where(c.state.in_(states))
        order = [c.requested_ms, c.id]
        if one_of_array:
            rank = [column.desc() for column in order] if newest_first else order
            group = func.coalesce(c.array_id, c.id)
            number = func.row_number().over(partition_by=group, order_by=rank).label("number")
            ranked = statement.with_only_columns(c.id, number).subquery()
            statement = statement.where(c.id.in_(select(ranked.c.id).where(ranked.c.number == 1)))
        statement = statement.order_by(*((column.desc() for column in order) if newest_first else order))
        statement = statement.limit(limit).offset(offset) if offset else statement.limit(limit)
        return [rows.workload_of(row) for row in self._all(statement)]

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
        found = _OPEN_HOLD.records(self._bare, {"key": workload_id})
        if not found:
            return None
        lines = _LINES.records(self._bare, {"key": found[0]["id"]})
        return rows.hold_of(found[0], map(rows.line_of, lines))

    def open_holds(self) -> list[Hold]:
        """Every open hold, oldest first."""
        h, lines = t.holds, t.hold_lines
        found = self._all(select(h).where(h.c.state == _OPEN).order_by(h.c.id))
        of_these = select(lines).join(h).where(h.c.state == _OPEN)
        lines_of: dict[int, list[Line]] = {row["id"]: [] for row in found}
        for row in self._all(of_these.order_by(lines.c.hold_id, lines.c.position)):
            lines_of[row["hold_id"]].append(rows.line_of(row))
        return [rows.hold_of(row, lines_of[row["id"]]) for row in found]

    def held(self, scope: Scope, from_ms: int | None = None, until_ms: int | None = None) -> Totals:
        """Sum of open hold lines that start in ``[from_ms, until_ms)``."""
        return self._totals("held", scope, from_ms, until_ms)

    # ------------------------------------------------------------ idempotency

    def idempotency_key(self, actor: str, key: str) -> IdempotencyKey | None:
        """The claimed key of that actor."""
        found = _KEY.records(self._bare, {"whose": actor, "name": key})
        return rows.key_of(found[0]) if found else None

    def add_idempotency_key(self, entry: IdempotencyKey) -> None:
        """Claim a key, once per actor (the primary key)."""
        _ADD_KEY.change(self._bare, rows.key_row(entry))

    def forget_idempotency_keys(self, before_ms: int) -> int:
        """Delete the keys claimed before that instant; returns how many."""
        return self._changed(delete(t.idempotency_keys).where(t.idempotency_keys.c.created_ms < before_ms))
