"""How soon does a job's first line come, how many jobs a second run? FastGPU beside Slurm, task-spooler and
jupyter-scheduler.

All run at the same time on this machine, one is measured while the others are idle, in turn: every round asks each for
a first line, every larger round for many trivial jobs of one GPU. Medians. Slurm looks at its queue once a second, so
the moment within that second at which it is asked is drawn anyway, the same in every run. FastGPU's jobs are priced,
held, committed to disk, run, metered and charged, and its account must have paid what they cost to the micro-unit,
else the run fails. A peer that is not installed is left out and named.

    python benchmarks/jobs.py --json --jupyter-scheduler-python install
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import jobs_notebooks
import jobs_slurm
import jobs_tsp
from jobs_fastgpu import FastGPU

INSTALL = "install"
SLURM, SPOOLER, NOTEBOOKS = "Slurm", "task-spooler", "jupyter-scheduler"
FIRST_LINE_SHARE, RATE_FACTOR, FIRST_CELL_FACTOR = 40, 15, 3


@dataclass(frozen=True)
class Size:
    """How often each is asked, and for how many jobs."""

    lines: int
    rounds: int
    jobs: int
    slurm_jobs: int
    cells: int


FULL = Size(lines=31, rounds=3, jobs=1_000, slurm_jobs=1_000, cells=7)
QUICK = Size(lines=2, rounds=1, jobs=30, slurm_jobs=8, cells=1)


@dataclass
class Measured:
    """Seconds to the first line and to the first cell, jobs a second: every measurement, by the system's name."""

    line: dict[str, list[float]] = field(default_factory=dict)
    rate: dict[str, list[float]] = field(default_factory=dict)
    cell: dict[str, list[float]] = field(default_factory=dict)


def say(text: str) -> None:
    """Progress, as it happens."""
    print(text, flush=True)


def run(folder: Path, size: Size, scheduler_python: Path | None) -> Measured:
    """All systems that are installed, side by side."""
    measured = Measured()
    dice = random.Random(1)
    with contextlib.ExitStack() as stack:
        ours = stack.enter_context(FastGPU(folder / "fastgpu"))
        queues: list[Any] = [ours]
        if not jobs_slurm.missing():
            queues.append(stack.enter_context(jobs_slurm.Slurm(folder / "slurm")))
        if jobs_tsp.program():
            queues.append(stack.enter_context(jobs_tsp.TaskSpooler(folder / "tsp")))
        notebooks: list[Any] = [ours]
        if scheduler_python is not None:
            notebooks.append(
                stack.enter_context(jobs_notebooks.JupyterScheduler(folder / "notebooks", scheduler_python))
            )
        say("running: " + ", ".join(dict.fromkeys(system.name for system in (*queues, *notebooks))))
        for system in queues:  # cold files and caches are nobody's business here
            system.first_line()
        for system in notebooks:
            system.first_cell()

        for _ in range(size.lines):
            for system in queues:
                time.sleep(dice.random() if system.name == SLURM else 0.05)
                measured.line.setdefault(system.name, []).append(system.first_line())
        say(_latest("first line", measured.line, 1e3, "ms"))
        for number in range(size.cells):
            for system in notebooks if number % 2 == 0 else reversed(notebooks):
                measured.cell.setdefault(system.name, []).append(system.first_cell())
        say(_latest("first cell", measured.cell, 1, "s"))
        for _ in range(size.rounds):
            for system in queues:
                jobs = size.slurm_jobs if system.name == SLURM else size.jobs
                measured.rate.setdefault(system.name, []).append(system.jobs_per_s(jobs))
            say(_latest("jobs a second", measured.rate, 1, ""))
    return measured


def _latest(what: str, found: dict[str, list[float]], scale: float, unit: str) -> str:
    medians = (f"{name} {scale * statistics.median(values):,.2f} {unit}".rstrip() for name, values in found.items())
    return f"{what}: {', '.join(medians)}"


def figures(measured: Measured, left_out: list[str]) -> dict[str, Any]:
    """Medians and their ratios by the keys of ``--json``; None where a peer was left out."""
    line, rate, cell = (
        {name: statistics.median(values) for name, values in found.items()}
        for found in (measured.line, measured.rate, measured.cell)
    )
    return {
        "submit_to_first_line_p50_s": _rounded(line.get("FastGPU"), 5),
        "jobs_per_s": _rounded(rate.get("FastGPU"), 2),
        "slurm_submit_to_first_line_p50_s": _rounded(line.get(SLURM), 5),
        "slurm_jobs_per_s": _rounded(rate.get(SLURM), 2),
        "tsp_submit_to_first_line_p50_s": _rounded(line.get(SPOOLER), 5),
        "tsp_jobs_per_s": _rounded(rate.get(SPOOLER), 2),
        "notebook_first_cell_p50_s": _rounded(cell.get("FastGPU"), 4),
        "jupyter_scheduler_first_cell_p50_s": _rounded(cell.get(NOTEBOOKS), 4),
        "slurm_first_line_over_ours": _ratio(line.get(SLURM), line.get("FastGPU")),
        "jobs_per_s_over_slurm": _ratio(rate.get("FastGPU"), rate.get(SLURM)),
        "jobs_per_s_over_tsp": _ratio(rate.get("FastGPU"), rate.get(SPOOLER)),
        "jupyter_scheduler_first_cell_over_ours": _ratio(cell.get(NOTEBOOKS), cell.get("FastGPU")),
        "left_out": left_out,
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


def _ratio(above: float | None, below: float | None) -> float | None:
    return None if above is None or not below else round(above / below, 2)


def table(found: dict[str, Any]) -> str:
    """The figures for people: one line for each system, and what is wanted of ours."""

    def cells(*values: float | None, unit: str = "") -> list[str]:
        return ["left out" if value is None else f"{value:,.4g}{unit}" for value in values]

    rows = [["", "first line", "jobs/s", "first cell of a notebook"]]
    for name, prefix in (("FastGPU", ""), (SLURM, "slurm_"), (SPOOLER, "tsp_")):
        seconds, rate = found[f"{prefix}submit_to_first_line_p50_s"], found[f"{prefix}jobs_per_s"]
        first_cell = found["notebook_first_cell_p50_s"] if name == "FastGPU" else None
        row = [name, *cells(None if seconds is None else 1e3 * seconds, unit=" ms"), *cells(rate)]
        rows.append([*row, *(cells(first_cell, unit=" s") if name == "FastGPU" else ["—"])])
    rows.append([NOTEBOOKS, "—", "—", *cells(found["jupyter_scheduler_first_cell_p50_s"], unit=" s")])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for key, sentence, wanted in (
        ("slurm_first_line_over_ours", "first line sooner than Slurm's by", FIRST_LINE_SHARE),
        ("jobs_per_s_over_slurm", "jobs a second, times Slurm's", RATE_FACTOR),
        ("jupyter_scheduler_first_cell_over_ours", "first cell sooner than jupyter-scheduler's by", FIRST_CELL_FACTOR),
    ):
        ratio = found[key]
        shown = "left out" if ratio is None else f"{ratio:,.4g}"
        lines.append(f"{sentence}: {shown} (wanted: at least {wanted})")
    return "\n".join(lines)


def absent(scheduler_python: Path | None) -> list[str]:
    """The peers that are not installed."""
    here: list[tuple[str, Callable[[], bool]]] = [
        (SLURM, lambda: not jobs_slurm.missing()),
        (SPOOLER, lambda: jobs_tsp.program() is not None),
        (NOTEBOOKS, lambda: scheduler_python is not None),
    ]
    return [name for name, installed in here if not installed()]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Jobs, side by side with Slurm, task-spooler and jupyter-scheduler.")
    parser.add_argument("--quick", action="store_true", help="a smaller run, to see that it works; no figures to quote")
    parser.add_argument("--rounds", type=int, help="how often 1,000 jobs are run by each (default: 3)")
    parser.add_argument(
        "--jupyter-scheduler-python",
        metavar="PYTHON",
        help="a Python with jupyter-scheduler (default: this one, if it has it), or the word install: into a temporary "
        "environment",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line")
    chosen = parser.parse_args()
    size = QUICK if chosen.quick else FULL
    if chosen.rounds:
        size = Size(size.lines, chosen.rounds, size.jobs, size.slurm_jobs, size.cells)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fastgpu-bench-") as name:
        folder = Path(name)
        python = Path(chosen.jupyter_scheduler_python or sys.executable)
        if chosen.jupyter_scheduler_python == INSTALL:
            say("installing jupyter-scheduler")
            python = jobs_notebooks.install(folder / "venv")
        there = jobs_notebooks.version(python) is not None
        if chosen.jupyter_scheduler_python and not there:
            raise SystemExit(f"{python} has no jupyter-scheduler")
        left_out = absent(python if there else None)
        found = figures(run(folder, size, python if there else None), left_out)
    say(f"{table(found)}\n{time.monotonic() - began:.0f} s in all, {os.cpu_count()} processors")
    if left_out:
        say(f"left out, not installed: {', '.join(left_out)}")
    if chosen.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
