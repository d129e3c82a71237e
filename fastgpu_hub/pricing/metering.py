"""Priced intervals: cut at every edge, held before they happen, charged as they happen."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """One priced interval ``[from_ms, until_ms)`` of one unit: of a quote, of a hold, or charged.

    ``unit`` is ``gpu_hour`` (quantity = GPU-seconds x 1000, i.e. GPU-milliseconds), ``task_hour`` (milliseconds) or
    ``start`` (1, with ``from_ms == until_ms``). ``rate_micros`` is what is charged per unit (promotion applied),
    ``list_rate_micros`` the list price. ``amount_micros`` is rounded down once per line.
    """

    unit: str
    from_ms: int
    until_ms: int
    gpu_count: int
    rate_micros: int
    list_rate_micros: int
    amount_micros: int
    price_id: int
    promotion_id: int | None = None
