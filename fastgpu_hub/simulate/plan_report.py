"""A plan for people and as plain data."""

from __future__ import annotations

from math import floor
from statistics import fmean, median
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from fastgpu_hub.pricing.money import format_money
from fastgpu_hub.simulate.planner import Plan, Trial, cost_micros
from fastgpu_hub.simulate.workload import counted

MS_PER_MINUTE = 60_000


def plan_verdict(found: Plan, students: int) -> str:
    """The answer in a sentence or two."""
    goal = f"{found.goal.share:.0%} of the requests wait at most {found.goal.within_ms / MS_PER_MINUTE:g} min"
    if found.for_every_day is None:
        most = found.trials[-1]
        median_day = counted(found.for_most_days or 0, "GPU")
        enough = f" On the median day {median_day} are enough." if found.for_most_days else ""
        return (
            f"Even {counted(most.gpus, 'GPU')} are not enough for {counted(students, 'student')}: on the worst day "
            f"{min(most.met_shares):.1%} of the requests met the goal ({goal}).{enough}"
        )
    return (
        f"{counted(students, 'student')} need {counted(found.for_every_day, 'GPU')}: then {goal}, on each of "
        f"{counted(found.days, 'simulated day')}. On the median day {found.for_most_days} are enough."
    )


def plan_table(found: Plan, price_micros: int | None, hours: int) -> Table:
    """A row for each number of GPUs that was tried: median day / worst day."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, caption="Median day / worst day.", caption_justify="left")
    within = f"within {found.goal.within_ms / MS_PER_MINUTE:g} min"
    heads = ("GPUs", within, "p50 wait, min", "p95 wait, min", "p99 wait, min", "in use")
    for head in (*heads, *(("cost of a day",) if price_micros is not None else ()), ""):
        table.add_column(head, justify="right" if head else "left", no_wrap=True)
    for trial in found.telling():
        waits = (trial.p50_wait_ms, trial.p95_wait_ms, trial.p99_wait_ms)
        cells = [
            f"{trial.gpus:,}",
            f"{_percent(median(trial.met_shares))} / {_percent(min(trial.met_shares))}",
            *(f"{median(wait) / MS_PER_MINUTE:,.1f} / {max(wait) / MS_PER_MINUTE:,.1f}" for wait in waits),
            f"{fmean(trial.utilisations):.0%}",
        ]
        if price_micros is not None:
            cells.append(format_money(cost_micros(trial.gpus, price_micros, hours)))
        table.add_row(*cells, _remark(found, trial))
    return table


def plan_json(found: Plan, price_micros: int | None, hours: int) -> dict[str, Any]:
    """The answers, and every number of GPUs that was tried with its waits on each day, in seconds."""
    return {
        "gpus_for_median_day": found.for_most_days,
        "gpus_for_every_day": found.for_every_day,
        "share": found.goal.share,
        "within_s": found.goal.within_ms / 1000,
        "days": found.days,
        "trials": [
            {
                "gpus": trial.gpus,
                "shares_met": [round(share, 4) for share in trial.met_shares],
                **{
                    f"{name}_queue_s": [round(wait / 1000, 1) for wait in waits]
                    for name, waits in (
                        ("p50", trial.p50_wait_ms),
                        ("p95", trial.p95_wait_ms),
                        ("p99", trial.p99_wait_ms),
                    )
                },
                "utilisations": [round(used, 4) for used in trial.utilisations],
                "cost_micros": None if price_micros is None else cost_micros(trial.gpus, price_micros, hours),
            }
            for trial in found.trials
        ],
    }


def _percent(share: float) -> str:
    """Rounded down, so that a goal just missed never reads as met."""
    return f"{floor(share * 1000) / 10:.1f}%"


def _remark(found: Plan, trial: Trial) -> str:
    if trial.gpus == found.for_every_day:
        return "enough every day"
    return "enough on the median day" if trial.gpus == found.for_most_days else ""
