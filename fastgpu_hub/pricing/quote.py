"""What a request would cost, itemised by interval."""

from __future__ import annotations

from dataclasses import dataclass

from fastgpu_hub.pricing import metering
from fastgpu_hub.pricing.metering import Line


@dataclass(frozen=True, slots=True)
class Itemised:
    """The priced lines of a request with their sums, all in micro-units."""

    lines: tuple[Line, ...]

    @property
    def min_micros(self) -> int:
        """What starting alone costs: the least that is charged once it runs."""
        return metering.total_micros(line for line in self.lines if line.unit == metering.START)

    @property
    def max_micros(self) -> int:
        """What the whole duration costs: the amount a grant holds."""
        return metering.total_micros(self.lines)

    @property
    def list_micros(self) -> int:
        """What it would cost without promotions."""
        return metering.list_micros(self.lines)

    @property
    def saved_micros(self) -> int:
        """What promotions take off the list price."""
        return self.list_micros - self.max_micros
