"""Versioned list prices per GPU type."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """A price: any mix of per GPU-hour, per task-hour and per start, in micro-units. Raises ValueError if negative."""

    per_gpu_hour_micros: int = 0
    per_task_hour_micros: int = 0
    per_start_micros: int = 0

    def __post_init__(self) -> None:
        if min(self.per_gpu_hour_micros, self.per_task_hour_micros, self.per_start_micros) < 0:
            raise ValueError("a rate must not be negative")

    def hourly_micros(self, gpu_count: int) -> int:
        """What one hour with ``gpu_count`` GPUs costs, in micro-units, without the start."""
        return self.per_gpu_hour_micros * gpu_count + self.per_task_hour_micros


@dataclass(frozen=True, slots=True)
class PriceVersion:
    """A list price, valid from an instant until the next version of the same GPU type."""

    id: int
    gpu_type: str
    rate: Rate
    valid_from_ms: int
    created_by: str = ""


class PriceBook:
    """All versions of all list prices. Of versions valid from the same instant the one with the highest id counts."""

    def __init__(self, versions: Iterable[PriceVersion]) -> None:
        self._versions: dict[str, list[PriceVersion]] = {}
        for version in sorted(versions, key=lambda version: (version.valid_from_ms, version.id)):
            of_type = self._versions.setdefault(version.gpu_type, [])
            if of_type and of_type[-1].valid_from_ms == version.valid_from_ms:
                of_type.pop()
            of_type.append(version)
        self._valid_from = {name: [version.valid_from_ms for version in of] for name, of in self._versions.items()}

    def version_at(self, gpu_type: str, at_ms: int) -> PriceVersion | None:
        """The version valid at ``at_ms``; None when the type has no price then."""
        index = bisect_right(self._valid_from.get(gpu_type, []), at_ms)
        return self._versions[gpu_type][index - 1] if index else None

    def edges(self, gpu_type: str, from_ms: int, until_ms: int) -> list[int]:
        """Instants strictly inside ``(from_ms, until_ms)`` at which the type's price version changes, ascending."""
        return [at_ms for at_ms in self._valid_from.get(gpu_type, []) if from_ms < at_ms < until_ms]

    def gpu_types(self) -> list[str]:
        """Every type that has or will have a price, sorted."""
        return sorted(self._versions)
