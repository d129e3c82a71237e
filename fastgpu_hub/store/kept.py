"""What the writer has at hand between its calls: it is alone, so what it read or wrote last is what the database holds.

Everything here is forgotten as soon as anything goes wrong, or a statement runs whose effect is not followed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from fastgpu_hub.broker.ports.records import Hold, Workload
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.quotas import Scope, Totals
from fastgpu_hub.store import rows

MOST_WORKLOADS = 1024
MOST_SUMS = 4096


class Key(NamedTuple):
    """A sum of lines of a scope that start in ``[from_ms, until_ms)``."""

    scope: Scope
    from_ms: int | None
    until_ms: int | None


class Change(NamedTuple):
    """Lines that were added (``sign`` 1) or taken away (-1)."""

    account: str
    owner: str
    gpu_type: str
    lines: tuple[Line, ...]
    sign: int

    def on(self, key: Key, total: Totals) -> Totals:
        """The sum after it."""
        if key.scope.gpu_type not in (None, self.gpu_type):
            return total
        amount_micros, gpu_ms = total.amount_micros, total.gpu_ms
        for line in self.lines:
            if (key.from_ms is None or line.from_ms >= key.from_ms) and (
                key.until_ms is None or line.from_ms < key.until_ms
            ):
                amount_micros += self.sign * line.amount_micros
                gpu_ms += self.sign * rows.gpu_ms(line)
        return Totals(amount_micros, gpu_ms)


def of_hold(hold: Hold, sign: int) -> Change:
    """A hold's lines, added or taken away."""
    return Change(hold.account, hold.owner, hold.gpu_type, hold.lines, sign)


class Sums:
    """Sums that were asked for once, and follow what is added and taken away since.

    Those of a call begin with those of before it (``base``), which get what came of the call by ``keep``.
    """

    def __init__(self, base: Sums | None = None) -> None:
        self._base = base
        # By account and owner of the scope, so that a change finds those that it concerns.
        self._known: dict[tuple[str | None, str | None], dict[Key, Totals]] = {}
        self._changes: list[Change] = []
        self._count = 0

    def total(self, key: Key, ask: Callable[[], Totals]) -> Totals:
        """The sum; ``ask`` gets it from the database, in which all changes are by then."""
        whose = key.scope.account, key.scope.owner
        known = self._known.setdefault(whose, {})
        if key not in known:
            before = None if self._base is None else self._base._known.get(whose, {}).get(key)
            known[key] = ask() if before is None else self._changed(key, before)
            self._count += 1
        return known[key]

    def _changed(self, key: Key, total: Totals) -> Totals:
        for change in self._changes:
            if key.scope.account in (None, change.account) and key.scope.owner in (None, change.owner):
                total = change.on(key, total)
        return total

    def change(self, change: Change) -> None:
        """Lines were added or taken away in the database."""
        self._changes.append(change)
        self._apply(change)

    def _apply(self, change: Change) -> None:
        for account in (change.account, None):
            for owner in (change.owner, None):
                if known := self._known.get((account, owner)):
                    for key, total in known.items():
                        known[key] = change.on(key, total)

    def keep(self) -> None:
        """The call has succeeded."""
        base = self._base
        assert base is not None
        for change in self._changes:
            base._apply(change)
        for whose, known in self._known.items():
            base._known.setdefault(whose, {}).update(known)
        base._count += self._count
        if base._count > MOST_SUMS:
            base.clear()

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()
        self._count = 0


class Kept:
    """Live workloads, their open holds, sums and rules. Only ``at_hand`` may be called on any thread."""

    def __init__(self) -> None:
        self.workloads: dict[str, Workload] = {}
        self.holds: dict[str, Hold] = {}
        self.values: dict[Any, Any] = {}
        self.charged = Sums()
        self.held = Sums()
        self._touched: set[str] = set()
        self._committed: dict[str, Workload] = {}

    def take(self, workloads: Iterable[Workload], holds: Iterable[tuple[str, Hold | None]]) -> None:
        """What a call that succeeded has left of these."""
        for workload in workloads:
            self.workloads.pop(workload.id, None)
            self.workloads[workload.id] = workload
            self._touched.add(workload.id)
            if workload.state == "ended":
                del self.workloads[workload.id]
        for workload_id, hold in holds:
            self.holds.pop(workload_id, None)
            if hold is not None:
                self.holds[workload_id] = hold
        for kept in (self.workloads, self.holds):
            while len(kept) > MOST_WORKLOADS:
                gone = next(iter(kept))
                del kept[gone]
                self._touched.add(gone)

    def committed(self) -> None:
        """What was taken is in the database for good."""
        for workload_id in self._touched:
            if workload_id in self.workloads:
                self._committed[workload_id] = self.workloads[workload_id]
            else:
                self._committed.pop(workload_id, None)
        self._touched.clear()

    def at_hand(self, workload_id: str) -> Workload | None:
        """A live workload as it was committed last; None for one that is not known here."""
        return self._committed.get(workload_id)

    def forget(self) -> None:
        """Everything is to be read anew."""
        self.workloads.clear()
        self.holds.clear()
        self.values.clear()
        self.charged.clear()
        self.held.clear()
        self._touched.clear()
        self._committed = {}
