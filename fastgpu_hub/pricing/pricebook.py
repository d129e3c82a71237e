"""Versioned list prices per GPU type."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

from fastgpu_hub.pricing import fractions

# More parts of GPUs than a site offers; beyond that their versions are worked out anew each time.
_MOST_PARTS_KEPT = 1024
# Behind a GPU type: the price of its spot jobs.
SPOT = ".spot"


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
    """All versions of all list prices. Of versions valid from the same instant the one with the highest id counts.

    A MIG slice or a share without a version of its own at some instant has its part of the price of what it is a part
    of, under that version's id (see :mod:`fastgpu_hub.pricing.fractions`).
    """

    def __init__(self, versions: Iterable[PriceVersion]) -> None:
        self._versions: dict[str, list[PriceVersion]] = {}
        for version in sorted(versions, key=lambda version: (version.valid_from_ms, version.id)):
            of_type = self._versions.setdefault(version.gpu_type, [])
            if of_type and of_type[-1].valid_from_ms == version.valid_from_ms:
                of_type.pop()
            of_type.append(version)
        self._in_force: dict[str, tuple[list[int], list[PriceVersion]]] = {}
        self._spot: dict[int, PriceBook] = {}

    def spot(self, percent_off: int) -> PriceBook:
        """The prices of spot jobs: so many percent less than the price of the GPU type, each rounded down.

        From the first version of ``TYPE.spot`` on, that is the price. Raises ValueError unless 0 <= percent_off < 100.
        """
        if percent_off not in self._spot:
            self._spot[percent_off] = _SpotBook(self, percent_off)
        return self._spot[percent_off]

    @property
    def spot_price_ids(self) -> frozenset[int]:
        """The versions that were set for spot jobs."""
        own = (versions for gpu_type, versions in self._versions.items() if gpu_type.endswith(SPOT))
        return frozenset(version.id for versions in own for version in versions)

    def version_at(self, gpu_type: str, at_ms: int) -> PriceVersion | None:
        """The version valid at ``at_ms``, with the type's own rate; None when the type has no price then."""
        valid_from, versions = self._of(gpu_type)
        index = bisect_right(valid_from, at_ms)
        return versions[index - 1] if index else None

    def edges(self, gpu_type: str, from_ms: int, until_ms: int) -> list[int]:
        """Instants strictly inside ``(from_ms, until_ms)`` at which the type's price version changes, ascending."""
        valid_from, _ = self._of(gpu_type)
        return valid_from[bisect_right(valid_from, from_ms) : bisect_left(valid_from, until_ms)]

    def gpu_types(self) -> list[str]:
        """Every type that has or will have a price of its own, sorted."""
        return sorted(self._versions)

    def _of(self, gpu_type: str) -> tuple[list[int], list[PriceVersion]]:
        """The versions in force for a type, and from when: its own, before the first of them its part of the whole."""
        known = self._in_force.get(gpu_type)
        if known is not None:
            return known
        versions = self._found(gpu_type)
        found = [version.valid_from_ms for version in versions], versions
        if versions and len(self._in_force) < _MOST_PARTS_KEPT:
            self._in_force[gpu_type] = found
        return found

    def _found(self, gpu_type: str) -> list[PriceVersion]:
        own, part = self._versions.get(gpu_type, []), fractions.part_of(gpu_type)
        if part is None:
            return own
        whole, fraction = part
        return _inherited(self._of(whole)[1], own, gpu_type, fraction)


class _SpotBook(PriceBook):
    """The spot prices that follow from a book."""

    def __init__(self, full: PriceBook, percent_off: int) -> None:
        super().__init__(())
        if not 0 <= percent_off < 100:
            raise ValueError(f"a spot price is from 0 to 99 percent less, not {percent_off}")
        self._full, self._fraction = full, Fraction(100 - percent_off, 100)

    def gpu_types(self) -> list[str]:
        return [gpu_type for gpu_type in self._full.gpu_types() if not gpu_type.endswith(SPOT)]

    def _found(self, gpu_type: str) -> list[PriceVersion]:
        own = [replace(version, gpu_type=gpu_type) for version in self._full._versions.get(gpu_type + SPOT, ())]
        return _inherited(self._full._of(gpu_type)[1], own, gpu_type, self._fraction)


def _inherited(
    whole: Iterable[PriceVersion], own: list[PriceVersion], gpu_type: str, fraction: Fraction
) -> list[PriceVersion]:
    """A type's own versions; before the first of them a part of those of what it is a part of."""
    before = [
        replace(version, gpu_type=gpu_type, rate=fractions.slice_rate(version.rate, fraction))
        for version in whole
        if not own or version.valid_from_ms < own[0].valid_from_ms
    ]
    return [*before, *own]
