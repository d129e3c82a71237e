"""``fastgpu submit`` and ``fastgpu run``: the commands that send a program off, with one list of options for both."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from fastgpu import array_views, models, views
from fastgpu.cli_output import Account, AsJson, Count, GpuType, Promo, Time, print_answer, tell, writer
from fastgpu.client import GPUClient
from fastgpu.errors import InvalidRequest
from fastgpu.formatting import one_line
from fastgpu.job import Job
from fastgpu.job_array import JobArray
from fastgpu.submission import choose_gpu_type
from fastgpu.together import sweep_of
from fastgpu.words import array_words

MaxCost = Annotated[str | None, typer.Option("--max-cost", help="Refuse the job if it could cost more, e.g. 2.50.")]
JobName = Annotated[str | None, typer.Option("--name", help="The job's name; default: the program's.")]
Files = Annotated[list[str] | None, typer.Option("--files", help="Files the job needs (pattern, may be repeated).")]
Env = Annotated[list[str] | None, typer.Option("--env", help="NAME=VALUE for the job (may be repeated).")]
Start = Annotated[
    str, typer.Option("--start", help='now, cheapest (waits for the best price), or an instant such as "Fri 20:00".')
]
By = Annotated[str | None, typer.Option("--by", help='When it must have ended, for example "Fri 18:00".')]
Outputs = Annotated[
    list[str] | None, typer.Option("--outputs", "--out-file", help="Files to keep afterwards (pattern, repeatable).")
]
Sources = Annotated[
    list[str] | None, typer.Option("--source", help="PATH=ADDRESS of an input to fetch (may be repeated).")
]
Python = Annotated[str | None, typer.Option("--python", help="Name of the environment it runs in.")]
Lock = Annotated[str | None, typer.Option("--lock", help="File with pinned packages to make an environment from.")]
Array = Annotated[
    list[str] | None, typer.Option("--array", help="A job for each value: lr=1e-3,1e-4 (repeat for combinations).")
]
MaxRunning = Annotated[int | None, typer.Option("--max-running", help="Most jobs of the array at once.", min=1)]
After = Annotated[
    list[str] | None, typer.Option("--after", help="Id of a job or array that must have succeeded (repeatable).")
]
Retries = Annotated[int, typer.Option("--retries", help="Attempts more after failures not its own.", min=0, max=10)]
Grace = Annotated[
    int | None, typer.Option("--grace", help="Seconds between the order to stop and the kill.", min=0, max=600)
]
Spot = Annotated[bool, typer.Option("--spot", help="Cheaper; interrupted when one that pays in full needs its GPUs.")]
Again = Annotated[bool, typer.Option("--again", help="Submit although an identical job is still active.")]
Command = Annotated[bool, typer.Option("--command", help="PROGRAM is a command of the machine, not a file.")]
Program = Annotated[str, typer.Argument(metavar="PROGRAM", help="A .py or .ipynb file.")]
Arguments = Annotated[list[str] | None, typer.Argument(metavar="[ARGS]...", help="Its arguments, after --.")]


def _send(
    client: GPUClient,
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
    start: Start = "now",
    by: By = None,
    outputs: Outputs = None,
    source: Sources = None,
    python: Python = None,
    lock: Lock = None,
    array: Array = None,
    max_running: MaxRunning = None,
    after: After = None,
    retries: Retries = 0,
    grace: Grace = None,
    spot: Spot = False,
) -> Job | JobArray:
    """Submit as the command line says; its options are this function's parameters."""
    submit: Callable[..., Job | JobArray] = client.submit
    return submit(
        [program] if command else program,
        choose_gpu_type(gpu, client.options(account, promo).offers),
        count,
        time,
        args=arguments or (),
        files=files or (),
        env=pairs_of("--env", env),
        name=name,
        account=account,
        promo_code=promo,
        max_cost=max_cost,
        again=again,
        start=start,
        by=by,
        outputs=outputs or (),
        sources=pairs_of("--source", source),
        python=python,
        lock=lock,
        array=sweep_of("--array", array),
        max_running=max_running,
        after=after or (),
        retries=retries,
        grace=grace,
        spot=spot,
    )


def pairs_of(option: str, given: list[str] | None) -> dict[str, str]:
    """``NAME=VALUE`` words of an option by name. Raises InvalidRequest on any other."""
    found = {}
    for pair in given or []:
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise InvalidRequest(f"{option} {one_line(pair)!r} is not NAME=VALUE.")
        found[name] = value
    return found


def _with_all_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command that takes the options of ``_send``, then its own."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    parameters = [*list(inspect.signature(_send, eval_str=True).parameters.values())[1:], *own]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def add_to(app: typer.Typer, make_client: Callable[[], GPUClient]) -> None:
    """Add the commands to the command line."""

    @app.command()
    @_with_all_options
    def submit(as_json: AsJson = False, **given: Any) -> None:
        """Send a program off as a GPU job, or as an array of them, and return at once."""
        job = _send(make_client(), **given)
        if isinstance(job, JobArray):
            print_answer(job.snapshot, as_json, lambda lens: array_views.array(job.snapshot, lens))
            return
        snapshot = job.placed().snapshot
        print_answer(snapshot, as_json, lambda lens: views.job(snapshot, lens, job.page))

    @app.command()
    @_with_all_options
    def run(as_json: AsJson = False, **given: Any) -> None:
        """Submit, print what the job prints, wait for its end. Ctrl-C once cancels it, twice leaves it to itself."""
        job = _send(make_client(), **given)
        if isinstance(job, JobArray):
            _run_array(job, as_json)
            return
        tell(f"job {job.id}")
        if not job.follow_to_end(writer(to_stderr=as_json), tell):
            raise KeyboardInterrupt
        print_answer(job.snapshot, as_json, lambda lens: views.job(job.snapshot, lens, job.page))
        job.raise_for_failure()


def _run_array(array: JobArray, as_json: bool) -> None:
    """Say how far the array is until it is done; its table at the end. Ctrl-C cancels it, twice leaves it to itself."""
    tell(f"array {array.id}")
    said = [""]

    def tick(answer: models.JobArray) -> None:
        if (words := array_words(answer)) != said[-1]:
            said.append(words)
            tell(words)

    try:
        array.wait(tick=tick)
    except KeyboardInterrupt:
        tell(f"Cancelling array {array.id}; interrupt again to detach from it.")
        array.cancel().wait(tick=tick)
    print_answer(array.snapshot, as_json, lambda lens: array_views.array(array.snapshot, lens))
    array.raise_for_failure()
