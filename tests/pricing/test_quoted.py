"""A quoted price is kept for a run that begins later: the same rates for as long, never a micro-unit more."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fastgpu_hub.pricing.metering import GPU_HOUR, START, TASK_HOUR, Line, charge, gpu_ms, total_micros
from fastgpu_hub.pricing.quote import never_dearer, no_dearer_than_quoted, shifted

HOUR_MS = 3_600_000
Hours = Callable[..., Line]
RANDOMS = st.randoms(use_true_random=True)


def test_lines_move_with_their_rates_and_are_cut_where_the_new_time_has_its_midnight(hours: Hours) -> None:
    cheap, dear = hours(0, 4 * HOUR_MS, 300_000), hours(4 * HOUR_MS, 6 * HOUR_MS, 500_000)
    moved = shifted([cheap, dear], 10 * HOUR_MS, [9 * HOUR_MS, 12 * HOUR_MS, 14 * HOUR_MS])
    assert [(line.from_ms // HOUR_MS, line.until_ms // HOUR_MS, line.rate_micros) for line in moved] == [
        (10, 12, 300_000),
        (12, 14, 300_000),
        (14, 16, 500_000),
    ]
    assert total_micros(moved) == total_micros([cheap, dear])


def test_a_cut_of_the_old_time_does_not_come_along(hours: Hours) -> None:
    lines = [hours(0, HOUR_MS), hours(HOUR_MS, 3 * HOUR_MS)]
    assert shifted(lines, 50, []) == (hours(50, 3 * HOUR_MS + 50),)


def test_the_price_of_its_own_time_counts_where_no_part_of_the_run_is_dearer(hours: Hours) -> None:
    quoted = [hours(0, 2 * HOUR_MS, 500_000)]
    start = 5 * HOUR_MS
    lower = (hours(start, start + 2 * HOUR_MS, 400_000),)
    assert no_dearer_than_quoted(lower, quoted, []) == lower
    first_dearer = (hours(start, start + HOUR_MS, 600_000), hours(start + HOUR_MS, start + 2 * HOUR_MS, 100_000))
    assert no_dearer_than_quoted(first_dearer, quoted, []) == (hours(start, start + 2 * HOUR_MS, 500_000),)
    last_dearer = (hours(start, start + HOUR_MS, 100_000), hours(start + HOUR_MS, start + 2 * HOUR_MS, 600_000))
    assert no_dearer_than_quoted(last_dearer, quoted, []) == last_dearer


@given(random=RANDOMS)
@settings(max_examples=30)
def test_whenever_it_runs_and_however_soon_it_ends_it_costs_no_more_than_quoted(
    random: Random, jump_of: Callable[[Random], Any], case_of: Callable[..., Any]
) -> None:
    case = case_of(random, jump_of(random), random.choice([7200, 86_400, 10 * 86_400]), most=4)
    length = (case.until_ms - case.from_ms) // 2
    quoted = case.lines(case.from_ms, case.from_ms + length)
    start = case.from_ms + random.randint(0, length)
    cuts = sorted(random.randint(start, start + length) for _ in range(random.randint(0, 4)))
    moved = shifted(quoted, start, cuts)
    chosen = no_dearer_than_quoted(case.lines(start, start + length), quoted, cuts)
    for lines in (moved, chosen):
        assert gpu_ms(lines) == gpu_ms(quoted)
        assert total_micros(lines) <= total_micros(quoted)
        spans = [(line.from_ms, line.until_ms) for line in lines if line.unit == GPU_HOUR]
        assert spans == sorted(spans)
        assert {(line.from_ms, line.until_ms) for line in lines if line.unit == TASK_HOUR} <= set(spans)
        assert sum(line.unit == START for line in lines) <= 1
    assert never_dearer(chosen, moved)
    inside = [cut for cut in cuts if start < cut < start + length]
    assert {line.from_ms for line in moved if line.unit == GPU_HOUR} >= set(inside)
    for _ in range(5):
        after = random.randint(0, length)
        before = charge(quoted, case.from_ms + after)[0]
        # Each of its lines is rounded down, and an unfinished one once more.
        assert total_micros(charge(chosen, start + after)[0]) <= total_micros(before) + len(before) + 2
