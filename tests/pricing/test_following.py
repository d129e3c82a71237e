"""Following the list price: an edit reaches what runs, promotions stay, what was charged is never touched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastgpu_hub.pricing.metering import Line, charge, follow, gpu_ms, price_interval
from fastgpu_hub.pricing.pricebook import PriceBook, PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Customer, Promotion

H100 = "h100-80gb"
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOW = 1_741_942_800_000  # Friday 2025-03-14 09:00 UTC


def priced(prices: PriceBook, hours: int, promotions: tuple[Promotion, ...] = (), **options: Any) -> tuple[Line, ...]:
    alice = Customer("alice", "class:cs101", ("cs101",))
    return price_interval(prices, promotions, [], alice, H100, 1, NOW, NOW + hours * HOUR_MS, **options)


def followed(
    lines: tuple[Line, ...], prices: PriceBook, *promotions: Promotion, from_ms: int = NOW
) -> tuple[Line, ...]:
    again = follow(lines, prices, {p.id: p for p in promotions}, H100, from_ms)
    assert follow(again, prices, {p.id: p for p in promotions}, H100, from_ms) == again
    return again


def edited(*versions: tuple[Rate, int]) -> PriceBook:
    return PriceBook(PriceVersion(number, H100, rate, at_ms) for number, (rate, at_ms) in enumerate(versions, start=1))


def test_a_new_list_price_reaches_what_runs_from_its_instant_and_promotions_stay() -> None:
    half = Promotion(1, "half", 0, NOW * 2, percent_off=50)
    tenth = Promotion(2, "tenth", 0, NOW * 2, percent_off=10, stacks=True)
    lines = priced(edited((Rate(500_000, 0, 9), 0)), 4, (half, tenth))
    prices = edited((Rate(500_000, 0, 9), 0), (Rate(1_000_000, 100_000, 99), NOW + HOUR_MS))
    result = followed(lines, prices, half, tenth, from_ms=NOW + 1)
    assert [(x.unit, x.from_ms - NOW, x.rate_micros, x.price_id) for x in result] == [
        ("start", 0, lines[0].rate_micros, 1),
        ("gpu_hour", 0, 225_000, 1),
        ("gpu_hour", HOUR_MS, 450_000, 2),
        ("task_hour", HOUR_MS, 45_000, 2),
    ]
    assert all((x.promotion_id, x.stacked_promotion_id) == (1, 2) for x in result)


def test_nothing_before_the_instant_and_nothing_of_the_same_version_is_touched() -> None:
    lines = priced(edited((Rate(500_000), 0)), 4, cuts=[NOW + HOUR_MS])
    assert all(a is b for a, b in zip(followed(lines, edited((Rate(500_000), 0))), lines, strict=True))
    prices = edited((Rate(500_000), 0), (Rate(600_000), NOW - DAY_MS))
    result = followed(lines, prices, from_ms=NOW + 2 * HOUR_MS)
    assert result[0] is lines[0]
    assert [(x.from_ms - NOW, x.rate_micros) for x in result[1:]] == [(HOUR_MS, 500_000), (2 * HOUR_MS, 600_000)]
    assert followed(lines, prices, from_ms=NOW + 4 * HOUR_MS) == lines


def test_a_line_is_cut_at_every_version_that_comes() -> None:
    lines = priced(edited((Rate(100, 7), 0)), 4)
    prices = edited((Rate(100, 7), 0), (Rate(200), NOW + HOUR_MS), (Rate(300, 9), NOW + 3 * HOUR_MS))
    result = [(x.unit, x.from_ms - NOW, x.rate_micros) for x in followed(lines, prices)]
    assert result == [
        *(("gpu_hour", 0, 100), ("task_hour", 0, 7), ("gpu_hour", HOUR_MS, 200)),
        *(("gpu_hour", 3 * HOUR_MS, 300), ("task_hour", 3 * HOUR_MS, 9)),
    ]


def test_a_promotion_below_which_the_list_price_fell_is_there_when_it_rises_again() -> None:
    fixed = Promotion(1, "fixed", 0, NOW * 2, fixed_per_gpu_hour_micros=300)
    lines = priced(edited((Rate(500), 0)), 4, (fixed,))
    fell = followed(lines, edited((Rate(500), 0), (Rate(200), NOW)), fixed)
    assert [(x.rate_micros, x.promotion_id, x.saved_micros) for x in fell] == [(200, 1, 0)]
    rose = followed(fell, edited((Rate(500), 0), (Rate(200), NOW), (Rate(900), NOW + HOUR_MS)), fixed)
    assert [x.rate_micros for x in rose] == [200, 300]


def test_a_higher_list_price_does_not_take_more_from_a_budget() -> None:
    capped = Promotion(1, "capped", 0, NOW * 2, percent_off=50, budget_micros=9_000_000)
    lines = priced(edited((Rate(500_000, 100_000), 0)), 4, (capped,))
    result = followed(lines, edited((Rate(500_000, 100_000), 0), (Rate(1_000_000, 100_000), NOW + HOUR_MS)), capped)
    assert sum(x.saved_micros for x in result) == sum(x.saved_micros for x in lines)
    assert [x.promotion_id for x in result] == [1, 1, 1, 1, None, None]
    lower = followed(lines, edited((Rate(500_000, 100_000), 0), (Rate(100_000), NOW)), capped)
    assert [(x.rate_micros, x.promotion_id) for x in lower] == [(50_000, 1)]


def test_a_start_to_come_follows_within_its_budget_and_one_that_was_stays() -> None:
    capped = Promotion(1, "capped", 0, NOW * 2, percent_off=50, budget_micros=9_000_000)
    lines = priced(edited((Rate(0, 0, 100), 0)), 1, (capped,))
    prices = edited((Rate(0, 0, 100), 0), (Rate(0, 0, 80), NOW))
    assert followed(lines, prices, capped)[0].amount_micros == 40
    assert followed(lines, prices, capped, from_ms=NOW + 1)[0] is lines[0]
    dearer = followed(lines, edited((Rate(0, 0, 100), 0), (Rate(0, 0, 200), NOW)), capped)[0]
    assert (dearer.amount_micros, dearer.promotion_id) == (200, None)


@settings(deadline=None, max_examples=40)
@given(random=st.randoms(use_true_random=True))
def test_following_keeps_time_and_allowances_and_twice_is_once(
    random: Any, jump_of: Callable[..., Any], case_of: Callable[..., Any]
) -> None:
    case = case_of(random, jump_of(random), 86_400, most=6)
    lines = case.lines()
    from_ms = random.randint(case.from_ms, case.until_ms)
    new = Rate(random.randint(0, 9_000_000), random.choice([0, 123_457]), random.choice([0, 70_001]))
    added = [PriceVersion(9, H100, new, random.choice([0, from_ms, random.randint(case.from_ms, case.until_ms)]))]
    prices, known = PriceBook([*case.versions, *added]), {p.id: p for p in case.promotions}
    result = follow(lines, prices, known, H100, from_ms)
    assert follow(result, prices, known, H100, from_ms) == result
    assert gpu_ms(result) == gpu_ms(lines)
    assert charge(result, from_ms)[0] == charge(lines, from_ms)[0]
    for line in result:
        if line.unit == "gpu_hour" and line.from_ms >= from_ms:
            version = prices.version_at(H100, line.from_ms)
            assert version is not None
            assert (line.price_id, line.list_rate_micros) == (version.id, version.rate.per_gpu_hour_micros)
            assert not prices.edges(H100, line.from_ms, line.until_ms)
    for promotion in case.promotions:
        before, after = ([line for line in some if line.promotion_id == promotion.id] for some in (lines, result))
        if promotion.budget_micros is not None:
            assert sum(x.saved_micros for x in after) <= sum(x.saved_micros for x in before)
        assert gpu_ms(after) <= gpu_ms(before)
