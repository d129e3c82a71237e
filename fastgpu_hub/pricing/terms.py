"""The terms of a stretch of time: one price version, the promotions on it, and the rates that follow from both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from fastgpu_hub.pricing import promotions as promo
from fastgpu_hub.pricing.money import MS_PER_HOUR, hourly_amount_micros
from fastgpu_hub.pricing.pricebook import PriceVersion, Rate
from fastgpu_hub.pricing.promotions import NOTHING, Promotion, Standing


@dataclass(frozen=True, slots=True)
class Part:
    """One unit's rates in micro-units, charged and listed, and the ids of the promotions that make the difference."""

    rate_micros: int
    list_rate_micros: int
    promotion_id: int | None
    stacked_promotion_id: int | None

    @property
    def off_micros(self) -> int:
        """What is taken off per unit."""
        return self.list_rate_micros - self.rate_micros


@dataclass(frozen=True, slots=True)
class Terms:
    """What time and a start cost ``gpu_count`` GPUs: ``task`` and ``start`` are None where they have no list price."""

    version: PriceVersion
    applied: tuple[Promotion, ...]
    gpu_count: int
    gpu: Part
    task: Part | None
    start: Part | None

    @property
    def spends_allowance(self) -> bool:
        """Whether something is used up under these terms: only ever by a promotion alone, for nothing stacks on it."""
        return len(self.applied) == 1 and self.applied[0].has_allowance

    def amount_micros(self, ms: int) -> int:
        """What ``ms`` milliseconds cost, each unit rounded down, without the start."""
        amount = hourly_amount_micros(self.gpu_count, self.gpu.rate_micros, ms)
        return amount if self.task is None else amount + hourly_amount_micros(1, self.task.rate_micros, ms)

    def saved_micros(self, ms: int) -> int:
        """What promotions take off ``ms`` milliseconds, each unit rounded down, without the start."""
        saved = hourly_amount_micros(self.gpu_count, self.gpu.off_micros, ms)
        return saved if self.task is None else saved + hourly_amount_micros(1, self.task.off_micros, ms)


def terms_of(version: PriceVersion, applied: tuple[Promotion, ...], gpu_count: int, *, granted: bool = False) -> Terms:
    """The terms with these promotions, one on top of the other.

    A unit names the promotions that make it cheaper; GPU time also names free GPU time, which is counted by it, and
    all of them if they were ``granted`` before and only the list price changed.
    """
    rates = [version.rate]
    for promotion in applied:
        rates.append(promo.discounted(promotion, rates[-1]))

    def part(micros: Callable[[Rate], int], *, gpu_time: bool = False) -> Part:
        named = [
            promotion.id
            for promotion, (before, after) in zip(applied, pairwise(rates), strict=True)
            if micros(after) < micros(before) or (gpu_time and (granted or promotion.free_gpu_ms is not None))
        ]
        first, second = (*named, None, None)[:2]
        return Part(micros(rates[-1]), micros(version.rate), first, second)

    listed = version.rate
    return Terms(
        version,
        applied,
        gpu_count,
        part(lambda rate: rate.per_gpu_hour_micros, gpu_time=True),
        part(lambda rate: rate.per_task_hour_micros) if listed.per_task_hour_micros else None,
        part(lambda rate: rate.per_start_micros) if listed.per_start_micros else None,
    )


class Allowances:
    """What is left of budgets and free GPU time while an interval is priced, in order of time.

    Used up once is used up for the rest of the interval, even where a cheaper hour would still have fitted.
    """

    def __init__(self, money: Mapping[int, int], gpu_ms: Mapping[int, int]) -> None:
        """By promotion id: micro-units that it may still take off, GPU-milliseconds that are still free."""
        self._money = dict(money)
        self._gpu_ms = dict(gpu_ms)
        self._over: set[int] = set()

    @classmethod
    def left(cls, promotions: Iterable[Promotion], standings: Mapping[int, Standing]) -> Allowances:
        """As the promotions stand before the interval; ``standings`` by family."""
        limited = [(promotion, standings.get(promotion.family, NOTHING)) for promotion in promotions]
        return cls(
            {p.id: p.budget_micros - standing.saved_micros for p, standing in limited if p.budget_micros is not None},
            {p.id: p.free_gpu_ms - standing.free_gpu_ms for p, standing in limited if p.free_gpu_ms is not None},
        )

    def is_over(self, promotion: Promotion) -> bool:
        """Whether the promotion was used up within the interval."""
        return promotion.id in self._over

    def covers_start(self, promotion: Promotion, listed: Rate) -> bool:
        """Whether what the promotion takes off a start is left of its budget."""
        left = self._money.get(promotion.id)
        off = listed.per_start_micros - promo.discounted(promotion, listed).per_start_micros
        return left is None or off <= left

    def spend_start(self, terms: Terms) -> None:
        """Take a start off what is left."""
        promotion_id = None if terms.start is None else terms.start.promotion_id
        if terms.start is not None and promotion_id in self._money:
            self._money[promotion_id] -= terms.start.off_micros
            self._close_if_nothing_left(promotion_id)

    def spend(self, terms: Terms, ms: int) -> int:
        """Take time under these terms off what is left; returns how many of the ``ms`` milliseconds it lasts.

        That is the most for which what is saved, rounded as on lines, is not more than what is left; then, and when
        nothing is left, the promotion is over.
        """
        lasts_ms = ms
        for promotion in terms.applied:
            if promotion.id in self._gpu_ms:
                lasts_ms = min(lasts_ms, self._gpu_ms[promotion.id] // terms.gpu_count)
            if promotion.id in self._money:
                lasts_ms = min(lasts_ms, _longest_ms(terms, self._money[promotion.id], lasts_ms))
            self._take(promotion.id, terms, lasts_ms)
            self._close_if_nothing_left(promotion.id)
            if lasts_ms < ms:
                self._over.add(promotion.id)
        return lasts_ms

    def _close_if_nothing_left(self, promotion_id: int) -> None:
        if 0 in (self._money.get(promotion_id), self._gpu_ms.get(promotion_id)):
            self._over.add(promotion_id)

    def _take(self, promotion_id: int, terms: Terms, ms: int) -> None:
        if promotion_id in self._gpu_ms:
            self._gpu_ms[promotion_id] -= terms.gpu_count * ms
        if promotion_id in self._money:
            self._money[promotion_id] -= terms.saved_micros(ms)


def _longest_ms(terms: Terms, left_micros: int, ms: int) -> int:
    """The most milliseconds, up to ``ms``, that save at most ``left_micros``.

    With two units, rounded down each, what is saved lies less than two micro-units below a straight line: solving the
    line gives an instant at most two steps of the rounding too early.
    """
    if terms.saved_micros(ms) <= left_micros:
        return ms
    offs = [terms.gpu.off_micros * terms.gpu_count]
    if terms.task is not None:
        offs.append(terms.task.off_micros)
    lasts_ms = ((left_micros + 1) * MS_PER_HOUR - 1) // sum(offs)
    while True:
        steps = [-(-(off * lasts_ms // MS_PER_HOUR + 1) * MS_PER_HOUR // off) for off in offs if off]
        step_ms = min(steps)
        if terms.saved_micros(step_ms) > left_micros:
            return step_ms - 1
        lasts_ms = step_ms
