"""All that is told of the queue at one moment, worked out once for everybody; later events do not change it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.scheduling import eta, why
from fastgpu_hub.scheduling.eta import Start
from fastgpu_hub.scheduling.inventory import Inventory
from fastgpu_hub.scheduling.policies import Want
from fastgpu_hub.scheduling.prediction import Prediction
from fastgpu_hub.scheduling.state import State


@dataclass(frozen=True, slots=True)
class Overview:
    """The devices, who holds them, and of each waiting request its place, reason and expected start.

    ``next_ms`` is, by GPU type, when one GPU more would be had; None when that is unknown. ``runs`` are predicted run
    times, and ``ends_ms`` expected ends, of what waits and runs.
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
    runs: Mapping[str, Prediction]
    ends_ms: Mapping[str, int]


def overview(state: State, now_ms: int) -> Overview:
    """Of the state as it is."""
    places: dict[str, int] = {}
    reasons: dict[str, Explained] = {}
    starts: dict[str, Start] = {}
    next_ms: dict[str, int | None] = {}
    runs: dict[str, Prediction] = {}
    for gpu_type in sorted({*state.inventory.pools, *state.lines}):
        ordered = state.in_order(gpu_type, now_ms)
        places |= {want.id: number for number, want in enumerate(ordered, 1)}
        reasons |= why.reasons(state, gpu_type, ordered)
        one_more = Want(eta.NEXT, "", gpu_type, 1, now_ms)
        found = eta.starts(state, gpu_type, now_ms, one_more)
        more = found.pop(eta.NEXT, None)
        next_ms[gpu_type] = more.likely_ms if more else None
        starts |= found
        for want in ordered:
            if (batch := state.batch_of(want.id)) is not None:
                runs[want.id] = state.prediction(want, batch, now_ms)
    for who, running in state.holding.items():
        runs[who] = state.prediction(running.want, running.batch, now_ms)
    return Overview(
        state.version,
        now_ms,
        state.inventory.copy(),
        {who: running.want for who, running in state.holding.items()},
        dict(state.held_per_key),
        places,
        reasons,
        starts,
        next_ms,
        runs,
        {who: round(state.ends_ms(running, now_ms)) for who, running in state.holding.items()},
    )
