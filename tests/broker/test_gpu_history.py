"""The use of a run's GPUs: little room however long it runs, the same mean however often somebody looks."""

from __future__ import annotations

import asyncio
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from fastgpu_hub.broker.gpu_history import MOST_BUCKETS, History, Reading, reading, summary
from fastgpu_hub.broker.ports.records import RunRecord
from fastgpu_hub.broker.ports.world import GpuSample

SECOND, GIB = 1000, 2**30
# In the tests' clock. One reading a second over an hour, one a minute over a week.
PACES = ((3600, SECOND), (7 * 24 * 60, 60 * SECOND))


def busy(percent: float, gib: int = 10) -> Reading:
    return Reading(percent, gib * GIB, 80 * GIB)


def test_mean_and_peaks_are_those_of_the_run() -> None:
    for count, pace_ms in PACES:
        history = History(0)
        for place in range(count):
            history.add(place * pace_ms, busy(100 if place < count // 4 else 20, 5 if place else 70))
        whole = summary(history.plain())
        assert abs(whole.mean_percent - 40) < 1
        assert (whole.peak_percent, whole.memory_peak_bytes) == (100, 70 * GIB)
        assert len(history.plain()["buckets"]) <= MOST_BUCKETS
        assert len(json.dumps(history.plain())) < 10_000


def test_who_looks_often_does_not_change_the_mean() -> None:
    seldom, often = History(0), History(0)
    for second in range(0, 2400, 5):  # so long that buckets are joined
        works = second % 10 == 5
        seldom.add(second * SECOND, busy(100 * works))
        for _ in range(20 if works else 1):
            often.add(second * SECOND, busy(100 * works))
            often.plain()
    assert summary(often.plain()) == summary(seldom.plain())
    assert summary(often.plain()).mean_percent == 50


def test_what_no_device_tells_is_none_not_zero() -> None:
    history = History(0)
    history.add(0, reading([GpuSample("a", 0)]))
    history.add(5 * SECOND, reading([GpuSample("a", 0, 50, lost=True)]))
    assert summary(history.plain()) == (None, None, None)
    assert summary(History(0).plain()) == (None, None, None)


def test_several_devices_are_read_as_one() -> None:
    read = reading([GpuSample("a", 0, 100, GIB, 80 * GIB), GpuSample("b", 0, 0, 3 * GIB, 80 * GIB), GpuSample("c", 0)])
    assert read == Reading(50, 4 * GIB, 160 * GIB)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(-(10**6), 10**10), st.none() | st.integers(0, 100), st.none() | st.integers(0, 99))),
    st.integers(0, 10**13),
)
def test_any_clock_and_any_reading_fit_and_go_on_after_a_restart(
    readings: list[tuple[int, int | None, int | None]], from_ms: int
) -> None:
    history, resumed = History(from_ms), History(from_ms)
    for at_ms, use, memory in readings:
        read = Reading(use, memory, 100)
        history.add(from_ms + at_ms, read)
        resumed = History.of_plain(json.loads(json.dumps(resumed.plain())))
        resumed.add(from_ms + at_ms, read)
    plain, again = history.plain(), resumed.plain()
    assert len(plain["buckets"]) <= MOST_BUCKETS
    assert (plain["width_ms"], len(plain["buckets"])) == (again["width_ms"], len(again["buckets"]))
    used = [use for _, use, _ in readings if use is not None]
    assert summary(plain).peak_percent == summary(again).peak_percent == (max(used) if used else None)


# ---------------------------------------------------------------- through the broker


async def test_the_use_of_a_run_is_kept_with_its_end(world) -> None:
    job = world.ok(await world.submit(gpu_count=2))
    for _ in range(3):
        await world.broker.runtime.gpus.sample(max_age_ms=0)
        world.clock.ms += 60_000
    running = world.ok(await world.broker.run(world.alice, job.id))
    assert (running.use.mean_percent, running.use.peak_percent) == (7, 7)
    assert sum(point.mean_percent is not None for point in running.use.points) == 3
    world.engine.finish(job.id)
    await world.settle_down()
    assert world.ok(await world.broker.run(world.teacher, job.id)).use == running.use
    assert world.broker.runtime.runs.history(job.id) is None


async def test_the_use_that_was_saved_survives_a_kill_and_goes_on(world) -> None:
    job = world.ok(await world.submit())
    await world.broker.runtime.gpus.sample(max_age_ms=0)
    await world.broker.runtime.runs.save()
    world.clock.ms += 600_000
    await world.restart()
    while not world.broker.runtime.runs._taken_up:
        await asyncio.sleep(0.001)
    await world.broker.runtime.gpus.sample(max_age_ms=0)
    use = world.ok(await world.broker.run(world.alice, job.id)).use
    assert sum(point.mean_percent is not None for point in use.points) == 2


async def test_one_that_ended_while_the_service_was_away_keeps_what_was_read_before(world) -> None:
    job = world.ok(await world.submit())
    await world.broker.runtime.gpus.sample(max_age_ms=0)
    await world.broker.runtime.runs.save()
    await world.close()
    world.engine.log_metric(job.id, "loss", 0.5)
    world.engine.finish(job.id)
    await world.open()
    await world.settle_down()
    run = world.ok(await world.broker.run(world.alice, job.id))
    assert (run.job.state, run.use.mean_percent, run.metrics[0].last.value) == ("succeeded", 7, 0.5)


async def test_a_second_word_of_the_same_end_changes_nothing_that_is_kept(world) -> None:
    job = world.ok(await world.submit())
    await world.broker.runtime.gpus.sample(max_age_ms=0)
    world.engine.finish(job.id)
    await world.settle_down()
    before = await world.store.read(lambda uow: uow.run_record(job.id))
    world.engine.log_metric(job.id, "late", 1.0)
    await world.broker.runtime.follow(await world.engine.observe(job.id))
    assert await world.store.read(lambda uow: uow.run_record(job.id)) == before
    assert isinstance(before, RunRecord)
