"""``python -m fastgpu_hub.simulate``: replay a trace, make up a day of classes, plan how many GPUs.

Exit codes: 0 done, 1 the policy failed, 2 the input cannot be simulated or the line was mistyped. Notes and progress go
to stderr; with ``--json`` the last line of stdout is one JSON object.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from fastgpu_hub.pricing.money import parse_money
from fastgpu_hub.scheduling.policies import POLICIES
from fastgpu_hub.simulate import class_day as days
from fastgpu_hub.simulate import planner as planning
from fastgpu_hub.simulate import plots, report
from fastgpu_hub.simulate.csv_trace import read_trace
from fastgpu_hub.simulate.figures import Figures, figures
from fastgpu_hub.simulate.plan_report import plan_json, plan_table, plan_verdict
from fastgpu_hub.simulate.plots import NoPlotError
from fastgpu_hub.simulate.replay import DEFAULT_POLICY, Outcome, StuckError, replay
from fastgpu_hub.simulate.swf import read_swf
from fastgpu_hub.simulate.workload import Job, TraceError, Workload

ALL = "all"
FAILED, REFUSED = 1, 2
PIPED_WIDTH = 160

app = typer.Typer(
    name="simulate",
    help="Replay jobs through the scheduler and the predictor that run in production, on a virtual clock.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Policy = Annotated[str, typer.Option("--policy", metavar="NAME", help=f"One of: {', '.join(POLICIES)}.")]
Policies = Annotated[
    str | None, typer.Option("--policies", metavar="NAMES", help="Several, with commas, or all: a table side by side.")
]
Oracle = Annotated[bool, typer.Option("--oracle", help="Tell the scheduler how long every job runs. To compare only.")]
Plot = Annotated[
    Path | None,
    typer.Option("--plot", metavar="FILE", help="Draw queue, use and calibration into an .svg or .png file."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the figures as one JSON object, on the last line.")]
Students = Annotated[int, typer.Option("--students", min=1, help="Students of all classes.")]
Shares = Annotated[int, typer.Option("--shares", min=1, max=64, help="Notebook servers that share one GPU.")]
Jobs = Annotated[float, typer.Option("--jobs-per-student", min=0, max=50, help="Jobs of a student, on average.")]
Attendance = Annotated[float, typer.Option("--attendance", min=0, max=1, help="Share of students who come to the lab.")]
Deadline = Annotated[float, typer.Option("--deadline", min=9, max=24, help="Hour of the evening's deadline.")]


@app.callback(invoke_without_command=True)
def trace(
    context: typer.Context,
    trace: Annotated[
        Path | None, typer.Option("--trace", metavar="FILE.csv", help="Jobs: job_id,user,vc,gpu_num,submit_s,duration.")
    ] = None,
    nodes: Annotated[
        Path | None, typer.Option("--nodes", metavar="NODES.csv", help="Where they ran: vc,nodes,gpus_per_node.")
    ] = None,
    swf: Annotated[
        Path | None, typer.Option("--swf", metavar="FILE.swf[.xz]", help="Jobs in the Standard Workload Format.")
    ] = None,
    processors: Annotated[
        int | None, typer.Option("--processors", min=1, help="With --swf: how many. Default: what the file says.")
    ] = None,
    policy: Policy = DEFAULT_POLICY,
    policies: Policies = None,
    oracle: Oracle = False,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Replay a trace and print its figures: time in the queue, slowdown, utilisation, quality of the predictions."""
    if context.invoked_subcommand is not None:
        return
    with _refusals():
        chosen = _chosen(policy, policies, plot)
        if swf is not None and trace is None and nodes is None:
            work = read_swf(swf, processors)
        elif swf is None and trace is not None and nodes is not None and processors is None:
            work = read_trace(trace, nodes)
        else:
            raise TraceError("name a trace: --trace FILE.csv with --nodes NODES.csv, or --swf FILE.swf")
        _simulate(work, chosen, oracle, plot, as_json)


@app.command("class-day")
def class_day(
    gpus: Annotated[int, typer.Option("--gpus", min=1, max=planning.MOST_GPUS, help="GPUs there are.")],
    students: Students = 300,
    shares: Shares = 1,
    jobs_per_student: Jobs = 3.0,
    attendance: Attendance = 0.85,
    deadline: Deadline = 22.0,
    seed: Annotated[int, typer.Option("--seed", help="Another number, another day.")] = 1,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.csv", help="Also write the day as a trace, for --trace.")
    ] = None,
    policy: Policy = DEFAULT_POLICY,
    policies: Policies = None,
    oracle: Oracle = False,
    plot: Plot = None,
    as_json: AsJson = False,
) -> None:
    """Simulate a made-up day: labs that begin all at once, jobs in between, an evening before a deadline."""
    with _refusals():
        chosen = _chosen(policy, policies, plot)
        day = days.ClassDay(
            students,
            attendance=attendance,
            jobs_per_student=jobs_per_student,
            deadline_hour=deadline,
            shares=shares,
        )
        asked = days.requests(day, seed)
        if out is not None:
            _write(out, asked)
        name = f"a day of {students} students (seed {seed})"
        _simulate(days.on_gpus(day, asked, gpus, name), chosen, oracle, plot, as_json)


@app.command()
def plan(
    students: Students = 300,
    share: Annotated[
        float, typer.Option("--share", min=0.01, max=1, help="Share of requests that are to wait no longer.")
    ] = 0.95,
    within_minutes: Annotated[
        float, typer.Option("--within-minutes", min=0, max=1440, help="Longest wait of that share.")
    ] = 10.0,
    seeds: Annotated[int, typer.Option("--days", min=1, max=100, help="Different days to simulate.")] = 5,
    shares: Shares = 1,
    jobs_per_student: Jobs = 3.0,
    attendance: Attendance = 0.85,
    deadline: Deadline = 22.0,
    price: Annotated[
        str | None, typer.Option("--price", metavar="AMOUNT", help="Price of a GPU for an hour, for example 2.50.")
    ] = None,
    hours: Annotated[int, typer.Option("--hours", min=1, max=24, help="Hours of the day that GPUs are paid for.")] = 24,
    policy: Policy = DEFAULT_POLICY,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="FILE", help="Draw waits against GPUs into an .svg or .png file.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find how many GPUs a number of students needs, so that nearly all of them wait only shortly."""
    with _refusals():
        (policy,) = _chosen(policy, None, plot)
        price_micros = _price(price)
        day = days.ClassDay(
            students,
            attendance=attendance,
            jobs_per_student=jobs_per_student,
            deadline_hour=deadline,
            shares=shares,
        )
        goal = planning.Goal(share, round(within_minutes * 60_000))
        with _trying() as tried:
            found = planning.plan(day, goal, range(1, seeds + 1), policy=policy, tried=tried)
        if plot is not None:
            plots.draw_plan(found, plot, price_micros=price_micros, hours=hours)
        if as_json:
            _print_json(plan_json(found, price_micros, hours))
        else:
            _show(plan_table(found, price_micros, hours), plan_verdict(found, students))


# ---------------------------------------------------------------- what they share


def _simulate(work: Workload, chosen: Sequence[str], oracle: bool, plot: Path | None, as_json: bool) -> None:
    for note in work.left_out:
        sys.stderr.write(f"Left out: {note}\n")
    found: dict[str, Figures] = {}
    for policy in chosen:
        with _replaying(policy) as progress:
            outcome = replay(work, policy, oracle=oracle, progress=progress)
        found[policy] = figures(outcome)
        if plot is not None:
            plots.draw_replay(outcome, plot)
    if as_json:
        by_policy = {policy: row.as_json() for policy, row in found.items()}
        _print_json(by_policy if len(chosen) > 1 else by_policy[chosen[0]])
    elif len(chosen) > 1:
        _show(report.heading(outcome).rpartition(", policy ")[0], report.side_by_side(found), report.legend())
    else:
        _show(*_one(outcome, found[chosen[0]]))


def _one(outcome: Outcome, found: Figures) -> Iterator[RenderableType]:
    yield report.heading(outcome)
    yield report.one(found)
    if any(job.kind != "job" for job in outcome.workload.jobs):
        yield report.by_kind(outcome)


def _chosen(policy: str, policies: str | None, plot: Path | None) -> list[str]:
    names = [policy] if policies is None else list(POLICIES) if policies == ALL else policies.split(",")
    names = list(dict.fromkeys(name.strip() for name in names))
    if unknown := [name for name in names if name not in POLICIES]:
        raise TraceError(f"there is no policy {', '.join(map(repr, unknown))}; use one of {', '.join(POLICIES)}")
    if plot is not None:
        if len(names) > 1:
            raise NoPlotError("--plot draws one policy: name it with --policy")
        plots.check(plot)
    return names


def _price(price: str | None) -> int | None:
    try:
        return None if price is None else parse_money(price)
    except ValueError as error:
        raise TraceError(f"--price {price!r}: {error}") from None


def _write(path: Path, asked: Sequence[Job]) -> None:
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            days.write_csv(asked, file)
    except OSError as error:
        raise TraceError(f"{path}: cannot be written ({error.strerror}); name a file in a folder that exists") from None


def _console(stderr: bool = False) -> Console:
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = PIPED_WIDTH
    return console


def _show(*parts: RenderableType) -> None:
    console = _console()
    for part in parts:
        console.print(part)


def _print_json(plain: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(plain) + "\n")


@contextmanager
def _refusals() -> Iterator[None]:
    """What cannot be simulated is one line on stderr and an exit code, never a stack trace."""
    try:
        yield
    except (TraceError, NoPlotError) as error:
        sys.stderr.write(f"simulate: {error}.\n")
        raise typer.Exit(REFUSED) from None
    except StuckError as error:
        sys.stderr.write(f"simulate: {error}. This is a fault of the policy.\n")
        raise typer.Exit(FAILED) from None


@contextmanager
def _replaying(policy: str) -> Iterator[Callable[[int, int], None]]:
    """A progress bar on a terminal. It is drawn only when told to, because a drawing thread would cost CPU time."""
    console = _console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task(policy, total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, refresh=True)

        yield show


@contextmanager
def _trying() -> Iterator[Callable[[int], None]]:
    console = _console(stderr=True)
    with console.status("simulating days") as status:
        yield lambda gpus: status.update(f"simulated days with {gpus} GPUs")
