"""Versioned list prices per GPU type."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """A price: any mix of per GPU-hour, per task-hour and per start, in micro-units."""

    per_gpu_hour_micros: int = 0
    per_task_hour_micros: int = 0
    per_start_micros: int = 0


@dataclass(frozen=True, slots=True)
class PriceVersion:
    """A list price, valid from an instant until the next version of the same GPU type."""

    id: int
    gpu_type: str
    rate: Rate
    valid_from_ms: int
    created_by: str = ""
