"""The planner's answer keeps its promise, and one GPU less does not."""

from __future__ import annotations

from statistics import median

import pytest

from fastgpu_hub.simulate.class_day import ClassDay, on_gpus, requests
from fastgpu_hub.simulate.plan_report import plan_json, plan_table, plan_verdict
from fastgpu_hub.simulate.planner import Goal, Plan, Trial, cost_micros, plan
from fastgpu_hub.simulate.replay import replay

DAY = ClassDay(students=20, class_size=10)
SEEDS = (1, 2)


def shares_met(gpus: int, goal: Goal, day: ClassDay = DAY) -> list[float]:
    found = []
    for seed in SEEDS:
        waits = replay(on_gpus(day, requests(day, seed), gpus)).waits_ms()
        found.append(sum(wait <= goal.within_ms for wait in waits) / len(waits))
    return found


@pytest.mark.parametrize("shares", [1, 4])
def test_the_answer_meets_the_goal_and_one_gpu_less_does_not(shares):
    day = ClassDay(students=20, class_size=10, shares=shares)
    goal = Goal(0.9, 300_000)
    found = plan(day, goal, SEEDS)
    assert found.for_most_days is not None
    assert found.for_every_day is not None
    assert found.for_most_days <= found.for_every_day
    assert median(shares_met(found.for_most_days, goal, day)) >= 0.9
    assert min(shares_met(found.for_every_day, goal, day)) >= 0.9
    assert min(shares_met(found.for_every_day - 1, goal, day)) < 0.9
    by_gpus = {trial.gpus: trial for trial in found.trials}
    assert list(by_gpus[found.for_every_day].met_shares) == shares_met(found.for_every_day, goal, day)
    assert any(trial.gpus > found.for_every_day for trial in found.trials)


def test_more_students_need_more_gpus():
    few = plan(ClassDay(students=10), Goal(), (1,)).for_every_day
    many = plan(ClassDay(students=40), Goal(), (1,)).for_every_day
    assert few is not None
    assert many is not None
    assert few < many


def test_a_goal_beyond_reach_is_said_and_not_searched_for_ever():
    found = plan(DAY, Goal(1.0, 0), (1,), most=4)
    assert (found.for_most_days, found.for_every_day) == (None, None)
    assert max(trial.gpus for trial in found.trials) == 4
    verdict = plan_verdict(found, 20)
    assert verdict.startswith("Even 4 GPUs are not enough for 20 students: on the worst day ")


def test_every_number_tried_is_told():
    told: list[int] = []
    found = plan(DAY, Goal(), (1,), tried=told.append)
    assert sorted(told) == [trial.gpus for trial in found.trials]
    assert len(told) == len(set(told))


def test_the_cost_of_a_day_is_exact():
    assert cost_micros(16, 2_500_000, 24) == 16 * 24 * 2_500_000


@pytest.fixture
def found() -> Plan:
    def trial(gpus: int, *met: float) -> Trial:
        waits = [1_200_000.0 / gpus] * len(met)
        return Trial(gpus, met, [0.0] * len(met), waits, waits, [0.5] * len(met))

    trials = (trial(1, 0.1, 0.2, 0.3), trial(10, 0.9, 0.96, 0.97), trial(12, 0.95, 0.97, 1.0), trial(40, 1, 1, 1))
    return Plan(Goal(), 3, 10, 12, trials)


def test_the_answer_is_a_sentence_a_table_and_plain_data(found):
    assert plan_verdict(found, 300) == (
        "300 students need 12 GPUs: then 95% of the requests wait at most 10 min, on each of 3 simulated days. "
        "On the median day 10 are enough."
    )
    table = plan_table(found, 2_500_000, 24)
    cells = [list(column.cells) for column in table.columns]
    assert cells[0] == ["10", "12"]  # what is far from the answer is not shown
    assert cells[1] == ["96.0% / 90.0%", "97.0% / 95.0%"]
    assert cells[3] == ["2.0 / 2.0", "1.7 / 1.7"]
    assert cells[-2] == ["600.00", "720.00"]
    assert cells[-1] == ["enough on the median day", "enough every day"]
    plain = plan_json(found, None, 24)
    assert (plain["gpus_for_median_day"], plain["gpus_for_every_day"], plain["days"]) == (10, 12, 3)
    assert [trial["gpus"] for trial in plain["trials"]] == [1, 10, 12, 40]
    assert plain["trials"][2] == {
        "gpus": 12,
        "shares_met": [0.95, 0.97, 1.0],
        "p50_queue_s": [0.0, 0.0, 0.0],
        "p95_queue_s": [100.0, 100.0, 100.0],
        "p99_queue_s": [100.0, 100.0, 100.0],
        "utilisations": [0.5, 0.5, 0.5],
        "cost_micros": None,
    }
