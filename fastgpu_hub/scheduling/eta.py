"""When a waiting request will start at the latest, from the time limits of what runs and waits before it."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastgpu_hub.scheduling.scheduler import State, passed_over

NEXT = "next"


@dataclass(frozen=True, slots=True)
class Occupant:
    """A request that holds or wants GPUs of one type. ``ends_ms`` is None when its end is open (a notebook server)."""

    gpu_count: int
    ends_ms: int | None


@dataclass(frozen=True, slots=True)
class Waiter:
    """A request in the queue; ``duration_ms`` is its time limit, None when open-ended."""

    id: str
    gpu_count: int
    duration_ms: int | None


def start_times(now_ms: int, free: int, running: Sequence[Occupant], queue: Sequence[Waiter]) -> dict[str, int | None]:
    """Latest start of each waiter when everything runs to its limit and is served in order; None when it is unknown.

    Treats the devices of the type as one pool. Unknown means it depends on an open-ended occupant.
    """
    ends = [(occupant.ends_ms, occupant.gpu_count) for occupant in running if occupant.ends_ms is not None]
    heapq.heapify(ends)
    starts: dict[str, int | None] = {}
    at_ms = now_ms
    for waiter in queue:
        while free < waiter.gpu_count and ends:
            ends_ms, count = heapq.heappop(ends)
            at_ms = max(at_ms, ends_ms)
            free += count
        if free < waiter.gpu_count:
            starts.update({later.id: None for later in queue if later.id not in starts})
            return starts
        starts[waiter.id] = at_ms
        free -= waiter.gpu_count
        if waiter.duration_ms is not None:
            heapq.heappush(ends, (at_ms + waiter.duration_ms, waiter.gpu_count))
    return starts


def estimates(state: State, ends_ms: Mapping[str, int | None], now_ms: int) -> dict[tuple[str, str], int | None]:
    """Latest start by (GPU type, request id) for everything that waits, and by (GPU type, NEXT) for one GPU more.

    ``ends_ms`` says when each holding request ends at the latest; None or absent when that is open. Nobody knows when
    a request starts that waits for money or a limit; those behind it are told as if it took its turn.
    """
    starts: dict[tuple[str, str], int | None] = {}
    for gpu_type in state.inventory.gpu_types():
        running = [
            Occupant(want.gpu_count, ends_ms.get(want.id))
            for want in state.holding.values()
            if want.gpu_type == gpu_type
        ]
        waiting = [
            Waiter(want.id, want.gpu_count, want.duration_ms) for want in state.queue if want.gpu_type == gpu_type
        ]
        _, free = state.inventory.count(gpu_type)
        found = start_times(now_ms, free, running, [*waiting, Waiter(NEXT, 1, None)])
        starts.update({(gpu_type, who): start for who, start in found.items()})
        starts.update(
            {
                (gpu_type, want.id): None
                for want in state.queue
                if want.gpu_type == gpu_type and passed_over(state, want)
            }
        )
    return starts
