"""Who may go ahead of a request that does not fit: only what does not delay it.

EASY (Lifka, 1995) keeps GPUs for one request; conservative backfilling (Mu'alem and Feitelson, 2001) for each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from fastgpu_hub.scheduling.inventory import Node, Places, Pool
from fastgpu_hub.scheduling.policies import Want
from fastgpu_hub.scheduling.state import Line, Reservation, State

CONSERVATIVE_DEPTH = 100
EXACT_UP_TO = 256
REVIEW_MS = 60_000


def reserve(state: State, line: Line, pool: Pool, want: Want, now_ms: int) -> Reservation:
    """The nodes where a request is expected to fit first, and from when on.

    Worked out anew each time while few requests run; with many, kept for a minute.
    """
    known = line.reservation
    if known is not None and known.want_id == want.id and now_ms < known.until_ms:
        return known
    strict = state.strict(want, now_ms)
    need = min(want.gpu_count, pool.widest)
    found: list[tuple[float, int, Node, int]] = []
    running = 0
    for number, node in enumerate(pool.nodes.values()):
        running += len(node.held)
        if node.usable < need or (want.gpu_count > pool.widest and node.usable < pool.widest):
            continue
        at_ms, free = _when_free(state, node, need, now_ms, strict)
        if free >= need:
            found.append((at_ms, number, node, free - need))
    found.sort()
    nodes = found[: pool.nodes_for(want.gpu_count)]
    from_ms = nodes[-1][0] if len(nodes) == pool.nodes_for(want.gpu_count) else float(now_ms)
    line.reservation = Reservation(want.id, from_ms, {node: spare for _, _, node, spare in nodes}, strict=strict)
    if running > EXACT_UP_TO:
        line.reservation.until_ms = now_ms + REVIEW_MS
    return line.reservation


def _when_free(state: State, node: Node, need: int, now_ms: int, strict: bool) -> tuple[float, int]:
    """When a node is expected to have so many devices free, and how many it has then."""
    free, at_ms = len(node.free), float(now_ms)
    if free >= need:
        return at_ms, free
    if need == node.usable:  # all of it: when the last one ends
        for who in node.held:
            end_ms = state.ends_ms(state.holding[who], now_ms, strict)
            if end_ms > at_ms:
                at_ms = end_ms
        return at_ms, need
    ends = sorted((state.ends_ms(state.holding[who], now_ms, strict), count) for who, count in node.held.items())
    for end_ms, count in ends:
        at_ms = end_ms
        free += count
        if free >= need:
            break
    return at_ms, free


class Profile:
    """How many devices of one node are free from when on: ``free[i]`` from ``times[i]`` to ``times[i + 1]``."""

    __slots__ = ("free", "times")

    def __init__(self, now_ms: float, free: int, ends: Iterable[tuple[float, int]]) -> None:
        self.times, self.free = [now_ms], [free]
        for at_ms, count in sorted(ends):
            if at_ms > self.times[-1]:
                self.times.append(at_ms)
                self.free.append(self.free[-1] + count)
            else:
                self.free[-1] += count

    def first(self, need: int, length_ms: float, from_ms: float) -> float | None:
        """The first instant from which ``need`` devices are free for so long; None when there is none."""
        start: float | None = None
        for number, (at_ms, free) in enumerate(zip(self.times, self.free, strict=True)):
            end_ms = self.times[number + 1] if number + 1 < len(self.times) else None
            if free < need:
                start = None
                continue
            if end_ms is not None and end_ms <= from_ms:
                continue
            if start is None:
                start = max(at_ms, from_ms)
            if end_ms is None or end_ms - start >= length_ms:
                return start
        return None

    def take(self, need: int, from_ms: float, until_ms: float) -> None:
        """Use devices for a time."""
        for edge in (from_ms, until_ms):
            place = bisect_left(self.times, edge)
            if place == len(self.times) or self.times[place] != edge:
                self.times.insert(place, edge)
                self.free.insert(place, self.free[place - 1])
        first, last = bisect_left(self.times, from_ms), bisect_left(self.times, until_ms)
        for place in range(first, last):
            self.free[place] -= need


def profiles(state: State, pool: Pool, now_ms: int) -> dict[Node, Profile]:
    """What is expected to be free on each node, if nothing new is started."""
    return {
        node: Profile(
            float(now_ms),
            len(node.free),
            [(state.ends_ms(state.holding[who], now_ms), count) for who, count in node.held.items()],
        )
        for node in pool.nodes.values()
    }


def book(free: dict[Node, Profile], pool: Pool, want: Want, length_ms: float, from_ms: float) -> tuple[float, Places]:
    """Where and when a request fits first after what is booked already; books it. Infinity when it never fits."""
    length_ms = max(1.0, length_ms)
    nodes = pool.nodes_for(want.gpu_count)
    need = min(want.gpu_count, pool.widest)
    starts = []
    for number, (node, profile) in enumerate(free.items()):
        start = profile.first(need, length_ms, from_ms) if node.usable >= need else None
        if start is not None:
            starts.append((start, len(node.free), number, node))
    starts.sort(key=lambda each: each[:3])
    if len(starts) < nodes or not need:
        return float("inf"), ()
    at_ms = starts[nodes - 1][0]
    chosen = [node for *_, node in starts[:nodes]]
    if nodes > 1:  # each must be free at the same time
        common = at_ms
        while True:
            later = [free[node].first(need, length_ms, common) for node in chosen]
            if any(each is None for each in later):
                return float("inf"), ()
            latest = max(each for each in later if each is not None)
            if latest == common:
                break
            common = latest
        at_ms = common
    left = want.gpu_count
    places = []
    for node in chosen:
        free[node].take(need, at_ms, at_ms + length_ms)
        places.append((node, min(need, left)))
        left -= need
    return at_ms, tuple(places)


def conservative(state: State, line: Line, pool: Pool, now_ms: int) -> list[tuple[Want, Places]]:
    """What can start now without delaying anybody ahead, by the plan of all the first ones in order."""
    free = profiles(state, pool, now_ms)
    chosen: list[tuple[Want, Places]] = []
    limits: dict[str, int] = {}
    left, seats, planned = pool.free, state.seats_left(line.gpu_type), 0
    for want in state.in_order(line.gpu_type, now_ms):
        lot = state.lot_of.get(want.id)
        if lot is None or not state.could_ever(pool, want):
            continue
        if any(state.held_per_key[key] + limits.get(key, 0) + want.gpu_count > limit for key, limit in want.limits):
            continue
        at_ms, places = book(free, pool, want, state.runs_ms(want, lot.batch, now_ms), now_ms)
        server = want.kind == "server"
        if at_ms == now_ms and want.gpu_count <= (left if server else left - seats):
            chosen.append((want, places))
            left -= want.gpu_count
            seats = max(0, seats - want.gpu_count) if server else seats
            for key, _ in want.limits:
                limits[key] = limits.get(key, 0) + want.gpu_count
        planned += 1
        if planned == CONSERVATIVE_DEPTH:
            break
    return chosen
