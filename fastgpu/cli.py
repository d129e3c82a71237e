"""``fastgpu …``: the SDK from a shell. Answers as tables, or as JSON with ``--json``.

Exit codes: 0 done, 1 failed (service away, job failed), 2 refused or mistyped, 130 interrupted. An error is one line on
stderr. A refusal never comes with a stack trace.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import chain
from typing import Annotated, Any, Literal, get_args

import typer

from fastgpu import array_views, cli_artifacts, notice_views, rule_views, run_views, start_views, views
from fastgpu.cli_output import Account, AsJson, Count, GpuType, Promo, Time, print_answer, tell, writer
from fastgpu.cli_submit import By, MaxCost, Spot, add_to
from fastgpu.client import GPUClient
from fastgpu.errors import FastGPUError, InvalidRequest, JobFailed, NotFound, Unavailable
from fastgpu.formatting import one_line
from fastgpu.models import json_of
from fastgpu.requests import GroupBy, Written
from fastgpu.submission import asked_amount, choose_gpu_type
from fastgpu.together import cancel_one
from fastgpu.view import Lens

REFUSED, FAILED, INTERRUPTED = 2, 1, 130

app = typer.Typer(
    name="fastgpu",
    help="GPUs with a price, a quota and an explanation.",
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

JobId = Annotated[str, typer.Argument(help="Id of the job (or lease).")]


def make_client() -> GPUClient:
    """The client of every command, from the environment."""
    return GPUClient()


@app.command()
def status(as_json: AsJson = False) -> None:
    """My GPUs, their use and cost, active jobs and accounts."""
    answer = make_client().status()
    print_answer(answer, as_json, lambda lens: views.status(answer, lens))


@app.command()
def gpus(account: Account = None, promo: Promo = None, as_json: AsJson = False) -> None:
    """GPU types with price, free devices and expected wait."""
    answer = make_client().options(account, promo)
    print_answer(answer, as_json, lambda lens: views.offers(answer, lens))


@app.command()
def quote(
    gpu: GpuType = None,
    count: Count = 1,
    time: Time = "1h",
    account: Account = None,
    promo: Promo = None,
    spot: Spot = False,
    as_json: AsJson = False,
) -> None:
    """What a job would cost, itemised, and whether it would be taken."""
    client = make_client()
    gpu_type = choose_gpu_type(gpu, client.options(account, promo).offers)
    answer = client.quote(gpu_type, count, time, account=account, promo_code=promo, spot=spot)
    print_answer(answer, as_json, lambda lens: views.quote(answer, lens))


@app.command()
def when(
    gpu: GpuType = None,
    count: Count = 1,
    time: Time = "1h",
    by: By = None,
    max_cost: MaxCost = None,
    account: Account = None,
    promo: Promo = None,
    spot: Spot = False,
    as_json: AsJson = False,
) -> None:
    """When a job costs least: starts up to a deadline, what each costs and why."""
    client = make_client()
    gpu_type = choose_gpu_type(gpu, client.options(account, promo).offers)
    answer = client.when(gpu_type, count, time, by=by, account=account, promo_code=promo, max_cost=max_cost, spot=spot)
    print_answer(answer, as_json, lambda lens: start_views.start_plan(answer, lens))


cli_artifacts.add_to(app, lambda: make_client())
add_to(app, lambda: make_client())  # looked up with each command, so that another client can be put in


@app.command()
def jobs(
    show_all: Annotated[bool, typer.Option("--all", help="Also jobs that have ended.")] = False,
    limit: Annotated[int, typer.Option("--limit", help="At most so many.", min=1)] = 20,
    array: Annotated[str | None, typer.Option("--array", help="Only this array, job by job.")] = None,
    as_json: AsJson = False,
) -> None:
    """My jobs, newest first, an array in one row."""
    client = make_client()
    state: Literal["active", "all"] = "all" if show_all else "active"
    if array is not None:
        found = client.array(array).snapshot
        print_answer(found, as_json, lambda lens: array_views.array(found, lens))
    elif as_json:
        print_answer([job.snapshot for job in client.jobs(state, limit)], as_json, lambda lens: views.jobs((), lens))
    else:
        answer = client.listed(state, limit)
        print_answer(answer, as_json, lambda lens: array_views.listed(answer, lens))


@app.command()
def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job ends.")] = False,
    only: Annotated[bool, typer.Option("--only", help="Of this attempt, though there is a later one.")] = False,
    as_json: AsJson = False,
) -> None:
    """What a job printed: its latest attempt."""
    job = make_client().job(job_id)
    if not only and job.snapshot.next_attempt is not None:
        job.refresh()
        tell(f"attempt {job.snapshot.attempt}: {job.id}")
    if as_json:
        if follow:
            job.wait()
        log = job.logs(latest=not only)
        sys.stdout.write(json.dumps({"id": job.id, "state": job.snapshot.state.value, "log": log}) + "\n")
        return
    write = writer()
    for text in job.follow(tell=tell) if follow else [job.logs(latest=not only)]:
        write(text)


@app.command()
def metrics(job_id: JobId, as_json: AsJson = False) -> None:
    """The figures a job reports of itself: last and best values."""
    answer = make_client().job_metrics(job_id)
    print_answer(answer, as_json, lambda lens: run_views.metrics(job_id, answer, lens))


@app.command()
def cancel(
    job_ids: Annotated[list[str], typer.Argument(help="Ids of the jobs or arrays.")],
    as_json: AsJson = False,
) -> None:
    """Cancel jobs or whole arrays; what they used until then is charged."""
    client = make_client()
    answer = [cancel_one(client, job_id) for job_id in job_ids]
    print_answer(answer, as_json, lambda lens: array_views.listed(answer, lens))


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
    print_answer(answer, as_json, lambda lens: views.costs(answer, lens))


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
    print_answer(answer, as_json, lambda lens: views.why(answer, lens))


@app.command()
def promos(promo: Promo = None, as_json: AsJson = False) -> None:
    """Promotions: saving, whether they are for me, when they end."""
    client = make_client()
    answer = client.promotions(promo)
    print_answer(answer, as_json, lambda lens: rule_views.promotions(answer, client.me().currency, lens))


@app.command()
def redeem(code: Annotated[str, typer.Argument(help="The code you were given.")], as_json: AsJson = False) -> None:
    """Take my place in a promotion."""
    client = make_client()
    answer = client.redeem(code)
    print_answer(answer, as_json, lambda lens: rule_views.redeemed(answer, client.me().currency, lens))


@app.command()
def credit(account: Account = None, as_json: AsJson = False) -> None:
    """Credit given to my accounts: what is left of each grant, when it expires."""
    client = make_client()
    answer = client.grants(account)
    print_answer(answer, as_json, lambda lens: rule_views.grants(answer, client.me().currency, lens))


@app.command()
def asks(
    state: Annotated[str | None, typer.Option("--state", help="Only open, approved, declined or withdrawn.")] = None,
    as_json: AsJson = False,
) -> None:
    """Requests for more: mine, and those I may decide."""
    answer = make_client().asks(state)
    print_answer(answer, as_json, lambda lens: rule_views.asks(answer, lens))


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
    print_answer(answer, as_json, lambda lens: rule_views.asks([answer], lens))


@app.command()
def quota(as_json: AsJson = False) -> None:
    """My limits: used, reserved, left, when how much comes back."""
    client = make_client()
    answer = client.quotas()
    print_answer(answer, as_json, lambda lens: rule_views.quotas(answer, client.me().currency, lens))


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
        print_answer(answer, as_json, lambda lens: notice_views.notices(answer, lens))
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
    print_answer(answer, as_json, lambda lens: views.receipt(answer, lens))


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
        tell(f"fastgpu: {error}")
        code = FAILED if isinstance(error, Unavailable | JobFailed) else REFUSED
    except BrokenPipeError:
        # The reader went away (head, less); Python would complain once more while flushing at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except Exception as error:
        # typer brings its own copy of click, older ones import it: a mistyped line is known by this method only.
        if not hasattr(error, "format_message"):
            raise
        tell(f"fastgpu: {one_line(error.format_message()).rstrip('.')}. See fastgpu --help.")
        code = REFUSED
    sys.exit(code if isinstance(code, int) else 0)
