"""Quotas: which apply, whose use counts, what is left, and a refusal that says everything."""

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
    Quota,
    QuotaState,
    Scope,
    Totals,
    applicable,
    check,
    label,
    limit_key,
    scope_of,
    state_of,
    wanted_per_window,
)

IN_CLASS = Customer("alice", "class:cs101", ("cs101",))
ON_HER_OWN = Customer("alice", "person:alice", ("cs101",))
HOUR_MS = 3_600_000
HOURS_OF_CLASS = Quota(3, "class", "cs101", "gpu_seconds", 40 * 3600, "week", time_zone="Europe/Berlin")


def quota(**changes: Any) -> Quota:
    values = {"id": 1, "scope": "site", "name": "", "metric": "concurrent_gpus", "limit": 10}
    return Quota(**(values | changes))


def refused(state: QuotaState, wanted: int, currency: str = "") -> Refused:
    answer = check(state, wanted, currency=currency)
    assert answer is not None
    return answer


def test_a_class_limits_only_what_it_pays_for_and_a_person_always() -> None:
    site, klass = quota(id=1), quota(id=2, scope="class", name="cs101")
    member, person = quota(id=3, scope="member", name="cs101"), quota(id=4, scope="person", name="alice")
    others = [quota(id=5, scope="class", name="art7"), quota(id=6, scope="person", name="bob")]
    everything = [site, klass, member, person, *others]
    assert applicable(everything, IN_CLASS, "h100") == [site, klass, member, person]
    assert applicable(everything, ON_HER_OWN, "h100") == [site, person]


def test_a_limit_on_one_gpu_type_leaves_the_others_alone() -> None:
    limited = quota(gpu_type="h100")
    assert applicable([limited], IN_CLASS, "h100") == [limited]
    assert applicable([limited], IN_CLASS, "t4") == []
    assert applicable([limited], IN_CLASS) == [limited]


@pytest.mark.parametrize(
    ("scope", "name", "expected"),
    [
        ("site", "", Scope(gpu_type="h100")),
        ("class", "cs101", Scope(account="class:cs101", gpu_type="h100")),
        ("member", "cs101", Scope(account="class:cs101", owner="alice", gpu_type="h100")),
        ("person", "alice", Scope(owner="alice", gpu_type="h100")),
    ],
)
def test_each_scope_says_whose_use_counts(scope: str, name: str, expected: Scope) -> None:
    assert scope_of(quota(scope=scope, name=name, gpu_type="h100"), IN_CLASS) == expected


def test_only_a_members_limit_is_counted_per_person() -> None:
    bob = Customer("bob", "class:cs101", ("cs101",))
    member, klass = quota(id=3, scope="member", name="cs101"), quota(id=4, scope="class", name="cs101")
    assert limit_key(member, IN_CLASS) != limit_key(member, bob)
    assert limit_key(klass, IN_CLASS) == limit_key(klass, bob)
    assert len({limit_key(q, IN_CLASS) for q in (member, klass, quota())}) == 3


@given(st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**7), st.integers(0, 10**6))
def test_what_is_admitted_never_exceeds_the_limit_by_a_millisecond(
    charged_ms: int, held_ms: int, wanted_ms: int, limit: int
) -> None:
    state = state_of(quota(metric="gpu_seconds", limit=limit), Totals(0, charged_ms), Totals(0, held_ms))
    assert state.used == charged_ms // 1000
    assert state.used + state.reserved + state.left == max(limit, -(-(charged_ms + held_ms) // 1000))
    line = Line("gpu_hour", 0, wanted_ms, 1, 0, 0, 0, 1)
    ((_, wanted),) = wanted_per_window(state.quota, [line]).items()
    assert wanted == -(-wanted_ms // 1000)
    if check(state, wanted) is None and wanted:
        assert charged_ms + held_ms + wanted_ms <= limit * 1000


def test_charging_what_is_held_never_pushes_a_limit_over() -> None:
    full = quota(metric="gpu_seconds", limit=3600)
    for charged_ms in (0, 1, 500, 999, 1000, HOUR_MS):
        state = state_of(full, Totals(0, charged_ms), Totals(0, HOUR_MS - charged_ms))
        assert (state.used + state.reserved, state.left) == (3600, 0)


def test_money_is_counted_as_it_is_and_concurrent_gpus_not_over_time() -> None:
    spend = quota(metric="spend_micros", limit=100)
    assert state_of(spend, Totals(30, 5), Totals(20, 5), 7) == QuotaState(spend, 30, 20, 7)
    with pytest.raises(ValueError, match="concurrent"):
        state_of(quota(), Totals(), Totals())


def test_a_limit_lowered_below_its_use_leaves_nothing_and_still_allows_nothing_wanted() -> None:
    state = QuotaState(quota(limit=2), 5, 0)
    assert state.left == 0
    assert check(state, 0) is None
    assert refused(state, 1).numbers["left"] == 0


def test_the_wish_is_split_by_the_windows_its_lines_start_in(
    at: Callable[[str], int], hours: Callable[..., Line]
) -> None:
    monday = at("2025-03-16 23:00")  # 00:00 in Berlin
    lines = (
        hours(monday - HOUR_MS - 500, monday, gpu_count=2),
        hours(monday, monday + HOUR_MS, gpu_count=2),
        Line("task_hour", monday, monday + HOUR_MS, 2, 5, 5, 5, 1),
    )
    before, after = (at("2025-03-09 23:00"), monday), (monday, at("2025-03-23 23:00"))
    assert wanted_per_window(HOURS_OF_CLASS, lines) == {before: 7201, after: 7200}
    spend = quota(metric="spend_micros", window="week", time_zone="Europe/Berlin")
    assert wanted_per_window(spend, lines) == {before: 1_000_138, after: 1_000_005}
    assert wanted_per_window(quota(metric="spend_micros"), lines) == {(None, None): 2_000_143}
    assert wanted_per_window(quota(), lines) == {(None, None): 2}
    assert wanted_per_window(quota(), ()) == {}


def test_a_refusal_of_gpu_hours_says_used_reserved_left_wanted_and_when(at: Callable[[str], int]) -> None:
    resets = at("2025-03-16 23:00")
    answer = refused(QuotaState(HOURS_OF_CLASS, 36 * 3600, 2 * 3600, resets), 8 * 3600)
    assert answer == Refused(
        "quota_gpu_hours",
        "This needs 8.00 GPU-hours, but the limit “class cs101: 40 GPU-hours per week” has only 2.00 GPU-hours left "
        "(36.00 GPU-hours used, 2.00 GPU-hours reserved). It resets on 2025-03-17 00:00 Europe/Berlin.",
        {"quota_id": 3, "limit": 144_000, "used": 129_600, "reserved": 7_200, "left": 7_200, "wanted": 28_800},
        resets,
        "Ask for at most 2.00 GPU-hours, or wait until 2025-03-17 00:00 Europe/Berlin.",
    )


def test_a_refusal_of_concurrent_gpus_says_how_many_are_left() -> None:
    answer = refused(QuotaState(quota(scope="member", name="cs101", limit=2), 1, 0), 4)
    assert answer.code == "quota_concurrent_gpus"
    assert answer.message == (
        "This needs 4 GPUs, but the limit “each member of class cs101: 2 GPUs at once” has only 1 GPU left "
        "(1 GPU used, 0 GPUs reserved)."
    )
    assert answer.instead == "Ask for at most 1 GPU, or have the limit raised."
    waits = refused(QuotaState(quota(limit=2), 2, 0), 1)
    assert waits.instead == "Wait until running work gives GPUs back."


def test_a_refusal_of_spend_is_in_money() -> None:
    answer = refused(QuotaState(quota(metric="spend_micros", limit=5_000_000), 4_000_000, 580_000), 500_000, "credits")
    assert answer.code == "quota_spend"
    assert answer.message == (
        "This needs 0.50 credits, but the limit “everyone together: 5.00 credits in total” has only 0.42 credits left "
        "(4.00 credits used, 0.58 credits reserved)."
    )
    assert answer.instead == "Ask for at most 0.42 credits, or have the limit raised."


def test_what_is_more_than_the_whole_limit_is_not_told_to_wait() -> None:
    answer = refused(QuotaState(HOURS_OF_CLASS, 0, 0, 12345), 41 * 3600)
    assert answer.frees_at_ms is None
    assert answer.instead == "Ask for at most 40.00 GPU-hours, or have the limit raised."


def test_a_refusal_never_claims_that_what_is_wanted_equals_what_is_left() -> None:
    answer = refused(QuotaState(quota(metric="gpu_seconds", limit=3600), 0, 0), 3601)
    assert answer.message.startswith("This needs 1.01 GPU-hours,")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "everyone together: 10 GPUs at once"),
        ({"limit": 1, "gpu_type": "t4"}, "everyone together: 1 GPU of t4 at once"),
        (
            {"scope": "class", "name": "cs101", "metric": "gpu_seconds", "limit": 144_000, "window": "week"},
            "class cs101: 40 GPU-hours per week",
        ),
        (
            {"scope": "person", "name": "alice", "metric": "gpu_seconds", "limit": 5400, "gpu_type": "t4"},
            "alice: 1.50 GPU-hours of t4 in total",
        ),
        (
            {"metric": "spend_micros", "limit": 5_000_000, "window": "month", "gpu_type": "t4"},
            "everyone together: 5.00 € on t4 per month",
        ),
    ],
)
def test_a_limit_reads_as_a_sentence(changes: dict[str, Any], text: str) -> None:
    assert label(quota(**changes), "€") == text


SHARE = {"scope": "member", "name": "cs101", "metric": "credit_share_percent", "limit": 20}
ROLLING = {"metric": "gpu_seconds", "window": "rolling", "rolling_ms": 1000}
TERM = {"window": "term", "starts_ms": 5, "ends_ms": 6}


@pytest.mark.parametrize(
    "changes",
    [
        {"scope": "galaxy"},
        {"metric": "kilowatts"},
        {"window": "fortnight"},
        *({"limit": number} for number in (-1, 1.5, 10**15 + 1, 2**63, float("inf"), float("nan"), "5", True, None)),
        {"scope": "class"},
        {"time_zone": "Mars/Olympus"},
        {"window": "term"},
        *(TERM | {"starts_ms": number} for number in (None, -1, 6, 7, 1.5, 2**63, True)),
        *(TERM | {"ends_ms": number} for number in (None, 5, 4, 6.5, 2**63)),
        {"starts_ms": 5, "ends_ms": 6},
        {"window": "week", "ends_ms": 6},
        *(ROLLING | {"rolling_ms": number} for number in (None, 0, -1, 1.5, 366 * 86_400_000 + 1, 2**63, True)),
        {"rolling_ms": 1000},
        ROLLING | {"metric": "concurrent_gpus"},
        ROLLING | {"starts_ms": 5, "ends_ms": 6},
        *(SHARE | {"limit": number} for number in (0, 101, 20.0, True)),
        SHARE | {"scope": "class"},
        SHARE | {"scope": "site"},
        SHARE | {"gpu_type": "t4"},
        SHARE | {"window": "week"},
        SHARE | {"window": "rolling", "rolling_ms": 1000},
    ],
)
def test_a_limit_that_makes_no_sense_cannot_exist(changes: dict[str, Any]) -> None:
    for good in ({}, ROLLING, TERM, SHARE, SHARE | TERM):
        quota(**good)
    with pytest.raises(ValueError, match=r"limit|time zone"):
        quota(**changes)


def test_what_is_left_but_too_little_to_show_is_not_offered():
    quota = Quota(1, "person", "bob", "gpu_seconds", 700, "day")
    refused = check(QuotaState(quota, 0, 670, 86_400_000), 60)
    assert refused is not None
    assert refused.instead == "Wait until 1970-01-02 00:00 UTC."
    refused = check(QuotaState(quota, 0, 600, 86_400_000), 120)
    assert refused is not None
    assert refused.instead.startswith("Ask for at most 0.02 GPU-hours, or wait")
