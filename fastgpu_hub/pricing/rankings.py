"""Which promotion is best from when on: promotions ranked at one list price, and tracks of ranks over each other."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

from fastgpu_hub.pricing import promotions as promo
from fastgpu_hub.pricing.pricebook import PriceVersion
from fastgpu_hub.pricing.promotions import Promotion
from fastgpu_hub.pricing.terms import Terms, terms_of

# The rank of no promotion, after every other.
NONE = 1 << 30

V = TypeVar("V")


class Track(NamedTuple):
    """Ascending instants, and the best rank from each of them until the next."""

    instants_ms: Sequence[int]
    ranks: Sequence[int]


class Choice(NamedTuple):
    """The best ranks at an instant: of those without an allowance, of those with one, of those that stack."""

    plain: int = NONE
    limited: int = NONE
    top: int = NONE


class Ranking:
    """The promotions for a GPU type at one list price, cheapest first; lower ranks are better.

    Those that are no cheaper than the list price have no rank. Promotions that stack are ranked among themselves.
    """

    def __init__(self, promotions: Iterable[Promotion], gpu_type: str, version: PriceVersion, gpu_count: int) -> None:
        self._version = version
        rate = version.rate
        listed = promo.cost_order((), rate, gpu_count)
        costs = [
            (promo.cost_order((promotion,), rate, gpu_count), promotion.id, promotion)
            for promotion in promotions
            if not promotion.gpu_types or gpu_type in promotion.gpu_types
        ]
        cheaper = sorted((entry for entry in costs if entry[0] < listed), key=lambda entry: entry[:2])
        self._singles = [promotion for _, _, promotion in cheaper if not promotion.stacks]
        stacking = [promotion for _, _, promotion in cheaper if promotion.stacks]
        self._tops = sorted(stacking, key=promo.stacking_order)
        self._ranks = {p.id: rank for ranked in (self._singles, self._tops) for rank, p in enumerate(ranked)}
        # What applies to so many GPUs when these ranks are the best.
        self.terms: Callable[[Choice, int], Terms] = lru_cache(maxsize=2048)(self._applied)

    def track(
        self, promotions: Iterable[Promotion], hours: Callable[[Promotion], tuple[bool, Sequence[int]]], from_ms: int
    ) -> Track:
        """The best rank among the promotions from ``from_ms`` on.

        ``hours`` tells whether a promotion is active at ``from_ms``, and the instants at which that changes.
        """
        active, toggles = 0, dict[int, int]()
        for promotion in promotions:
            rank = self._ranks.get(promotion.id)
            if rank is None:
                continue
            at_first, instants = hours(promotion)
            active |= at_first << rank
            for at_ms in instants:
                toggles[at_ms] = toggles.get(at_ms, 0) ^ 1 << rank
        instants_ms, ranks = [from_ms], [_lowest(active)]
        for at_ms in sorted(toggles):
            active ^= toggles[at_ms]
            if (rank := _lowest(active)) != ranks[-1]:
                instants_ms.append(at_ms)
                ranks.append(rank)
        return Track(instants_ms, ranks)

    def _applied(self, choice: Choice, gpu_count: int) -> Terms:
        single, plain = min(choice.plain, choice.limited), choice.plain
        applied = promo.combined(
            None if single == NONE else self._singles[single],
            None if plain == NONE else self._singles[plain],
            None if choice.top == NONE else self._tops[choice.top],
            self._version.rate,
            gpu_count,
        )
        return terms_of(self._version, applied, gpu_count)


def _lowest(active: int) -> int:
    return (active & -active).bit_length() - 1 if active else NONE


def overlaid(
    tracks: Sequence[Track], from_ms: int, until_ms: int, pick: Callable[[Sequence[int]], V]
) -> list[tuple[int, V]]:
    """What ``pick`` makes of the tracks' ranks from when on, first at ``from_ms``, wherever it changes before the end.

    Every track begins at or before ``from_ms``.
    """
    ranks: list[int] = []
    changes: list[tuple[int, int, int]] = []
    for number, (instants_ms, values) in enumerate(tracks):
        first = bisect_right(instants_ms, from_ms) - 1
        ranks.append(values[first])
        for index in range(first + 1, bisect_left(instants_ms, until_ms, first + 1)):
            changes.append((instants_ms[index], number, values[index]))
    found = [(from_ms, pick(ranks))]
    changes.sort()
    last = len(changes) - 1
    for index, (at_ms, number, rank) in enumerate(changes):
        ranks[number] = rank
        if index < last and changes[index + 1][0] == at_ms:
            continue
        picked = pick(ranks)
        if picked != found[-1][1]:
            found.append((at_ms, picked))
    return found
