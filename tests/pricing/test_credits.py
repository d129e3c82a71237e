"""Credit: grants burn second by second in the stated order, expiry never surprises, a refusal says all numbers."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgpu_hub.pricing import credits
from fastgpu_hub.pricing.credits import Balance, Burned, Grant, Spent, burn, edges, rolled_over, too_late

CLASS = "class:cs101"
LATEST_MS = 221_845_392_000_000


def grant(id: int = 1, amount: int = 100, granted: int = 0, expires: int | None = None, priority: int = 100) -> Grant:
    return Grant(id, CLASS, amount, granted, priority, expires)


@st.composite
def grants(draw: st.DrawFn) -> list[Grant]:
    made = []
    for id_ in range(draw(st.integers(0, 5))):
        begins = draw(st.integers(0, 20))
        expires = draw(st.none() | st.integers(begins + 1, 24))
        made.append(grant(id_, draw(st.integers(1, 30)), begins, expires, draw(st.integers(1, 3))))
    return made


# What each second costs; of bytes, for those are drawn fast.
SECONDS = st.binary(min_size=24, max_size=24).map(lambda drawn: [byte % 7 for byte in drawn])


def bucketed(known: list[Grant], costs: list[int]) -> list[Spent]:
    """The costs of single seconds, summed between the edges."""
    instants: list[int | None] = [None, *edges(known)]
    sums = dict.fromkeys(instants, 0)
    for second, cost in enumerate(costs):
        sums[instants[bisect_right(instants[1:], second)]] += cost  # type: ignore[type-var]
    return [Spent(from_ms, amount) for from_ms, amount in sums.items()]


def burnt_by_the_second(known: list[Grant], costs: list[int]) -> tuple[dict[int, int], int]:
    """The oracle: each micro-unit of each second from the one grant whose turn it is."""
    left = {each.id: each.amount_micros for each in known}
    dated = any(each.expires_ms is not None for each in known)
    short = 0
    for second, cost in enumerate(costs):
        for _ in range(cost):
            turn = [
                each
                for each in known
                if left[each.id]
                and (not dated or (each.granted_ms <= second and (each.expires_ms is None or second < each.expires_ms)))
            ]
            if turn:
                first = min(turn, key=lambda g: (g.priority, g.expires_ms or 10**9, g.granted_ms, g.id))
                left[first.id] -= 1
            else:
                short += 1
    return left, short


@settings(deadline=None, max_examples=60)
@given(grants(), SECONDS)
def test_grants_burn_as_second_by_second_by_priority_then_expiry_then_age(known: list[Grant], costs: list[int]) -> None:
    burned = burn(known, bucketed(known, costs))
    assert (burned.left, burned.short_micros) == burnt_by_the_second(known, costs)
    assert sum(each.amount_micros for each in known) - sum(burned.left.values()) == sum(costs) - burned.short_micros


@settings(deadline=None, max_examples=50)
@given(grants(), SECONDS, st.binary(min_size=12, max_size=12))
def test_leaving_out_spending_never_makes_it_short(known: list[Grant], costs: list[int], kept: bytes) -> None:
    spent = bucketed(known, costs)
    fewer = [
        replace(each, amount_micros=each.amount_micros * part // 255) for each, part in zip(spent, kept, strict=False)
    ]
    before, after = burn(known, spent), burn(known, fewer)
    assert after.short_micros <= before.short_micros
    assert all(after.left[id_] >= left for id_, left in before.left.items())


@settings(deadline=None, max_examples=40)
@given(grants(), SECONDS, st.integers(0, 2**32))
def test_splitting_spending_and_its_order_change_nothing(known: list[Grant], costs: list[int], seed: int) -> None:
    instants = edges(known)
    parts = [
        Spent(second if instants and second >= instants[0] else None, micro)
        for second, cost in enumerate(costs)
        for micro in [1] * cost
    ]
    Random(seed).shuffle(parts)
    whole, split = burn(known, bucketed(known, costs)), burn(known, parts)
    assert (split.left, split.short_micros) == (whole.left, whole.short_micros)


@settings(deadline=None, max_examples=50)
@given(grants(), SECONDS, st.integers(1, 30), st.integers(1, 3))
def test_more_credit_never_makes_it_short(known: list[Grant], costs: list[int], amount: int, priority: int) -> None:
    # A new grant begins now, after what was spent before it.
    dated = [replace(each, granted_ms=0) for each in known]
    more = [*dated, grant(99, amount, 0, 20, priority)]
    assert burn(more, bucketed(more, costs)).short_micros <= burn(dated, bucketed(dated, costs)).short_micros


def test_the_order_is_priority_then_expiry_then_age_then_id() -> None:
    known = [
        grant(1, 10, granted=0),
        grant(2, 10, granted=5, expires=90),
        grant(3, 10, granted=0, expires=90),
        grant(4, 10, granted=5, expires=80),
        grant(5, 10, granted=9, priority=50),
        grant(6, 10, granted=0),
    ]
    order = []
    for spent in range(1, 61, 10):
        left = burn(known, [Spent(9, spent)]).left
        order.append(next(id_ for id_, amount in left.items() if amount == 9))
    assert order == [5, 4, 3, 2, 1, 6]


def test_a_grant_pays_only_for_time_before_it_expires() -> None:
    known = [grant(1, 10, expires=100), grant(2, 5)]
    assert edges(known) == [0, 100]
    assert burn(known, [Spent(0, 4), Spent(100, 5)]) == Burned({1: 6, 2: 5 - 5})
    assert burn(known, [Spent(0, 4), Spent(100, 7)]) == Burned({1: 6, 2: 0}, 2, 100)
    assert burn(known, [Spent(0, 16), Spent(100, 7)]) == Burned({1: 0, 2: 0}, 8, 0)


def test_without_an_expiry_dates_do_not_matter() -> None:
    known = [grant(1, 10, granted=50), grant(2, 10, granted=70)]
    assert edges(known) == []
    assert burn(known, [Spent(None, 15)]) == Burned({1: 0, 2: 5})
    assert burn(known, [Spent(None, 25)]) == Burned({1: 0, 2: 0}, 5, None)
    assert burn([], [Spent(None, 5)]) == Burned({}, 5, None)


def test_before_the_first_grant_nothing_pays() -> None:
    assert burn([grant(1, 10, granted=50, expires=60)], [Spent(None, 3)]) == Burned({1: 10}, 3, None)


def test_two_grants_of_one_id_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="one id"):
        burn([grant(1), grant(1)], [])


def test_what_is_left_rolls_over_once_for_the_same_length() -> None:
    term = Grant(7, CLASS, 1000, 100, 20, 400, 50, "", "autumn", "root")
    rolled = rolled_over(term, 333)
    assert rolled == Grant(0, CLASS, 166, 400, 20, 700, 0, "rollover:7", "autumn", "root")
    assert rolled_over(replace(rolled, id=8), 166) is None


@pytest.mark.parametrize(("percent", "left"), [(0, 1000), (50, 1), (100, 0), (1, 99)])
def test_what_is_too_little_does_not_roll_over(percent: int, left: int) -> None:
    assert rolled_over(Grant(7, CLASS, 1000, 100, 20, 400, percent), left) is None


@pytest.mark.parametrize("left", [-1, 1001])
def test_more_than_was_granted_cannot_roll_over(left: int) -> None:
    with pytest.raises(ValueError, match="of a grant of 1000"):
        rolled_over(Grant(7, CLASS, 1000, 100, 20, 400, 50), left)


def test_a_roll_over_ends_with_time_itself() -> None:
    last = Grant(7, CLASS, 1000, 100, 20, LATEST_MS - 5, 100)
    rolled = rolled_over(last, 10)
    assert rolled is not None
    assert rolled.expires_ms == LATEST_MS
    assert rolled_over(replace(last, expires_ms=LATEST_MS), 10) is None


HOSTILE = (-1, 0, 1.5, 10**15 + 1, 2**63, float("nan"), float("inf"), "١٠", "5", True, None)


@pytest.mark.parametrize(
    "changes",
    [
        *({"amount_micros": number} for number in HOSTILE),
        *({"granted_ms": number} for number in (-1, 1.5, LATEST_MS + 1, 2**63, "5", True, None)),
        *({"priority": number} for number in (0, 256, -1, 1.5, "5", True, None)),
        *({"rollover_percent": number, "expires_ms": 9} for number in (-1, 101, 0.5, True, None)),
        *({"expires_ms": number} for number in (5, 4, -1, 1.5, LATEST_MS + 1, "9", True)),
        {"rollover_percent": 50},
        {"account": ""},
    ],
)
def test_a_grant_that_makes_no_sense_cannot_exist(changes: dict[str, Any]) -> None:
    good = {"id": 1, "account": CLASS, "amount_micros": 10, "granted_ms": 5}
    Grant(**good)
    with pytest.raises(ValueError, match=r"grant|rolled over"):
        Grant(**(good | changes))


def test_nothing_negative_was_ever_spent() -> None:
    with pytest.raises(ValueError, match="negative"):
        Spent(None, -1)


def test_what_is_left_is_granted_less_spent_held_expired_and_given() -> None:
    assert Balance(100, 20, 30, 7, 11).left_micros == 32


def test_credit_covers_a_wish_up_to_the_last_micro() -> None:
    balance = Balance(10_000_000, 5_000_000, 2_000_000)
    assert credits.check(CLASS, balance, 3_000_000) is None
    answer = credits.check(CLASS, balance, 3_000_001, currency="credits")
    assert answer is not None
    assert answer.code == "credit"
    assert answer.message == (
        "This may cost 3.000001 credits but class:cs101 has only 3.00 credits left "
        "(10.00 credits granted, 5.00 credits spent, 2.00 credits held for running work)."
    )
    assert answer.numbers == {
        "account": CLASS,
        "granted_micros": 10_000_000,
        "spent_micros": 5_000_000,
        "held_micros": 2_000_000,
        "expired_micros": 0,
        "given_micros": 0,
        "left_micros": 3_000_000,
        "wanted_micros": 3_000_001,
    }


def test_a_refusal_says_what_expired_and_was_given_away() -> None:
    answer = credits.check(CLASS, Balance(10_000_000, 5_000_000, 0, 2_000_000, 1_500_000), 2_000_000)
    assert answer is not None
    assert answer.message == (
        "This may cost 2.00 but class:cs101 has only 1.50 left "
        "(10.00 granted, 5.00 spent, 0.00 held for running work, 2.00 expired, 1.50 given to others)."
    )
    assert (answer.numbers["expired_micros"], answer.numbers["given_micros"]) == (2_000_000, 1_500_000)


def test_what_is_free_needs_no_credit() -> None:
    assert credits.check(CLASS, Balance(), 0) is None
    assert credits.check(CLASS, Balance(0, 5, 0), 0) is None
    assert too_late(CLASS, Balance(), Burned({}, 5, 0), 0) is None


def test_a_refusal_names_the_credit_that_expires_too_early(at: Callable[[str], int]) -> None:
    expires = at("2025-03-16 23:00")
    known = [grant(1, 10_000_000, 0, expires), grant(2, 1_000_000, 0)]
    balance = Balance(11_000_000, 6_000_000, 2_000_000, expiring=((expires, 2_000_000),))
    burned = burn(known, [Spent(0, 8_000_000 + 1_000_000), Spent(expires, 1_500_000)])
    answer = too_late(CLASS, balance, burned, 2_500_000, currency="credits", time_zone="Europe/Berlin")
    assert answer is not None
    assert answer.code == "credit"
    assert answer.message == (
        "This may cost 2.50 credits and class:cs101 has 3.00 credits left (11.00 credits granted, 6.00 credits spent, "
        "2.00 credits held for running work), but 2.00 credits of it expires on 2025-03-17 00:00 Europe/Berlin: "
        "0.50 credits would be missing from 2025-03-17 00:00 Europe/Berlin on."
    )
    assert answer.instead == (
        "Have it end by 2025-03-17 00:00 Europe/Berlin, charge another account, or ask for more credit."
    )
    assert answer.numbers["short_micros"] == 500_000
    assert answer.numbers["short_from_ms"] == expires
    assert credits.check(CLASS, balance, 2_500_000) is None
    enough = burn(known, [Spent(0, 8_000_000 + 1_500_000), Spent(expires, 1_000_000)])
    assert too_late(CLASS, balance, enough, 2_500_000) is None


def test_an_old_shortage_is_not_held_against_a_new_wish() -> None:
    balance = Balance(20, 5, 0)
    assert too_late(CLASS, balance, Burned({1: 0}, 7, None), 3, short_before_micros=7) is None
    answer = too_late(CLASS, balance, Burned({1: 0}, 9, 50), 3, short_before_micros=7)
    assert answer is not None
    assert answer.numbers["short_micros"] == 2
    assert answer.message.endswith(
        "but not all of it is valid at the time it would pay for: 0.000002 would be missing."
    )
