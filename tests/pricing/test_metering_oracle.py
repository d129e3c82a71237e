"""Metering through every jump of a clock: equal to adding up second by second, without gaps, split without loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastgpu_hub.pricing.metering import Line, charge, gpu_ms, list_micros, price_interval, total_micros
from fastgpu_hub.pricing.pricebook import PriceBook, PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Customer, Promotion
from fastgpu_hub.pricing.quotas import Quota
from fastgpu_hub.pricing.windows import calendar_edges

ALICE = Customer("alice", "class:cs101", ("cs101",))
H100 = "h100-80gb"
HOUR_MS = 3_600_000
MINUTE_MS = 60_000

# True randomness: small examples would be the least telling ones here.
RANDOMS = st.randoms(use_true_random=True)


@dataclass(frozen=True)
class Case:
    """Random rules around a jump of some zone's clock; all instants on whole seconds."""

    versions: tuple[PriceVersion, ...]
    promotions: tuple[Promotion, ...]
    quotas: tuple[Quota, ...]
    gpus: int
    from_ms: int
    until_ms: int

    def lines(self) -> tuple[Line, ...]:
        return price_interval(
            PriceBook(self.versions),
            self.promotions,
            self.quotas,
            ALICE,
            H100,
            self.gpus,
            self.from_ms,
            self.until_ms,
        )


def a_case(random: Random, jump: Any, longest_s: int) -> Case:
    before_s, after_s = random.randint(0, longest_s // 2), random.randint(1, longest_s // 2)
    from_ms, until_ms = jump.at_ms - before_s * 1000, jump.at_ms + after_s * 1000

    def inside() -> int:
        return from_ms + random.randint(-600, before_s + after_s + 600) * 1000

    def rate() -> Rate:
        return Rate(random.randint(0, 3_000_000), random.choice([0, 0, 7, 333_333]), random.choice([0, 0, 50_001]))

    versions = [PriceVersion(1, H100, rate(), 0)]
    versions += [PriceVersion(i, H100, rate(), inside()) for i in range(2, random.randint(2, 4))]
    promotions = []
    for number in range(1, random.randint(1, 4)):
        percent = random.choice([None, random.randint(1, 100)])
        promotions.append(
            Promotion(
                id=number,
                name="p",
                starts_ms=random.choice([0, inside()]),
                ends_ms=random.choice([10**15, inside()]),
                percent_off=percent,
                fixed_per_gpu_hour_micros=random.randint(0, 2_000_000) if percent is None else None,
                weekly=random.choice([(), jump.weekly(random)]),
                time_zone=jump.time_zone,
            )
        )
    window = random.choice(["day", "week", "month", "always"])
    quotas = (Quota(1, "site", "", "spend_micros", 1, window, time_zone=jump.time_zone),)
    return Case(tuple(versions), tuple(promotions), quotas, random.choice([1, 2, 8, 1024]), from_ms, until_ms)


class Oracle:
    """What each unit costs per hour at an instant, read off the rules with fractions and no notion of an edge."""

    def __init__(self, case: Case, shown: Callable[..., bool]) -> None:
        self.case, self.shown = case, shown
        self.minutes: dict[tuple[int, int], bool] = {}

    def open(self, promotion: Promotion, at_ms: int) -> bool:
        if not promotion.starts_ms <= at_ms < promotion.ends_ms:
            return False
        key = (promotion.id, at_ms // MINUTE_MS)
        if promotion.weekly and key not in self.minutes:
            self.minutes[key] = self.shown(promotion.weekly, promotion.time_zone, at_ms)
        return not promotion.weekly or self.minutes[key]

    def rates(self, at_ms: int) -> tuple[int, int]:
        version = max(
            (v for v in self.case.versions if v.valid_from_ms <= at_ms), key=lambda v: (v.valid_from_ms, v.id)
        )
        listed = version.rate
        offers = [(listed.per_gpu_hour_micros, listed.per_task_hour_micros, listed.per_start_micros)]
        for promotion in self.case.promotions:
            if self.open(promotion, at_ms):
                gpu, task, start = offers[0]
                if promotion.percent_off is not None:
                    keep = Fraction(100 - promotion.percent_off, 100)
                    offers.append((int(gpu * keep), int(task * keep), int(start * keep)))
                else:
                    offers.append((min(gpu, promotion.fixed_per_gpu_hour_micros or 0), task, start))
        gpu, task, _ = min(offers, key=lambda o: (o[0] * self.case.gpus + o[1], o[2]))
        return gpu, task


@settings(deadline=None, max_examples=40)
@given(random=RANDOMS)
def test_pricing_equals_adding_up_every_second(
    random: Random, jump_of: Callable[[Random], Any], shown: Callable[..., bool]
) -> None:
    case = a_case(random, jump_of(random), 4 * 3600)
    oracle = Oracle(case, shown)
    lines = case.lines()
    exact = {"gpu_hour": Fraction(0), "task_hour": Fraction(0)}
    sums = {"gpu_hour": 0, "task_hour": 0}
    for at_ms in range(case.from_ms, case.until_ms, 1000):
        gpu, task = oracle.rates(at_ms)
        sums["gpu_hour"] += gpu * case.gpus
        sums["task_hour"] += task
    for unit, total in sums.items():
        exact[unit] = Fraction(total, 3600)
        of_unit = [line for line in lines if line.unit == unit]
        # Within one micro-unit per line, and never more than exact.
        assert 0 <= exact[unit] - total_micros(of_unit) <= len(of_unit)
    for line in lines:
        if line.unit == "gpu_hour":
            assert line.rate_micros * case.gpus * line_hours(line) - line.amount_micros < 1
            assert line.amount_micros <= line.rate_micros * case.gpus * line_hours(line)


def line_hours(line: Line) -> Fraction:
    return Fraction(line.until_ms - line.from_ms, HOUR_MS)


@settings(deadline=None, max_examples=60)
@given(random=RANDOMS)
def test_lines_cover_the_interval_without_gaps_and_keep_to_one_quota_window(
    random: Random, jump_of: Callable[[Random], Any]
) -> None:
    case = a_case(random, jump_of(random), 3 * 86400)
    lines = case.lines()
    gpu = [line for line in lines if line.unit == "gpu_hour"]
    assert [gpu[0].from_ms, *(line.until_ms for line in gpu)] == [*(line.from_ms for line in gpu), case.until_ms]
    assert gpu[0].from_ms == case.from_ms
    assert gpu_ms(lines) == case.gpus * (case.until_ms - case.from_ms)
    begins = {line.from_ms for line in gpu}
    quota = case.quotas[0]
    assert begins >= set(calendar_edges(quota.window, quota.time_zone, case.from_ms, case.until_ms))
    book_ = PriceBook(case.versions)
    assert begins >= set(book_.edges(H100, case.from_ms, case.until_ms))
    for line in gpu:
        version = book_.version_at(H100, line.from_ms)
        assert version is not None
        task = [other for other in lines if other.unit == "task_hour" and other.from_ms == line.from_ms]
        assert [other.until_ms for other in task] == ([line.until_ms] if version.rate.per_task_hour_micros else [])
        assert line.rate_micros <= line.list_rate_micros == version.rate.per_gpu_hour_micros


@settings(deadline=None, max_examples=150)
@given(random=RANDOMS)
def test_splitting_at_any_instants_always_adds_up_to_the_whole(
    random: Random, jump_of: Callable[[Random], Any]
) -> None:
    case = a_case(random, jump_of(random), 86400)
    lines = case.lines()
    whole, rest, charged = total_micros(lines), lines, []
    for cut_ms in sorted(random.randint(case.from_ms - 5, case.until_ms + 5) for _ in range(random.randint(0, 12))):
        due, rest = charge(rest, cut_ms)
        charged += due
        assert total_micros(charged) + total_micros(rest) == whole
        assert gpu_ms(charged) + gpu_ms(rest) == gpu_ms(lines)
        assert all(line.until_ms <= cut_ms for line in due)
        assert all(line.from_ms >= cut_ms for line in rest if line.unit != "start")
        assert all(line.amount_micros >= 0 for line in (*due, *rest))
        exact = sum(Fraction(line.quantity * line.rate_micros, HOUR_MS) for line in charged if line.unit == "gpu_hour")
        assert total_micros(line for line in charged if line.unit == "gpu_hour") <= exact
    charged += rest
    assert total_micros(charged) == whole
    assert list_micros(charged) >= whole
