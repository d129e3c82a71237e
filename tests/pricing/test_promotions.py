"""Promotions: who may have them, exactly why not, what they take off, and which one wins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.pricebook import Rate
from fastgpu_hub.pricing.promotions import (
    Customer,
    Promotion,
    Standing,
    active_at,
    best,
    cost_order,
    discounted,
    next_change,
    stacked,
    state_at,
    why_not,
)
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
    strict = promotion(gpu_types=("h100",), audience=("class:cs101",), needs_code=True, max_redemptions=1)
    assert why_not(strict, ALICE, Standing(code_given=True), gpu_type="h100", at_ms=10 * DAY_MS) is None


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


def test_new_users_are_those_without_a_gpu_before_it_began() -> None:
    welcome = promotion(name="Welcome", audience=("new",), time_zone="Europe/Berlin")
    used_before = Customer("alice", "person:alice", (), 10 * DAY_MS - 1)
    answer = refused(welcome, used_before)
    assert (answer.code, answer.instead) == ("promo_audience", "")
    assert answer.message == (
        "“Welcome” is for new users; alice first used a GPU on 1970-01-11 00:59 Europe/Berlin, "
        "before it began on 1970-01-11 01:00 Europe/Berlin."
    )
    assert answer.numbers["first_used_ms"] == 10 * DAY_MS - 1
    assert why_not(welcome, Customer("alice", "person:alice")) is None
    # Whoever was new when it began stays new while it lasts.
    assert why_not(welcome, Customer("alice", "person:alice", (), 10 * DAY_MS)) is None


def test_new_users_may_be_named_beside_a_class() -> None:
    both = promotion(audience=("new", "class:cs101"))
    old_hand = Customer("mallory", "person:mallory", (), 0)
    assert why_not(both, Customer("alice", "class:cs101", (), 0)) is None
    answer = refused(both, old_hand)
    assert "new users, and for certain classes and people" in answer.message
    assert answer.instead == "If you are in an eligible class, charge its account."


def test_a_code_is_needed_until_the_person_redeemed_once() -> None:
    coded = promotion(needs_code=True)
    answer = refused(coded, ALICE)
    assert (answer.code, answer.instead) == ("promo_code_needed", "Give the code with your request.")
    assert why_not(coded, ALICE, Standing(code_given=True)) is None
    assert why_not(coded, ALICE, Standing(redeemed=1)) is None
    assert why_not(promotion(), ALICE, Standing(code_given=True)) is None


def test_the_last_place_is_the_last_and_who_has_one_keeps_it() -> None:
    few = promotion(max_redemptions=50, needs_code=True)
    assert why_not(few, ALICE, Standing(code_given=True, redemptions=49)) is None
    answer = refused(few, ALICE, Standing(code_given=True, redemptions=50))
    assert (answer.code, answer.message) == ("promo_full", "“Night owls” is full. All 50 places of it are taken.")
    assert answer.numbers == {"places": 50, "places_left": 0}
    assert why_not(few, ALICE, Standing(redeemed=1, redemptions=50)) is None
    assert refused(few, ALICE, Standing(redemptions=20)).numbers == {"places": 50, "places_left": 30}
    assert why_not(promotion(max_redemptions=1), ALICE) is None
    assert refused(promotion(max_redemptions=1), ALICE, Standing(redemptions=1)).code == "promo_full"


def test_a_budget_is_spent_when_nothing_of_it_is_left() -> None:
    capped = promotion(budget_micros=2_500_000)
    assert why_not(capped, ALICE, Standing(saved_micros=2_499_999)) is None
    answer = refused(capped, ALICE, Standing(saved_micros=2_500_000))
    assert (answer.code, answer.message) == ("promo_budget_spent", "“Night owls” has used up its budget of 2.50.")
    assert answer.numbers == {"budget_micros": 2_500_000, "budget_left_micros": 0}


def test_the_first_hours_are_free_once_per_person() -> None:
    first = promotion(percent_off=None, free_gpu_ms=10 * 3_600_000)
    assert why_not(first, ALICE, Standing(free_gpu_ms=10 * 3_600_000 - 1)) is None
    answer = refused(first, ALICE, Standing(free_gpu_ms=10 * 3_600_000))
    assert answer.code == "promo_free_hours_used"
    assert answer.message == "“Night owls” gave you the first 10 GPU-hours free, and they are used."
    assert answer.numbers == {"free_gpu_ms": 36_000_000, "free_gpu_ms_left": 0}


def test_credit_is_redeemed_as_often_as_allowed_with_a_code_and_a_place_each_time() -> None:
    gift = promotion(percent_off=None, credit_micros=5_000_000, credit_days=30, needs_code=True, max_per_person=2)
    assert why_not(gift, ALICE, Standing(code_given=True)) is None
    assert refused(gift, ALICE, Standing(redeemed=1)).code == "promo_code_needed"
    assert why_not(gift, ALICE, Standing(code_given=True, redeemed=1)) is None
    answer = refused(gift, ALICE, Standing(code_given=True, redeemed=2))
    assert (answer.code, answer.numbers) == ("promo_redeemed", {"per_person": 2, "per_person_left": 0})
    assert answer.message == "“Night owls” can be redeemed 2 times per person, and you have."
    few = promotion(percent_off=None, credit_micros=1, max_redemptions=3, max_per_person=2)
    assert refused(few, ALICE, Standing(redeemed=1, redemptions=3)).code == "promo_full"


def test_a_draft_is_nobodys() -> None:
    draft = promotion(published=False)
    for at_ms in (None, 0, 12 * DAY_MS, 30 * DAY_MS):
        assert refused(draft, ALICE, at_ms=at_ms).code == "promo_draft"


def test_a_promotion_goes_from_draft_to_scheduled_to_live_to_ended() -> None:
    assert [state_at(promotion(published=False), at_ms) for at_ms in (0, 30 * DAY_MS)] == ["draft", "draft"]
    instants = (10 * DAY_MS - 1, 10 * DAY_MS, 20 * DAY_MS - 1, 20 * DAY_MS)
    assert [state_at(promotion(), at_ms) for at_ms in instants] == ["scheduled", "live", "live", "ended"]


def test_what_can_never_change_is_said_first() -> None:
    hopeless = promotion(
        gpu_types=("a100",), audience=("class:art7",), needs_code=True, max_redemptions=9, budget_micros=9
    )
    mine = replace(hopeless, audience=())
    full, poor = Standing(redemptions=9, saved_micros=9), Standing(saved_micros=9, code_given=True)
    order = [
        refused(hopeless, ALICE, full, gpu_type="t4", at_ms=20 * DAY_MS).code,
        refused(hopeless, ALICE, full, gpu_type="t4", at_ms=0).code,
        refused(hopeless, ALICE, full, gpu_type="a100", at_ms=0).code,
        refused(mine, ALICE, full, at_ms=0).code,
        refused(mine, ALICE, at_ms=0).code,
        refused(mine, ALICE, poor, at_ms=0).code,
        refused(mine, ALICE, Standing(code_given=True), at_ms=0).code,
    ]
    assert order == [
        *("promo_ended", "promo_wrong_gpu", "promo_audience", "promo_full", "promo_code_needed"),
        *("promo_budget_spent", "promo_not_started"),
    ]


def test_what_is_left_is_told_with_every_refusal() -> None:
    both = promotion(percent_off=None, free_gpu_ms=100, budget_micros=9, max_redemptions=5, gpu_types=("a100",))
    standing = Standing(redemptions=2, saved_micros=4, free_gpu_ms=30)
    left = {"places": 5, "places_left": 3, "budget_micros": 9, "budget_left_micros": 5}
    left |= {"free_gpu_ms": 100, "free_gpu_ms_left": 70}
    for options in ({"at_ms": 0}, {"at_ms": 20 * DAY_MS}, {"gpu_type": "t4"}):
        assert refused(both, ALICE, standing, **options).numbers.items() >= left.items()


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


# ------------------------------------------------------------------ on top of each other


def stacking(**changes: Any) -> Promotion:
    return promotion(**({"id": 9, "percent_off": 10, "stacks": True} | changes))


def test_one_that_stacks_is_taken_off_what_another_leaves() -> None:
    half, tenth = promotion(percent_off=50), stacking()
    assert stacked([tenth, half], RATE, 1) == (half, tenth)
    assert discounted(tenth, discounted(half, RATE)) == Rate(225_000, 45_000, 2)


def test_of_those_that_stack_only_the_largest_applies_and_others_do_not_add_up() -> None:
    half, quarter = promotion(id=1, percent_off=50), promotion(id=2, percent_off=25)
    tenth, fifth = stacking(id=8), stacking(id=9, percent_off=20)
    assert stacked([half, quarter, tenth, fifth], RATE, 1) == (half, fifth)
    assert stacked([half, quarter], RATE, 1) == (half,)
    assert stacked([fifth, tenth], RATE, 1) == (fifth,)
    assert stacked([], RATE, 1) == ()


def test_nothing_stacks_on_what_has_an_allowance_unless_another_pair_is_cheaper() -> None:
    capped, half, tenth = promotion(id=1, percent_off=52, budget_micros=1), promotion(id=2), stacking()
    assert stacked([capped, tenth], RATE, 1) == (capped,)
    # 52 % off alone is dearer than a tenth off the half.
    assert stacked([capped, half, tenth], RATE, 1) == (half, tenth)
    free = promotion(id=3, percent_off=None, free_gpu_ms=1)
    assert stacked([free, half, tenth], RATE, 1) == (free,)
    assert stacked([promotion(id=4, percent_off=5, budget_micros=1), tenth], RATE, 1) == (tenth,)


def test_what_makes_nothing_cheaper_is_not_put_on_top() -> None:
    everything, tenth = promotion(percent_off=100), stacking()
    assert stacked([everything, tenth], RATE, 1) == (everything,)
    assert stacked([tenth], Rate(), 1) == ()


def test_credit_takes_nothing_off_a_price() -> None:
    gift = promotion(percent_off=None, credit_micros=1)
    assert discounted(gift, RATE) == RATE
    assert stacked([gift], RATE, 1) == ()


def test_free_gpu_time_is_free_of_hours_but_not_of_the_start() -> None:
    assert discounted(promotion(percent_off=None, free_gpu_ms=1), RATE) == Rate(per_start_micros=7)


@given(
    st.lists(st.tuples(st.sampled_from(["single", "capped", "top"]), st.integers(1, 100)), max_size=6),
    st.builds(Rate, st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6)),
    st.integers(1, 64),
)
def test_together_they_are_never_dearer_than_any_that_may_apply_alone(
    offers: list[tuple[str, int]], rate: Rate, gpu_count: int
) -> None:
    offered = [
        promotion(id=index, percent_off=percent, stacks=kind == "top", budget_micros=5 if kind == "capped" else None)
        for index, (kind, percent) in enumerate(offers)
    ]
    applied = stacked(offered, rate, gpu_count)
    assert len(applied) <= 2
    assert [p.stacks for p in applied] in ([], [False], [True], [False, True])
    if len(applied) == 2:
        assert not applied[0].has_allowance
    cost = cost_order(applied, rate, gpu_count)
    assert cost <= cost_order((), rate, gpu_count)
    assert all(cost <= cost_order((p,), rate, gpu_count) for p in offered)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"percent_off": None}, "0 are given"),
        ({"fixed_per_gpu_hour_micros": 1}, "2 are given"),
        ({"free_gpu_ms": 1, "credit_micros": 1}, "3 are given"),
        ({"percent_off": 0}, "between 1 and 100, not 0"),
        ({"percent_off": 101}, "not 101"),
        ({"percent_off": None, "fixed_per_gpu_hour_micros": -1}, "not -1"),
        ({"percent_off": None, "free_gpu_ms": 0}, "not 0"),
        ({"percent_off": None, "credit_micros": 0}, "not 0"),
        ({"percent_off": None, "credit_micros": 2**63}, f"not {2**63}"),
        ({"percent_off": None, "credit_micros": 1, "credit_days": 0}, "not 0"),
        ({"percent_off": None, "credit_micros": 1, "budget_micros": 1}, "places instead of a budget"),
        ({"percent_off": None, "credit_micros": 1, "gpu_types": ("t4",)}, "every GPU"),
        ({"credit_days": 3}, "without credit"),
        ({"max_redemptions": 0}, "not 0"),
        ({"max_per_person": 0}, "not 0"),
        ({"budget_micros": 0}, "not 0"),
        ({"stacks": True, "budget_micros": 1}, "no budget"),
        ({"stacks": True, "percent_off": None, "fixed_per_gpu_hour_micros": 1}, "on top"),
        ({"stacks": True, "percent_off": None, "free_gpu_ms": 1}, "on top"),
        ({"time_zone": "Mars/Olympus"}, "time zone"),
        ({"weekly": tuple(WeeklyWindow((0,), minute, minute + 1) for minute in range(51))}, "50 times a week, not 51"),
    ],
)
def test_a_promotion_that_makes_no_sense_cannot_exist(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        promotion(**changes)


def test_ended_before_it_began_it_is_never_active() -> None:
    withdrawn = promotion(ends_ms=5 * DAY_MS)
    for at_ms in (0, 11 * DAY_MS):
        answer = refused(withdrawn, ALICE, at_ms=at_ms)
        assert (answer.code, answer.message) == ("promo_ended", "“Night owls” was withdrawn before it began.")
        assert state_at(withdrawn, at_ms) == "ended"
    assert next_change(withdrawn, 0) is None


def test_what_never_opens_before_its_end_has_no_hours_rather_than_a_start() -> None:
    mondays = promotion(weekly=(WeeklyWindow((0,), 0, 60),), ends_ms=10 * DAY_MS + 3_600_000)  # a Sunday's first hour
    answer = refused(mondays, ALICE, at_ms=0)
    assert (answer.code, answer.frees_at_ms) == ("promo_outside_hours", None)
