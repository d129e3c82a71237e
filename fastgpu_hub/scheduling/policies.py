"""In which order the queue is served. A policy is a sort key over waiting requests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Want:
    """A request as the scheduler sees it.

    ``limits`` are the concurrent-GPU limits it falls under, as ``(key, limit)``: requests that share a key may together
    hold at most ``limit`` GPUs. ``duration_ms`` is the time limit, None for an open-ended server.
    """

    id: str
    owner: str
    gpu_type: str
    gpu_count: int
    requested_ms: int
    limits: tuple[tuple[str, int], ...] = ()
    duration_ms: int | None = None


def fifo(want: Want) -> int:
    """First come, first served; requests of the same millisecond keep the order in which they arrived."""
    return want.requested_ms
