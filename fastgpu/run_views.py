"""What a run told of itself, as a view: its figures and the use of its GPUs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fastgpu import models
from fastgpu.formatting import NO_VALUE, format_bytes, one_line
from fastgpu.view import Lens, Table, View

NOT_FINITE = "not a number"


def figure(value: float | None) -> str:
    """A reported figure: five digits that say something, no trailing zeros; what is not finite in words."""
    if value is None or not math.isfinite(value):
        return NOT_FINITE
    return f"{value:.5g}"


def percent(value: float | None) -> str:
    """``63 %``, or a dash when no device told."""
    return NO_VALUE if value is None else f"{value:.0f} %"


def at_step(point: models.MetricPoint | None) -> str:
    """``0.97 at step 30``; a dash where there is none."""
    return NO_VALUE if point is None else f"{figure(point.value)} at step {point.step}"


def metric_table(answer: Sequence[models.Metric]) -> Table:
    """Each figure with its last and its best value."""
    rows = tuple(
        (
            one_line(metric.name),
            figure(metric.last.value),
            str(metric.last.step),
            at_step(metric.best),
            NO_VALUE if metric.best is None else "lower" if metric.less_is_better else "higher",
            str(metric.count),
        )
        for metric in answer
    )
    columns = ("metric", "last", "step", "best", "better is", "values")
    empty = "none reported; a job does with fastgpu.log_metric(name, value, step)"
    return Table(columns, rows, frozenset({1, 2, 5}), "Metrics", empty=empty)


def metrics(job_id: str, answer: Sequence[models.Metric], lens: Lens) -> View:
    """The figures that a job reports."""
    return View(f"Metrics of job {one_line(job_id)}", lens.now, tables=(metric_table(answer),))


def use_words(use: models.RunUse | None) -> str:
    """The use of a run's GPUs in a line; the empty string where nothing was read."""
    if use is None or (use.mean_percent is None and use.memory_peak_bytes is None):
        return ""
    memory = f"{format_bytes(use.memory_peak_bytes)} of {format_bytes(use.memory_total_bytes)}"
    return (
        f"GPU {percent(use.mean_percent)} busy on average, {percent(use.peak_percent)} at most, memory up to {memory}"
    )
