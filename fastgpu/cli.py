"""``fastgpu …``: the SDK from a shell. Answers as tables, or as JSON with ``--json``.

Exit codes: 0 done, 1 failed (service away, job failed), 2 refused or mistyped, 130 interrupted. An error is one line on
stderr. A refusal never comes with a stack trace.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from itertools import chain
from typing import Annotated, Any, get_args

import typer
from pydantic import BaseModel

from fastgpu import notice_views, rule_views, views
from fastgpu.client import GPUClient
from fastgpu.console import show, terminal
from fastgpu.errors import FastGPUError, InvalidRequest, JobFailed, NotFound, Unavailable
from fastgpu.formatting import one_line
from fastgpu.job import Job
from fastgpu.models import json_of
from fastgpu.requests import GroupBy, Written
from fastgpu.submission import asked_amount, choose_gpu_type
from fastgpu.view import Lens, View

REFUSED, FAILED, INTERRUPTED = 2, 1, 130

app = typer.Typer(
    name="fastgpu",
    help="GPUs with a price, a quota and an explanation.",
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print plain data instead of tables.")]
JobId = Annotated[str, typer.Argument(help="Id of the job (or lease).")]
GpuType = Annotated[
    str | None, typer.Option("--gpu", help="GPU type or an unambiguous beginning of it, for example h100.")
]
Count = Annotated[int, typer.Option("--count", help="Number of GPUs.", min=1)]
Time = Annotated[str, typer.Option("--time", help="Time limit, for example 45m, 2h, 1h30m.")]
Account = Annotated[str | None, typer.Option("--account", help="Who pays: class:NAME or person:NAME.")]
Promo = Annotated[str | None, typer.Option("--promo", help="Promotion code.")]
MaxCost = Annotated[str | None, typer.Option("--max-cost", help="Refuse the job if it could cost more, e.g. 2.50.")]
JobName = Annotated[str | None, typer.Option("--name", help="The job's name; default: the program's.")]
Files = Annotated[list[str] | None, typer.Option("--files", help="Files the job needs (pattern, may be repeated).")]
Env = Annotated[list[str] | None, typer.Option("--env", help="NAME=VALUE for the job (may be repeated).")]
Again = Annotated[bool, typer.Option("--again", help="Submit although an identical job is still active.")]
Command = Annotated[bool, typer.Option("--command", help="PROGRAM is a command of the machine, not a file.")]
Program = Annotated[str, typer.Argument(metavar="PROGRAM", help="A .py or .ipynb file.")]
Arguments = Annotated[list[str] | None, typer.Argument(metavar="[ARGS]...", help="Its arguments, after --.")]


def make_client() -> GPUClient:
    """The client of every command, from the environment."""
    return GPUClient()


def _print(answer: BaseModel | Sequence[BaseModel], as_json: bool, view: Callable[[Lens], View]) -> None:
    if as_json:
        plain: Any = json_of(answer) if isinstance(answer, BaseModel) else [json_of(item) for item in answer]
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
    else:
        show(view(Lens()), terminal())


@app.command()
def status(as_json: AsJson = False) -> None:
    """My GPUs, their use and cost, active jobs and accounts."""
    answer = make_client().status()
    _print(answer, as_json, lambda lens: views.status(answer, lens))


@app.command()
def gpus(account: Account = None, promo: Promo = None, as_json: AsJson = False) -> None:
    """GPU types with price, free devices and expected wait."""
    answer = make_client().options(account, promo)
    _print(answer, as_json, lambda lens: views.offers(answer, lens))


@app.command()
def quote(
    gpu: GpuType = None,
    count: Count = 1,
    time: Time = "1h",
    account: Account = None,
    promo: Promo = None,
    as_json: AsJson = False,
) -> None:
    """What a job would cost, itemised, and whether it would be taken."""
    client = make_client()
    gpu_type = choose_gpu_type(gpu, client.options(account, promo).offers)
    answer = client.quote(gpu_type, count, time, account=account, promo_code=promo)
    _print(answer, as_json, lambda lens: views.quote(answer, lens))


def _submit(
    client: GPUClient,
    program: str,
    arguments: list[str] | None,
    *,
    gpu: str | None,
    count: int,
    time: str,
    env: list[str] | None,
    files: list[str] | None,
    command: bool,
    account: str | None,
    promo: str | None,
    max_cost: str | None,
    name: str | None,
    again: bool,
) -> Job:
    environment = {}
    for pair in env or []:
        variable, equals, value = pair.partition("=")
        if not variable or not equals:
            raise InvalidRequest(f"--env {one_line(pair)!r} is not NAME=VALUE.")
        environment[variable] = value
    return client.submit(
        [program] if command else program,
        choose_gpu_type(gpu, client.options(account, promo).offers),
        count,
        time,
        args=arguments or (),
        files=files or (),
        env=environment,
        name=name,
        account=account,
        promo_code=promo,
        max_cost=max_cost,
        again=again,
    )


@app.command()
def submit(
    program: Program,
    arguments: Arguments = None,
    gpu: GpuType = None,
    count: Count = 1,
    time: Time = "1h",
    max_cost: MaxCost = None,
    account: Account = None,
    promo: Promo = None,
    name: JobName = None,
    files: Files = None,
    env: Env = None,
    command: Command = False,
    again: Again = False,
    as_json: AsJson = False,
) -> None:
    """Send a program off as a GPU job and return at once."""
    more = {"gpu": gpu, "count": count, "time": time, "env": env, "files": files, "command": command}
    pay = {"account": account, "promo": promo, "max_cost": max_cost, "name": name, "again": again}
    job = _submit(make_client(), program, arguments, **more, **pay).placed()  # type: ignore[arg-type]
    _print(job.snapshot, as_json, lambda lens: views.job(job.snapshot, lens))


@app.command()
def run(
    program: Program,
    arguments: Arguments = None,
    gpu: GpuType = None,
    count: Count = 1,
    time: Time = "1h",
    max_cost: MaxCost = None,
    account: Account = None,
    promo: Promo = None,
    name: JobName = None,
    files: Files = None,
    env: Env = None,
    command: Command = False,
    again: Again = False,
    as_json: AsJson = False,
) -> None:
    """Submit, print what the job prints, wait for its end. Ctrl-C once cancels it, twice leaves it to itself."""
    more = {"gpu": gpu, "count": count, "time": time, "env": env, "files": files, "command": command}
    pay = {"account": account, "promo": promo, "max_cost": max_cost, "name": name, "again": again}
    job = _submit(make_client(), program, arguments, **more, **pay)  # type: ignore[arg-type]
    _tell(f"job {job.id}")
    if not job.follow_to_end(_writer(to_stderr=as_json), _tell):
        raise KeyboardInterrupt
    _print(job.snapshot, as_json, lambda lens: views.job(job.snapshot, lens))
    job.raise_for_failure()


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _writer(to_stderr: bool = False) -> Callable[[str], None]:
    """Writes a job's text; with JSON asked for to stderr, so that stdout holds JSON only."""
    stream = sys.stderr if to_stderr else sys.stdout

    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    return write


@app.command()
def jobs(
    show_all: Annotated[bool, typer.Option("--all", help="Also jobs that have ended.")] = False,
    limit: Annotated[int, typer.Option("--limit", help="At most so many.", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """My jobs, newest first."""
    answer = [job.snapshot for job in make_client().jobs("all" if show_all else "active", limit)]
    _print(answer, as_json, lambda lens: views.jobs(answer, lens))


@app.command()
def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    as_json: AsJson = False,
) -> None:
    """What a job printed."""
    job = make_client().job(job_id)
    if as_json:
        if follow:
            job.wait()
        sys.stdout.write(json.dumps({"id": job.id, "state": job.snapshot.state.value, "log": job.logs()}) + "\n")
        return
    write = _writer()
    for text in job.follow() if follow else [job.logs()]:
        write(text)


@app.command()
def cancel(
    job_ids: Annotated[list[str], typer.Argument(help="Ids of the jobs.")],
    as_json: AsJson = False,
) -> None:
    """Cancel jobs; what they used until then is charged."""
    client = make_client()
    answer = [client.cancel(job_id) for job_id in job_ids]
    _print(answer, as_json, lambda lens: views.jobs(answer, lens))


@app.command()
def cost(
    since: Annotated[
        datetime | None, typer.Option("--since", help="Count from this day or instant on (local time).")
    ] = None,
    by: Annotated[str, typer.Option("--by", help="Group by job, gpu, day or person.")] = "job",
    as_json: AsJson = False,
) -> None:
    """What I spent, grouped; the rows add up to the ledger."""
    answer = make_client().costs(since.astimezone(timezone.utc) if since else None, _one_of(GroupBy, "--by", by))
    _print(answer, as_json, lambda lens: views.costs(answer, lens))


@app.command()
def why(
    job_id: Annotated[str | None, typer.Argument(help="Default: my newest job.")] = None,
    as_json: AsJson = False,
) -> None:
    """Why a job is refused, waiting, charged or stopped."""
    client = make_client()
    if job_id is None:
        newest = client.jobs("all", 1)
        if not newest:
            raise NotFound("You have no job yet.")
        job_id = newest[0].id
    answer = client.why(job_id)
    _print(answer, as_json, lambda lens: views.why(answer, lens))


@app.command()
def promos(promo: Promo = None, as_json: AsJson = False) -> None:
    """Promotions: saving, whether they are for me, when they end."""
    client = make_client()
    answer = client.promotions(promo)
    _print(answer, as_json, lambda lens: rule_views.promotions(answer, client.me().currency, lens))


@app.command()
def redeem(code: Annotated[str, typer.Argument(help="The code you were given.")], as_json: AsJson = False) -> None:
    """Take my place in a promotion."""
    client = make_client()
    answer = client.redeem(code)
    _print(answer, as_json, lambda lens: rule_views.redeemed(answer, client.me().currency, lens))


@app.command()
def credit(account: Account = None, as_json: AsJson = False) -> None:
    """Credit given to my accounts: what is left of each grant, when it expires."""
    client = make_client()
    answer = client.grants(account)
    _print(answer, as_json, lambda lens: rule_views.grants(answer, client.me().currency, lens))


@app.command()
def asks(
    state: Annotated[str | None, typer.Option("--state", help="Only open, approved, declined or withdrawn.")] = None,
    as_json: AsJson = False,
) -> None:
    """Requests for more: mine, and those I may decide."""
    answer = make_client().asks(state)
    _print(answer, as_json, lambda lens: rule_views.asks(answer, lens))


@app.command()
def ask(
    amount: Annotated[str, typer.Argument(help="How much more: GPUs, a duration such as 10h, or an amount of money.")],
    reason: Annotated[str, typer.Argument(help="What for; whoever decides reads it.")],
    limit: Annotated[int | None, typer.Option("--limit", help="Number of the limit (see quota --json).")] = None,
    account: Account = None,
    as_json: AsJson = False,
) -> None:
    """Ask for more of a limit, or of credit."""
    client = make_client()
    answer = client.ask(asked_amount(amount, limit, account, client.quotas()), reason, quota_id=limit, account=account)
    _print(answer, as_json, lambda lens: rule_views.asks([answer], lens))


@app.command()
def quota(as_json: AsJson = False) -> None:
    """My limits: used, reserved, left, when how much comes back."""
    client = make_client()
    answer = client.quotas()
    _print(answer, as_json, lambda lens: rule_views.quotas(answer, client.me().currency, lens))


@app.command()
def notices(
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until interrupted.")] = False,
    after: Annotated[int, typer.Option("--after", help="Only after the notice with this id.", min=0)] = 0,
    limit: Annotated[int, typer.Option("--limit", help="At most so many, the latest.", min=1, max=1000)] = 20,
    as_json: AsJson = False,
) -> None:
    """News: what ends soon, was stopped, has a new price, was answered. With --follow and --json one object a line."""
    client = make_client()
    answer = client.notices(after, limit)
    if not follow:
        _print(answer, as_json, lambda lens: notice_views.notices(answer, lens))
        return
    for notice in chain(answer, client.events(answer[-1].id if answer else after)):
        line = json.dumps(json_of(notice)) if as_json else notice_views.notice_line(notice, Lens())
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


@app.command()
def receipt(
    job_id: JobId,
    written: Annotated[
        str | None, typer.Option("--format", help="Print it as text, html or csv, as the service writes it.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Every charge of a job or lease, each naming its rule."""
    if written is not None:
        sys.stdout.write(make_client().written_receipt(job_id, _one_of(Written, "--format", written)))
        return
    answer = make_client().receipt(job_id)
    _print(answer, as_json, lambda lens: views.receipt(answer, lens))


def _one_of(choices: Any, option: str, value: str) -> Any:
    """The value, which is one of a Literal's. Raises InvalidRequest naming them."""
    if value not in get_args(choices):
        raise InvalidRequest(f"{option} {one_line(value)!r} is none of {', '.join(get_args(choices))}.")
    return value


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: run the command line and exit with its code."""
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        code = app(args=given or ["--help"], prog_name="fastgpu", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except FastGPUError as error:
        _tell(f"fastgpu: {error}")
        code = FAILED if isinstance(error, Unavailable | JobFailed) else REFUSED
    except BrokenPipeError:
        # The reader went away (head, less); Python would complain once more while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except Exception as error:
        # typer brings its own copy of click, older ones import it: a mistyped line is known by this method only.
        if not hasattr(error, "format_message"):
            raise
        _tell(f"fastgpu: {one_line(error.format_message()).rstrip('.')}. See fastgpu --help.")
        code = REFUSED
    sys.exit(code if isinstance(code, int) else 0)
