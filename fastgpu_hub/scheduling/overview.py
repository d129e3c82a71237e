"""All that is told of the queue at one moment, worked out once for everybody who asks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.scheduling import eta, scheduler
from fastgpu_hub.scheduling.scheduler import State


@dataclass(frozen=True, slots=True)
class Overview:
    """Place, reason and latest start of each waiting request; by GPU type, when one GPU more would be had."""

    state: State
    at_ms: int
    places: Mapping[str, int]
    reasons: Mapping[str, Explained]
    starts_ms: Mapping[str, int | None]
    next_ms: Mapping[str, int | None]


def overview(state: State, ends_ms: Mapping[str, int | None], now_ms: int) -> Overview:
    """Of a snapshot of the state; ``ends_ms`` as for :func:`eta.estimates`."""
    starts = eta.estimates(state, ends_ms, now_ms)
    return Overview(
        state,
        now_ms,
        scheduler.queue_places(state),
        scheduler.why_waiting(state, [want.id for want in state.queue]),
        {who: start for (_, who), start in starts.items() if who != eta.NEXT},
        {gpu_type: start for (gpu_type, who), start in starts.items() if who == eta.NEXT},
    )
