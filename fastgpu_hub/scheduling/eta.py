"""When waiting requests will start, by predicted run times, with bounds that are kept honest."""

from __future__ import annotations

import math
from dataclasses import dataclass

from fastgpu_hub.scheduling.backfill import Profile, book
from fastgpu_hub.scheduling.inventory import Node, Pool
from fastgpu_hub.scheduling.policies import Want
from fastgpu_hub.scheduling.serving import exceeded
from fastgpu_hub.scheduling.state import WAIT_BASE_MS, Running, State

DEPTH = 200
NEXT = "next"


@dataclass(frozen=True, slots=True)
class Start:
    """When a waiting request starts: probably, and within which bounds four of five do."""

    likely_ms: int
    early_ms: int
    late_ms: int


def starts(state: State, gpu_type: str, now_ms: int, extra: Want | None = None) -> dict[str, Start]:
    """The expected start of each request that waits for GPUs of a type, by id; ``extra`` is put at the end.

    Requests that wait for money or a limit are not in it, nor those that stand behind one whose end nobody can guess:
    a server without a time limit where none has ended yet.
    """
    pool = state.inventory.pools.get(gpu_type)
    if pool is None:
        return {}
    wants = [want for want in state.in_order(gpu_type, now_ms) if not passed_over(state, want)]
    if extra is not None:
        wants.append(extra)
    found = {}
    for who, at_ms in _plan(state, pool, wants, now_ms).items():
        early_ms, late_ms = bounds(state, at_ms - now_ms)
        found[who] = Start(int(at_ms), int(min(at_ms, now_ms + early_ms)), int(max(at_ms, now_ms + late_ms)))
    return found


def bounds(state: State, wait_ms: float) -> tuple[float, float]:
    """Within which waits four of five fall of those for whom ``wait_ms`` was expected, as it was up to now."""
    base = wait_ms + WAIT_BASE_MS
    low, high = state.wait_low.value, state.wait_high.value
    return max(0.0, base * math.exp(min(low, high)) - WAIT_BASE_MS), max(
        0.0, base * math.exp(max(low, high)) - WAIT_BASE_MS
    )


def passed_over(state: State, want: Want) -> bool:
    """True when a waiting request waits for money or a limit, so that those behind it are served first."""
    return want.id in state.declined or exceeded(state, want) is not None


def _ends_ms(state: State, running: Running, now_ms: int) -> float:
    known = running.want.duration_ms is not None or running.want.expected_ms is not None
    if known or running.ends_ms is not None or state.predictor.knows(running.batch):
        return state.ends_ms(running, now_ms)
    return math.inf


def _plan(state: State, pool: Pool, wants: list[Want], now_ms: int) -> dict[str, float]:
    """Starts when the queue is served in order, each request as soon as it fits; beyond ``DEPTH`` by work per GPU."""
    free: dict[Node, Profile] = {}
    for node in pool.nodes.values():
        ends = [(_ends_ms(state, state.holding[who], now_ms), count) for who, count in node.held.items()]
        free[node] = Profile(float(now_ms), len(node.free), [end for end in ends if end[0] < math.inf])
    found: dict[str, float] = {}
    last_ms, work = float(now_ms), 0.0
    for number, want in enumerate(wants):
        batch = state.batch_of(want.id)
        length = 0.0 if batch is None else state.likely_ms(want, batch, now_ms)
        if not state.could_ever(pool, want):
            continue  # nobody waits behind it
        if number < DEPTH:
            at_ms, _ = book(free, pool, want, length, now_ms)
            if at_ms == math.inf:
                break
            last_ms = max(last_ms, at_ms)
            found[want.id] = at_ms
        elif pool.usable:
            work += length * want.gpu_count
            found[want.id] = last_ms + work / pool.usable
    return found
