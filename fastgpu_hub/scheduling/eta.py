"""When a waiting request will start at the latest, from the time limits of what runs and waits before it."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


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
