"""When to start: the cheapest start is the one that trying every minute finds, on clocks that jump as well."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgpu_hub.pricing import starts
from fastgpu_hub.pricing.metering import Line, price_interval
from fastgpu_hub.pricing.pricebook import PriceBook, PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Customer, Promotion
from fastgpu_hub.pricing.quotas import Quota
from fastgpu_hub.pricing.timeline import RateCard
from fastgpu_hub.pricing.windows import WeeklyWindow

H100 = "h100-80gb"
MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS
NOW = 1_741_942_800_000  # Friday 2025-03-14 09:00 UTC
ALICE = Customer("alice", "class:cs101", ("cs101",))
EVERY_DAY = tuple(range(7))
NIGHT = Promotion(
    7,
    "Night rate",
    0,
    NOW * 2,
    percent_off=40,
    weekly=(WeeklyWindow(EVERY_DAY, 20 * 60, 6 * 60),),
    time_zone="Europe/Berlin",
    family=7,
)
BOOK = PriceBook([PriceVersion(1, H100, Rate(800_000), 0)])


def planned(
    card: RateCard, duration_ms: int, earliest_ms: int, latest_ms: int, **options: Any
) -> tuple[list[starts.Start], Callable[[int], int]]:
    """Starts as the broker makes them, and the exact cost of any start."""
    span = ALICE, H100, 1, earliest_ms, latest_ms + duration_ms
    timeline = card.timeline(*span, **options)

    def price(from_ms: int, until_ms: int) -> tuple[Line, ...]:
        return card.quote(ALICE, H100, 1, from_ms, until_ms, **options)

    found = starts.priced(timeline.edges, duration_ms, earliest_ms, latest_ms, timeline.lines)
    return found, lambda at_ms: starts.exact_cost(price(at_ms, at_ms + duration_ms))


def test_a_job_of_two_hours_waits_for_the_night_rate_and_not_a_minute_longer() -> None:
    found, _ = planned(RateCard(BOOK, [NIGHT]), 2 * HOUR_MS, NOW, NOW + DAY_MS)
    best = starts.cheapest_first(found)[0]
    assert best.start_ms == NOW + 10 * HOUR_MS  # 20:00 in Berlin
    assert (best.cost_micros, found[0].cost_micros) == (960_000, 1_600_000)
    line = starts.decisive(best, found[0])
    assert line is not None
    assert line.promotion_id == 7
    assert starts.hours_words(NIGHT.weekly, NIGHT.time_zone) == "20:00–06:00 Europe/Berlin"
    assert [start.start_ms for start in starts.frontier(found)] == [NOW, best.start_ms]


def test_equal_costs_start_at_once_even_where_rounding_would_make_a_later_start_cheaper() -> None:
    book = PriceBook([PriceVersion(1, H100, Rate(333_333), 0)])
    found, _ = planned(
        RateCard(book, [], time_zone="UTC"), 5 * HOUR_MS, NOW, NOW + 3 * DAY_MS, cuts=[NOW + 27 * HOUR_MS // 2]
    )
    assert min(start.cost_micros for start in found) < found[0].cost_micros  # cut at midnight: two lines rounded down
    assert starts.cheapest_first(found)[0].start_ms == NOW
    assert starts.frontier(found) == [found[0]]
    assert starts.decisive(found[-1], found[0]) is None


def test_a_run_longer_than_the_cheap_hours_begins_so_that_it_ends_where_they_end_or_begins_where_they_begin() -> None:
    """Twelve hours hold ten cheap ones wherever they begin from 18:00 to 20:00; the earliest of them is chosen."""
    found, _ = planned(RateCard(BOOK, [NIGHT]), 12 * HOUR_MS, NOW, NOW + DAY_MS)
    assert starts.cheapest_first(found)[0].start_ms == NOW + 8 * HOUR_MS


def test_no_start_lies_outside_the_interval_and_an_empty_one_has_none() -> None:
    edges = [NOW + hour * HOUR_MS for hour in range(-50, 50)]
    found = starts.candidates(edges, 90 * MINUTE_MS, NOW, NOW + 3 * HOUR_MS)
    assert found[0] == NOW
    assert found[-1] == NOW + 3 * HOUR_MS
    assert NOW + 30 * MINUTE_MS in found  # its end touches an edge
    assert starts.candidates(edges, HOUR_MS, NOW, NOW - 1) == []


@pytest.mark.parametrize(
    ("weekly", "words"),
    [
        ((), ""),
        ((WeeklyWindow(EVERY_DAY, 0, 1440),), "00:00–24:00 UTC"),
        ((WeeklyWindow((0, 1, 2, 3, 4), 480, 720),), "Mon–Fri 08:00–12:00 UTC"),
        ((WeeklyWindow((5, 6), 0, 0), WeeklyWindow((0, 2), 1, 2)), "Sat, Sun 00:00–00:00, Mon, Wed 00:01–00:02 UTC"),
    ],
)
def test_hours_are_said_in_words(weekly: tuple[WeeklyWindow, ...], words: str) -> None:
    assert starts.hours_words(weekly, "UTC") == words


def _on_minutes(case: Any) -> RateCard:
    """The case's rules with every instant on a whole minute, so that trying every minute tries every edge."""
    versions = [PriceVersion(v.id, v.gpu_type, v.rate, v.valid_from_ms // MINUTE_MS * MINUTE_MS) for v in case.versions]
    return RateCard(PriceBook(versions), [_rounded(p) for p in case.promotions], time_zone=case.time_zone)


def _rounded(promotion: Promotion) -> Promotion:
    return replace(
        promotion,
        starts_ms=promotion.starts_ms // MINUTE_MS * MINUTE_MS,
        ends_ms=promotion.ends_ms // MINUTE_MS * MINUTE_MS,
    )


def check_cheapest(random: Random, jump: Any, case_of: Callable[..., Any], hours: int) -> None:
    case = case_of(random, jump, hours * 3600, allowances=False)
    card = _on_minutes(case)
    duration_ms = random.choice([1, 7, 45, 60, 150, 600]) * MINUTE_MS
    earliest_ms = -(-case.from_ms // MINUTE_MS) * MINUTE_MS
    latest_ms = earliest_ms + random.randint(0, hours * 60) * MINUTE_MS
    window = random.choice(["day", "always"])
    options = {
        "quotas": (Quota(1, "site", "", "spend_micros", 1, window, time_zone=case.time_zone),),
        "standings": case.standings,
    }
    found, exact_at = planned(card, duration_ms, earliest_ms, latest_ms, **options)
    best = starts.cheapest_first(found)[0]
    tried = {at_ms: exact_at(at_ms) for at_ms in range(earliest_ms, latest_ms + 1, MINUTE_MS)}
    least = min(tried.values())
    assert best.exact == least
    assert best.start_ms == min(at_ms for at_ms, exact in tried.items() if exact == least)
    assert earliest_ms <= best.start_ms <= latest_ms
    assert best.end_ms <= latest_ms + duration_ms
    assert all(exact_at(start.start_ms) == start.exact for start in found)


@given(random=st.randoms(use_true_random=True))
@settings(max_examples=12)
def test_the_cheapest_start_is_the_one_that_trying_every_minute_finds(
    random: Random, jump_of: Callable[[Random], Any], case_of: Callable[..., Any]
) -> None:
    check_cheapest(random, jump_of(random), case_of, 4)


@pytest.mark.slow
@given(random=st.randoms(use_true_random=True))
@settings(max_examples=40)
def test_the_cheapest_start_of_days_is_the_one_that_trying_every_minute_finds(
    random: Random, jump_of: Callable[[Random], Any], case_of: Callable[..., Any]
) -> None:
    check_cheapest(random, jump_of(random), case_of, 48)


@given(random=st.randoms(use_true_random=True))
@settings(max_examples=30)
def test_a_rate_card_knows_every_instant_at_which_a_price_changes(
    random: Random, jump_of: Callable[[Random], Any], case_of: Callable[..., Any]
) -> None:
    case = case_of(random, jump_of(random), 86_400, allowances=False)
    card = RateCard(PriceBook(case.versions), case.promotions)
    known = set(card.edges(case.customer, H100, case.from_ms, case.until_ms, standings=case.standings))
    lines = price_interval(
        PriceBook(case.versions),
        case.promotions,
        (),
        case.customer,
        H100,
        case.gpus,
        case.from_ms,
        case.until_ms,
        standings=case.standings,
    )
    assert {line.from_ms for line in lines} - {case.from_ms} <= known
