"""The part of the unit of work that knows which jobs belong together: arrays, attempts, what waits for what."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, bindparam, case, func, insert, literal_column, or_, select

from fastgpu_hub.broker.ports.records import Dependency, Workload
from fastgpu_hub.store import rows
from fastgpu_hub.store import tables as t
from fastgpu_hub.store.file_tables import FileTables
from fastgpu_hub.store.prepared import Prepared

# Written into the statement, not bound: a database uses a partial index only where it sees the index's condition.
_OPEN: ColumnElement[str] = literal_column("'open'")
_CHARGE: ColumnElement[str] = literal_column("'charge'")

_NEEDED = Prepared(
    select(t.dependencies.c.workload_id).where(t.dependencies.c.needs_id == bindparam("key")).limit(literal_column("1"))
)


class JobTables(FileTables):
    """Reads and writes of what jobs have to do with each other, over one connection."""

    def add_dependencies(self, dependencies: Sequence[Dependency]) -> None:
        """Insert."""
        if dependencies:
            new = [{"workload_id": each.workload_id, "needs_id": each.needs_id} for each in dependencies]
            self._connection.execute(insert(t.dependencies), new)

    def needs(self, workload_ids: Sequence[str] | None = None) -> list[Dependency]:
        """What these workloads wait or waited for; without ids, what all queued ones do. In order of both ids."""
        c = t.dependencies.c
        queued = select(t.workloads.c.id).where(t.workloads.c.id == c.workload_id, t.workloads.c.state == "queued")
        wanted = queued.exists() if workload_ids is None else c.workload_id.in_(workload_ids)
        statement = select(t.dependencies).where(wanted).order_by(c.workload_id, c.needs_id)
        return [Dependency(**row) for row in self._all(statement)]

    def dependants(self, needs_id: str, *, ready: bool = False) -> list[Workload]:
        """Queued workloads that wait for a job; only those all of whose jobs have succeeded, when ``ready``."""
        if not _NEEDED.rows(self._bare, {"key": needs_id}):
            return []
        d, w = t.dependencies.c, t.workloads.c
        statement = select(t.workloads).join(t.dependencies, d.workload_id == w.id)
        statement = statement.where(d.needs_id == needs_id, w.state == "queued")
        if ready:
            other, done = t.dependencies.alias("other"), t.workloads.alias("done")
            succeeded = [
                select(done.c.id).where(column == other.c.needs_id, done.c.outcome == "succeeded").exists()
                for column in (done.c.id, done.c.retry_of)
            ]
            lacks = select(other.c.needs_id).where(other.c.workload_id == w.id, *(~each for each in succeeded))
            statement = statement.where(~lacks.exists())
        return [rows.workload_of(row) for row in self._all(statement.order_by(w.requested_ms, w.id))]

    def attempts(self, first_ids: Sequence[str]) -> list[Workload]:
        """All attempts of these jobs, each named by its first, in the order of attempts."""
        w = t.workloads.c
        statement = select(t.workloads).where(or_(w.id.in_(first_ids), w.retry_of.in_(first_ids)))
        return [rows.workload_of(row) for row in self._all(statement.order_by(w.attempt, w.requested_ms, w.id))]

    def array(self, array_id: str) -> list[Workload]:
        """All attempts of all jobs of an array, by index, then attempt."""
        w = t.workloads.c
        statement = select(t.workloads).where(w.array_id == array_id).order_by(w.array_index, w.attempt)
        return [rows.workload_of(row) for row in self._all(statement)]

    def array_money(self, array_id: str) -> dict[str, tuple[int, int]]:
        """Micro-units charged (less refunds) and held for each attempt of an array's jobs."""
        w, h, entry, line = t.workloads.c, t.holds.c, t.transfers.c, t.hold_lines.c
        amount = case((entry.kind == _CHARGE, entry.amount_micros), else_=-entry.amount_micros)
        charged = (
            select(w.id, func.sum(amount))
            .join(t.transfers, entry.workload_id == w.id)
            .where(w.array_id == array_id, entry.kind.in_(("charge", "refund")))
            .group_by(w.id)
        )
        held = (
            select(w.id, func.sum(line.amount_micros))
            .join(t.holds, h.workload_id == w.id)
            .join(t.hold_lines, line.hold_id == h.id)
            .where(w.array_id == array_id, h.state == _OPEN)
            .group_by(w.id)
        )
        money: dict[str, tuple[int, int]] = {who: (int(total), 0) for who, total in self._connection.execute(charged)}
        for who, total in self._connection.execute(held):
            money[who] = money.get(who, (0, 0))[0], int(total)
        return money
