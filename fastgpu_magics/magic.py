"""``%fastgpu`` and ``%%fastgpu``: the commands. They run to their end in the kernel's main thread.

Every refusal is a ``UsageError`` in one line; ``--json`` returns plain data; else an object that shows itself.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
from pydantic import BaseModel

from fastgpu import array_views, models, rule_views, run_views, start_views, views
from fastgpu.client import GPUClient
from fastgpu.deadlines import CHEAPEST
from fastgpu.errors import FastGPUError, InvalidRequest, NotFound
from fastgpu.formatting import format_money
from fastgpu.models import json_of
from fastgpu.submission import choose_gpu_type
from fastgpu.together import cancel_one
from fastgpu.view import Lens, View
from fastgpu_magics.arguments import CELL_COMMANDS, LINE_COMMANDS, ArgumentError, HelpRequested, read_line
from fastgpu_magics.array_handle import NotebookJobArray
from fastgpu_magics.cells import CellError
from fastgpu_magics.completion import Known
from fastgpu_magics.display import Shown, ShownLog
from fastgpu_magics.handle import NotebookJob, ProgressLine, Result
from fastgpu_magics.sending import Prepared, prepare
from fastgpu_magics.transfer import TransferError

if TYPE_CHECKING:
    from fastgpu_magics.meter import Meter

LOG_TAIL_BYTES = 256 * 1024


@magics_class
class FastGPUMagics(Magics):
    """The magics of one shell. ``make_client`` is called when a command first needs the service."""

    def __init__(
        self, shell: InteractiveShell, make_client: Callable[[], GPUClient] = GPUClient, known: Known | None = None
    ) -> None:
        super().__init__(shell)
        self._shell = shell
        self._make_client = make_client
        self._client: GPUClient | None = None
        self._meter: Meter | None = None
        self._last_refusal: models.Explanation | None = None
        self.known = known or Known()

    @property
    def _in_notebook(self) -> bool:
        return getattr(self._shell, "kernel", None) is not None

    @property
    def client(self) -> GPUClient:
        """The client, made from the environment on first use."""
        if self._client is None:
            self._client = self._make_client()
        return self._client

    def close(self) -> None:
        """Stop the meter and close the connections."""
        if self._meter:
            self._meter.close()
        if self._client:
            self._client.close()

    @no_var_expand
    @line_cell_magic
    def fastgpu(self, line: str, cell: str | None = None) -> Any:
        """GPUs with a price, a quota and an explanation: ``%fastgpu --help``."""
        commands, default = (LINE_COMMANDS, "status") if cell is None else (CELL_COMMANDS, None)
        try:
            name, options = read_line(line, commands, default, self._evaluate)
            answer = self._run_line(name, options) if cell is None else self._run_cell(name, options, cell)
        except HelpRequested as request:
            sys.stdout.write(request.text)
            return None
        except FastGPUError as error:
            self._last_refusal = error.explanation or self._last_refusal
            raise UsageError(str(error)) from None
        except (ArgumentError, CellError, TransferError) as error:
            raise UsageError(str(error)) from None
        if line.rstrip().endswith(";"):
            return None
        return answer.data if options.json and answer is not None else answer

    def _evaluate(self, expression: str) -> Any:
        """Value of an expression that the line marks with ``$`` or braces, in the notebook's own namespace."""
        return eval(expression, self._shell.user_global_ns, self._shell.user_ns)  # noqa: S307

    # ---------------------------------------------------------------- line commands

    def _run_line(self, name: str, options: argparse.Namespace) -> Any:
        command: Callable[[argparse.Namespace], Any] = getattr(self, f"_{name}")
        return command(options)

    def _status(self, options: argparse.Namespace) -> Shown:
        answer = self.client.status()
        self.known.learn(jobs=answer.jobs, accounts=answer.accounts)
        return _shown(views.status(answer, Lens()), answer)

    def _top(self, options: argparse.Namespace) -> Any:
        answer = self.client.status()
        if options.json:
            return _shown(views.status(answer, Lens()), answer)
        if not self._in_notebook:
            return _shown(views.status(answer, Lens()), answer)
        from fastgpu_magics.meter import Meter  # ipywidgets is the dearest import here

        if self._meter:
            self._meter.close()  # one meter asks the service, not one per time the cell was run
        self._meter = Meter(answer)
        self._meter.start()
        return self._meter

    def _gpu_type(self, options: argparse.Namespace) -> str:
        answer = self.client.options(options.account, options.promo)
        self.known.learn(offers=answer.offers, accounts=answer.accounts)
        return choose_gpu_type(options.gpu, answer.offers)

    def _quote_of(self, options: argparse.Namespace) -> models.Quote:
        gpu_type = self._gpu_type(options)
        return self.client.quote(
            gpu_type, options.count, options.time, account=options.account, promo_code=options.promo, spot=options.spot
        )

    def _quote(self, options: argparse.Namespace) -> Shown:
        answer = self._quote_of(options)
        view = views.quote(answer, Lens())
        if options.by is None:
            return _shown(view, answer)
        plan = self._plan_of(options)
        view = replace(view, notes=(*view.notes, start_views.cheapest(plan, Lens())))
        return Shown(view, {**json_of(answer), "start_plan": json_of(plan)})

    def _plan_of(self, options: argparse.Namespace, max_cost: str | None = None) -> models.StartPlan:
        costs = {"account": options.account, "promo_code": options.promo, "max_cost": max_cost, "spot": options.spot}
        return self.client.when(self._gpu_type(options), options.count, options.time, by=options.by, **costs)

    def _when(self, options: argparse.Namespace) -> Shown:
        answer = self._plan_of(options, options.max_cost)
        return _shown(start_views.start_plan(answer, Lens()), answer)

    def _promos(self, options: argparse.Namespace) -> Shown:
        answer = self.client.promotions(options.code)
        return _shown(rule_views.promotions(answer, self.client.me().currency, Lens()), answer)

    def _promo(self, options: argparse.Namespace) -> Shown:
        answer = self.client.redeem(options.code)
        return _shown(rule_views.redeemed(answer, self.client.me().currency, Lens()), answer)

    def _quota(self, options: argparse.Namespace) -> Shown:
        answer = self.client.quotas()
        return _shown(rule_views.quotas(answer, self.client.me().currency, Lens()), answer)

    def _jobs(self, options: argparse.Namespace) -> Shown:
        state: Literal["active", "all"] = "all" if options.all else "active"
        if options.array is not None:
            array = self.client.array(options.array).snapshot
            return _shown(array_views.array(array, Lens()), array)
        if options.json:
            jobs = [job.snapshot for job in self.client.jobs(state, options.limit)]
            self.known.learn(jobs=jobs)
            return _shown(views.jobs(jobs, Lens()), jobs)
        answer = self.client.listed(state, options.limit)
        self.known.learn(jobs=[job for job in answer if isinstance(job, models.Job)])
        return _shown(array_views.listed(answer, Lens()), answer)

    def _job(self, job_id: str) -> NotebookJob:
        return NotebookJob.of(self.client.job(job_id))

    def _logs(self, options: argparse.Namespace) -> ShownLog | None:
        job = self._job(options.id)
        if options.follow and not options.json:
            for text in job.follow(tell=_tell):
                _write(text)
            return None
        if options.follow:
            job.wait()
        text = job.logs(LOG_TAIL_BYTES)
        return ShownLog(job.id, text, shortened=job.snapshot.log_bytes > LOG_TAIL_BYTES)

    def _cancel(self, options: argparse.Namespace) -> Shown:
        answer = [cancel_one(self.client, job_id) for job_id in options.ids]
        return _shown(array_views.listed(answer, Lens()), answer)

    def _cost(self, options: argparse.Namespace) -> Shown:
        since = _instant(options.since) if options.since else None
        answer = self.client.costs(since, options.by)
        return _shown(views.costs(answer, Lens()), answer)

    def _why(self, options: argparse.Namespace) -> Shown:
        if options.id is None and self._last_refusal:
            return _shown(views.explanation(self._last_refusal, Lens()), self._last_refusal)
        job_id = options.id
        if job_id is None:
            newest = self.client.jobs("all", 1)
            if not newest:
                raise NotFound("You have no job yet, and nothing was refused.")
            job_id = newest[0].id
        answer = self.client.why(job_id)
        return _shown(views.why(answer, Lens()), answer)

    def _result(self, options: argparse.Namespace) -> Result:
        return Result(self._job(options.id))

    def _metrics(self, options: argparse.Namespace) -> Shown:
        answer = self.client.job_metrics(options.id)
        return _shown(run_views.metrics(options.id, answer, Lens()), answer)

    def _receipt(self, options: argparse.Namespace) -> Shown:
        answer = self.client.receipt(options.id)
        return _shown(views.receipt(answer, Lens()), answer)

    # ---------------------------------------------------------------- cell commands

    def _run_cell(self, name: str, options: argparse.Namespace, cell: str) -> Any:
        prepared = prepare(cell, options, self._shell.user_ns, Path.cwd())
        if options.dry_run:
            return self._dry_run(prepared)
        timing = self.client.timing(options.start, options.by)
        request = prepared.request(self._gpu_type(options), timing)
        if prepared.jobs:
            return self._run_array(name, request, prepared)
        job = NotebookJob.of(self.client.submit_request(request, prepared.uploads))
        self._last_refusal = None
        self.known.learn(jobs=[job.snapshot])
        if name == "run":
            self._follow(job, options)
        else:
            job.placed()
        return job

    def _run_array(self, name: str, request: models.JobSubmit, prepared: Prepared) -> NotebookJobArray:
        array = NotebookJobArray.of(self.client.submit_sweep(request, prepared.uploads))
        self._last_refusal = None
        if name == "run" and array.follow_to_end(_tell):
            array.raise_for_failure()
            for output in prepared.options.outputs:
                self._shell.user_ns[output] = array.pull(output)
        return array

    def _dry_run(self, prepared: Prepared) -> Shown:
        quote = self._quote_of(prepared.options)
        view = views.quote(quote, Lens())
        notes: tuple[str, ...] = ()
        if prepared.options.start == CHEAPEST:
            notes = (start_views.cheapest(self._plan_of(prepared.options, prepared.options.max_cost), Lens()),)
        if prepared.jobs:
            most = format_money(prepared.jobs * quote.max_micros, quote.currency)
            notes = (*notes, f"This is for one job; the array makes {prepared.jobs}, together at most {most}.")
        view = replace(
            view,
            title=f"Dry run, nothing was submitted. {view.title}",
            tables=(*view.tables, prepared.listing),
            notes=(*view.notes, *notes),
        )
        files = {upload.path: upload.size_bytes for upload in prepared.uploads}
        return Shown(view, {"quote": json_of(quote), "variables": dict(prepared.inputs.sizes), "files": files})

    def _follow(self, job: NotebookJob, options: argparse.Namespace) -> None:
        """Print the job's output until its end, then bring its rich outputs and variables here."""
        line = ProgressLine(in_place=self._in_notebook)
        if not job.follow_to_end(_write, _tell, line.tick):
            return
        line.tick(job.snapshot)
        job.outputs.show(rich_only=True)
        job.raise_for_failure()
        for name in options.outputs:
            self._shell.user_ns[name] = job.pull(name)


def _shown(view: View, answer: BaseModel | Sequence[BaseModel]) -> Shown:
    """An answer that shows itself and carries its plain data."""
    return Shown(view, json_of(answer) if isinstance(answer, BaseModel) else [json_of(item) for item in answer])


def _instant(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text).astimezone(timezone.utc)
    except ValueError as error:
        raise InvalidRequest(f"cannot read {text!r} as a day; write for example 2025-11-01.") from error


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _tell(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
