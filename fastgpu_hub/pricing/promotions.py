"""Time-limited or conditional price changes, who may have them, and which one wins."""

from __future__ import annotations

from dataclasses import dataclass

from fastgpu_hub.pricing.windows import WeeklyWindow


@dataclass(frozen=True, slots=True)
class Promotion:
    """A price change: window, audience, code. Exactly one of ``percent_off`` and ``fixed_per_gpu_hour_micros`` is set.

    An empty ``gpu_types`` means all types, an empty ``audience`` everyone; audience entries are account ids
    (``class:cs101``, ``person:alice``). Active in ``[starts_ms, ends_ms)`` and, if ``weekly`` is not empty, only
    within one of its windows in ``time_zone``.
    """

    id: int
    name: str
    starts_ms: int
    ends_ms: int
    percent_off: int | None = None
    fixed_per_gpu_hour_micros: int | None = None
    gpu_types: tuple[str, ...] = ()
    audience: tuple[str, ...] = ()
    code: str | None = None
    weekly: tuple[WeeklyWindow, ...] = ()
    time_zone: str = "UTC"
    created_by: str = ""
