"""Drawings of a replay and of a plan, as SVG or PNG. Needs matplotlib, the extra ``plots``, imported on first use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from operator import mul
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from fastgpu_hub.simulate.planner import Plan, cost_micros
from fastgpu_hub.simulate.replay import Outcome
from fastgpu_hub.simulate.report import heading
from fastgpu_hub.simulate.timeline import Coverage, run_coverage, timeline, wait_coverage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KINDS = (".svg", ".png")
BLUE, ORANGE, GREY = "#1f5fa8", "#c85a11", "#666666"
HELD_FROM, HELD_TO = 0.75, 0.85
CALIBRATIONS = (("run time", run_coverage), ("wait", wait_coverage))
MICROS = 1_000_000


class NoPlotError(Exception):
    """A drawing cannot be made; the message says what helps."""


def check(path: Path) -> None:
    """Raises NoPlotError when nothing can be drawn into a file of this name, before time is spent on what to draw."""
    if path.suffix.lower() not in KINDS:
        raise NoPlotError(f"{path}: a drawing is a file that ends in {' or '.join(KINDS)}")
    if not path.absolute().parent.is_dir():
        raise NoPlotError(f"{path}: there is no folder {path.absolute().parent}; make it first")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise NoPlotError("drawings need matplotlib: pip install 'fastgpu-hub[plots]'") from None


def draw_replay(outcome: Outcome, path: Path) -> None:
    """Queue and use over time, and the predictions' calibration where there are any. Raises NoPlotError."""
    panels = [(words, groups) for words, of in CALIBRATIONS if (groups := of(outcome))]
    figure, axes = _axes(2 + len(panels))
    over_time = timeline(outcome)
    axes[0].plot(over_time.hours, over_time.waiting, color=BLUE, linewidth=1)
    axes[0].set(ylabel="jobs waiting", title=heading(outcome))
    axes[1].fill_between(over_time.hours, [100 * busy for busy in over_time.busy], color=BLUE, alpha=0.6, linewidth=0)
    axes[1].set(ylabel="GPUs in use, %", xlabel="hours since the first submission", ylim=(0, 100))
    for upper in axes[:2]:
        upper.set_xlim(0, over_time.hours[-1])
    for panel, (words, groups) in zip(axes[2:], panels, strict=True):
        _calibration(panel, words, {"": groups})
    _save(figure, path)


def draw_calibration(found: Mapping[str, Outcome], path: Path) -> None:
    """How often the 80 % intervals of run times and of waits held, for several workloads. Raises NoPlotError."""
    figure, axes = _axes(len(CALIBRATIONS))
    for panel, (words, of) in zip(axes, CALIBRATIONS, strict=True):
        _calibration(panel, words, {name: of(outcome) for name, outcome in found.items()})
    _save(figure, path)


def draw_plan(found: Plan, path: Path, *, price_micros: int | None = None, hours: int = 24) -> None:
    """Waits against the number of GPUs, and what they cost. Raises NoPlotError."""
    figure, (axes,) = _axes(1.4)
    trials = found.telling()
    gpus = [trial.gpus for trial in trials]
    for name, waits, colour in (
        ("99 of 100", [trial.p99_wait_ms for trial in trials], GREY),
        ("95 of 100", [trial.p95_wait_ms for trial in trials], BLUE),
        ("half", [trial.p50_wait_ms for trial in trials], ORANGE),
    ):
        minutes = [[wait / 60_000 for wait in days] for days in waits]
        axes.plot(gpus, [median(days) for days in minutes], color=colour, marker=".", label=f"{name} wait less")
        axes.fill_between(gpus, list(map(min, minutes)), list(map(max, minutes)), color=colour, alpha=0.15)
    axes.axhline(found.goal.within_ms / 60_000, color="black", linewidth=0.8, linestyle="--")
    if found.for_every_day is not None:
        axes.axvline(found.for_every_day, color="black", linewidth=0.8)
        axes.text(
            found.for_every_day, 0.97, f" {found.for_every_day} GPUs", transform=axes.get_xaxis_transform(), va="top"
        )
    axes.set_yscale("symlog", linthresh=1)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set(xlabel="GPUs", ylabel="minutes in the queue", ylim=(0, None))
    axes.set_title(f"Line: median of {found.days} days; band: best to worst day; dashed: the goal", fontsize=9)
    axes.legend(frameon=False, loc="lower left")
    if price_micros:
        each = cost_micros(1, price_micros, hours) / MICROS
        costs = axes.secondary_xaxis(-0.22, functions=(partial(mul, each), partial(mul, 1 / each)))
        costs.set_xlabel(f"cost of {hours} hours")
    _save(figure, path)


def _axes(height: float) -> tuple[Figure, list[Axes]]:
    # The object interface without pyplot: no display is looked for, nothing stays in memory.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 2.6 * height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(int(height), 1, squeeze=False)[:, 0]
    return figure, list(axes)


def _calibration(axes: Axes, words: str, found: Mapping[str, Sequence[Coverage]]) -> None:
    axes.axhspan(100 * HELD_FROM, 100 * HELD_TO, color=GREY, alpha=0.2, linewidth=0)
    axes.axhline(80, color="black", linewidth=0.8, linestyle="--")
    for (name, groups), colour in zip(found.items(), (BLUE, ORANGE, GREY), strict=False):
        places = range(1, len(groups) + 1)
        axes.plot(places, [100 * group.share for group in groups], color=colour, marker="o", label=name)
    axes.set(ylim=(0, 100), ylabel=f"{words}s within\nthe 80 % interval, %")
    axes.set_xlabel(f"tenths of the jobs, from the shortest predicted {words} to the longest")
    axes.set_xticks(range(1, 11))
    if any(found):
        axes.legend(frameon=False, loc="lower right")


def _save(figure: Figure, path: Path) -> None:
    """The same drawing gives the same bytes."""
    import matplotlib

    metadata: dict[str, Any] = {"Date": None} if path.suffix.lower() == ".svg" else {"Software": None}
    with matplotlib.rc_context({"svg.hashsalt": "fastgpu", "svg.fonttype": "none"}):
        try:
            figure.savefig(path, dpi=120, metadata=metadata)
        except OSError as error:
            raise NoPlotError(f"{path}: cannot be written ({error.strerror})") from None
