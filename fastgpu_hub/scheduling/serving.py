"""Who starts now: one pass over the line of a GPU type, at each event that may let somebody go on."""

from __future__ import annotations

import heapq
from collections.abc import Iterable

from fastgpu_hub.scheduling import backfill, gates, preemption
from fastgpu_hub.scheduling.changes import came_true, hold, rebase, remove
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
    kept = 0 if want.kind == "server" else state.seats_left(want.gpu_type)
    return kept > 0 and pool.free - want.gpu_count < kept


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
        if line.size:
            orders += serve(state, line, now_ms)
    return orders


def serve(state: State, line: Line, now_ms: int) -> list[Instruction]:
    """Start what can be started on one GPU type."""
    pool = state.inventory.pools.get(line.gpu_type)
    if pool is None or not line.size:
        return []
    if not pool.free and not line.spot:
        return []
    if now_ms >= line.rebase_ms:
        rebase(state, line, now_ms)
    orders: list[Instruction] = []
    if state.seats:
        orders += _seat(state, line, pool, now_ms)
    if state.policy.backfill == "conservative":
        chosen = backfill.conservative(state, line, pool, now_ms)
        return orders + [start(state, line, pool, want, places, now_ms) for want, places in chosen]
    return orders + _Serving(state, line, pool, now_ms).run()


def _seat(state: State, line: Line, pool: Pool, now_ms: int) -> list[Instruction]:
    """Start notebook servers on what jobs leave to them, whoever else waits."""
    orders: list[Instruction] = []
    left = state.seats_left(line.gpu_type)
    for lane in sorted(lane for lane in line.heaps if -left <= lane < 0):
        heap = line.heaps[lane]
        while -lane <= left and (entry := state.top(line, heap, now_ms)) is not None:
            lot = entry[3]
            if block(state, line, lot, now_ms):
                continue
            places = place(pool, -lane, spread=state.policy.spread)
            if places is None:
                break
            orders.append(start(state, line, pool, lot.wants[0], places, now_ms))
            left += lane
    return orders


def block(state: State, line: Line, lot: Lot, now_ms: int) -> bool:
    """Whether the first of a lot waits for a limit: then the lot stands behind its gate."""
    want = lot.wants[0]
    if not want.limits or (over := exceeded(state, want)) is None:
        return False
    key, _, limit = over
    gates.shut(state, line, lot, key, limit, now_ms)
    return True


def start(state: State, line: Line, pool: Pool, want: Want, places: Places, now_ms: int) -> Grant:
    """Give devices to a waiting request."""
    lot = state.lot_of[want.id]
    batch = lot.batch
    place = 0 if lot.wants[0] is want else lot.wants.index(want)
    number, gate = lot.numbers[place], lot.gate
    lot.entry = 0
    remove(state, line, lot, place)
    came_true(state, want.id, now_ms)
    uuids = state.inventory.give(pool, places, want.id)
    hold(state, want, batch, number, now_ms, state.likely_ms(want, batch, now_ms))
    if lot.wants:
        state.push(line, lot, state.score(lot.wants[0], batch, now_ms))
    if gate is not None:
        state.let_out(gate, now_ms)
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
        self.tops: dict[int, Entry] = {}  # the best of each lane of which something may start in this pass
        for lane, heap in line.heaps.items():
            if heap and (self.everybody or self._has_room(lane)):
                self._renew(lane, heap)

    def _has_room(self, lane: int) -> bool:
        pool, count = self.pool, lane if lane > 0 else -lane
        return pool.mask >> (count if count < pool.widest else pool.widest) != 0

    def _renew(self, lane: int, heap: list[Entry]) -> None:
        entry = self.state.top(self.line, heap, self.now_ms)
        if entry is None:
            self.tops.pop(lane, None)
        else:
            self.tops[lane] = entry

    def _start(self, want: Want, lot: Lot, places: Places) -> None:
        lane = lot.lane
        self.orders.append(start(self.state, self.line, self.pool, want, places, self.now_ms))
        if (heap := self.line.heaps.get(lane)) is not None and (self.everybody or lane in self.tops):
            self._renew(lane, heap)

    def _before_all(self) -> None:
        """Start the one that others have made room for, or keep its devices."""
        state, kept = self.state, self.line.reservation
        if kept is None or not kept.made_room:
            return
        want = state.waiting(kept.want_id) if kept.want_id in state.lot_of else None
        if want is None or exceeded(state, want) is not None:
            self.line.reservation = None
            return
        places = None
        if not seats_kept(state, self.pool, want):
            places = place(self.pool, want.gpu_count, spread=state.policy.spread)
        if places is not None:
            self._start(want, state.lot_of[want.id], places)
        elif want.id in state.preempting.values():
            self.reservation = kept
        else:  # who was to make room is gone, and still there is none: it is planned anew
            self.line.reservation = None

    def _overdue(self) -> None:
        """Start whom nobody may go ahead of any more; keep devices for the first of them that does not fit."""
        state, line, now_ms = self.state, self.line, self.now_ms
        while self.reservation is None and (want := state.overdue(line, now_ms)) is not None:
            lot = state.lot_of[want.id]
            if not state.could_ever(self.pool, want) or exceeded(state, want) is not None:
                state.put_off(line, now_ms)
                continue
            seats = seats_kept(state, self.pool, want)
            places = None if seats else self._places(want, lot)
            if places is None:
                self._blocked(want, lot, seats)
                return
            self._start(want, lot, places)

    def run(self) -> list[Instruction]:
        line, tops = self.line, self.tops
        if line.reservation is not None:
            self._before_all()
        if line.overdue and line.overdue[0][0] < self.now_ms:
            self._overdue()
        while tops:
            entry = min(tops.values()) if len(tops) > 1 else next(iter(tops.values()))
            lot = entry[3]
            if not self.everybody and not self._has_room(lot.lane):
                del tops[lot.lane]
            elif not self._look_at(lot.wants[0], lot):
                break
        for heap, entry in self.aside:
            if entry[3].entry == entry[2]:
                heapq.heappush(heap, entry)
        if self.everybody:
            line.review_ms = self.review_ms
            if self.reservation is None:
                line.reservation = None
        return self.orders

    def _look_at(self, want: Want, lot: Lot) -> bool:
        """Start a request, or pass it over; whether to go on."""
        state, line, lane = self.state, self.line, lot.lane
        heap = line.heaps[lane]
        if want.limits and block(state, line, lot, self.now_ms):
            self._renew(lane, heap)
            return True
        seats = bool(state.seats) and seats_kept(state, self.pool, want)
        places = None if seats else self._places(want, lot)
        if places is not None:
            self._start(want, lot, places)
            return True
        if self.reservation is not None and not seats:
            return self._pass_over(lane, heap)
        del self.tops[lane]  # what is as wide, of the same kind, finds no place either
        if self.reservation is not None or not state.could_ever(self.pool, want):
            return True  # nobody waits behind one that can never start
        return not self.everybody or self._blocked(want, lot, seats)

    def _pass_over(self, lane: int, heap: list[Entry]) -> bool:
        """Look at the next of the same lane; not for ever."""
        entry = heapq.heappop(heap)
        self.aside.append((heap, entry))
        if (gate := entry[3].gate) is not None:
            self.state.let_out(gate, self.now_ms)
        self._renew(lane, heap)
        return len(self.aside) < BACKFILL_DEPTH

    def _places(self, want: Want, lot: Lot) -> Places | None:
        """Where a request goes now, without delaying the one that GPUs are kept for."""
        spread, reservation = self.state.policy.spread, self.reservation
        if reservation is None:
            return place(self.pool, want.gpu_count, spread=spread)
        end_ms = self.now_ms + self.state.runs_ms(want, lot.batch, self.now_ms, reservation.strict)
        if end_ms <= reservation.from_ms:
            return place(self.pool, want.gpu_count, spread=spread)
        if want.kind == "job" and self.pool.free - want.gpu_count < reservation.leave:
            return None
        wide = want.gpu_count > self.pool.widest
        kept = {node for node, spare in reservation.spare.items() if wide or spare < want.gpu_count}
        places = place(self.pool, want.gpu_count, avoid=kept, spread=spread)
        for node, count in places or ():
            if node in reservation.spare:
                reservation.spare[node] -= count
        return places

    def _blocked(self, want: Want, lot: Lot, seats: bool) -> bool:
        """A request does not fit, or only on seats: whether others may be looked at all the same."""
        state, now_ms, policy = self.state, self.now_ms, self.state.policy
        if self.line.spot and not want.spot:
            found = preemption.reserve(state, self.line, self.pool, want, now_ms)
            if found is not None:
                self.reservation, orders = found
                self.orders += orders
                return policy.backfill != "none"
        if policy.backfill == "none":
            return False
        if policy.patience is not None:
            patient_ms = state.patient_ms(want, lot.batch, now_ms)
            self.review_ms = min(self.review_ms, patient_ms)
            if now_ms < patient_ms:
                return True
        self.reservation = backfill.reserve(state, self.line, self.pool, want, now_ms)
        self.reservation.leave = want.gpu_count + state.seats_left(want.gpu_type) if seats else 0
        return True
