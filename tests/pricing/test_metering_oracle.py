"""Metering through every jump of a clock: equal to adding up second by second, without gaps, split without loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from fractions import Fraction
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgpu_hub.pricing.metering import Line, charge, gpu_ms, list_micros, skip, total_micros
from fastgpu_hub.pricing.pricebook import PriceBook
from fastgpu_hub.pricing.promotions import Standing
from fastgpu_hub.pricing.windows import calendar_edges

H100 = "h100-80gb"
HOUR_MS = 3_600_000

# True randomness: small examples would be the least telling ones here.
RANDOMS = st.randoms(use_true_random=True)


def check_every_second(
    random: Random, jump: Any, case_of: Callable[..., Any], oracle_lines: Callable[..., list[Line]]
) -> None:
    case = case_of(random, jump, 3 * 3600)
    lines = case.lines()
    assert list(lines) == oracle_lines(case, range(case.from_ms, case.until_ms, 1000))
    for line in lines:
        exact = Fraction(line.rate_micros * line.quantity, 1 if line.unit == "start" else HOUR_MS)
        assert 0 <= exact - line.amount_micros < 1


@settings(deadline=None, max_examples=4)
@given(random=RANDOMS)
def test_pricing_equals_reading_the_rules_every_second(
    random: Random,
    jump_of: Callable[[Random], Any],
    case_of: Callable[..., Any],
    oracle_lines: Callable[..., list[Line]],
) -> None:
    check_every_second(random, jump_of(random), case_of, oracle_lines)


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(random=RANDOMS)
def test_pricing_equals_reading_the_rules_every_second_hundreds_of_times(
    random: Random,
    jump_of: Callable[[Random], Any],
    case_of: Callable[..., Any],
    oracle_lines: Callable[..., list[Line]],
) -> None:
    check_every_second(random, jump_of(random), case_of, oracle_lines)


@settings(deadline=None, max_examples=60)
@given(random=RANDOMS)
def test_lines_cover_the_interval_without_gaps_and_keep_to_one_quota_window(
    random: Random, jump_of: Callable[[Random], Any], case_of: Callable[..., Any]
) -> None:
    case = case_of(random, jump_of(random), 3 * 86400)
    lines = case.lines()
    gpu = [line for line in lines if line.unit == "gpu_hour"]
    assert [gpu[0].from_ms, *(line.until_ms for line in gpu)] == [*(line.from_ms for line in gpu), case.until_ms]
    assert gpu[0].from_ms == case.from_ms
    assert gpu_ms(lines) == case.gpus * (case.until_ms - case.from_ms)
    begins = {line.from_ms for line in gpu}
    quota = case.quotas[0]
    assert begins >= set(calendar_edges(quota.window, quota.time_zone, case.from_ms, case.until_ms))
    book_ = PriceBook(case.versions)
    assert begins >= set(book_.edges(H100, case.from_ms, case.until_ms))
    for line in gpu:
        version = book_.version_at(H100, line.from_ms)
        assert version is not None
        task = [other for other in lines if other.unit == "task_hour" and other.from_ms == line.from_ms]
        assert [other.until_ms for other in task] == ([line.until_ms] if version.rate.per_task_hour_micros else [])
        assert line.rate_micros <= line.list_rate_micros == version.rate.per_gpu_hour_micros


@settings(deadline=None, max_examples=60)
@given(random=RANDOMS)
def test_splitting_at_any_instants_always_adds_up_to_the_whole(
    random: Random, jump_of: Callable[[Random], Any], case_of: Callable[..., Any]
) -> None:
    case = case_of(random, jump_of(random), 86400)
    lines = case.lines()
    whole, rest, charged = total_micros(lines), lines, []
    for cut_ms in sorted(random.randint(case.from_ms - 5, case.until_ms + 5) for _ in range(random.randint(0, 12))):
        due, rest = charge(rest, cut_ms)
        charged += due
        assert total_micros(charged) + total_micros(rest) == whole
        assert gpu_ms(charged) + gpu_ms(rest) == gpu_ms(lines)
        assert all(line.until_ms <= cut_ms for line in due)
        assert all(line.from_ms >= cut_ms for line in rest if line.unit != "start")
        assert all(line.amount_micros >= 0 for line in (*due, *rest))
        exact = sum(Fraction(line.quantity * line.rate_micros, HOUR_MS) for line in charged if line.unit == "gpu_hour")
        assert total_micros(line for line in charged if line.unit == "gpu_hour") <= exact
    charged += rest
    assert total_micros(charged) == whole
    assert list_micros(charged) >= whole


def saved_by(lines: Iterable[Line], promotion_id: int) -> int:
    return sum(line.saved_micros for line in lines if line.promotion_id == promotion_id)


@settings(deadline=None, max_examples=60)
@given(random=RANDOMS)
def test_no_allowance_is_ever_exceeded_however_lines_are_split_skipped_or_given_up(
    random: Random, jump_of: Callable[[Random], Any], case_of: Callable[..., Any]
) -> None:
    case = case_of(random, jump_of(random), 86400)
    lines = case.lines()
    held, charged = lines, []
    for cut_ms in sorted(random.randint(case.from_ms, case.until_ms) for _ in range(random.randint(0, 30))):
        due, held = charge(held, cut_ms)
        charged += due
        if random.random() < 0.2:
            held = skip(held, cut_ms + random.randint(0, 999_999))
    kept = [*charged, *random.choice([held, ()])]
    for promotion in case.promotions:
        standing = case.standings.get(promotion.family, Standing())
        assert saved_by(kept, promotion.id) <= saved_by(lines, promotion.id)
        if promotion.budget_micros is not None:
            used = standing.saved_micros + saved_by(lines, promotion.id)
            assert used <= promotion.budget_micros or not saved_by(lines, promotion.id)
        if promotion.free_gpu_ms is not None:
            free_ms = gpu_ms(line for line in lines if line.promotion_id == promotion.id)
            assert not free_ms or standing.free_gpu_ms + free_ms <= promotion.free_gpu_ms


@given(
    st.integers(0, 5),
    st.integers(0, 5),
    st.lists(st.integers(1, 2 * HOUR_MS), min_size=1, max_size=8),
    st.integers(1, 3),
)
def test_parts_of_a_line_never_save_more_than_the_line(rate: int, off: int, lengths: list[int], gpus: int) -> None:
    # Tiny rates: there rounding each part in the customer's favour would save a micro-unit per part.
    until_ms = sum(lengths)
    line = Line("gpu_hour", 0, until_ms, gpus, rate, rate + off, gpus * rate * until_ms // HOUR_MS, 1, 7)
    rest, parts, at_ms = (line,), [], 0
    for length in lengths:
        at_ms += length
        due, rest = charge(rest, at_ms)
        parts += due
    assert sum(part.saved_micros for part in parts) <= line.saved_micros <= line.priced_at(rate + off)
    assert line.amount_micros + line.saved_micros <= line.priced_at(rate + off)
