"""Promotions: who may have them, exactly why not, what they take off, and which one wins."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.pricebook import Rate
from fastgpu_hub.pricing.promotions import Customer, Promotion, active_at, best, discounted, next_change, why_not
from fastgpu_hub.pricing.windows import WeeklyWindow

ALICE = Customer("alice", "class:cs101", ("cs101",))
DAY_MS = 86_400_000
RATE = Rate(500_000, 100_001, 7)


def promotion(**changes: Any) -> Promotion:
    values = {"id": 1, "name": "Night owls", "starts_ms": 10 * DAY_MS, "ends_ms": 20 * DAY_MS, "percent_off": 50}
    return Promotion(**(values | changes))


def refused(*arguments: Any, **options: Any) -> Refused:
    answer = why_not(*arguments, **options)
    assert answer is not None
    return answer


def test_who_fulfils_every_condition_gets_it() -> None:
    full = promotion(gpu_types=("h100",), audience=("class:cs101",), code="Summer-1")
    assert why_not(full, ALICE, gpu_type="h100", promo_code="Summer-1", at_ms=10 * DAY_MS) is None


def test_before_its_start_it_says_when_it_starts() -> None:
    answer = refused(promotion(time_zone="Asia/Kolkata"), ALICE, at_ms=0)
    assert (answer.code, answer.frees_at_ms) == ("promo_not_started", 10 * DAY_MS)
    assert answer.numbers == {"starts_ms": 10 * DAY_MS}
    assert answer.message == "“Night owls” has not started; it starts on 1970-01-11 05:30 Asia/Kolkata."
    assert answer.instead == "Start at 1970-01-11 05:30 Asia/Kolkata or later."


def test_before_its_start_outside_its_hours_it_frees_at_its_first_hour() -> None:
    owls = promotion(
        weekly=(WeeklyWindow((0, 1, 2, 3, 4, 5, 6), 22 * 60, 6 * 60),), starts_ms=10 * DAY_MS + DAY_MS // 2
    )
    answer = refused(owls, ALICE, at_ms=0)
    assert (answer.code, answer.frees_at_ms) == ("promo_not_started", 10 * DAY_MS + 22 * 3_600_000)
    assert active_at(owls, 10 * DAY_MS + 22 * 3_600_000)


def test_after_its_end_it_says_when_it_ended_and_never_frees() -> None:
    answer = refused(promotion(), ALICE, at_ms=20 * DAY_MS)
    assert (answer.code, answer.frees_at_ms) == ("promo_ended", None)
    assert answer.message == "“Night owls” ended on 1970-01-21 00:00 UTC."
    assert answer.numbers == {"ended_ms": 20 * DAY_MS}


def test_outside_its_hours_it_says_when_it_opens_again() -> None:
    owls = promotion(weekly=(WeeklyWindow((0, 1, 2, 3, 4, 5, 6), 22 * 60, 6 * 60),))
    noon, evening = 12 * DAY_MS + DAY_MS // 2, 12 * DAY_MS + 22 * 3_600_000
    answer = refused(owls, ALICE, at_ms=noon)
    assert (answer.code, answer.frees_at_ms, answer.numbers) == ("promo_outside_hours", evening, {"opens_ms": evening})
    assert answer.message == "“Night owls” is outside its hours; it opens again on 1970-01-13 22:00 UTC."
    assert why_not(owls, ALICE, at_ms=evening) is None
    assert next_change(owls, noon) == evening


def test_outside_its_last_hours_it_never_frees() -> None:
    mornings = promotion(weekly=(WeeklyWindow((0, 1, 2, 3, 4, 5, 6), 360, 480),))
    answer = refused(mornings, ALICE, at_ms=20 * DAY_MS - 1)
    assert (answer.code, answer.frees_at_ms, answer.numbers) == ("promo_outside_hours", None, {"ends_ms": 20 * DAY_MS})


def test_another_gpu_is_told_which_ones() -> None:
    answer = refused(promotion(gpu_types=("h100", "a100")), ALICE, gpu_type="t4")
    assert (answer.code, answer.instead) == ("promo_wrong_gpu", "Ask for h100 or a100.")
    assert answer.numbers == {"gpu_type": "t4", "gpu_types": "h100, a100"}
    assert why_not(promotion(gpu_types=("h100",)), ALICE) is None


def test_the_audience_is_a_person_a_class_or_the_paying_account() -> None:
    outsider = Customer("mallory", "person:mallory", ("art7",))
    answer = refused(promotion(audience=("class:cs101", "person:alice")), outsider)
    assert (answer.code, answer.frees_at_ms) == ("promo_audience", None)
    assert answer.numbers == {"owner": "mallory", "account": "person:mallory"}
    assert "cs101" not in answer.message
    assert "alice" not in answer.message
    assert why_not(promotion(audience=("person:alice",)), ALICE) is None
    assert why_not(promotion(audience=("class:cs101",)), Customer("alice", "person:alice", ("cs101",))) is None
    assert why_not(promotion(audience=("class:cs101",)), Customer("teacher", "class:cs101")) is None


def test_a_code_is_needed_right_and_read_in_any_case() -> None:
    coded = promotion(code="Summer-1")
    assert refused(coded, ALICE).code == "promo_code_needed"
    wrong = refused(coded, ALICE, promo_code="winter")
    assert wrong.code == "promo_code_wrong"
    assert "Summer" not in wrong.message + wrong.instead
    assert refused(coded, ALICE, promo_code="\ud800").code == "promo_code_wrong"
    assert why_not(coded, ALICE, promo_code="SUMMER-1") is None
    assert why_not(promotion(), ALICE, promo_code="anything") is None


def test_what_can_never_change_is_said_first() -> None:
    hopeless = promotion(gpu_types=("a100",), audience=("class:art7",), code="x")
    order = [
        refused(hopeless, ALICE, gpu_type="t4", at_ms=20 * DAY_MS).code,
        refused(hopeless, ALICE, gpu_type="t4", at_ms=0).code,
        refused(hopeless, ALICE, gpu_type="a100", at_ms=0).code,
        refused(promotion(code="x"), ALICE, at_ms=0).code,
        refused(promotion(code="x"), ALICE, promo_code="X", at_ms=0).code,
    ]
    assert order == ["promo_ended", "promo_wrong_gpu", "promo_audience", "promo_code_needed", "promo_not_started"]


def test_a_percentage_is_off_every_part_rounded_down() -> None:
    assert discounted(promotion(percent_off=50), RATE) == Rate(250_000, 50_000, 3)
    assert discounted(promotion(percent_off=100), RATE) == Rate()
    assert discounted(promotion(percent_off=1), Rate(1, 1, 1)) == Rate()


@pytest.mark.parametrize(("fixed", "charged"), [(0, 0), (300_000, 300_000), (900_000, 500_000)])
def test_a_fixed_price_replaces_the_gpu_hour_only_when_lower(fixed: int, charged: int) -> None:
    reduced = discounted(promotion(percent_off=None, fixed_per_gpu_hour_micros=fixed), RATE)
    assert reduced == Rate(charged, RATE.per_task_hour_micros, RATE.per_start_micros)


def test_the_cheapest_for_the_request_wins_and_they_do_not_add_up() -> None:
    percent = promotion(id=1, percent_off=50)
    fixed = promotion(id=2, percent_off=None, fixed_per_gpu_hour_micros=240_000)
    # One GPU: 50 % also halves the task's hour. Eight: the lower GPU price outweighs that.
    assert best([fixed, percent], RATE, 1) == percent
    assert best([fixed, percent], RATE, 8) == fixed


def test_what_is_not_cheaper_than_the_list_price_does_not_apply() -> None:
    dearer = promotion(percent_off=None, fixed_per_gpu_hour_micros=600_000)
    assert best([dearer], RATE, 1) is None
    assert best([promotion()], Rate(), 1) is None
    assert best([], RATE, 1) is None


def test_of_equals_the_oldest_wins() -> None:
    assert best([promotion(id=9), promotion(id=4), promotion(id=6)], RATE, 1) == promotion(id=4)


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 100), st.integers(0, 10**6)), max_size=5),
    st.builds(Rate, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)),
    st.integers(1, 64),
)
def test_a_promotion_never_makes_anything_dearer(
    offers: list[tuple[bool, int, int]], rate: Rate, gpu_count: int
) -> None:
    promotions = [
        promotion(id=index, percent_off=percent)
        if is_percent
        else promotion(id=index, percent_off=None, fixed_per_gpu_hour_micros=fixed)
        for index, (is_percent, percent, fixed) in enumerate(offers)
    ]
    costs = {p.id: discounted(p, rate).hourly_micros(gpu_count) for p in promotions}
    winner = best(promotions, rate, gpu_count)
    lowest = rate.hourly_micros(gpu_count) if winner is None else costs[winner.id]
    assert lowest == min([rate.hourly_micros(gpu_count), *costs.values()])


@pytest.mark.parametrize(
    "changes",
    [
        {"percent_off": None},
        {"fixed_per_gpu_hour_micros": 1},
        {"percent_off": 0},
        {"percent_off": 101},
        {"percent_off": None, "fixed_per_gpu_hour_micros": -1},
        {"time_zone": "Mars/Olympus"},
        {"weekly": tuple(WeeklyWindow((0,), minute, minute + 1) for minute in range(51))},
    ],
)
def test_a_promotion_that_makes_no_sense_cannot_exist(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"promotion|time zone"):
        promotion(**changes)


def test_ended_before_it_began_it_is_never_active() -> None:
    withdrawn = promotion(ends_ms=5 * DAY_MS)
    assert refused(withdrawn, ALICE, at_ms=11 * DAY_MS).code == "promo_ended"
    assert next_change(withdrawn, 0) is None
