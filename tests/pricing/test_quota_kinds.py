"""Limits beyond the calendar: terms, soft ones, shares of a class's credit, and more of a limit for a while."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.promotions import Customer
from fastgpu_hub.pricing.quotas import (
    Extra,
    Quota,
    QuotaState,
    Totals,
    check,
    label,
    raised,
    share_state,
    state_of,
    wanted_per_window,
    window_at,
    window_edges,
)

ALICE = Customer("alice", "class:cs101", ("cs101",))
HOUR_MS = 3_600_000
HOURS_OF_CLASS = Quota(3, "class", "cs101", "gpu_seconds", 40 * 3600, "week", time_zone="Europe/Berlin")


def quota(**changes: Any) -> Quota:
    values = {"id": 1, "scope": "site", "name": "", "metric": "concurrent_gpus", "limit": 10}
    return Quota(**(values | changes))


def refused(state: QuotaState, wanted: int, currency: str = "") -> Refused:
    answer = check(state, wanted, currency=currency)
    assert answer is not None
    return answer


def term(**changes: Any) -> Quota:
    """The summer term in Berlin: April to July."""
    days = {"window": "term", "starts_ms": 1_743_458_400_000, "ends_ms": 1_753_999_200_000}
    return quota(**({"scope": "class", "name": "cs101", "metric": "gpu_seconds", "limit": 144_000} | days | changes))


SHARE = {"scope": "member", "name": "cs101", "metric": "credit_share_percent", "limit": 20}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "class cs101: 40 GPU-hours from 2025-03-31 22:00 to 2025-07-31 22:00 UTC"),
        (
            {"time_zone": "Europe/Berlin", "soft": True},
            "class cs101: 40 GPU-hours from 2025-04-01 00:00 to 2025-08-01 00:00 Europe/Berlin (warns only)",
        ),
        (
            {"metric": "concurrent_gpus", "limit": 3, "gpu_type": "t4", "time_zone": "Europe/Berlin"},
            "class cs101: 3 GPUs of t4 at once from 2025-04-01 00:00 to 2025-08-01 00:00 Europe/Berlin",
        ),
    ],
)
def test_a_limit_of_a_term_reads_as_a_sentence(changes: dict[str, Any], text: str) -> None:
    assert label(term(**changes), "€") == text


@pytest.mark.parametrize(
    ("rolling_ms", "text"),
    [
        (7 * 86_400_000, "7 days"),
        (86_400_000, "24 hours"),
        (90 * 60_000, "90 minutes"),
        (60_000, "60 seconds"),
        (1500, "1500 milliseconds"),
    ],
)
def test_a_rolling_limit_reads_as_a_sentence(rolling_ms: int, text: str) -> None:
    rolling = quota(metric="spend_micros", limit=5_000_000, window="rolling", rolling_ms=rolling_ms, soft=True)
    assert label(rolling, "€") == f"everyone together: 5.00 € in any {text} (warns only)"


def test_a_share_reads_as_a_sentence() -> None:
    assert label(quota(**SHARE), "€") == "each member of class cs101: 20 % of the credit left at once"


# ---------------------------------------------------------------- terms and other windows


def test_a_term_counts_what_starts_in_it_and_does_not_apply_outside(hours: Callable[..., Line]) -> None:
    limit = term()
    begin, end = 1_743_458_400_000, 1_753_999_200_000
    assert window_at(limit, begin - 1) is None
    assert window_at(limit, begin) == window_at(limit, end - 1) == (begin, end)
    assert window_at(limit, end) is None
    assert window_edges(limit, begin - 5, end + 5) == [begin, end]
    assert window_edges(limit, begin, end) == []
    lines = [hours(begin - HOUR_MS, begin), hours(begin, begin + HOUR_MS), hours(end, end + HOUR_MS)]
    assert wanted_per_window(limit, lines) == {(begin, end): 3600}
    at_once = term(metric="concurrent_gpus")
    assert wanted_per_window(at_once, [hours(0, 1, gpu_count=4), hours(begin, begin + 1)]) == {(begin, end): 1}
    assert wanted_per_window(at_once, [hours(0, 1, gpu_count=4)]) == {}


def test_a_rolling_window_has_no_edges_and_counts_the_whole_wish(hours: Callable[..., Line]) -> None:
    limit = quota(metric="gpu_seconds", window="rolling", rolling_ms=HOUR_MS)
    assert window_at(limit, 5 * HOUR_MS) == (4 * HOUR_MS, None)
    assert window_edges(limit, 0, 10 * HOUR_MS) == []
    # Longer than the window: what it would give back while the request runs is not counted on.
    lines = [hours(6 * HOUR_MS, 9 * HOUR_MS), hours(5 * HOUR_MS, 6 * HOUR_MS)]
    assert wanted_per_window(limit, lines) == {(4 * HOUR_MS, None): 4 * 3600}


def test_calendar_windows_are_those_of_the_calendar(at: Callable[[str], int]) -> None:
    week = HOURS_OF_CLASS
    monday, next_monday = at("2025-03-23 23:00"), at("2025-03-30 22:00")  # the clock goes forward on the 30th
    assert window_at(week, monday) == (monday, next_monday)
    assert window_edges(week, monday, next_monday + 1) == [next_monday]
    assert window_at(quota(), 5) == (None, None)
    assert window_edges(quota(), 0, next_monday) == []


def test_what_is_used_in_a_calendar_window_comes_back_when_it_resets() -> None:
    assert state_of(HOURS_OF_CLASS, Totals(0, 5_000), Totals(0, 2_000), 77).comes_back == ((77, 5),)
    assert state_of(HOURS_OF_CLASS, Totals(0, 0), Totals(0, 2_000), 77).comes_back == ()
    # A term that ends gives nothing back: another limit, or none, takes its place.
    assert state_of(term(), Totals(0, 5_000), Totals(0, 2_000), 1_753_999_200_000).comes_back == ()


def test_a_refusal_in_a_term_says_until_when_it_applies() -> None:
    ends = 1_753_999_200_000
    answer = refused(QuotaState(term(time_zone="Europe/Berlin"), 143_000, 0, ends), 3600)
    assert answer.message.endswith("It applies until 2025-08-01 00:00 Europe/Berlin.")
    assert answer.frees_at_ms == ends


def test_a_soft_limit_warns_with_the_same_numbers(at: Callable[[str], int]) -> None:
    resets = at("2025-03-16 23:00")
    soft = Quota(3, "class", "cs101", "gpu_seconds", 40 * 3600, "week", time_zone="Europe/Berlin", soft=True)
    warning = refused(QuotaState(soft, 36 * 3600, 2 * 3600, resets), 8 * 3600)
    hard = refused(QuotaState(HOURS_OF_CLASS, 36 * 3600, 2 * 3600, resets), 8 * 3600)
    assert warning.message == (
        "Careful: this needs 8.00 GPU-hours, but the limit “class cs101: 40 GPU-hours per week (warns only)” has only "
        "2.00 GPU-hours left (36.00 GPU-hours used, 2.00 GPU-hours reserved). It resets on 2025-03-17 00:00 "
        "Europe/Berlin. It only warns: nothing is refused."
    )
    assert warning.instead == (
        "To stay within it, ask for at most 2.00 GPU-hours, or wait until 2025-03-17 00:00 Europe/Berlin."
    )
    assert (warning.code, warning.numbers, warning.frees_at_ms) == (hard.code, hard.numbers, hard.frees_at_ms)


# ---------------------------------------------------------------- shares


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(1, 100), st.integers(0, 10**12))
def test_a_member_never_holds_more_than_their_share_of_what_is_left(
    left: int, held: int, percent: int, wanted: int
) -> None:
    state = share_state(quota(**(SHARE | {"limit": percent})), left, held)
    assert (state.used, state.reserved) == (0, held)
    assert (check(state, wanted) is None) == (wanted == 0 or (held + wanted) * 100 <= percent * (left + held))


def test_a_refusal_of_a_share_says_of_how_much() -> None:
    state = share_state(quota(**SHARE), 17_000_000, 3_000_000)
    answer = refused(state, 1_500_000, "credits")
    assert answer.code == "quota_credit_share"
    assert answer.message == (
        "This needs 1.50 credits, but the limit “each member of class cs101: 20 % of the credit left at once” has only "
        "1.00 credits left (0.00 credits used, 3.00 credits reserved, 20.00 credits to share)."
    )
    assert answer.numbers == {
        "quota_id": 1,
        "limit": 4_000_000,
        "used": 0,
        "reserved": 3_000_000,
        "left": 1_000_000,
        "wanted": 1_500_000,
        "percent": 20,
        "credit_micros": 20_000_000,
    }
    assert answer.instead == "Ask for at most 1.00 credits, or wait until running work has ended."
    assert refused(state, 4_000_001).instead == "Ask for at most 1.00, or have the limit raised."
    assert share_state(quota(**SHARE), -5, 0).left == 0


def test_a_share_wants_the_money_of_all_lines(hours: Callable[..., Line]) -> None:
    lines = [hours(0, HOUR_MS), Line("start", 0, 0, 1, 7, 7, 7, 1)]
    assert wanted_per_window(quota(**SHARE), lines) == {(None, None): 500_007}
    with pytest.raises(ValueError, match="not summed over time"):
        state_of(quota(**SHARE), Totals(), Totals())


# ---------------------------------------------------------------- more of a limit


def test_more_of_a_limit_counts_for_whom_and_while_it_was_granted() -> None:
    limit = quota(id=7, scope="member", name="cs101", metric="gpu_seconds", limit=100)
    extras = [
        Extra(1, 7, "alice", 10, 1000, 2000),
        Extra(2, 7, "", 5, 1500),
        Extra(3, 7, "bob", 1000, 0),
        Extra(4, 8, "", 1000, 0),
    ]
    for at_ms, more in ((999, 0), (1000, 10), (1499, 10), (1500, 15), (1999, 15), (2000, 5), (10**12, 5)):
        assert raised(limit, extras, ALICE, at_ms).limit == 100 + more
    assert raised(limit, [], ALICE, 0) is limit


def test_more_never_makes_a_limit_endless_or_a_share_more_than_all() -> None:
    assert raised(quota(**SHARE), [Extra(1, 1, "", 10**15, 0)], ALICE, 5).limit == 100
    assert raised(quota(limit=10**15), [Extra(1, 1, "", 10**15, 0)], ALICE, 5).limit == 10**15


@pytest.mark.parametrize(
    "changes",
    [
        *({"amount": number} for number in (0, -1, 1.5, 10**15 + 1, 2**63, float("nan"), "5", True, None)),
        *({"from_ms": number} for number in (-1, 1.5, 2**63, "5", None)),
        *({"until_ms": number} for number in (5, 4, 5.5, 2**63, "9")),
    ],
)
def test_more_that_makes_no_sense_cannot_exist(changes: dict[str, Any]) -> None:
    good = {"id": 1, "quota_id": 2, "owner": "", "amount": 3, "from_ms": 5, "until_ms": 6}
    Extra(**good)
    with pytest.raises(ValueError, match="limit"):
        Extra(**(good | changes))
