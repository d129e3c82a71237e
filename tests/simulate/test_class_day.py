"""A made-up day: the same for the same seed, shaped as described, and good as a trace."""

from __future__ import annotations

from collections import Counter
from statistics import median

import pytest

from fastgpu_hub.simulate import class_day
from fastgpu_hub.simulate.class_day import HOUR_MS, MINUTE_MS, ClassDay, on_gpus, requests, write_csv
from fastgpu_hub.simulate.csv_trace import read_trace


def test_a_seed_is_a_day_and_another_seed_is_another_day():
    day = ClassDay(students=40)
    assert requests(day, 1) == requests(day, 1)
    assert requests(day, 1) != requests(day, 2)


def test_labs_begin_all_at_once_and_the_evening_is_busy():
    day = ClassDay(students=1500)
    asked = requests(day, 7)
    sessions = [job for job in asked if job.kind == "server"]
    assert len(sessions) / day.students == pytest.approx(day.attendance, abs=0.03)
    starts = [hour * HOUR_MS for hour in class_day.LAB_HOURS]
    late = [job.submit_ms - max(start for start in starts if start <= job.submit_ms) for job in sessions]
    assert median(late) == pytest.approx(class_day.COMING_MINUTES * MINUTE_MS, rel=0.1)
    assert sum(wait < 10 * MINUTE_MS for wait in late) > 0.95 * len(late)
    ends = [job.submit_ms + job.run_ms for job in sessions]
    assert median(end - lag for end, lag in zip(ends, late, strict=True)) > 0

    jobs = [job for job in asked if job.kind == "job"]
    assert len(jobs) / day.students == pytest.approx(day.jobs_per_student, rel=0.08)
    last_hours = [job for job in jobs if 20 * HOUR_MS <= job.submit_ms < 22 * HOUR_MS]
    noon = [job for job in jobs if 12 * HOUR_MS <= job.submit_ms < 14 * HOUR_MS]
    assert len(last_hours) > 2 * len(noon)
    assert all(8 * HOUR_MS <= job.submit_ms <= 22 * HOUR_MS for job in jobs)


def test_run_times_are_short_for_tries_long_for_trainings_and_never_beyond_the_limit():
    jobs = [job for job in requests(ClassDay(students=1500), 3) if job.kind == "job"]
    assert all(job.limit_ms is not None and 1000 <= job.run_ms <= job.limit_ms for job in jobs)
    short = sum(job.run_ms < 2 * MINUTE_MS for job in jobs) / len(jobs)
    assert class_day.TRIES * 0.8 < short < class_day.TRIES * 1.3
    stopped = sum(job.run_ms == job.limit_ms for job in jobs) / len(jobs)
    assert 0.01 < stopped < 0.08
    sizes = Counter(job.gpu_count for job in jobs)
    assert set(sizes) == set(class_day.GPU_COUNTS)
    assert sizes[1] / len(jobs) == pytest.approx(class_day.GPU_SHARES[0], abs=0.03)


def test_gpus_come_in_servers_of_eight_and_shared_ones_each_on_their_own():
    asked = requests(ClassDay(students=20), 1)
    assert on_gpus(ClassDay(students=20), asked, 20).pools[0].node_gpus == (8, 8, 4)
    assert on_gpus(ClassDay(students=20), asked, 16).pools[0].node_gpus == (8, 8)
    shared = ClassDay(students=200, shares=4)
    asked = requests(shared, 1)
    assert on_gpus(shared, asked, 20).pools[0].node_gpus == (4,) * 20
    assert {job.gpu_count for job in asked if job.kind == "server"} == {1}
    assert {job.gpu_count for job in asked if job.kind == "job"} == {4, 8, 16}


def test_a_written_day_is_read_again_as_it_was(tmp_path):
    day = ClassDay(students=50)
    asked = requests(day, 5)
    with (tmp_path / "day.csv").open("w") as file:
        write_csv(asked, file)
    (tmp_path / "nodes.csv").write_text("vc,nodes,gpus_per_node\ngpu,3,8\n")

    def plain(jobs):
        return [(j.user, j.gpu_count, j.submit_ms, j.run_ms, j.limit_ms, j.name, j.kind) for j in jobs]

    assert plain(read_trace(tmp_path / "day.csv", tmp_path / "nodes.csv").jobs) == plain(asked)
