"""When waiting requests will start, by predicted run times, with bounds that are kept honest."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

from fastgpu_hub.scheduling.backfill import Profile, book
from fastgpu_hub.scheduling.inventory import Node, Pool
from fastgpu_hub.scheduling.parts import Pause, in_parts, no_pause
from fastgpu_hub.scheduling.policies import Want
from fastgpu_hub.scheduling.serving import exceeded
from fastgpu_hub.scheduling.state import WAIT_BASE_MS, Running, State

DEPTH = 200
FEW = 20  # that are planned without a pause
NEXT = "next"


class Start(NamedTuple):
    """When a waiting request starts: probably, and within which bounds four of five do."""

    likely_ms: int
    early_ms: int
    late_ms: int


def starts(state: State, gpu_type: str, now_ms: int, extra: Want | None = None) -> dict[str, Start]:
    """The expected start of each request that waits for GPUs of a type, by id; ``extra`` is put at the end.

    Requests that wait for money or a limit are not in it, nor those that can never start, nor those that stand behind
    one whose end nobody can guess: a server without a time limit where none has ended yet.
    """
    return starts_of(state, gpu_type, state.in_order(gpu_type, now_ms), now_ms, extra)


def starts_of(
    state: State,
    gpu_type: str,
    ordered: Sequence[Want],
    now_ms: int,
    extra: Want | None = None,
    pause: Pause = no_pause,
) -> dict[str, Start]:
    """As ``starts``, where the requests of that type are known in order."""
    pool = state.inventory.pools.get(gpu_type)
    if pool is None:
        return {}
    over: dict[Hashable, bool] = {}  # those alike in this are many
    wants = []
    for want in in_parts(ordered, pause):
        alike = want.limits, want.gpu_count, want.kind
        out = over.get(alike)
        if out is None:
            out = over[alike] = exceeded(state, want) is not None or not state.could_ever(pool, want)
        if not out and want.id not in state.declined:
            wants.append(want)
    if extra is not None:
        wants.append(extra)
    low, high = state.wait_low.value, state.wait_high.value
    least, most = math.exp(min(low, high)), math.exp(max(low, high))  # of waits, against what was expected of them
    found = {}
    for who, at_ms in in_parts(_plan(state, pool, wants, now_ms, pause), pause):
        base = at_ms - now_ms + WAIT_BASE_MS
        early_ms, late_ms = base * least - WAIT_BASE_MS, base * most - WAIT_BASE_MS
        found[who] = Start(
            int(at_ms), int(min(at_ms, now_ms + max(0.0, early_ms))), int(max(at_ms, now_ms + max(0.0, late_ms)))
        )
    return found


def _ends_ms(state: State, running: Running, now_ms: int) -> float:
    known = running.want.duration_ms is not None or running.want.expected_ms is not None
    if known or running.ends_ms is not None or state.predictor.knows(running.batch):
        return state.ends_ms(running, now_ms)
    return math.inf


def _plan(state: State, pool: Pool, wants: list[Want], now_ms: int, pause: Pause) -> list[tuple[str, float]]:
    """Starts when the queue is served in order, each request as soon as it fits; beyond ``DEPTH`` by work per GPU."""
    free: dict[Node, Profile] = {}
    for node in pool.nodes.values():
        ends = [(_ends_ms(state, state.holding[who], now_ms), count) for who, count in node.held.items()]
        free[node] = Profile(float(now_ms), len(node.free), [end for end in ends if end[0] < math.inf])
    found: list[tuple[str, float]] = []
    last_ms, work = float(now_ms), 0.0
    for number, want in enumerate(in_parts(wants, pause)):
        batch = state.batch_of(want.id)
        length = 0.0 if batch is None else state.likely_ms(want, batch, now_ms)
        if number < DEPTH:
            if number % FEW == FEW - 1:
                pause()
            at_ms, _ = book(free, pool, want, length, now_ms)
            if at_ms == math.inf:
                break
            last_ms = max(last_ms, at_ms)
            found.append((want.id, at_ms))
        elif pool.usable:
            work += length * want.gpu_count
            found.append((want.id, last_ms + work / pool.usable))
    return found
