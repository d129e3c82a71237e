"""When waiting requests will start: by predicted run times, and at the latest by time limits."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from fastgpu_hub.scheduling.backfill import Profile, book, profiles
from fastgpu_hub.scheduling.inventory import Node, Pool
from fastgpu_hub.scheduling.policies import Want
from fastgpu_hub.scheduling.serving import exceeded
from fastgpu_hub.scheduling.state import WAIT_BASE_MS, Running, State

DEPTH = 200
NEXT = "next"


@dataclass(frozen=True, slots=True)
class Start:
    """When a waiting request starts: probably, within which bounds (four of five do), and at the latest.

    ``latest_ms`` is when everything runs to its limit; None when something ahead of it has none.
    """

    likely_ms: int
    early_ms: int
    late_ms: int
    latest_ms: int | None = None


def starts(state: State, gpu_type: str, now_ms: int, extra: Want | None = None) -> dict[str, Start]:
    """The expected start of each request that waits for GPUs of a type, by id; ``extra`` is put at the end.

    Requests that wait for money or a limit are not in it, nor those that nothing is known to end before.
    """
    pool = state.inventory.pools.get(gpu_type)
    if pool is None:
        return {}
    wants = [want for want in state.in_order(gpu_type, now_ms) if not passed_over(state, want)]
    if extra is not None:
        wants.append(extra)
    likely = _plan(state, pool, wants, now_ms, profiles(state, pool, now_ms), _likely(state, now_ms))
    latest = _plan(state, pool, wants, now_ms, _limit_profiles(state, pool, now_ms), _limit_ms)
    found = {}
    for want in wants:
        at_ms = likely.get(want.id, math.inf)
        last_ms = latest.get(want.id, math.inf)
        at_ms = min(at_ms, last_ms)
        if at_ms < math.inf:
            early_ms, late_ms = bounds(state, at_ms - now_ms)
            late_ms = min(now_ms + late_ms, last_ms)
            found[want.id] = Start(
                int(at_ms),
                int(min(at_ms, now_ms + early_ms)),
                int(max(at_ms, late_ms)),
                int(last_ms) if last_ms < math.inf else None,
            )
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


def _likely(state: State, now_ms: int) -> Callable[[Want], float]:
    def length(want: Want) -> float:
        batch = state.batch_of(want.id)
        return 0.0 if batch is None else state.likely_ms(want, batch, now_ms)

    return length


def _limit_ms(want: Want) -> float:
    return math.inf if want.duration_ms is None else float(want.duration_ms)


def _limit_profiles(state: State, pool: Pool, now_ms: int) -> dict[Node, Profile]:
    def end(running: Running) -> float:
        limit_ms = running.want.duration_ms
        return math.inf if limit_ms is None else max(float(running.since_ms + limit_ms), now_ms + 1.0)

    return {
        node: Profile(
            float(now_ms),
            len(node.free),
            [
                (end(state.holding[who]), count)
                for who, count in node.held.items()
                if end(state.holding[who]) < math.inf
            ],
        )
        for node in pool.nodes.values()
    }


def _plan(
    state: State,
    pool: Pool,
    wants: list[Want],
    now_ms: int,
    free: dict[Node, Profile],
    length_ms: Callable[[Want], float],
) -> dict[str, float]:
    """Starts when the queue is served in order, each request as soon as it fits; beyond ``DEPTH`` by work per GPU."""
    found: dict[str, float] = {}
    last_ms, work = float(now_ms), 0.0
    for number, want in enumerate(wants):
        length = length_ms(want)
        if number < DEPTH or number == len(wants) - 1 == DEPTH:
            at_ms, _ = book(free, pool, want, length, now_ms)
            if at_ms == math.inf:
                break
            last_ms = max(last_ms, at_ms)
            found[want.id] = at_ms
        elif pool.usable:
            work += length * want.gpu_count
            found[want.id] = last_ms + work / pool.usable
    return found
