"""Who starts now: one pass over the line of a GPU type, at each event that may let somebody go on."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from fastgpu_hub.scheduling import backfill, preemption
from fastgpu_hub.scheduling.changes import came_true, hold, remove
from fastgpu_hub.scheduling.events import Grant, Instruction
from fastgpu_hub.scheduling.inventory import Places, Pool
from fastgpu_hub.scheduling.placement import place
from fastgpu_hub.scheduling.policies import Want
from fastgpu_hub.scheduling.prediction import Batch
from fastgpu_hub.scheduling.state import NEVER_MS, Entry, Line, Lot, Reservation, State

BACKFILL_DEPTH = 100


def exceeded(state: State, want: Want) -> tuple[str, int, int] | None:
    """The first limit that would be exceeded by granting now, as (key, held, limit); None when all have room."""
    for key, limit in want.limits:
        held = state.held_per_key[key]
        if held + want.gpu_count > limit:
            return key, held, limit
    return None


def seats_kept(state: State, pool: Pool, want: Want) -> bool:
    """Whether a job would take devices that are kept for notebook servers."""
    seats = state.seats.get(want.gpu_type, 0)
    if not seats or want.kind == "server":
        return False
    kept = max(0, seats - state.held_by_servers[want.gpu_type])
    return pool.free - want.gpu_count < kept


def at_once(state: State, line: Line, want: Want, batch: Batch, now_ms: int) -> Grant | None:
    """Start a request that nobody waits before, if it fits: what it comes to with a queue of one."""
    pool = state.inventory.pools.get(want.gpu_type)
    if pool is None or (want.limits and exceeded(state, want)) or (state.seats and seats_kept(state, pool, want)):
        return None
    places = place(pool, want.gpu_count, spread=state.policy.spread)
    if places is None:
        return None
    uuids = state.inventory.give(pool, places, want.id)
    hold(state, want, batch, state.arrivals, now_ms, state.likely_ms(want, batch, now_ms))
    return Grant(want.id, uuids)


def serve_all(state: State, lines: Iterable[Line], now_ms: int) -> list[Instruction]:
    """Start what can be started on several GPU types."""
    orders: list[Instruction] = []
    for line in lines:
        orders += serve(state, line, now_ms)
    return orders


def serve(state: State, line: Line, now_ms: int) -> list[Instruction]:
    """Start what can be started on one GPU type."""
    pool = state.inventory.pools.get(line.gpu_type)
    if pool is None or not line.size:
        return []
    if not pool.free and not line.spot:
        return []
    if state.policy.backfill == "conservative":
        chosen = backfill.conservative(state, line, pool, now_ms)
        return [start(state, line, pool, want, places, now_ms) for want, places in chosen]
    return _Serving(state, line, pool, now_ms).run()


def start(state: State, line: Line, pool: Pool, want: Want, places: Places, now_ms: int) -> Grant:
    """Give devices to a waiting request."""
    lot = state.lot_of[want.id]
    batch = lot.batch
    place = 0 if lot.wants[0] is want else lot.wants.index(want)
    number = lot.numbers[place]
    lot.entry = 0
    remove(state, line, lot, place)
    came_true(state, want.id, now_ms)
    uuids = state.inventory.give(pool, places, want.id)
    hold(state, want, batch, number, now_ms, state.likely_ms(want, batch, now_ms))
    if lot.wants:
        state.push(line, lot, state.score(lot.wants[0], batch, now_ms))
    return Grant(want.id, uuids)


class _Serving:
    """One pass over a line: start what fits, in order; keep GPUs for who has waited long; let others go ahead."""

    __slots__ = ("aside", "everybody", "line", "now_ms", "orders", "pool", "reservation", "review_ms", "state", "tops")

    def __init__(self, state: State, line: Line, pool: Pool, now_ms: int) -> None:
        self.state, self.line, self.pool, self.now_ms = state, line, pool, now_ms
        self.orders: list[Instruction] = []
        self.aside: list[tuple[list[Entry], Entry]] = []
        self.reservation: Reservation | None = None
        self.review_ms: float = NEVER_MS
        # Whether those that do not fit have to be looked at, too: somebody's patience may be at its end.
        self.everybody = state.policy.patience is None or now_ms >= line.review_ms or bool(line.spot)
        self.tops: dict[int, Entry] = {}  # the best of each GPU count of which something may start in this pass
        for count, heap in line.heaps.items():
            if heap and (self.everybody or self._has_room(count)):
                self._renew(count, heap)

    def _has_room(self, count: int) -> bool:
        pool = self.pool
        return bool(pool.mask >> count if count <= pool.widest else pool.mask >> pool.widest & 1)

    def _renew(self, count: int, heap: list[Entry]) -> None:
        entry = self.state.top(self.line, heap, self.now_ms)
        if entry is None:
            self.tops.pop(count, None)
        else:
            self.tops[count] = entry

    def _before_all(self) -> None:
        """Start the one that others have made room for, or keep its devices."""
        kept = self.line.reservation
        if kept is None or not kept.made_room:
            return
        lot = self.state.lot_of.get(kept.want_id)
        want = next((want for want in lot.wants if want.id == kept.want_id), None) if lot else None
        if lot is None or want is None or exceeded(self.state, want) is not None:
            self.line.reservation = None
            return
        places = place(self.pool, want.gpu_count, spread=self.state.policy.spread)
        if places is None:
            self.reservation = kept
            return
        self.orders.append(start(self.state, self.line, self.pool, want, places, self.now_ms))
        if (heap := self.line.heaps.get(want.gpu_count)) is not None:
            self._renew(want.gpu_count, heap)

    def run(self) -> list[Instruction]:
        self._before_all()
        tops = self.tops
        while tops:
            entry = min(tops.values()) if len(tops) > 1 else next(iter(tops.values()))
            lot = entry[3]
            count = lot.gpu_count
            if not self.everybody and not self._has_room(count):
                del tops[count]
            elif not self._look_at(lot.wants[0], lot, entry):
                break
        for heap, entry in self.aside:
            if entry[3].entry == entry[2]:
                heapq.heappush(heap, entry)
        if self.everybody:
            self.line.review_ms = self.review_ms
        return self.orders

    def _look_at(self, want: Want, lot: Lot, entry: Entry) -> bool:
        """Start a request, or pass it over; whether to go on."""
        state, line, count = self.state, self.line, lot.gpu_count
        heap = line.heaps[count]
        if want.limits and (over := exceeded(state, want)) is not None:
            heapq.heappop(heap)
            lot.entry = 0
            state.blocked.setdefault(over[0], {})[lot] = line
            self._renew(count, heap)
            return True
        if state.seats and seats_kept(state, self.pool, want):
            return self._pass_over(count, heap)
        places = self._places(want, lot)
        if places is not None:
            heapq.heappop(heap)
            self.orders.append(start(state, line, self.pool, want, places, self.now_ms))
            self._renew(count, heap)
            return True
        if self.reservation is not None:
            return self._pass_over(count, heap)
        del self.tops[count]
        if not self.pool.could_ever(want.gpu_count):  # nobody waits behind one that can never start
            return True
        return not self.everybody or self._blocked(want, lot)

    def _pass_over(self, count: int, heap: list[Entry]) -> bool:
        """Look at the next of the same width; not for ever."""
        self.aside.append((heap, heapq.heappop(heap)))
        self._renew(count, heap)
        return len(self.aside) < BACKFILL_DEPTH

    def _places(self, want: Want, lot: Lot) -> Places | None:
        """Where a request goes now, without delaying the one that GPUs are kept for."""
        spread, reservation = self.state.policy.spread, self.reservation
        if reservation is None:
            return place(self.pool, want.gpu_count, spread=spread)
        end_ms = self.now_ms + self.state.runs_ms(want, lot.batch, self.now_ms, reservation.strict)
        if end_ms <= reservation.from_ms:
            return place(self.pool, want.gpu_count, spread=spread)
        wide = want.gpu_count > self.pool.widest
        kept = {node for node, spare in reservation.spare.items() if wide or spare < want.gpu_count}
        places = place(self.pool, want.gpu_count, avoid=kept, spread=spread)
        for node, count in places or ():
            if node in reservation.spare:
                reservation.spare[node] -= count
        return places

    def _blocked(self, want: Want, lot: Lot) -> bool:
        """A request does not fit: whether others may be looked at all the same."""
        state, now_ms, policy = self.state, self.now_ms, self.state.policy
        if policy.backfill == "none":
            return False
        if self.line.spot and not want.spot:
            found = preemption.reserve(state, self.line, self.pool, want, now_ms)
            if found is not None:
                self.reservation, orders = found
                self.orders += orders
                return True
        if policy.patience is not None:
            patient_ms = state.patient_ms(want, lot.batch, now_ms)
            self.review_ms = min(self.review_ms, patient_ms)
            if now_ms < patient_ms:
                return True
        self.reservation = backfill.reserve(state, self.line, self.pool, want, now_ms)
        return True
