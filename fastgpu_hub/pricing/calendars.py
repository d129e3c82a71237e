"""Calendar edges that every price needs, remembered four weeks at a time: midnights, clock changes, quota windows."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from functools import lru_cache

from fastgpu_hub.pricing import windows

CHUNK_MS = 4 * windows.MS_PER_WEEK


def calendar_edges(window: str, time_zone: str, from_ms: int, until_ms: int) -> list[int]:
    """What :func:`fastgpu_hub.pricing.windows.calendar_edges` answers; quick, and for an interval of any length."""
    if window == "always":
        return []
    return _inside(lambda chunk: _calendar(window, time_zone, chunk), from_ms, until_ms)


def site_cuts(time_zone: str, from_ms: int, until_ms: int) -> list[int]:
    """Midnights and changes of the UTC offset strictly inside ``(from_ms, until_ms)``, ascending, each once."""
    return _inside(lambda chunk: _site(time_zone, chunk), from_ms, until_ms)


def _inside(edges_of: Callable[[int], tuple[int, ...]], from_ms: int, until_ms: int) -> list[int]:
    found: list[int] = []
    for chunk in range(from_ms // CHUNK_MS, (until_ms - 1) // CHUNK_MS + 1):
        edges = edges_of(chunk)
        found += edges[bisect_right(edges, from_ms) : bisect_left(edges, until_ms)]
    return found


@lru_cache(maxsize=512)
def _calendar(window: str, time_zone: str, chunk: int) -> tuple[int, ...]:
    # One millisecond more at the beginning: an edge may be exactly there.
    return tuple(windows.calendar_edges(window, time_zone, chunk * CHUNK_MS - 1, (chunk + 1) * CHUNK_MS))


@lru_cache(maxsize=512)
def _site(time_zone: str, chunk: int) -> tuple[int, ...]:
    begin_ms, end_ms = chunk * CHUNK_MS - 1, (chunk + 1) * CHUNK_MS
    changes = windows.offset_changes(time_zone, begin_ms, end_ms)
    return tuple(sorted({*windows.calendar_edges("day", time_zone, begin_ms, end_ms), *changes}))
