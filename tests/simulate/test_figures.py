"""Figures worked out by hand, and against scipy."""

from __future__ import annotations

import math

import numpy
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from fastgpu_hub.scheduling.eta import Start
from fastgpu_hub.scheduling.prediction import Prediction
from fastgpu_hub.simulate.figures import bounded_slowdown, figures, quantile, ranked, spearman
from fastgpu_hub.simulate.replay import Outcome
from fastgpu_hub.simulate.timeline import means, run_coverage, timeline, wait_coverage


@pytest.fixture
def outcome(work):
    """Four GPUs: ann's two jobs at once, bob's waits 90 s, ann's last one 5 s."""
    workload = work(("ann", 2, 0, 100), ("ann", 2, 0, 100), ("bob", 4, 10, 2), ("ann", 1, 100, 50))
    guesses = [Prediction(50_000, 90_000, 120_000)] * 2 + [Prediction(1_000, 3_000, 9_000), Prediction(1, 2, 3)]
    foretold = {2: Start(95_000, 90_000, 100_000), 3: Start(110_000, 106_000, 120_000)}
    return Outcome(workload, "by hand", [0, 0, 100_000, 105_000], guesses, 0.5, foretold)


def test_the_figures_are_those_worked_out_by_hand(outcome):
    found = figures(outcome).as_json()
    assert found == {
        "jobs": 4,
        "mean_jct_s": (100 + 100 + 92 + 55) / 4,
        "mean_queue_s": (90 + 5) / 4,
        "p50_queue_s": 2.5,
        "p99_queue_s": pytest.approx(5 + 0.97 * 85),
        "p999_queue_s": pytest.approx(5 + 0.997 * 85),
        "max_queue_s": 90,
        "mean_bounded_slowdown": pytest.approx((1 + 1 + 92 / 10 + 55 / 50) / 4),
        "max_user_bounded_slowdown": pytest.approx(92 / 10),
        "utilisation": 1.0,
        "predictor_spearman": pytest.approx(scipy.stats.spearmanr([90, 90, 3, 0.002], [100, 100, 2, 50])[0], abs=1e-4),
        "jobs_per_cpu_s": 8.0,
        "calibration_80": 0.75,
        "wait_calibration_80": 0.5,
    }


def test_use_is_counted_only_between_the_first_and_the_last_submission(work):
    workload = work(("ann", 1, 0, 50), ("ann", 4, 100, 1000))
    outcome = Outcome(workload, "by hand", [0, 100_000], [], 1.0)
    assert figures(outcome).utilisation == pytest.approx(50 / 400)
    alone = Outcome(work(("ann", 1, 7, 50)), "by hand", [7_000], [], 1.0)
    assert figures(alone).utilisation is None


def test_an_oracle_has_no_predictions_to_be_judged(work):
    found = figures(Outcome(work(("ann", 1, 0, 5)), "by hand", [0], [], 1.0))
    assert (found.predictor_spearman, found.calibration_80, found.wait_calibration_80) == (None, None, None)


@pytest.mark.parametrize(
    ("wait_s", "run_s", "slowdown"), [(0, 0, 1), (0, 1, 1), (9, 1, 1), (19, 1, 2), (90, 0, 9), (100, 100, 2)]
)
def test_slowdown_counts_short_jobs_as_ten_seconds(wait_s, run_s, slowdown):
    assert bounded_slowdown(wait_s * 1000, run_s * 1000) == slowdown


values = st.lists(st.integers(0, 9), min_size=2, max_size=30)


@given(values, st.floats(0, 1))
def test_quantiles_are_those_of_numpy(numbers, share):
    assert quantile(sorted(numbers), share) == pytest.approx(float(numpy.quantile(numbers, share)))


@given(values, st.randoms())
def test_rank_correlation_is_scipys_also_with_ties(left, random):
    right = [random.randint(0, 9) for _ in left]
    assert ranked(left) == [rank - 1 for rank in scipy.stats.rankdata(left)]
    if len(set(left)) == 1 or len(set(right)) == 1:
        assert spearman(left, right) is None
    else:
        assert spearman(left, right) == pytest.approx(float(scipy.stats.spearmanr(left, right)[0]))


def test_over_time_queue_and_use_are_means_of_each_step(outcome):
    seen = timeline(outcome, steps=5)  # of 31 s; the last job ends after 155 s
    assert seen.hours == [pytest.approx((31 * step + 15.5) / 3600) for step in range(5)]
    assert seen.waiting == pytest.approx([21 / 31, 1, 1, (7 + 5) / 31, 0])
    assert seen.busy == pytest.approx([1, 1, 1, (7 * 4 + 2 * 4 + 19) / 31 / 4, 31 / 31 / 4])


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(1, 3)), max_size=20))
def test_means_over_steps_lose_nothing(spans):
    intervals = [(begin, begin + length, weight) for begin, length, weight in spans]
    edges = [step * 10.0 for step in range(11)]
    area = sum(length * weight for _, length, weight in spans)
    assert math.isclose(sum(mean * 10 for mean in means(intervals, edges)), area)


def test_coverage_tells_how_often_the_interval_held_by_predicted_length(outcome):
    groups = run_coverage(outcome, groups=2)
    assert [(group.jobs, group.likely_ms, group.share) for group in groups] == [(2, 3_000, 0.5), (2, 90_000, 1.0)]
    assert len(run_coverage(outcome, groups=10)) == 4
    groups = wait_coverage(outcome, groups=2)
    assert [(group.jobs, group.likely_ms, group.share) for group in groups] == [(1, 10_000, 0.0), (1, 85_000, 1.0)]
