"""Lines of a chart as SVG points, drawn without a script and without a style of their own. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from fastgpu.formatting import format_bytes
from fastgpu.models import Metric, RunUse
from fastgpu.run_views import at_step, figure

WIDTH, HEIGHT, MARGIN = 600, 120, 6
MOST_POINTS = 240
SHORT_GAP = 2


@dataclass(frozen=True, slots=True)
class Chart:
    """One course: ``lines`` are ``points`` of polylines, interrupted where nothing is told; ``top`` and ``bottom`` name
    the ends of its scale, ``first`` and ``last`` where it begins and ends; ``text`` says it for who does not see it."""

    lines: tuple[str, ...]
    top: str
    bottom: str
    first: str
    last: str
    text: str


def of_metric(metric: Metric) -> Chart | None:
    """A figure over its steps; None where there is nothing to draw: fewer than two finite values."""
    told = [(point.step, point.value) for point in metric.points]
    values = [value for _, value in told if value is not None]
    if len(values) < 2:
        return None
    lowest, highest = min(values), max(values)
    steps = metric.points[0].step, metric.points[-1].step
    course = f"from {figure(values[0])} to {figure(values[-1])}, best {at_step(metric.best)}"
    return Chart(
        _lines(told, lowest, highest),
        figure(highest),
        figure(lowest),
        f"step {steps[0]}",
        f"step {steps[1]}",
        f"{metric.name} over {metric.count} values: {course}",
    )


def of_use(use: RunUse, first: str, last: str) -> Chart | None:
    """Utilisation in percent over the run."""
    told = _bridged([(place, point.mean_percent) for place, point in enumerate(use.points)])
    if sum(value is not None for _, value in told) < 2:
        return None
    text = f"Utilisation over the run: {use.mean_percent or 0:.0f} % on average, {use.peak_percent or 0:.0f} % at most"
    return Chart(_lines(told, 0, 100), "100 %", "0 %", first, last, text)


def of_memory(use: RunUse, first: str, last: str) -> Chart | None:
    """Memory in use over the run, up to all there is."""
    told = _bridged([(place, point.memory_peak_bytes) for place, point in enumerate(use.points)])
    whole = use.memory_total_bytes or use.memory_peak_bytes
    if not whole or sum(value is not None for _, value in told) < 2:
        return None
    text = f"Memory over the run: {format_bytes(use.memory_peak_bytes)} of {format_bytes(whole)} at most"
    return Chart(_lines(told, 0, whole), format_bytes(whole), "0 B", first, last, text)


def _bridged(told: Sequence[tuple[int, float | None]]) -> list[tuple[int, float | None]]:
    """Without the short gaps that come of reading a little less often than there are stretches."""
    kept: list[tuple[int, float | None]] = []
    for gap, items in groupby(told, key=lambda item: item[1] is None):
        stretch = list(items)
        if not gap or len(stretch) > SHORT_GAP:
            kept += stretch
    return kept


def _lines(told: Sequence[tuple[int, float | None]], bottom: float, top: float) -> tuple[str, ...]:
    """Polylines through what is told. Values that are all the same run along the middle."""
    begin, end = told[0][0], told[-1][0]
    lines: list[list[str]] = [[]]
    for at, value in _fewer(told):
        if value is None:
            lines.append([])
            continue
        x = WIDTH * _share(at, begin, end, 0.0)
        y = MARGIN + (HEIGHT - 2 * MARGIN) * (1 - _share(value, bottom, top, 0.5))
        lines[-1].append(f"{x:.1f},{y:.1f}")
    return tuple(" ".join(_visible(line)) for line in lines if line)


def _visible(line: list[str]) -> list[str]:
    """A single point as a short stroke, for a line needs two."""
    if len(line) > 1:
        return line
    x, _, y = line[0].partition(",")
    return [f"{max(0.0, float(x) - 3):.1f},{y}", f"{min(float(WIDTH), float(x) + 3):.1f},{y}"]


def _share(value: float, bottom: float, top: float, without: float) -> float:
    """Where a value lies between two others, 0–1; halved first, for their difference may be no number any more."""
    whole = top / 2 - bottom / 2
    return min(1.0, max(0.0, (value / 2 - bottom / 2) / whole)) if whole > 0 and math.isfinite(whole) else without


def _fewer(told: Sequence[tuple[int, float | None]]) -> Iterable[tuple[int, float | None]]:
    """At most as many as a screen can show: of each stretch its lowest and its highest, in their order."""
    if len(told) <= MOST_POINTS:
        return told
    stretches = MOST_POINTS // 2
    shown: list[tuple[int, float | None]] = []
    for place in range(stretches):
        stretch = told[place * len(told) // stretches : (place + 1) * len(told) // stretches]
        finite = [item for item in stretch if item[1] is not None]
        shown += sorted({min(finite, key=_value), max(finite, key=_value)}) if finite else stretch[:1]
    return shown


def _value(item: tuple[int, float | None]) -> float:
    return item[1] if item[1] is not None else 0.0
