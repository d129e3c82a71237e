"""A unit of work that reads each record once and writes it once, at its end: what one call of the writer is given.

A step of a workload's life reads, changes and saves the same workload and the same hold several times over, and asks
for the same sums again. Statements that this module does not know see everything that was written before them, for they
go through ``_connection``, which flushes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, delete, insert, literal_column, update

from fastgpu_hub.broker.ports.records import Hold, Workload, WorkloadEvent
from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.ledger import Transfer
from fastgpu_hub.pricing.quotas import Scope, Totals
from fastgpu_hub.store import rollups, rows, usage
from fastgpu_hub.store import tables as t
from fastgpu_hub.store.kept import Change, Kept, Key, Sums, of_hold
from fastgpu_hub.store.ledger_table import TransferIds
from fastgpu_hub.store.prepared import Prepared
from fastgpu_hub.store.unit_of_work import SqlUnitOfWork

# What a request is, and never changes. A statement that sets it would have the database write its indexes anew.
_FIXED = ("id", "kind", "owner", "account", "requested_ms", "fingerprint", "array_id", "array_index", "retry_of")
_MOVING = tuple(column.name for column in t.workloads.c if column.name not in (*_FIXED, "attempt"))
_LINE_COLUMNS = tuple(column.name for column in t.hold_lines.c)
_HOLD_COLUMNS = tuple(column.name for column in t.holds.c if column.name != "id")
_OPEN: ColumnElement[str] = literal_column("'open'")

_ADD_WORKLOAD = Prepared(insert(t.workloads), [column.name for column in t.workloads.c])
_SAVE_WORKLOAD = Prepared(update(t.workloads).where(t.workloads.c.id == bindparam("key")), _MOVING)
_ADD_HOLD = Prepared(insert(t.holds).returning(t.holds.c.id), _HOLD_COLUMNS)
_SAVE_HOLD = Prepared(
    update(t.holds).where(t.holds.c.id == bindparam("key"), t.holds.c.state == _OPEN),
    ("until_ms", "state", "resolved_ms"),
)
_ADD_LINE = Prepared(insert(t.hold_lines), _LINE_COLUMNS)
_DELETE_LINES = Prepared(delete(t.hold_lines).where(t.hold_lines.c.hold_id == bindparam("key")))
_ADD_EVENT = Prepared(insert(t.workload_events), ("workload_id", "at_ms", "kind", "detail"))


class BufferedUnitOfWork(SqlUnitOfWork):
    """The UnitOfWork of one call. Whoever made it calls ``done`` at the end, or drops it with its savepoint.

    ``kept`` is what there is from the calls before it.
    """

    def __init__(self, connection: Connection, ids: TransferIds | None = None, kept: Kept | None = None) -> None:
        super().__init__(connection, ids)
        self._kept = kept or Kept()
        self._followed = True  # all that was done is known here
        self._workloads: dict[str, Workload] = {}
        self._changed_workloads: set[str] = set()
        self._new_workloads: set[str] = set()  # about which nothing is in the ledger yet
        # By workload: its open hold as it is here (None: it has none), and as it is in the table, where that differs.
        self._holds: dict[str, Hold | None] = {}
        self._stored: dict[str, Hold] = {}
        self._resolved: dict[str, Hold] = {}
        self._events: list[WorkloadEvent] = []
        self._values: dict[Any, Any] = {}
        self._charged, self._held = Sums(self._kept.charged), Sums(self._kept.held)

    @property
    def _connection(self) -> Connection:
        """For statements that this module does not know: they see all that was written, and may change anything."""
        self.flush()
        self._followed = False
        for known in (self._workloads, self._holds, self._values, self._new_workloads):
            known.clear()
        self._charged, self._held = Sums(), Sums()
        return self._bare

    def flush(self) -> None:
        """Write what was kept back. Raises what the database says to it."""
        if self._changed_workloads:
            changed, self._changed_workloads = self._changed_workloads, set()
            for workload_id in changed:
                row = rows.workload_row(self._workloads[workload_id])
                _SAVE_WORKLOAD.change(self._bare, {**row, "key": workload_id})
        if self._stored:
            stored, self._stored = self._stored, {}
            for workload_id, before in stored.items():
                self._write_hold(before, self._holds[workload_id] or self._resolved.pop(workload_id))
        if self._events:
            events, self._events = self._events, []
            _ADD_EVENT.change_many(self._bare, map(rows.event_row, events))

    def done(self) -> None:
        """Write what was kept back, and leave what is known to the calls to come."""
        self.flush()
        if not self._followed:
            self._kept.forget()
            return
        self._kept.take(self._workloads.values(), self._holds.items())
        self._kept.values.update(self._values)
        self._charged.keep()
        self._held.keep()

    def _write_hold(self, before: Hold, hold: Hold) -> None:
        values = {"key": hold.id, "state": hold.state, "until_ms": hold.until_ms, "resolved_ms": hold.resolved_ms}
        if _SAVE_HOLD.change(self._bare, values) != 1:
            raise ValueError(f"hold {hold.id} of workload {hold.workload_id} is not open")
        lines = hold.lines if hold.state == "open" else ()
        if lines != before.lines:
            _DELETE_LINES.change(self._bare, {"key": hold.id})
            self._held.change(of_hold(before, -1))
            self._add_lines(replace(hold, lines=lines))

    def _add_lines(self, hold: Hold) -> None:
        if hold.lines:
            _ADD_LINE.change_many(self._bare, rows.hold_line_rows(hold))
            self._held.change(of_hold(hold, 1))

    # ------------------------------------------------------------ workloads

    def add_workload(self, workload: Workload) -> None:
        _ADD_WORKLOAD.change(self._bare, rows.workload_row(workload))
        self._workloads[workload.id] = workload
        self._new_workloads.add(workload.id)
        self._holds[workload.id] = None

    def save_workload(self, workload: Workload) -> None:
        before = self.workload(workload.id)
        if before is None or any(getattr(before, name) != getattr(workload, name) for name in (*_FIXED, "attempt")):
            super().save_workload(workload)
        else:
            self._changed_workloads.add(workload.id)
        self._workloads[workload.id] = workload

    def workload(self, workload_id: str) -> Workload | None:
        known = self._workloads.get(workload_id)
        if known is None and self._followed:
            known = self._kept.workloads.get(workload_id)
        if known is None:
            known = super().workload(workload_id)
        if known is not None:
            self._workloads[workload_id] = known
        return known

    def add_event(self, event: WorkloadEvent) -> None:
        self._events.append(event)

    # ------------------------------------------------------------ holds

    def add_hold(self, hold: Hold) -> Hold:
        if self.open_hold(hold.workload_id) is not None:
            raise ValueError(f"workload {hold.workload_id} has an open hold already")
        if hold.workload_id in self._stored:
            self.flush()  # the one before is resolved in the table first
        hold = replace(hold, id=int(_ADD_HOLD.rows(self._bare, rows.hold_row(hold))[0][0]))
        if hold.state == "open":
            self._add_lines(hold)
        self._holds[hold.workload_id] = hold if hold.state == "open" else None
        return hold

    def save_hold(self, hold: Hold) -> None:
        before = self.open_hold(hold.workload_id)
        if before is None or before.id != hold.id:
            raise ValueError(f"hold {hold.id} of workload {hold.workload_id} is not open")
        self._stored.setdefault(hold.workload_id, before)
        if hold.state == "open":
            self._holds[hold.workload_id] = hold
        else:
            self._holds[hold.workload_id], self._resolved[hold.workload_id] = None, hold

    def open_hold(self, workload_id: str) -> Hold | None:
        if workload_id not in self._holds:
            known = self._kept.holds.get(workload_id) if self._followed else None
            self._holds[workload_id] = known or super().open_hold(workload_id)
        return self._holds[workload_id]

    def held(self, scope: Scope, from_ms: int | None = None, until_ms: int | None = None) -> Totals:
        key, ask = Key(scope, from_ms, until_ms), super().held
        total = self._held.total(key, lambda: ask(scope, from_ms, until_ms))
        for workload_id, before in self._stored.items():
            for sign, hold in ((-1, before), (1, self._holds[workload_id])):
                if hold is not None and scope.account in (None, hold.account) and scope.owner in (None, hold.owner):
                    total = of_hold(hold, sign).on(key, total)
        return total

    # ------------------------------------------------------------ the ledger

    def append(self, transfers: Sequence[Transfer]) -> list[Transfer]:
        written = super().append(transfers)
        self._new_workloads.difference_update(transfer.workload_id or "" for transfer in written)
        for transfer in written:
            if transfer.kind == "charge" and transfer.line is not None:
                whose = transfer.debit, transfer.owner or "", transfer.gpu_type or ""
                self._charged.change(Change(*whose, (transfer.line,), 1))
            else:
                self._followed = False
                self._values.clear()
                self._charged = Sums()
        return written

    def charged(self, scope: Scope, from_ms: int | None = None, until_ms: int | None = None) -> Totals:
        def ask() -> Totals:
            mark: rollups.Mark = self._once(("mark",), lambda: rollups.mark(self._bare))
            return usage.charged(self._bare, scope, from_ms, until_ms, mark)

        return self._charged.total(Key(scope, from_ms, until_ms), ask)

    def refunded(self, scope: Scope, from_ms: int | None = None, until_ms: int | None = None) -> Totals:
        ask = super().refunded
        found: Totals = self._once(("refunded", scope, from_ms, until_ms), lambda: ask(scope, from_ms, until_ms))
        return found

    def given(self, account: str, from_ms: int | None = None, until_ms: int | None = None) -> int:
        ask = super().given
        found: int = self._once(("given", account, from_ms, until_ms), lambda: ask(account, from_ms, until_ms))
        return found

    def transfers(self, **which: Any) -> list[Transfer]:
        return [] if which.get("workload_id") in self._new_workloads else super().transfers(**which)

    # ------------------------------------------------------------ rules: changed by statements not known here

    def _once(self, key: Any, ask: Callable[[], Any]) -> Any:
        found = self._values.get(key)
        if found is None and self._followed:
            found = self._kept.values.get(key)
        if found is None:
            found = ask()
        self._values[key] = found
        return found

    def rules_version(self) -> str:
        version: str = self._once(("rules",), super().rules_version)
        return version

    def promotion_names(self) -> dict[int, str]:
        names: dict[int, str] = self._once(("names",), super().promotion_names)
        return names

    def grants(self, account: str | None = None) -> list[Grant]:
        ask = super().grants
        return list(self._once(("grants", account), lambda: ask(account)))
