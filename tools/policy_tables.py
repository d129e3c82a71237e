"""The figures and drawings about scheduling in the documents: ``python -m tools.policy_tables FOLDER``.

FOLDER holds the traces ``venus_sept_dev.csv`` with ``venus_dev_nodes.csv``, and ``kth_sp2.swf.xz``. Every policy is
replayed on both; what ``python -m fastgpu_hub.simulate`` prints for them is written between the marks of the documents,
so that no figure is typed by hand.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fastgpu_hub.pricing.money import parse_money
from fastgpu_hub.scheduling.policies import POLICIES
from fastgpu_hub.simulate import plots, report
from fastgpu_hub.simulate.class_day import ClassDay
from fastgpu_hub.simulate.csv_trace import read_trace
from fastgpu_hub.simulate.figures import Figures, figures
from fastgpu_hub.simulate.plan_report import plan_table, plan_verdict
from fastgpu_hub.simulate.planner import Goal, plan
from fastgpu_hub.simulate.replay import DEFAULT_POLICY, Outcome, replay
from fastgpu_hub.simulate.swf import read_swf
from fastgpu_hub.simulate.workload import Workload

DOCS = Path(__file__).resolve().parent.parent / "docs"
EXPLANATION, HOW_TO = "explanation/scheduling.md", "how-to/plan-capacity.md"
CALIBRATION, PLAN = "images/calibration.svg", "images/plan.svg"
STUDENTS, DAYS, PRICE = 300, 5, "2.50"
WIDTH = 160

Say = Callable[[str], None]


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write the figures about scheduling into the documents.")
    parser.add_argument("folder", type=Path, help="where the traces are")
    parser.add_argument("--docs", type=Path, default=DOCS, help="the documents (default: those of this project)")
    chosen = parser.parse_args(arguments)
    write(chosen.folder, chosen.docs)


def write(folder: Path, docs: Path, *, students: int = STUDENTS, days: int = DAYS, say: Say = print) -> None:
    """Replay everything, and write tables and drawings. Raises TraceError when a trace is not there."""
    traces = {
        "venus": ("Venus", read_trace(folder / "venus_sept_dev.csv", folder / "venus_dev_nodes.csv")),
        "kth": ("KTH-SP2", read_swf(folder / "kth_sp2.swf.xz", 100)),
    }
    tables: dict[str, str] = {}
    shown: dict[str, Outcome] = {}
    for mark, (name, work) in traces.items():
        rows, shown[name] = _rows(work, say)
        tables[mark] = report.markdown(rows)
    _put(docs / EXPLANATION, tables)
    plots.draw_calibration(shown, docs / CALIBRATION)
    say(f"a plan for {students} students")
    price = parse_money(PRICE)
    answer = plan(ClassDay(students), Goal(), range(1, days + 1))
    text = f"```text\n{_plain(plan_table(answer, price, 24))}\n{plan_verdict(answer, students)}\n```"
    _put(docs / HOW_TO, {"plan": text})
    plots.draw_plan(answer, docs / PLAN, price_micros=price)


def _rows(work: Workload, say: Say) -> tuple[dict[str, Figures], Outcome]:
    """Figures of each policy, and of the default one told all run times; the outcome of the default one."""
    rows: dict[str, Figures] = {}
    default: Outcome | None = None
    for policy in POLICIES:
        say(f"{work.name}: {policy}")
        outcome = replay(work, policy)
        rows[policy] = figures(outcome)
        if policy == DEFAULT_POLICY:
            default = outcome
    assert default is not None
    rows[f"{DEFAULT_POLICY} --oracle"] = figures(replay(work, oracle=True))
    return rows, default


def _put(path: Path, texts: Mapping[str, str]) -> None:
    """Replace what is between ``<!-- name -->`` and ``<!-- /name -->``. Raises LookupError where a mark is missing."""
    document = path.read_text(encoding="utf-8")
    for name, text in texts.items():
        document, count = re.subn(
            rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)",
            lambda match, text=text: f"{match[1]}{text}\n{match[2]}",  # type: ignore[misc]
            document,
            flags=re.DOTALL,
        )
        if count != 1:
            raise LookupError(f"{path}: {count} places for {name}; mark one with <!-- {name} --> and <!-- /{name} -->")
    path.write_text(document, encoding="utf-8")


def _plain(table: Table) -> str:
    console = Console(file=StringIO(), width=WIDTH, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().strip("\n").splitlines() if line.strip())


if __name__ == "__main__":
    main()
