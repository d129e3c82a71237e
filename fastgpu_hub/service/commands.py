"""``fastgpu-hub audit verify`` and ``fastgpu-hub ledger verify``: the books checked, beside the running service.

Exit codes: 0 everything fits, 1 something does not, 2 it could not be checked. Nothing is ever written.
"""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import Progress as Bar
from rich.progress import TaskID

from fastgpu_hub.broker import books
from fastgpu_hub.broker.books import Progress, Report
from fastgpu_hub.broker.ports.chain import Head
from fastgpu_hub.broker.ports.store import StoreUnavailable, UnitOfWork
from fastgpu_hub.service.main import FastGPUService
from fastgpu_hub.store import StoreError
from fastgpu_hub.store.reading import read_only

WRONG, NOT_CHECKED = 1, 2

R = TypeVar("R", bound=Report)

app = typer.Typer(
    name="fastgpu-hub",
    help="Checks of FastGPU's books. Without a command the service starts, as JupyterHub does it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
audit = typer.Typer(help="Who changed what: prices, promotions, limits, credit, stops.", no_args_is_help=True)
ledger = typer.Typer(help="Who was charged what, and why.", no_args_is_help=True)
app.add_typer(audit, name="audit")
app.add_typer(ledger, name="ledger")

DbUrl = Annotated[
    str | None, typer.Option("--db-url", help="The service's database. Default: where the service looks.")
]
StateDir = Annotated[
    Path | None,
    typer.Option("--state-dir", envvar="FASTGPU_STATE_DIR", help="The service's folder. Default: .fastgpu."),
]
Expect = Annotated[
    list[str] | None,
    typer.Option(
        "--expect", metavar="ID:SHA256", help="An entry as an earlier check or the log named it (may be repeated)."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print plain data.")]

_STEPS = {"audit": "Audit", "workloads": "Workloads", "accounts": "Accounts", "sums": "Sums"}

AUDIT_ADVICE = (
    "The database was changed past FastGPU, or damaged. Compare the audit from that entry on with a backup from before "
    "and with the service's log, which names the last entry whenever there is a new one. Entries before it hold."
)
LEDGER_ADVICE = (
    "Keep a copy of the database as it is now. Compare the entries named above with a backup and with the service's "
    "log. An entry that is wrong is not changed: an administrator reverses it by a refund."
)


@audit.command("verify")
def verify_audit(
    db_url: DbUrl = None, state_dir: StateDir = None, expect: Expect = None, as_json: AsJson = False
) -> None:
    """Follow the audit's chain: was any entry changed, removed, added or moved?"""
    expected = [_head(text) for text in expect or ()]
    report, seconds = _run(db_url, state_dir, as_json, lambda uow, progress: books.check_audit(uow, progress, expected))
    head = report.followed.head
    if as_json:
        _print_json(report, seconds, last_entry={"id": head.id, "sha256": head.sha256})
    elif report.found:
        _print_faults(report, "The audit is broken.", AUDIT_ADVICE)
    else:
        _print(f"The audit is whole: {_count(report, 'audit_entries', 'entry', 'entries')}.")
        if head.id:
            _print(f"Last entry: {head.id}:{head.sha256}")
            _print("Keep that line outside the database: --expect proves later that nothing up to it was changed.")
    raise typer.Exit(WRONG if report.found else 0)


@ledger.command("verify")
def verify_ledger(db_url: DbUrl = None, state_dir: StateDir = None, as_json: AsJson = False) -> None:
    """Replay what happened and compare it with the ledger, to the micro-unit."""
    report, seconds = _run(db_url, state_dir, as_json, books.check_ledger)
    if as_json:
        _print_json(report, seconds)
    elif report.found:
        _print_faults(report, "The ledger does not fit.", LEDGER_ADVICE)
    else:
        _print(
            f"The ledger fits: {_count(report, 'workloads', 'workload', 'workloads')}, "
            f"{_count(report, 'ledger_entries', 'entry', 'entries')}."
        )
    raise typer.Exit(WRONG if report.found else 0)


def _head(text: str) -> Head:
    match = re.fullmatch(r"([1-9][0-9]{0,17}):([0-9a-f]{64})", text.strip())
    if match is None:
        raise typer.BadParameter(f"{text!r} is not ID:SHA256, for example 17:{'0f' * 32}", param_hint="--expect")
    return Head(int(match[1]), match[2])


def _run(
    db_url: str | None, state_dir: Path | None, as_json: bool, check: Callable[[UnitOfWork, Progress], R]
) -> tuple[R, float]:
    begun = time.monotonic()
    try:
        with read_only(db_url or _url_of_service(state_dir)) as uow, _progress(as_json) as progress:
            report = check(uow, progress)
    except (StoreError, StoreUnavailable) as error:
        sys.stderr.write(f"Nothing was checked: {error}. Name the database with --state-dir or --db-url.\n")
        raise typer.Exit(NOT_CHECKED) from None
    return report, time.monotonic() - begun


def _url_of_service(state_dir: Path | None) -> str:
    service = FastGPUService()
    service.initialize([])
    if state_dir is not None:
        service.state_dir = str(state_dir)
    return str(service.db_url)


@contextmanager
def _progress(as_json: bool) -> Iterator[Progress]:
    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=as_json or not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(_STEPS[what])
            bar.update(tasks[what], completed=done, total=total)

        yield show


def _count(report: Report, what: str, one: str, many: str) -> str:
    number = report.checked.get(what, 0)
    return f"{number:,} {one if number == 1 else many}"


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _print_faults(report: Report, verdict: str, advice: str) -> None:
    _print(verdict)
    for fault in report.faults:
        _print(f"  {fault}")
    if report.found > len(report.faults):
        _print(f"  … and {report.found - len(report.faults):,} more")
    _print(advice)


def _print_json(report: Report, seconds: float, **more: Any) -> None:
    plain = {
        "ok": not report.found,
        "checked": report.checked,
        "problems_found": report.found,
        "problems": [{"where": fault.where, "sentence": fault.sentence} for fault in report.faults],
        "seconds": round(seconds, 3),
        **more,
    }
    _print(json.dumps(plain, indent=2))
