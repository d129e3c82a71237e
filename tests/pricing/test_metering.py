"""Metering: the formula's examples, where lines are cut, what is refused, and how lines are charged in parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgpu_hub.pricing.metering import (
    Line,
    NoPrice,
    charge,
    gpu_ms,
    hourly_rate_micros,
    list_micros,
    next_edge_ms,
    price_interval,
    skip,
    total_micros,
    utilisation_permille,
)
from fastgpu_hub.pricing.pricebook import PriceBook, PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Customer, Promotion, Standing
from fastgpu_hub.pricing.quotas import Quota
from fastgpu_hub.pricing.timeline import RateCard
from fastgpu_hub.pricing.windows import WeeklyWindow

ALICE = Customer("alice", "class:cs101", ("cs101",))
H100 = "h100-80gb"
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOW = 1_741_942_800_000  # Friday 2025-03-14 09:00 UTC


def book(*rates: Rate, from_ms: int = 0) -> PriceBook:
    return PriceBook(PriceVersion(i + 1, H100, rate, from_ms + i * HOUR_MS if i else 0) for i, rate in enumerate(rates))


def priced(
    prices: PriceBook, hours: int, promotions: list[Promotion] | None = None, *, gpus: int = 1, **options: Any
) -> tuple[Line, ...]:
    quotas = options.pop("quotas", [])
    return price_interval(prices, promotions or [], quotas, ALICE, H100, gpus, NOW, NOW + hours * HOUR_MS, **options)


# ------------------------------------------------------------------ the formula


def test_eight_gpus_at_a_half_for_four_hours_cost_sixteen() -> None:
    assert total_micros(priced(book(Rate(500_000)), 4, gpus=8)) == 16_000_000


def test_ten_gpus_at_one_for_a_day_cost_two_hundred_and_forty() -> None:
    assert total_micros(priced(book(Rate(1_000_000)), 24, gpus=10)) == 240_000_000


def test_fifteen_of_twenty_four_hours_are_sixty_two_and_a_half_percent() -> None:
    assert utilisation_permille(15 * HOUR_MS, 24 * HOUR_MS) == 625
    assert utilisation_permille(0, 1) == 0
    assert utilisation_permille(2, 3) == 666


@pytest.mark.parametrize(("used", "available"), [(0, 0), (2, 1), (-1, 1), (0, -1)])
def test_no_use_is_more_than_all(used: int, available: int) -> None:
    with pytest.raises(ValueError, match="available"):
        utilisation_permille(used, available)


def test_gpu_time_task_time_and_start_are_charged_side_by_side() -> None:
    start, gpu_hours, task_hours = priced(book(Rate(500_000, 100_000, 30_000)), 2, gpus=4)
    assert (start.unit, start.amount_micros, start.quantity, start.from_ms) == ("start", 30_000, 1, start.until_ms)
    assert (gpu_hours.unit, gpu_hours.amount_micros, gpu_hours.quantity) == ("gpu_hour", 4_000_000, 8 * HOUR_MS)
    assert (task_hours.unit, task_hours.amount_micros, task_hours.quantity) == ("task_hour", 200_000, 2 * HOUR_MS)
    assert [line.unit for line in priced(book(Rate(1, 1, 1)), 1, starts=False)] == ["gpu_hour", "task_hour"]
    assert gpu_ms((start, gpu_hours, task_hours)) == 8 * HOUR_MS


# ------------------------------------------------------------------ where lines are cut


def test_a_price_change_cuts_and_each_side_names_its_version() -> None:
    lines = priced(book(Rate(100), Rate(200), from_ms=NOW), 2)
    assert [(line.from_ms - NOW, line.price_id, line.rate_micros) for line in lines] == [(0, 1, 100), (HOUR_MS, 2, 200)]


def test_a_promotion_cuts_at_its_hours_and_only_its_own_lines_name_it() -> None:
    owls = Promotion(
        7, "Owls", 0, NOW * 2, percent_off=50, weekly=(WeeklyWindow((4,), 22 * 60, 120),), time_zone="Europe/Berlin"
    )
    lines = priced(book(Rate(500_000)), 24, [owls])
    assert [(line.from_ms - NOW, line.promotion_id, line.rate_micros) for line in lines] == [
        (0, None, 500_000),
        (12 * HOUR_MS, 7, 250_000),
        (16 * HOUR_MS, None, 500_000),
    ]
    assert all(line.list_rate_micros == 500_000 for line in lines)
    assert total_micros(lines) == 11_000_000
    assert list_micros(lines) == 12_000_000


def test_a_part_that_a_promotion_leaves_as_it_is_does_not_name_it() -> None:
    fixed = Promotion(7, "Fixed", 0, NOW * 2, fixed_per_gpu_hour_micros=1)
    named = {line.unit: line.promotion_id for line in priced(book(Rate(10, 10, 10)), 1, [fixed])}
    assert named == {"start": None, "gpu_hour": 7, "task_hour": None}


def test_a_promotion_for_others_or_without_its_code_neither_prices_nor_cuts() -> None:
    window = (WeeklyWindow((4,), 600, 660),)
    theirs = Promotion(1, "a", 0, NOW * 2, percent_off=50, audience=("class:art7",), weekly=window)
    coded = Promotion(2, "b", 0, NOW * 2, percent_off=50, needs_code=True, family=2, weekly=window)
    wrong_gpu = Promotion(3, "c", 0, NOW * 2, percent_off=50, gpu_types=("t4",), weekly=window)
    assert len(priced(book(Rate(10)), 5, [theirs, coded, wrong_gpu])) == 1
    given_code = {2: Standing(code_given=True)}
    assert [line.promotion_id for line in priced(book(Rate(10)), 5, [coded], standings=given_code)] == [None, 2, None]


def test_quota_windows_cut_so_that_each_line_counts_in_one(at: Callable[[str], int]) -> None:
    daily = Quota(1, "member", "cs101", "gpu_seconds", 1, "day", time_zone="Europe/Berlin")
    others = Quota(2, "class", "art7", "gpu_seconds", 1, "day", time_zone="Asia/Kolkata")
    lines = priced(book(Rate(10)), 48, quotas=[daily, others])
    assert [line.from_ms for line in lines] == [NOW, at("2025-03-14 23:00"), at("2025-03-15 23:00")]


def test_free_gpu_time_is_still_a_line_for_quotas_count_it() -> None:
    (line,) = priced(book(Rate()), 1, gpus=2)
    assert (line.unit, line.quantity, line.amount_micros) == ("gpu_hour", 2 * HOUR_MS, 0)


def test_no_time_is_only_the_start() -> None:
    assert [line.unit for line in priced(book(Rate(1, 1, 1)), 0)] == ["start"]
    assert priced(book(Rate(1, 1, 1)), 0, starts=False) == ()


def test_a_promotion_that_never_wins_does_not_cut() -> None:
    half = Promotion(1, "half", 0, NOW * 2, percent_off=50)
    noon = Promotion(2, "noon", 0, NOW * 2, percent_off=10, weekly=(WeeklyWindow((4,), 600, 660),))
    assert len(priced(book(Rate(10)), 5, [half, noon])) == 1


def test_extra_cuts_inside_cut_and_equal_terms_are_not_merged() -> None:
    lines = priced(book(Rate(10)), 2, cuts=[NOW - 1, NOW, NOW + 7, NOW + 2 * HOUR_MS, NOW + 3 * HOUR_MS])
    assert [(line.from_ms - NOW, line.until_ms - NOW) for line in lines] == [(0, 7), (7, 2 * HOUR_MS)]


def test_a_term_cuts_where_it_begins_and_ends() -> None:
    term = Quota(1, "class", "cs101", "gpu_seconds", 1, "term", starts_ms=NOW + 5, ends_ms=NOW + HOUR_MS)
    lines = priced(book(Rate(10)), 2, quotas=[term])
    assert [line.from_ms - NOW for line in lines] == [0, 5, HOUR_MS]


# ------------------------------------------------------------------ what is limited


def test_a_budget_ends_at_the_exact_millisecond_and_the_next_best_follows() -> None:
    capped = Promotion(1, "capped", 0, NOW * 2, percent_off=50, budget_micros=1_000_000, family=1)
    quarter = Promotion(2, "quarter", 0, NOW * 2, percent_off=25, family=2)
    standings = {1: Standing(saved_micros=250_000)}
    lines = priced(book(Rate(500_000)), 12, [capped, quarter], standings=standings)
    # 0.25 an hour is saved: 0.75 lasts three hours, and as long as what is saved still rounds down to it.
    ends_ms = 3 * HOUR_MS + 14
    assert [(line.from_ms - NOW, line.promotion_id) for line in lines] == [(0, 1), (ends_ms, 2)]
    assert lines[0].saved_micros == 750_000
    assert replace(lines[0], until_ms=NOW + ends_ms + 1).saved_micros == 750_001


def test_a_budget_counts_task_time_and_the_start() -> None:
    capped = Promotion(1, "capped", 0, NOW * 2, percent_off=50, budget_micros=1_000_000)
    lines = priced(book(Rate(500_000, 100_000, 400_000)), 12, [capped], gpus=2)
    named = [line for line in lines if line.promotion_id == 1]
    assert [line.unit for line in named] == ["start", "gpu_hour", "task_hour"]
    assert sum(line.saved_micros for line in named) == 1_000_000
    longer = [replace(line, until_ms=line.until_ms + 1) if line.unit != "start" else line for line in named]
    assert sum(line.saved_micros for line in longer) == 1_000_001


def test_a_start_that_the_budget_cannot_pay_goes_to_the_next_best() -> None:
    capped = Promotion(1, "capped", 0, NOW * 2, percent_off=50, budget_micros=100)
    tenth = Promotion(2, "tenth", 0, NOW * 2, percent_off=10)
    lines = priced(book(Rate(500_000, 0, 1_000)), 1, [capped, tenth])
    assert [(line.unit, line.promotion_id) for line in lines] == [("start", 2), ("gpu_hour", 1), ("gpu_hour", 2)]


def test_a_start_may_use_up_a_budget() -> None:
    capped = Promotion(1, "capped", 0, NOW * 2, percent_off=50, budget_micros=500)
    lines = priced(book(Rate(500_000, 0, 1_000)), 1, [capped])
    assert [(line.unit, line.promotion_id) for line in lines] == [("start", 1), ("gpu_hour", None)]


def test_the_first_gpu_hours_are_free_and_then_no_more() -> None:
    first = Promotion(1, "first", 0, NOW * 2, free_gpu_ms=10 * HOUR_MS, family=1)
    lines = priced(
        book(Rate(500_000, 100_000, 7)), 4, [first], gpus=4, standings={1: Standing(free_gpu_ms=2 * HOUR_MS)}
    )
    assert [(line.unit, line.from_ms - NOW, line.amount_micros, line.promotion_id) for line in lines] == [
        ("start", 0, 7, None),
        ("gpu_hour", 0, 0, 1),
        ("task_hour", 0, 0, 1),
        ("gpu_hour", 2 * HOUR_MS, 4_000_000, None),
        ("task_hour", 2 * HOUR_MS, 200_000, None),
    ]


def test_free_time_of_gpus_that_cost_nothing_is_counted_too() -> None:
    first = Promotion(1, "first", 0, NOW * 2, free_gpu_ms=HOUR_MS)
    named = [line.promotion_id for line in priced(book(Rate(0, 100_000)), 2, [first])]
    assert named == [1, 1, None, None]


def test_what_is_left_for_less_than_a_millisecond_is_over_at_once() -> None:
    first = Promotion(1, "first", 0, NOW * 2, free_gpu_ms=7)
    lines = priced(book(Rate(10)), 1, [first], gpus=8)
    assert [line.promotion_id for line in lines] == [None]


def test_a_budget_ends_across_cuts_and_hours_in_which_it_is_closed() -> None:
    weekly = (WeeklyWindow((4,), 9 * 60, 10 * 60), WeeklyWindow((4,), 11 * 60, 12 * 60))
    capped = Promotion(1, "capped", 0, NOW * 2, percent_off=100, budget_micros=1_500_000, weekly=weekly)
    lines = priced(book(Rate(1_000_000)), 4, [capped], cuts=[NOW + HOUR_MS // 4])
    named = [line for line in lines if line.promotion_id == 1]
    assert sum(line.saved_micros for line in named) == 1_500_000
    assert named[-1].until_ms == NOW + 2 * HOUR_MS + HOUR_MS // 2 + 3


def test_a_budget_used_up_at_a_cut_leaves_no_sliver_after_it() -> None:
    capped = Promotion(1, "capped", 0, NOW * 2, percent_off=100, budget_micros=1_000_000)
    lines = priced(book(Rate(1_000_000)), 2, [capped], cuts=[NOW + HOUR_MS])
    assert [(line.from_ms - NOW, line.promotion_id) for line in lines] == [(0, 1), (HOUR_MS, None)]
    card = RateCard(book(Rate(1_000_000)), [capped])
    assert card.quote(ALICE, H100, 1, NOW, NOW + 2 * HOUR_MS, cuts=[NOW + HOUR_MS]) == lines


def test_one_on_top_of_another_is_named_beside_it() -> None:
    half = Promotion(1, "half", 0, NOW * 2, percent_off=50)
    tenth = Promotion(2, "tenth", 0, NOW * 2, percent_off=10, stacks=True)
    (line,) = priced(book(Rate(500_000)), 1, [half, tenth])
    assert (line.rate_micros, line.promotion_id, line.stacked_promotion_id) == (225_000, 1, 2)
    assert (line.amount_micros, line.saved_micros) == (225_000, 275_000)


# ------------------------------------------------------------------ what is refused


def test_a_type_without_a_price_is_not_free() -> None:
    with pytest.raises(NoPrice, match=H100):
        priced(PriceBook([]), 1)
    with pytest.raises(NoPrice):
        priced(PriceBook([PriceVersion(1, H100, Rate(1), NOW + 1)]), 1)


@pytest.mark.parametrize(
    ("gpus", "from_ms", "until_ms"),
    [
        (0, NOW, NOW + 1),
        (-1, NOW, NOW + 1),
        (1, NOW, NOW - 1),
        (1, NOW, NOW + 400 * DAY_MS + 1),
        (1, NOW, NOW + 3650 * DAY_MS),
        (1, -1, NOW),
        (1, 253_402_300_000_000, 253_402_300_799_999),
        (1, 2**63, 2**63 + 1),
    ],
)
def test_hostile_intervals_are_refused_at_once(gpus: int, from_ms: int, until_ms: int) -> None:
    began = time.process_time()
    with pytest.raises(ValueError, match=r"interval|GPU"):
        price_interval(book(Rate(1)), [], [], ALICE, H100, gpus, from_ms, until_ms)
    assert time.process_time() - began < 1


def test_four_hundred_days_under_a_promotion_until_9999_are_priced_in_a_moment() -> None:
    nightly = tuple(WeeklyWindow((0, 1, 2, 3, 4, 5, 6), minute, minute + 30) for minute in range(0, 1400, 200))
    owls = Promotion(1, "Owls", 0, 253_402_300_799_999, percent_off=50, weekly=nightly, time_zone="America/New_York")
    daily = Quota(1, "site", "", "gpu_seconds", 1, "day", time_zone="Pacific/Apia")
    began = time.process_time()
    lines = priced(book(Rate(500_000)), 400 * 24, [owls], quotas=[daily])
    assert time.process_time() - began < 2
    assert len(lines) > 400 * 14
    assert all(line.from_ms < line.until_ms for line in lines)
    assert [line.from_ms for line in lines[1:]] == [line.until_ms for line in lines[:-1]]


# ------------------------------------------------------------------ charging in parts


def test_a_start_is_charged_from_its_instant_on() -> None:
    lines = priced(book(Rate(1_000_000, 0, 30)), 1)
    assert charge(lines, NOW - 1) == ((), lines)
    due, rest = charge(lines, NOW)
    assert [line.unit for line in due] == ["start"]
    assert [line.unit for line in rest] == ["gpu_hour"]


def test_the_doubt_is_the_customers_and_the_remainder_keeps_the_difference(hours: Callable[..., Line]) -> None:
    line = hours(0, 3 * HOUR_MS, rate_micros=1)
    ((first,), rest) = charge((line,), HOUR_MS + HOUR_MS // 2)
    assert first.amount_micros == 1
    assert [part.amount_micros for part in rest] == [2]
    ((last,), _) = charge(rest, 3 * HOUR_MS)
    assert last == replace(line, from_ms=HOUR_MS + HOUR_MS // 2, amount_micros=2)


@given(st.integers(1, 10**7), st.integers(1, 10**7), st.integers(0, 10**7), st.integers(0, 3_000_000))
def test_what_is_skipped_is_never_charged(length: int, cut: int, begin: int, rate: int) -> None:
    amount = rate * length // HOUR_MS
    line = Line("gpu_hour", begin, begin + length, 1, rate, rate, amount, 1)
    kept = skip((line,), begin + cut)
    assert gpu_ms(kept) == max(0, length - cut)
    assert total_micros(kept) == rate * max(0, length - cut) // HOUR_MS
    assert total_micros(kept) <= amount
    assert skip((line,), begin) == (line,)


def test_skipping_the_wait_for_the_engine_keeps_the_start() -> None:
    kept = skip(priced(book(Rate(1_000_000, 0, 30)), 1), NOW + HOUR_MS // 2)
    assert [(line.unit, line.amount_micros) for line in kept] == [("start", 30), ("gpu_hour", 500_000)]


# ------------------------------------------------------------------ reading lines


def test_the_next_edge_is_the_first_line_to_be_complete(hours: Callable[..., Line]) -> None:
    assert next_edge_ms(()) is None
    assert next_edge_ms((hours(5, 20), hours(0, 5))) == 5


def test_the_hourly_rate_is_what_runs_at_that_instant() -> None:
    lines = priced(book(Rate(500_000, 100_000, 9), Rate(600_000), from_ms=NOW), 2, gpus=4)
    assert hourly_rate_micros(lines, NOW) == 2_100_000
    assert hourly_rate_micros(lines, NOW + HOUR_MS) == 2_400_000
    assert hourly_rate_micros(lines, NOW + 2 * HOUR_MS) == 0


def test_the_list_price_of_a_remainder_is_never_below_what_it_costs(hours: Callable[..., Line]) -> None:
    odd = replace(hours(0, HOUR_MS, rate_micros=1), from_ms=HOUR_MS // 2)
    assert list_micros((odd,)) == odd.amount_micros == 1
