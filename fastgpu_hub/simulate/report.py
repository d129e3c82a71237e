"""Figures for people: one replay as a list, several policies side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.box import SIMPLE_HEAD
from rich.table import Table

from fastgpu_hub.simulate.figures import Figures, quantile
from fastgpu_hub.simulate.replay import Outcome
from fastgpu_hub.simulate.workload import counted

NO_VALUE = "—"


@dataclass(frozen=True, slots=True)
class Column:
    """How a figure is called and written."""

    key: str
    short: str
    long: str
    form: str = "{:,.0f}"


COLUMNS = (
    Column("mean_jct_s", "JCT", "mean time from submission to end, s"),
    Column("mean_queue_s", "queue", "mean time in the queue, s"),
    Column("p50_queue_s", "p50", "median of it, s"),
    Column("p99_queue_s", "p99", "99 of 100 waited less, s"),
    Column("p999_queue_s", "p99.9", "999 of 1,000 waited less, s"),
    Column("max_queue_s", "max", "longest wait, s"),
    Column("mean_bounded_slowdown", "slowdown", "mean bounded slowdown", "{:,.1f}"),
    Column("max_user_bounded_slowdown", "user's", "largest mean bounded slowdown of a user", "{:,.1f}"),
    Column("utilisation", "use", "GPU time in use, first to last submission", "{:.1%}"),
    Column("predictor_spearman", "rank", "rank correlation of predicted and real run time", "{:.3f}"),
    Column("calibration_80", "80 %", "run times within the predicted 80 % interval", "{:.1%}"),
    Column("wait_calibration_80", "waits", "starts of those that waited within the predicted 80 % interval", "{:.1%}"),
    Column("jobs_per_cpu_s", "jobs/s", "jobs simulated per CPU second"),
)


def written(found: Figures, column: Column) -> str:
    """A figure as people read it; a dash where there is none."""
    value = getattr(found, column.key)
    return NO_VALUE if value is None else column.form.format(value)


def heading(outcome: Outcome) -> str:
    """What was simulated, in a line."""
    work = outcome.workload
    told = ", told all run times" if outcome.oracle else ""
    return (
        f"{counted(len(work.jobs), 'job')} of {work.name} on {counted(work.gpus, 'GPU')} in "
        f"{counted(len(work.pools), 'pool')}, policy {outcome.policy}{told}"
    )


def one(found: Figures) -> Table:
    """The figures of one replay."""
    table = Table(box=SIMPLE_HEAD, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for column in COLUMNS:
        table.add_row(column.long, written(found, column))
    return table


def side_by_side(found: Mapping[str, Figures]) -> Table:
    """A row for each policy."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("policy", no_wrap=True)
    for column in COLUMNS:
        table.add_column(column.short, justify="right", no_wrap=True)
    for policy, row in found.items():
        table.add_row(policy, *(written(row, column) for column in COLUMNS))
    return table


def legend() -> str:
    """What the short heads of :func:`side_by_side` mean."""
    return "; ".join(f"{column.short}: {column.long}" for column in COLUMNS) + "."


def by_kind(outcome: Outcome) -> Table:
    """Waits of notebook servers and of jobs apart."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("kind", "requests", "mean wait, min", "p50", "p95", "p99", "max"):
        table.add_column(name, justify="left" if name == "kind" else "right", no_wrap=True)
    waits = outcome.waits_ms()
    for kind in sorted({job.kind for job in outcome.workload.jobs}):
        minutes = sorted(
            wait / 60_000 for job, wait in zip(outcome.workload.jobs, waits, strict=True) if job.kind == kind
        )
        told = (fmean(minutes), *(quantile(minutes, share) for share in (0.5, 0.95, 0.99)), minutes[-1])
        table.add_row(kind, f"{len(minutes):,}", *(f"{value:,.1f}" for value in told))
    return table


def markdown(found: Mapping[str, Figures], leave_out: Sequence[str] = ()) -> str:
    """The table of :func:`side_by_side` for a document."""
    columns = [column for column in COLUMNS if column.key not in leave_out]
    lines = [
        f"| policy | {' | '.join(column.short for column in columns)} |",
        f"|---|{'---:|' * len(columns)}",
        *(
            f"| `{policy}` | {' | '.join(written(row, column) for column in columns)} |"
            for policy, row in found.items()
        ),
    ]
    return "\n".join(lines)
