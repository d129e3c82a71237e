"""Absolute and weekly windows in a named time zone, and calendar windows of quotas; all edges as UTC instants."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WeeklyWindow:
    """Recurring local hours: ``days`` 0 = Monday … 6 = Sunday; ``to_minute <= from_minute`` runs past midnight."""

    days: tuple[int, ...]
    from_minute: int
    to_minute: int
