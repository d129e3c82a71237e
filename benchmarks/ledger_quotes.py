"""Ledger benchmark, part three: quotes per second, and what a price costs over many segments.

Every price is compared with one worked out here, with fractions and minute by minute rules of its own.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from ledger_writes import resident_mib

from fastgpu_hub.pricing import credits, quotas
from fastgpu_hub.pricing.credits import Balance
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.metering import Line, total_micros
from fastgpu_hub.pricing.pricebook import PriceBook, PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Customer, Promotion
from fastgpu_hub.pricing.quotas import Quota, QuotaState
from fastgpu_hub.pricing.timeline import RateCard, Timeline
from fastgpu_hub.pricing.windows import WeeklyWindow

MS_PER_HOUR = 3_600_000
MS_PER_DAY = 24 * MS_PER_HOUR
MONDAY_MS = 1_759_104_000_000  # 2025-09-29 00:00 UTC
WEEKS = 8
SEGMENT_MS = 60_000  # the shortest segment there is
CLASSES = [f"cs{n:03d}" for n in range(50)]
TYPES = ("a100-40gb", "h100-80gb", "v100-16gb")


@dataclass(frozen=True)
class Quotes:
    """Quotes per second, per round, how many were compared with the reference, and how many were refused."""

    per_second: list[float]
    compared: int
    refused: int


@dataclass(frozen=True)
class Wish:
    """One request: who, how many of what, from when, for how long."""

    customer: Customer
    gpu_type: str
    gpu_count: int
    from_ms: int
    until_ms: int


def rules() -> tuple[list[PriceVersion], list[Promotion]]:
    """Prices that change in the middle, and 200 promotions: of classes and of everyone, all week and at night."""
    dice = random.Random(4)
    prices = [
        PriceVersion(
            2 * n + late, kind, Rate(400_000 * (n + 1) + 37 * late, 0, 1_000), MONDAY_MS + late * 30 * MS_PER_DAY
        )
        for n, kind in enumerate(TYPES, 1)
        for late in (0, 1)
    ]
    found = []
    for n in range(1, 201):
        percent, fixed = (dice.randrange(1, 90), None) if n % 3 else (None, dice.randrange(100_000, 1_500_000))
        starts_ms = MONDAY_MS + dice.randrange(WEEKS * 7) * MS_PER_DAY
        night = WeeklyWindow(
            tuple(sorted(dice.sample(range(7), 3))), 60 * dice.randrange(24), 60 * dice.randrange(1, 24)
        )
        found.append(
            Promotion(
                id=n,
                name=f"promotion {n}",
                starts_ms=starts_ms,
                ends_ms=starts_ms + dice.randrange(1, 40) * MS_PER_DAY,
                percent_off=percent,
                fixed_per_gpu_hour_micros=fixed,
                gpu_types=(dice.choice(TYPES),) if n % 2 else (),
                audience=() if n % 10 == 0 else (f"class:{dice.choice(CLASSES)}",),
                weekly=(night,) if n % 4 else (),
                family=n,
            )
        )
    return prices, found


def limits() -> list[Quota]:
    """What a site has: limits of everyone, of each class and of its members, for GPUs, GPU-hours and money."""
    of_site = [
        Quota(1, "site", "", "concurrent_gpus", 500),
        Quota(2, "site", "", "gpu_seconds", 10**9, "week"),
    ]
    of_classes = [
        Quota(100 * n + kind, scope, name, metric, limit, window)
        for n, name in enumerate(CLASSES, 1)
        for kind, (scope, metric, limit, window) in enumerate(
            [
                ("class", "spend_micros", 10**12, "month"),
                ("member", "gpu_seconds", 160 * 3_600, "week"),
                ("member", "concurrent_gpus", 16, "always"),
            ]
        )
    ]
    return of_site + of_classes


def wishes(count: int) -> list[Wish]:
    """Different customers every time."""
    dice = random.Random(5)
    made = []
    for n in range(count):
        classes = tuple(dice.sample(CLASSES, 2))
        customer = Customer(f"student{n % 5_000:04d}", f"class:{classes[0]}", classes)
        from_ms = MONDAY_MS + dice.randrange((WEEKS * 7 - 1) * MS_PER_DAY)
        until_ms = from_ms + dice.randrange(1, 24 * 60) * 60_000
        made.append(Wish(customer, dice.choice(TYPES), dice.randrange(1, 5), from_ms, until_ms))
    return made


class Site:
    """What a quote is made of, with the books in memory."""

    def __init__(self) -> None:
        self.prices, self.promotions = rules()
        self.card = RateCard(PriceBook(self.prices), self.promotions)
        self._limits = limits()
        # Limits looked up as they apply: those of the class that pays, and the site's.
        self._of_account = {
            f"class:{name}": [quota for quota in self._limits if quota.scope == "site" or quota.name == name]
            for name in CLASSES
        }
        self._balance = Balance(granted_micros=10**12, spent_micros=10**9, held_micros=10**8)

    def quote(self, wish: Wish) -> tuple[tuple[Line, ...], Refused | None]:
        """The lines, then every limit in each of its windows, then the credit."""
        customer = wish.customer
        offered = self._of_account[customer.account]
        lines = self.card.quote(customer, wish.gpu_type, wish.gpu_count, wish.from_ms, wish.until_ms, quotas=offered)
        refused = None
        for quota in quotas.applicable(offered, customer, wish.gpu_type):
            for window, wanted in quotas.wanted_per_window(quota, lines).items():
                state = QuotaState(quota, quota.limit // 4, quota.limit // 4, window[1])
                refused = refused or quotas.check(state, wanted)
        refused = refused or credits.check(customer.account, self._balance, total_micros(lines))
        return lines, refused

    def reference(self, wish: Wish) -> int:
        """The price by the rules as they are written down: each stretch at its cheapest, rounded down once a line."""
        hour = next(p for p in reversed(self.prices) if p.gpu_type == wish.gpu_type and p.valid_from_ms <= wish.from_ms)
        cuts = {wish.from_ms, wish.until_ms}
        hard = {p.valid_from_ms for p in self.prices if p.gpu_type == wish.gpu_type}
        hard |= {MONDAY_MS + n * 7 * MS_PER_DAY for n in range(-1, WEEKS + 2)}  # the weeks that limits count
        hard |= {1_759_276_800_000, 1_761_955_200_000, 1_764_547_200_000}  # 2025-10-01, 2025-11-01, 2025-12-01
        mine = [p for p in self.promotions if _for(p, wish)]
        for promotion in mine:
            cuts |= {promotion.starts_ms, promotion.ends_ms}
            if promotion.weekly:
                cuts |= {wish.from_ms // MS_PER_HOUR * MS_PER_HOUR + n * MS_PER_HOUR for n in range(1, 26)}
        inside = sorted(at_ms for at_ms in cuts | hard if wish.from_ms <= at_ms <= wish.until_ms)
        stretches: list[list[Fraction | int | tuple[int, int]]] = []
        for begin_ms, end_ms in pairwise(inside):
            version = max(
                (p for p in self.prices if p.gpu_type == wish.gpu_type and p.valid_from_ms <= begin_ms),
                key=lambda price: price.valid_from_ms,
            )
            rate, which = _cheapest(version, [p for p in mine if _open(p, begin_ms)])
            if stretches and begin_ms not in hard and stretches[-1][1] == (version.id, which):
                stretches[-1][2] += end_ms - begin_ms  # type: ignore[operator]
            else:
                stretches.append([rate, (version.id, which), end_ms - begin_ms])
        start, _ = _start(hour, [p for p in mine if _open(p, wish.from_ms)])
        return start + sum(int(Fraction(r * wish.gpu_count * ms, MS_PER_HOUR)) for r, _, ms in stretches)  # type: ignore[operator]


def _for(promotion: Promotion, wish: Wish) -> bool:
    named = {wish.customer.account, *(f"class:{name}" for name in wish.customer.classes)}
    return (not promotion.gpu_types or wish.gpu_type in promotion.gpu_types) and (
        not promotion.audience or bool(named & set(promotion.audience))
    )


def _open(promotion: Promotion, at_ms: int) -> bool:
    if not promotion.starts_ms <= at_ms < promotion.ends_ms:
        return False
    if not promotion.weekly:
        return True
    day, minute = divmod((at_ms - MONDAY_MS) // 60_000 % (7 * 1_440), 1_440)
    (window,) = promotion.weekly
    if window.from_minute < window.to_minute:
        return day in window.days and window.from_minute <= minute < window.to_minute
    return (day in window.days and minute >= window.from_minute) or (
        (day - 1) % 7 in window.days and minute < window.to_minute
    )


def _off(promotion: Promotion, rate: Rate) -> tuple[int, int]:
    """Price per GPU-hour and per start under the promotion."""
    if promotion.percent_off is None:
        return min(rate.per_gpu_hour_micros, promotion.fixed_per_gpu_hour_micros or 0), rate.per_start_micros
    keep = Fraction(100 - promotion.percent_off, 100)
    return int(rate.per_gpu_hour_micros * keep), int(rate.per_start_micros * keep)


def _choice(version: PriceVersion, active: Sequence[Promotion]) -> tuple[tuple[int, int], int]:
    listed = (version.rate.per_gpu_hour_micros, version.rate.per_start_micros)
    return min([(listed, 0), *((_off(promotion, version.rate), promotion.id) for promotion in active)])


def _cheapest(version: PriceVersion, active: Sequence[Promotion]) -> tuple[int, int]:
    (per_hour, _), which = _choice(version, active)
    return per_hour, which


def _start(version: PriceVersion, active: Sequence[Promotion]) -> tuple[int, int]:
    (_, per_start), which = _choice(version, active)
    return per_start, which


def quotes(count: int, rounds: int, say: Callable[[str], None]) -> Quotes:
    """All of them every round; raises SystemExit when one is not the reference's to the micro-unit."""
    site, asked = Site(), wishes(count)
    first = [site.quote(wish) for wish in asked]
    for wish, (lines, _) in zip(asked, first, strict=True):
        if total_micros(lines) != site.reference(wish):
            raise SystemExit(f"{wish} costs {total_micros(lines)}, by the reference {site.reference(wish)}")
    refused = sum(answer is not None for _, answer in first)
    del first
    speeds = []
    before = resident_mib()
    for _ in range(rounds):
        began = time.perf_counter()
        for wish in asked:
            site.quote(wish)
        speeds.append(count / (time.perf_counter() - began))
    say(f"  memory: {before:.0f} MiB before, {resident_mib():.0f} MiB after {rounds * count:,} quotes")
    say(f"  {statistics.median(speeds):,.0f} quotes/s; {count:,} prices equal to the reference, {refused:,} refused")
    return Quotes(speeds, count, refused)


# ---------------------------------------------------------------- many segments


def _timeline(segments: int) -> tuple[Timeline, Callable[[int, int], int]]:
    """A price that changes every hour, and the same prices added up with fractions."""
    dice = random.Random(6)
    begins = [MONDAY_MS + n * MS_PER_HOUR + dice.randrange(MS_PER_HOUR - SEGMENT_MS) for n in range(segments)]
    rates = [dice.randrange(1, 10**7) for _ in begins]
    versions = [
        PriceVersion(n, "h100-80gb", Rate(rate), at_ms)
        for n, (at_ms, rate) in enumerate(zip(begins, rates, strict=True), 1)
    ]
    until_ms = MONDAY_MS + segments * MS_PER_HOUR
    card = RateCard(PriceBook(versions), [])
    timeline = card.timeline(Customer("alice", "person:alice"), "h100-80gb", 3, begins[0], until_ms, starts=False)

    def reference(from_ms: int, end_ms: int) -> int:
        stretches = zip(begins, [*begins[1:], until_ms], rates, strict=True)
        parts = ((min(end_ms, upper) - max(from_ms, lower), rate) for lower, upper, rate in stretches)
        return sum(int(Fraction(3 * rate * ms, MS_PER_HOUR)) for ms, rate in parts if ms > 0)

    return timeline, reference


def segments(count: int, rounds: int, say: Callable[[str], None]) -> float:
    """How fast prices over 500 segments are found, against those over 10: the median of the rounds' ratios."""
    dice = random.Random(7)
    cases = {}
    for number in (10, 500):
        timeline, reference = _timeline(number)
        first_ms, last_ms = timeline.from_ms, timeline.until_ms
        asked = [(first_ms + dice.randrange(SEGMENT_MS), last_ms - dice.randrange(SEGMENT_MS)) for _ in range(count)]
        for from_ms, until_ms in asked:
            if timeline.cost_micros(from_ms, until_ms) != reference(from_ms, until_ms):
                raise SystemExit(f"the price of {from_ms} to {until_ms} over {number} segments is not the reference's")
        cases[number] = (timeline, asked)

    def seconds(number: int) -> float:
        timeline, asked = cases[number]
        began = time.perf_counter()
        for from_ms, until_ms in asked:
            timeline.cost_micros(from_ms, until_ms)
        return time.perf_counter() - began

    ratios = [seconds(10) / seconds(500) for _ in range(rounds)]
    say(f"  a price over 500 segments at {statistics.median(ratios):.2f} of the speed over 10")
    return statistics.median(ratios)
