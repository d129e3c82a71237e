"""The steps that state changes by: a request joins its lot and leaves it, holds devices and gives them back.

For ``scheduler.handle`` alone; nothing else calls them.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

from fastgpu_hub.scheduling import gates
from fastgpu_hub.scheduling.policies import Want
from fastgpu_hub.scheduling.prediction import Batch
from fastgpu_hub.scheduling.shares import Shares
from fastgpu_hub.scheduling.state import WAIT_BASE_MS, Line, Lot, Running, State

REBASE_MS = 24 * 3_600_000  # so often it is looked whether that is due


def line_of(state: State, gpu_type: str) -> Line:
    """The line of a GPU type, made when it is asked for first."""
    line = state.lines.get(gpu_type)
    if line is None:
        line = state.lines[gpu_type] = Line(gpu_type)
        state.shares[gpu_type] = Shares()
    return line


def join(state: State, line: Line, want: Want, batch: Batch, number: int, now_ms: int) -> None:
    """Put a request into its lot, and a new lot into its heap."""
    key = (batch, want.gpu_count, want.limits, want.account, want.kind, want.spot, want.priority, want.expected_ms)
    lot = line.lots.get(key)
    if lot is None:
        lane = want.gpu_count if want.kind == "job" else -want.gpu_count
        lot = line.lots[key] = Lot(key, batch, want.gpu_count, lane)
        state.lots_of.setdefault(batch, {})[lot] = None
        for whose in _whose(state, want):
            line.by_owner.setdefault(whose, {})[lot] = None
    wants, numbers = lot.wants, lot.numbers
    place = len(wants)
    while place and (wants[place - 1].requested_ms, numbers[place - 1]) > (want.requested_ms, number):
        place -= 1  # one that comes back into the queue
    wants.insert(place, want)
    numbers.insert(place, number)
    state.lot_of[want.id] = lot
    line.size += 1
    if place == 0:
        state.move_up(line, lot, state.score(want, batch, now_ms), now_ms)
    if state.policy.patience is not None:
        state.expect(line, want, batch, number, now_ms)


def _whose(state: State, want: Want) -> tuple[Hashable, ...]:
    """Of whom the standing is a matter of a request's score."""
    if not state.policy.standing:
        return ()
    return (want.owner, ("account", want.account)) if state.policy.standing == "use" else (want.owner,)


def leave(state: State, want_id: str) -> tuple[Want, Batch, int] | None:
    """Take a waiting request out of the queue, wherever it stands."""
    lot = state.lot_of.get(want_id)
    if lot is None:
        return state.set_aside.pop(want_id, None)
    place = lot.place_of(want_id)
    want, number = lot.wants[place], lot.numbers[place]
    line = state.lines[want.gpu_type]
    remove(state, line, lot, place)
    if place == 0 and lot.wants:
        state.push(line, lot, state.score(lot.wants[0], lot.batch, want.requested_ms))
    return want, lot.batch, number


def remove(state: State, line: Line, lot: Lot, place: int) -> None:
    """Take the request at a place out of its lot."""
    want = lot.wants[place]
    if place:
        del lot.wants[place], lot.numbers[place]
    else:
        lot.wants.popleft()
        lot.numbers.popleft()
    del state.lot_of[want.id]
    line.size -= 1
    if not lot.wants:
        _retire(state, line, lot, want)
    if line.reservation is not None and line.reservation.want_id == want.id:
        line.reservation = None


def _retire(state: State, line: Line, lot: Lot, last: Want) -> None:
    lot.entry = 0
    del line.lots[lot.key]
    lots = state.lots_of[lot.batch]
    del lots[lot]
    if not lots:
        del state.lots_of[lot.batch]
    for whose in _whose(state, last):
        line.by_owner[whose].pop(lot, None)
        if not line.by_owner[whose]:
            del line.by_owner[whose]
    if lot.gate is not None:
        gates.retired(state, lot, last.requested_ms)


def lot_limits(lot: Lot) -> tuple[tuple[str, int], ...]:
    """The limits that all requests of a lot fall under."""
    return lot.key[2]  # type: ignore[index,no-any-return]


def hold(state: State, want: Want, batch: Batch, number: int, now_ms: int, likely_ms: float) -> None:
    """A request holds devices from now on; ``likely_ms`` of use is noted to its owner at once."""
    running = Running(want, batch, number, now_ms, state.told.pop(want.id, None))
    state.holding[want.id] = running
    batch.running[want.id] = now_ms
    for key, _ in want.limits:
        state.held_per_key[key] += want.gpu_count
    if want.kind == "server":
        state.held_by_servers[want.gpu_type] += want.gpu_count
    if want.spot:
        state.lines[want.gpu_type].spot[want.id] = None
    standing = state.policy.standing
    if standing == "turn":
        state.grants += 1
        state.turns[want.owner] = state.grants
    elif standing:
        account = want.account if standing == "use" else ""
        running.noted = state.shares[want.gpu_type].add(want.owner, account, likely_ms * want.gpu_count, now_ms)


def release(state: State, running: Running, ran_ms: float, now_ms: int) -> Iterable[Line]:
    """Free what a request holds; returns the lines that may go on because of it."""
    want = running.want
    del state.holding[want.id]
    state.inventory.give_back(want.id)
    line = state.lines[want.gpu_type]
    for key, _ in want.limits:
        state.held_per_key[key] -= want.gpu_count
        if not state.held_per_key[key]:
            del state.held_per_key[key]
    if want.kind == "server":
        state.held_by_servers[want.gpu_type] -= want.gpu_count
    if want.spot:
        line.spot.pop(want.id, None)
        state.preempting.pop(want.id, None)
    if (standing := state.policy.standing) in ("share", "use"):
        account = want.account if standing == "use" else ""
        used = state.shares[want.gpu_type].add(want.owner, account, ran_ms * want.gpu_count, now_ms, running.noted)
        if used < running.noted and line.size:
            _restand(state, line, want, now_ms)
    if line.size:
        for lot in state.lots_of.get(running.batch, ()):
            state.improve(line, lot, now_ms)
    if not want.limits:
        return (line,)
    if state.policy.backfill == "conservative":  # which looks at everybody, limited or not
        return state.lines.values()
    lines = {line: None}
    for key, _ in want.limits:
        if key in state.blocked:
            lines |= dict.fromkeys(gates.opened(state, key, now_ms))
    return lines


def _restand(state: State, line: Line, want: Want, now_ms: int) -> None:
    """A person stands better now (and where that counts, all of their account): so do their requests."""
    for whose in _whose(state, want):
        for lot in line.by_owner.get(whose, ()):
            state.improve(line, lot, now_ms)


def rebase(state: State, line: Line, now_ms: int) -> None:
    """Keep the numbers small that recent use is written down in, and the heaps that are made of them in order."""
    line.rebase_ms = now_ms + REBASE_MS
    if (scale := state.shares[line.gpu_type].rebase(now_ms)) is not None:
        for running in state.holding.values():
            if running.want.gpu_type == line.gpu_type:
                running.noted *= scale
        restand_all(state, line, now_ms)


def restand_all(state: State, line: Line, now_ms: int) -> None:
    """What was compared up to now is no measure any more: everybody where they stand now."""
    for lot in line.lots.values():
        state.move_up(line, lot, state.score(lot.wants[0], lot.batch, now_ms), now_ms)


def came_true(state: State, want_id: str, now_ms: int) -> None:
    """Compare a wait with what was foretold, so that what is foretold next has honest bounds."""
    if (told := state.foretold.pop(want_id, None)) is not None:
        told_ms, wait_ms = told
        away = math.log((max(0, now_ms - told_ms) + WAIT_BASE_MS) / (wait_ms + WAIT_BASE_MS))
        state.wait_low.see(away)
        state.wait_high.see(away)
