"""Rolling windows: equal to counting tick by tick; what was admitted stays within the limit at every tick."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.quotas import Quota, QuotaState, Totals, check, rolling_state, wanted_per_window
from fastgpu_hub.pricing.rolling import frees_when, rolling_use

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
Use = tuple[int, int, int]


@st.composite
def uses(draw: st.DrawFn) -> list[Use]:
    made = []
    for _ in range(draw(st.integers(0, 9))):
        from_ms = draw(st.integers(0, 60))
        made.append((from_ms, from_ms + draw(st.integers(0, 20)), draw(st.integers(0, 50))))
    return made


def counted_by_the_tick(known: list[Use], rolling_ms: int, now_ms: int) -> int:
    """The oracle: every tick of every use on its own, each use rounded up."""
    total = 0
    for from_ms, until_ms, amount in known:
        if from_ms == until_ms:
            total += amount if from_ms > now_ms - rolling_ms else 0
            continue
        ticks = sum(1 for tick in range(from_ms, until_ms) if tick >= now_ms - rolling_ms)
        total += -int(-Fraction(amount * ticks, until_ms - from_ms) // 1)
    return total


@settings(deadline=None, max_examples=60)
@given(uses(), st.integers(1, 40), st.integers(0, 100))
def test_what_counts_and_what_comes_back_equals_counting_tick_by_tick(
    known: list[Use], rolling_ms: int, now_ms: int
) -> None:
    used, steps = rolling_use(known, rolling_ms, now_ms)
    assert used == counted_by_the_tick(known, rolling_ms, now_ms)
    assert sum(amount for _, amount in steps) == used
    assert len(steps) <= 5
    assert all(amount > 0 for _, amount in steps)
    assert [at_ms for at_ms, _ in steps] == sorted({at_ms for at_ms, _ in steps})
    for (at_ms, _), back in zip(steps, accumulate(amount for _, amount in steps), strict=True):
        assert at_ms > now_ms
        assert used - counted_by_the_tick(known, rolling_ms, at_ms) == back


@settings(deadline=None, max_examples=60)
@given(uses(), st.integers(1, 40), st.integers(0, 100), st.integers(0, 120))
def test_enough_is_free_at_the_first_tick_at_which_it_is(
    known: list[Use], rolling_ms: int, now_ms: int, need: int
) -> None:
    used = counted_by_the_tick(known, rolling_ms, now_ms)
    ticks = range(now_ms, now_ms + 200)
    first = next((tick for tick in ticks if used - counted_by_the_tick(known, rolling_ms, tick) >= need), None)
    assert frees_when(known, rolling_ms, now_ms, need) == first


def test_a_use_in_the_future_counts_in_full() -> None:
    assert rolling_use([(50, 60, 10)], 5, 0) == (10, ((65, 10),))


def test_many_uses_come_back_in_five_steps() -> None:
    known = [(begin, begin + 1, 1) for begin in range(100)]
    used, steps = rolling_use(known, 1000, 100)
    assert used == 100
    assert steps == ((1020, 20), (1040, 20), (1060, 20), (1080, 20), (1100, 20))


def test_an_uneven_use_still_comes_back_wholly() -> None:
    known = [(0, 1, 95), *((begin, begin + 1, 1) for begin in range(1, 10))]
    used, steps = rolling_use(known, 1000, 100)
    assert sum(amount for _, amount in steps) == used == 104
    assert steps[0] == (1001, 95)
    assert steps[-1][0] == 1010


def test_ten_thousand_uses_are_counted_at_once(hours: Callable[..., Line]) -> None:
    known = [(begin * 60_000, (begin + 1) * 60_000, 60_000) for begin in range(10_000)]
    used, steps = rolling_use(known, 7 * DAY_MS, 10_000 * 60_000)
    assert (used, len(steps)) == (600_000_000, 5)


@pytest.mark.parametrize(("known", "rolling_ms"), [([(5, 4, 1)], 10), ([(4, 5, -1)], 10), ([(4, 5, 1)], 0), ([], -1)])
def test_uses_that_make_no_sense_are_refused(known: list[Use], rolling_ms: int) -> None:
    for ask in (lambda: rolling_use(known, rolling_ms, 0), lambda: frees_when(known, rolling_ms, 0, 1)):
        with pytest.raises(ValueError, match="rolling window"):
            ask()


def rolling_quota(metric: str, limit: int, rolling_ms: int, **changes: Any) -> Quota:
    values = {"id": 3, "scope": "class", "name": "cs101", "metric": metric, "limit": limit, "window": "rolling"}
    return Quota(**(values | {"rolling_ms": rolling_ms, "time_zone": "Europe/Berlin"} | changes))


def test_the_state_of_a_rolling_limit_says_when_how_much_comes_back(hours: Callable[..., Line]) -> None:
    week = rolling_quota("gpu_seconds", 40 * 3600, 7 * DAY_MS)
    lines = [
        hours(0, HOUR_MS, gpu_count=4),
        Line("task_hour", 0, HOUR_MS, 4, 5, 5, 5, 1),
        hours(HOUR_MS, 3 * HOUR_MS),
    ]
    state = rolling_state(week, lines, Totals(9, 5 * HOUR_MS), 7 * DAY_MS + HOUR_MS // 2)
    assert state == QuotaState(
        week, 4 * 3600, 5 * 3600, None, ((7 * DAY_MS + HOUR_MS, 7200), (7 * DAY_MS + 3 * HOUR_MS, 7200))
    )
    spend = rolling_quota("spend_micros", 10**7, 7 * DAY_MS)
    assert rolling_state(spend, lines, Totals(9, 5), DAY_MS) == QuotaState(
        spend, 3_000_005, 9, None, ((7 * DAY_MS + HOUR_MS, 2_000_005), (7 * DAY_MS + 3 * HOUR_MS, 1_000_000))
    )
    with pytest.raises(ValueError, match="not a rolling one"):
        rolling_state(Quota(1, "site", "", "gpu_seconds", 5), lines, Totals(), 0)


def test_parts_of_a_second_never_come_back_twice(hours: Callable[..., Line]) -> None:
    week = rolling_quota("gpu_seconds", 40, 10_000)
    lines = [hours(begin, begin + 1_600) for begin in (0, 2_000, 4_000)]
    state = rolling_state(week, lines, Totals(0, 300), 6_000)
    assert (state.used, state.reserved) == (4, 2)
    assert state.comes_back == ((11_600, 1), (13_600, 2), (15_600, 1))


@settings(deadline=None, max_examples=80)
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 25), st.integers(1, 3), st.booleans()), min_size=1, max_size=10
    ),
    st.integers(1, 30),
    st.integers(1, 40),
)
def test_what_is_admitted_never_passes_a_rolling_limit_at_any_second(
    requests: list[tuple[int, int, int, bool]], limit: int, rolling_s: int
) -> None:
    quota = rolling_quota("gpu_seconds", limit, rolling_s * 1000)
    admitted: list[Line] = []
    now_s = 0
    for wait_s, duration_s, gpus, cut_short in requests:
        now_s += wait_s
        if cut_short and admitted and admitted[-1].until_ms > now_s * 1000 > admitted[-1].from_ms:
            last = admitted.pop()
            admitted.append(_line(last.from_ms, now_s * 1000, last.gpu_count))
        settled = [line for line in admitted if line.until_ms <= now_s * 1000]
        open_ms = sum(line.quantity for line in admitted if line.until_ms > now_s * 1000)
        wish = _line(now_s * 1000, (now_s + duration_s) * 1000, gpus)
        ((_, wanted),) = wanted_per_window(quota, [wish]).items()
        if check(rolling_state(quota, settled, Totals(0, open_ms), now_s * 1000), wanted) is None:
            admitted.append(wish)
    running = [
        sum(line.gpu_count for line in admitted if line.from_ms <= second * 1000 < line.until_ms)
        for second in range(130)
    ]
    for second in range(130):
        assert sum(running[max(0, second - rolling_s + 1) : second + 1]) <= limit


def _line(from_ms: int, until_ms: int, gpus: int) -> Line:
    return Line("gpu_hour", from_ms, until_ms, gpus, 0, 0, 0, 1)


def test_a_refusal_says_when_enough_comes_back(at: Callable[[str], int]) -> None:
    quota = rolling_quota("gpu_seconds", 40 * 3600, 7 * DAY_MS)
    first, second = at("2025-03-16 23:00"), at("2025-03-17 11:30")
    state = QuotaState(quota, 36 * 3600, 2 * 3600, None, ((first, 6 * 3600), (second, 30 * 3600)))
    answer = check(state, 8 * 3600)
    assert answer is not None
    assert answer.message == (
        "This needs 8.00 GPU-hours, but the limit “class cs101: 40 GPU-hours in any 7 days” has only 2.00 GPU-hours "
        "left (36.00 GPU-hours used, 2.00 GPU-hours reserved). Of what is used comes back: 6.00 GPU-hours by "
        "2025-03-17 00:00 Europe/Berlin, 30.00 GPU-hours by 2025-03-17 12:30 Europe/Berlin."
    )
    assert answer.frees_at_ms == first
    assert answer.instead == "Ask for at most 2.00 GPU-hours, or wait until 2025-03-17 00:00 Europe/Berlin."
    later = check(state, 8 * 3600 + 1)
    assert later is not None
    assert later.frees_at_ms == second
    never = check(state, 39 * 3600)
    assert never is not None
    assert never.frees_at_ms is None
    assert never.instead == "Ask for at most 2.00 GPU-hours, or wait until running work has ended."
    exact = check(state, 8 * 3600, frees_ms=first - 60_000)
    assert exact is not None
    assert exact.frees_at_ms == first - 60_000
    too_much = check(state, 41 * 3600, frees_ms=first)
    assert too_much is not None
    assert too_much.frees_at_ms is None
    assert too_much.instead == "Ask for at most 2.00 GPU-hours, or have the limit raised."
