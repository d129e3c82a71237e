"""GPUs that count against limits on GPUs at once, and when they come back at the latest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastgpu_hub.scheduling.overview import Overview

_MOST_STEPS = 5


@dataclass(frozen=True, slots=True)
class GpusHeld:
    """By limit key: how many GPUs are held, and ``(at_ms, count)`` of those that come back, ascending, at most five."""

    per_key: Mapping[str, int] = field(default_factory=dict)
    comes_back: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)


def gpus_held(view: Overview, ends_ms: Mapping[str, int | None]) -> GpusHeld:
    """Of the queue as it stands; ``ends_ms`` is when each request that holds GPUs ends at the latest."""
    steps: dict[str, dict[int, int]] = {}
    for want in view.holding.values():
        if (end_ms := ends_ms.get(want.id)) is not None:
            for key, _ in want.limits:
                of_key = steps.setdefault(key, {})
                of_key[end_ms] = of_key.get(end_ms, 0) + want.gpu_count
    first = {key: tuple(sorted(of_key.items())[:_MOST_STEPS]) for key, of_key in steps.items()}
    return GpusHeld(view.held_per_key, first)
