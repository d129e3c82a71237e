"""The figures a job reports: read whatever it wrote, thinned without losing their course, kept after the end."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgpu_hub.broker import metrics
from fastgpu_hub.broker.metrics import Point, kept, of_kept, read, thinned

H100 = "h100-80gb"


def report(*entries: object) -> bytes:
    return b"".join(json.dumps(entry).encode() + b"\n" for entry in entries)


def entry(value: object, step: object = None, name: object = "loss", at_ms: object = None) -> dict[str, object]:
    return {"name": name, "value": value, "step": step, "at_ms": at_ms}


def test_a_series_has_its_last_and_its_best_value() -> None:
    [series] = read(report(entry(0.5, 1), entry(0.2, 2, at_ms=7), entry(0.3, 3)))
    assert (series.name, series.count, series.last) == ("loss", 3, Point(3, 0.3))
    assert series.less_is_better
    assert series.best == Point(2, 0.2, 7)
    [accuracy] = read(
        report(entry(0.5, 1, "val_accuracy"), entry(0.9, 2, "val_accuracy"), entry(0.7, 3, "val_accuracy"))
    )
    assert accuracy.best == Point(2, 0.9)


@pytest.mark.parametrize("name", ["loss", "val_loss", "TrainLoss", "error_rate", "perplexity", "rmse", "WER", "nll"])
def test_less_is_better_where_the_name_says_so(name: str) -> None:
    assert read(report(entry(1.0, name=name)))[0].less_is_better


@pytest.mark.parametrize("name", ["accuracy", "f1", "mIoU", "reward", "bleu", "power", "answer_score"])
def test_more_is_better_elsewhere(name: str) -> None:
    assert not read(report(entry(1.0, name=name)))[0].less_is_better


@pytest.mark.parametrize("name", ["lr", "learning_rate", "optimizer/lr", "epoch"])
def test_what_is_set_and_not_reached_has_no_best(name: str) -> None:
    assert read(report(entry(1.0, name=name)))[0].best is None


def test_what_is_not_finite_is_told_and_is_never_the_best() -> None:
    text = b'{"name":"loss","value":0.5,"step":0}\n{"name":"loss","value":NaN}\n{"name":"loss","value":"inf"}\n'
    text += b'{"name":"loss","value":1e999}\n{"name":"loss","value":1%s}\n' % (b"0" * 400)
    [series] = read(text)
    assert [point.value for point in series.points] == [0.5, None, None, None, None]
    assert series.last.value is None
    assert series.best == Point(0, 0.5)
    [never] = read(report(entry("nan"), entry("-inf")))
    assert (never.best, never.lowest) == (None, None)


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b"null", b"[" * 900, b'{"name":1,"value":1}', b'{"value":1}', b'{"name":"","value":1}',
     b'{"name":"a","value":"x"}', b'{"name":"a","value":true}', b'{"name":"a","value":[1]}', b'{"name":"a"}',
     b'{"name":"\\ud800","value":1}', b'{"name":"\\u202e","value":1}',
     b'{"name":"a","value":1,"x":"' + b"y" * 2000 + b'"}',
     b"\xff\xfe", b'{"name":"a","value":{}}', b'{"name":["a"],"value":1}'],
)  # fmt: skip
def test_a_line_that_is_no_report_is_left_out(line: bytes) -> None:
    assert [series.name for series in read(line + b"\n" + report(entry(1)))] == ["loss"]


def test_a_step_or_an_instant_that_is_none_is_counted_or_left_out() -> None:
    steps = [None, True, "7", 1.5, 2**60, -3, 8.0]
    [series] = read(report(*(entry(1.0, step, at_ms=2**70) for step in steps)))
    assert sorted(point.step for point in series.points) == [-3, 0, 1, 2, 3, 4, 8]
    assert {point.at_ms for point in series.points} == {None}


def test_names_are_cut_cleaned_and_at_most_a_hundred() -> None:
    many = [entry(1, name=f"m{number}") for number in range(150)]
    assert len(read(report(*many))) == metrics.MOST_NAMES
    [series] = read(report(entry(1, name="a\x1b[31m\n" + "b" * 300)))
    assert series.name == "a[31m" + "b" * 95


@given(st.lists(st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=700), st.integers(4, 60))
def test_thinning_keeps_first_last_lowest_and_highest_in_their_order(values: list[float | None], most: int) -> None:
    points = [Point(step, value) for step, value in enumerate(values)]
    few = thinned(points, most)
    assert len(few) <= max(most, 0) or len(points) <= most
    assert [point.step for point in few] == sorted({point.step for point in few})
    assert set(few) <= set(points)
    if points:
        assert (few[0], few[-1]) == (points[0], points[-1])
    finite = [value for value in values if value is not None]
    if finite:
        shown = [point.value for point in few if point.value is not None]
        assert (min(shown), max(shown)) == (min(finite), max(finite))


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.none() | st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 99)
        ),
        max_size=80,
    )
)
def test_what_is_kept_is_small_and_read_back_exactly(reports: list[tuple[str, float | None, int]]) -> None:
    series = read(report(*(entry("nan" if value is None else value, step, name) for name, value, step in reports)))
    plain = json.loads(json.dumps(kept(series), allow_nan=False))
    assert of_kept(plain) == series


def test_many_values_are_kept_in_little_room() -> None:
    long = [
        metrics.Series(f"m{n}", tuple(Point(i, math.sin(i), 1_760_000_000_000) for i in range(600)), 600,
                       Point(0, 0.0), None, None)
        for n in range(40)
    ]  # fmt: skip
    assert len(json.dumps(kept(long))) < 100_000


@given(st.binary(max_size=3000))
def test_no_report_is_an_error(reported: bytes) -> None:
    for series in read(reported):
        assert series.name.isprintable()
        json.dumps(kept([series]), allow_nan=False).encode()


# ---------------------------------------------------------------- through the broker


async def test_figures_stay_after_the_end_and_after_the_files_are_gone(world) -> None:
    job = world.ok(await world.submit())
    for step in range(1000):
        world.engine.log_metric(job.id, "accuracy", step / 1000, step)
    world.engine.log_metric(job.id, "loss", float("nan"), 1000)
    running = world.ok(await world.broker.job_metrics(world.alice, job.id))
    assert [(m.name, m.count, m.last.value) for m in running] == [("accuracy", 1000, 0.999), ("loss", 1, None)]
    assert len(running[0].points) == metrics.MOST_POINTS
    world.engine.finish(job.id)
    await world.settle_down()
    world.engine._jobs[job.id].metrics = b""  # as when its folder is removed
    after = world.ok(await world.broker.job_metrics(world.teacher, job.id))
    assert [(m.name, m.count, m.last, m.best) for m in after] == [(m.name, m.count, m.last, m.best) for m in running]
    await world.restart()
    assert world.ok(await world.broker.job_metrics(world.alice, job.id)) == after


async def test_what_a_job_wrote_never_keeps_its_end_from_the_books(world, monkeypatch) -> None:
    job = world.ok(await world.submit())

    def broken(lease_id: str) -> None:
        raise RuntimeError("the disk is gone")

    monkeypatch.setattr(world.engine, "metrics", broken)
    world.engine.finish(job.id)
    await world.settle_down()
    monkeypatch.undo()
    assert world.ok(await world.broker.job(world.alice, job.id)).state == "succeeded"


async def test_a_job_that_reports_nothing_leaves_no_record(world) -> None:
    job = world.ok(await world.submit())
    world.engine.finish(job.id)
    await world.settle_down()
    assert await world.store.read(lambda uow: uow.run_record(job.id)) is None


async def test_progress_is_what_the_job_reports_else_what_its_bar_says(world) -> None:
    job = world.ok(await world.submit(time_limit_seconds=36_000, gpu_count=1))
    world.engine.write_log(job.id, b"x\n" * 3000 + " 25%|██▌       | 25/100 [01:00<03:00,  2.4s/it]".encode())
    await world.pass_time(60)
    seen = world.ok(await world.broker.job(world.alice, job.id))
    assert (seen.progress, seen.progress_from) == (0.25, "output")
    assert round((seen.eta_end - seen.started_at).total_seconds()) == 60 + 180
    world.engine.set_progress(job.id, 0.5)
    seen = world.ok(await world.broker.job(world.alice, job.id))
    assert (seen.progress, seen.progress_from) == (0.5, "report")
    assert round((seen.eta_end - seen.started_at).total_seconds()) == 120
    world.engine.finish(job.id, 1)
    await world.settle_down()
    assert world.ok(await world.broker.run(world.alice, job.id)).progress == 0.5


async def test_a_full_bar_says_nothing_of_what_comes_after_it(world) -> None:
    job = world.ok(await world.submit())
    world.engine.write_log(job.id, "100%|██████████| 100/100 [01:00<00:00,  1.67it/s]\n".encode())
    seen = world.ok(await world.broker.job(world.alice, job.id))
    assert (seen.progress, seen.progress_from) == (None, None)
