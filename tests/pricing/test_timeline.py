"""Timelines and rate cards: always the price that adding up the lines gives, however it is read."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgpu_hub.pricing.calendars import CHUNK_MS, calendar_edges, site_cuts
from fastgpu_hub.pricing.metering import Line, NoPrice, price_interval, total_micros
from fastgpu_hub.pricing.pricebook import PriceBook, PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Customer, Promotion, Standing, edges
from fastgpu_hub.pricing.quotas import Quota
from fastgpu_hub.pricing.rankings import Track, overlaid
from fastgpu_hub.pricing.timeline import RateCard
from fastgpu_hub.pricing.windows import WeeklyWindow
from fastgpu_hub.pricing.windows import calendar_edges as reference_calendar_edges

H100 = "h100-80gb"
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
NOW = 1_741_942_800_000  # Friday 2025-03-14 09:00 UTC
ALICE = Customer("alice", "class:cs101")

# True randomness: small examples would be the least telling ones here.
RANDOMS = st.randoms(use_true_random=True)


def card_of(case: Any) -> RateCard:
    return RateCard(PriceBook(case.versions), case.promotions, time_zone=case.time_zone if case.site else None)


def asked(case: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    arguments = (case.customer, H100, case.gpus, case.from_ms, case.until_ms)
    return arguments, {
        "quotas": case.quotas,
        "standings": case.standings,
        "cuts": case.cuts,
        "starts": case.starts,
    }


def a_part(random: Random, case: Any) -> tuple[int, int]:
    from_ms, until_ms = sorted(random.randint(case.from_ms, case.until_ms) for _ in range(2))
    return random.choice([from_ms, case.from_ms]), random.choice([until_ms, case.until_ms])


def check_card_and_parts(random: Random, jump: Any, case_of: Callable[..., Any]) -> None:
    allowances = random.random() < 0.6
    longest_s = random.choice([7200, 86_400, 86_400, 40 * 86_400])
    case = case_of(random, jump, longest_s, allowances=allowances, most=9)
    card, (arguments, options) = card_of(case), asked(case)
    lines = case.lines()
    assert card.quote(*arguments, **options) == lines
    assert card.cost_micros(*arguments, **options) == total_micros(lines)
    # Again, from what is remembered now.
    assert card.quote(*arguments, **options) == lines
    timeline = card.timeline(*arguments, **options)
    for _ in range(4):
        from_ms, until_ms = a_part(random, case)
        from_ms = case.from_ms if allowances else from_ms
        lines = case.lines(from_ms, until_ms)
        assert timeline.lines(from_ms, until_ms) == lines
        assert timeline.cost_micros(from_ms, until_ms) == total_micros(lines)


@settings(deadline=None, max_examples=15)
@given(random=RANDOMS)
def test_rate_cards_and_timelines_give_the_lines_that_pricing_gives(
    random: Random, jump_of: Callable[[Random], Any], case_of: Callable[..., Any]
) -> None:
    check_card_and_parts(random, jump_of(random), case_of)


@pytest.mark.slow
@settings(deadline=None, max_examples=500)
@given(random=RANDOMS)
def test_rate_cards_and_timelines_give_the_lines_that_pricing_gives_hundreds_of_times(
    random: Random, jump_of: Callable[[Random], Any], case_of: Callable[..., Any]
) -> None:
    check_card_and_parts(random, jump_of(random), case_of)


def test_with_an_allowance_a_timeline_knows_every_end_but_no_later_beginning() -> None:
    first = Promotion(1, "first", 0, 10**15, free_gpu_ms=HOUR_MS)
    card = RateCard(PriceBook([PriceVersion(1, H100, Rate(1_000_000), 0)]), [first])
    timeline = card.timeline(ALICE, H100, 2, NOW, NOW + DAY_MS)
    costs = [timeline.cost_micros(NOW, NOW + minutes * 60_000) for minutes in (0, 30, 60, 90)]
    assert costs == [0, 0, 1_000_000, 2_000_000]
    for read in (timeline.cost_micros, timeline.lines):
        with pytest.raises(ValueError, match="allowance"):
            read(NOW + 1, NOW + DAY_MS)


@settings(deadline=None, max_examples=15)
@given(random=RANDOMS)
def test_prefix_sums_equal_fractions_on_every_case(
    random: Random,
    jump_of: Callable[[Random], Any],
    case_of: Callable[..., Any],
    oracle_lines: Callable[..., list[Line]],
) -> None:
    case = case_of(random, jump_of(random), 20 * 86_400, allowances=False, most=6)
    arguments, options = asked(case)
    cost = card_of(case).timeline(*arguments, **options).cost_micros(case.from_ms, case.until_ms)
    instants = {*case.cuts, *(version.valid_from_ms for version in case.versions)}
    instants |= set(site_cuts(case.time_zone, case.from_ms, case.until_ms))
    for promotion in case.promotions:
        instants |= set(edges(promotion, case.from_ms, case.until_ms))
    read = oracle_lines(case, sorted(at_ms for at_ms in instants if case.from_ms < at_ms < case.until_ms))
    exact = 0
    for line in read:
        hours = 1 if line.unit == "start" else Fraction(line.until_ms - line.from_ms, HOUR_MS)
        exact += int(hours * line.rate_micros * (line.gpu_count if line.unit == "gpu_hour" else 1))
    assert cost == exact


# ------------------------------------------------------------------ two hundred promotions


def two_hundred(random: Random) -> list[Promotion]:
    """Mixed: for everyone, some of fifty classes, people, new users; with hours, codes, places, budgets, stacking."""
    promotions = []
    for number in range(1, 201):
        classes = tuple(f"class:c{random.randrange(50)}" for _ in range(random.randint(1, 3)))
        audience = random.choice([classes, classes, classes, (f"person:u{random.randrange(40)}",), ("new",), ()])
        window = WeeklyWindow(
            tuple(random.sample(range(7), random.randint(1, 7))),
            random.randrange(0, 1440, 30),
            random.randrange(0, 1440, 30),
        )
        percent = random.choice([random.randint(1, 60), random.randint(1, 60), None])
        stacks = percent is not None and random.random() < 0.1
        promotions.append(
            Promotion(
                id=number,
                name=f"p{number}",
                starts_ms=NOW + random.randint(-900, 300) * HOUR_MS,
                ends_ms=NOW + random.randint(100, 2000) * HOUR_MS,
                percent_off=percent,
                fixed_per_gpu_hour_micros=None if percent else random.randint(50_000, 900_000),
                audience=audience,
                weekly=random.choice([(window,), (window,), ()]),
                time_zone="Europe/Berlin",
                family=number,
                stacks=stacks,
                needs_code=random.random() < (0.3 if audience else 0.8),
                max_redemptions=random.choice([None, None, None, 50]),
                budget_micros=9_000_000 if not stacks and random.random() < 0.05 else None,
            )
        )
    return promotions


def test_two_hundred_promotions_price_everyone_as_one_by_one() -> None:
    random = Random(7)
    promotions = two_hundred(random)
    book = PriceBook(
        [PriceVersion(1, H100, Rate(700_000, 90_001, 5), 0), PriceVersion(2, H100, Rate(650_000), NOW + 9 * DAY_MS)]
    )
    card = RateCard(book, promotions, time_zone="Europe/Berlin")
    coded = [promotion.family for promotion in promotions if promotion.needs_code]
    saved = set()
    for number in range(14):
        classes = tuple(f"c{name}" for name in random.sample(range(50), random.randint(1, 3)))
        first_used_ms = random.choice([None, NOW - random.randint(0, 900) * HOUR_MS])
        customer = Customer(f"u{number}", f"class:{classes[0]}", classes, first_used_ms)
        standings = {
            random.choice(coded): Standing(code_given=True),
            3: Standing(redemptions=50, saved_micros=8_000_000),
        }
        from_ms = NOW + random.randrange(28 * DAY_MS)
        arguments = (customer, H100, random.choice([1, 2, 8]), from_ms, from_ms + random.randint(1, 48 * HOUR_MS))
        cuts = site_cuts("Europe/Berlin", *arguments[3:])
        lines = price_interval(book, promotions, [], *arguments, standings=standings, cuts=cuts)
        assert card.quote(*arguments, standings=standings) == lines
        assert card.cost_micros(*arguments, standings=standings) == total_micros(lines)
        saved |= {line.promotion_id for line in lines}
    assert len(saved) > 5


def test_a_promotion_for_a_class_named_twice_is_still_one(at: Callable[[str], int]) -> None:
    twice = Promotion(
        1,
        "p",
        at("2025-03-14 00:00"),
        at("2025-03-15 00:00"),
        percent_off=50,
        audience=("class:cs101", "class:cs101"),
    )
    card = RateCard(PriceBook([PriceVersion(1, H100, Rate(1_000_000), 0)]), [twice])
    assert card.cost_micros(Customer("alice", "class:cs101", ("cs101",)), H100, 1, NOW, NOW + HOUR_MS) == 500_000


@pytest.mark.parametrize(("first_used_ms", "cost"), [(None, 500_000), (NOW, 500_000), (NOW - 1, 1_000_000)])
def test_new_users_have_their_price_while_the_promotion_lasts(first_used_ms: int | None, cost: int) -> None:
    welcome = Promotion(1, "welcome", NOW, NOW * 2, percent_off=50, audience=("new", "class:art7"))
    card = RateCard(PriceBook([PriceVersion(1, H100, Rate(1_000_000), 0)]), [welcome])
    alice = Customer("alice", "class:cs101", ("cs101",), first_used_ms)
    assert card.cost_micros(alice, H100, 1, NOW + DAY_MS, NOW + DAY_MS + HOUR_MS) == cost


def test_drafts_and_credit_price_nothing() -> None:
    draft = Promotion(1, "draft", 0, 10**15, percent_off=50, published=False)
    gift = Promotion(2, "gift", 0, 10**15, credit_micros=5)
    card = RateCard(PriceBook([PriceVersion(1, H100, Rate(1_000_000), 0)]), [draft, gift])
    (line,) = card.quote(Customer("alice", "class:cs101"), H100, 1, NOW, NOW + HOUR_MS)
    assert (line.amount_micros, line.promotion_id) == (1_000_000, None)


def test_a_code_prices_for_who_gives_it_and_who_redeemed_it() -> None:
    coded = Promotion(4, "coded", 0, 10**15, percent_off=50, needs_code=True, family=3, version=2)
    card = RateCard(PriceBook([PriceVersion(1, H100, Rate(1_000_000), 0)]), [coded])

    def cost(standing: Standing) -> int:
        alice = Customer("alice", "class:cs101")
        return card.cost_micros(alice, H100, 1, NOW, NOW + HOUR_MS, standings={3: standing, 4: Standing(redeemed=1)})

    assert cost(Standing(code_given=True)) == cost(Standing(redeemed=1)) == 500_000
    assert cost(Standing(redemptions=5)) == 1_000_000


@pytest.mark.slow
def test_what_was_remembered_before_is_no_more_than_its_bounds() -> None:
    promotions = two_hundred(Random(1))
    card = RateCard(PriceBook([PriceVersion(1, H100, Rate(700_000, 1, 5), 0)]), promotions)
    for number in range(600):
        customer = Customer(f"u{number}", f"class:c{number % 50}", (f"c{number % 50}",))
        from_ms = NOW + number * CHUNK_MS // 4
        card.cost_micros(customer, H100, number + 1, from_ms, from_ms + DAY_MS)
    for remembered in (card._ranking, card._track, card._hours):
        info = remembered.cache_info()
        assert info.maxsize is not None
        assert info.misses > 200
        assert info.currsize <= info.maxsize


# ------------------------------------------------------------------ what is refused, and edges of time


def plain() -> RateCard:
    return RateCard(PriceBook([PriceVersion(1, H100, Rate(1_000_000, 0, 30), NOW)]), [])


def test_no_time_is_only_the_start_and_without_one_nothing() -> None:
    (start,) = plain().quote(ALICE, H100, 1, NOW, NOW)
    assert (start.unit, start.amount_micros) == ("start", 30)
    assert plain().cost_micros(ALICE, H100, 1, NOW, NOW) == 30
    assert plain().timeline(ALICE, H100, 1, NOW, NOW).cost_micros(NOW, NOW) == 30
    assert plain().quote(ALICE, H100, 1, NOW, NOW, starts=False) == ()
    assert plain().cost_micros(ALICE, H100, 1, NOW, NOW, starts=False) == 0


def test_a_type_without_a_price_is_not_free() -> None:
    for gpu_type, from_ms in (("t4", NOW), (H100, NOW - 1)):
        for ask in (plain().quote, plain().cost_micros, plain().timeline):
            with pytest.raises(NoPrice, match=gpu_type):
                ask(ALICE, gpu_type, 1, from_ms, NOW + 1)


@pytest.mark.parametrize(
    ("gpus", "from_ms", "until_ms"),
    [(0, NOW, NOW + 1), (1, NOW, NOW - 1), (1, NOW, NOW + 400 * DAY_MS + 1), (1, -1, NOW), (1, 2**63, 2**63 + 1)],
)
def test_hostile_intervals_are_refused(gpus: int, from_ms: int, until_ms: int) -> None:
    for ask in (plain().quote, plain().cost_micros, plain().timeline):
        with pytest.raises(ValueError, match=r"interval|GPU"):
            ask(ALICE, H100, gpus, from_ms, until_ms)


def test_a_timeline_answers_only_within_itself() -> None:
    timeline = plain().timeline(ALICE, H100, 1, NOW, NOW + HOUR_MS)
    for from_ms, until_ms in ((NOW - 1, NOW), (NOW, NOW + HOUR_MS + 1), (NOW + 2, NOW + 1)):
        with pytest.raises(ValueError, match="covers"):
            timeline.cost_micros(from_ms, until_ms)
        with pytest.raises(ValueError, match="covers"):
            timeline.lines(from_ms, until_ms)


@settings(deadline=None, max_examples=40)
@given(random=RANDOMS)
def test_remembered_calendars_equal_the_windows(random: Random, jump_of: Callable[[Random], Any]) -> None:
    jump, window = jump_of(random), random.choice(["day", "week", "month"])
    from_ms = max(0, jump.at_ms - random.choice([0, 1, random.randint(0, 90 * DAY_MS)]))
    from_ms = random.choice([from_ms, from_ms // CHUNK_MS * CHUNK_MS])
    until_ms = min(from_ms + random.choice([0, 1, random.randint(0, 90 * DAY_MS)]), from_ms + 400 * DAY_MS)
    until_ms = random.choice([until_ms, max(from_ms, until_ms // CHUNK_MS * CHUNK_MS)])
    expected = reference_calendar_edges(window, jump.time_zone, from_ms, until_ms)
    assert calendar_edges(window, jump.time_zone, from_ms, until_ms) == expected
    assert calendar_edges("always", jump.time_zone, from_ms, until_ms) == []


def test_a_midnight_at_which_a_remembered_stretch_begins_is_not_forgotten() -> None:
    begin_ms = 700 * CHUNK_MS
    around = (begin_ms - DAY_MS, begin_ms + 2 * DAY_MS)
    assert calendar_edges("day", "UTC", *around) == site_cuts("UTC", *around) == [begin_ms, begin_ms + DAY_MS]
    assert site_cuts("UTC", begin_ms, begin_ms + DAY_MS) == []


def test_of_changes_at_one_instant_nothing_in_between_is_seen() -> None:
    tracks = [Track([0, 5], [1, 4]), Track([0, 5], [2, 3])]
    assert overlaid(tracks, 0, 9, min) == [(0, 1), (5, 3)]
    assert overlaid(tracks, 5, 9, min) == [(5, 3)]
    assert overlaid(tracks, 0, 5, min) == [(0, 1)]


def test_the_sites_midnights_and_changes_of_clock_cut_every_line(at: Callable[[str], int]) -> None:
    card = RateCard(PriceBook([PriceVersion(1, H100, Rate(1), 0)]), [], time_zone="Europe/Berlin")
    lines = card.quote(ALICE, H100, 1, at("2025-03-29 12:00"), at("2025-03-30 22:30"))
    assert [line.from_ms for line in lines[1:]] == [
        at("2025-03-29 23:00"),
        at("2025-03-30 01:00"),
        at("2025-03-30 22:00"),
    ]


def test_a_quotas_window_cuts(at: Callable[[str], int]) -> None:
    daily = Quota(1, "member", "cs101", "gpu_seconds", 1, "day", time_zone="Europe/Berlin")
    lines = plain().quote(ALICE, H100, 1, NOW, NOW + DAY_MS, quotas=[daily], starts=False)
    assert [line.from_ms for line in lines] == [NOW, at("2025-03-14 23:00")]
