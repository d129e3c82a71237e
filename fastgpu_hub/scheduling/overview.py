"""All that is told of the queue at one moment, worked out once for everybody; what happens later does not change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.scheduling import eta, why
from fastgpu_hub.scheduling.eta import Start
from fastgpu_hub.scheduling.inventory import Inventory
from fastgpu_hub.scheduling.parts import Pause, no_pause
from fastgpu_hub.scheduling.policies import Want
from fastgpu_hub.scheduling.state import State


@dataclass(frozen=True, slots=True)
class Overview:
    """The devices, who holds them, and of each waiting request its place, reason and expected start.

    ``next_ms`` is, by GPU type, when one GPU more would be had; None when that is unknown. ``ends_ms`` is when each of
    what runs is expected to end.
    """

    version: int
    at_ms: int
    inventory: Inventory
    holding: Mapping[str, Want]
    held_per_key: Mapping[str, int]
    places: Mapping[str, int]
    reasons: Mapping[str, Explained]
    starts: Mapping[str, Start]
    next_ms: Mapping[str, int | None]
    ends_ms: Mapping[str, int]


def overview(state: State, now_ms: int, pause: Pause = no_pause) -> Overview:
    """Of the state as it is. While there is a ``pause``, which long queues ask for, events may be handled."""
    version = state.version
    places: dict[str, int] = {}
    waits: dict[str, why.Waits] = {}
    starts: dict[str, Start] = {}
    next_ms: dict[str, int | None] = {}
    for gpu_type in sorted({*state.inventory.pools, *state.lines}):
        ordered = state.in_order(gpu_type, now_ms, pause)
        places.update((want.id, number) for number, want in enumerate(ordered, 1))
        waits.update(why.waits(state, gpu_type, ordered, pause))
        one_more = Want(eta.NEXT, "", gpu_type, 1, now_ms)
        found = eta.starts_of(state, gpu_type, ordered, now_ms, one_more, pause)
        more = found.pop(eta.NEXT, None)
        next_ms[gpu_type] = more.likely_ms if more else None
        starts.update(found)
    return Overview(
        version,
        now_ms,
        state.inventory.copy(),
        {who: running.want for who, running in state.holding.items()},
        dict(state.held_per_key),
        places,
        why.Reasons(waits),
        starts,
        next_ms,
        {who: round(state.ends_ms(running, now_ms)) for who, running in state.holding.items()},
    )
