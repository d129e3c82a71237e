"""The job handle of notebooks: an SDK ``Job`` that shows itself, its progress and its notebook outputs."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from IPython.display import display, publish_display_data

from fastgpu import models, run_views, views
from fastgpu.errors import FastGPUError
from fastgpu.formatting import format_amount, format_fraction, one_line
from fastgpu.job import Job
from fastgpu.models import json_of
from fastgpu.view import Cell, Lens, Link, View, explain, gpu_words
from fastgpu_magics.display import JOB_MIME, Bundle, bundle_of, output_bundle, plain_outputs, to_text

QUIET_SECONDS = 2.0


class NotebookJob(Job):
    """A job as the magics return it: ``.state .cost .progress .logs() .wait() .cancel() .pull('loss') .outputs``."""

    @classmethod
    def of(cls, job: Job) -> NotebookJob:
        """The same job with a notebook's manners."""
        return cls(job._client, job.snapshot)

    def _keep(self, snapshot: models.Job) -> models.Job:
        self._seen_at = datetime.now(timezone.utc)
        return super()._keep(snapshot)

    @property
    def view(self) -> View:
        """The job for a person's eyes: as it is now, or as it was when the service last answered."""
        with suppress(FastGPUError):  # an old truth that names its instant is better than a traceback
            self._recent()
        return views.job(self.snapshot, Lens(self._seen_at), self.page)

    @property
    def data(self) -> Any:
        """Plain data."""
        return json_of(self.snapshot)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Bundle:
        """Id and API path for the live card, and a snapshot for every other screen."""
        return {JOB_MIME: {"id": self.id, "path": f"api/jobs/{self.id}"}, **bundle_of(self.view)}

    @property
    def mine(self) -> bool:
        """Whether it belongs to this token's person."""
        return self.snapshot.owner == self._client.me().name

    @property
    def outputs(self) -> Outputs:
        """The outputs of the executed cell; shown when it is a cell's last value."""
        return Outputs(super().outputs, trusted=self.mine)


class Outputs(tuple[dict[str, Any], ...]):
    """Notebook outputs of a job, in nbformat's form, that show themselves.

    Those of another person's job are shown as text only: their HTML would run in the reader's page.
    """

    trusted: bool

    def __new__(cls, outputs: tuple[dict[str, Any], ...], trusted: bool) -> Outputs:
        self = super().__new__(cls, outputs)
        self.trusted = trusted
        return self

    def __repr__(self) -> str:
        return "".join(plain_outputs(output) for output in self).rstrip("\n")

    def _ipython_display_(self) -> None:
        self.show()

    def show(self, rich_only: bool = False) -> None:
        """Show every output, or with ``rich_only`` those that were not printed before."""
        for output in self:
            bundle = output_bundle(output)
            if bundle and self.trusted:
                publish_display_data(*bundle)
            elif bundle or not rich_only:
                sys.stdout.write(plain_outputs(output))


class Result:
    """What a job brought back: the figures it reported, its outputs, and its saved variables by name
    (``result['loss']`` loads one)."""

    def __init__(self, job: NotebookJob) -> None:
        self.job = job
        self.names = job.output_names
        self.run = job.details()
        self.outputs = job.outputs

    @property
    def data(self) -> Any:
        """Plain data; the variables by name only."""
        return {
            "id": self.job.id,
            "state": self.job.snapshot.state.value,
            "names": list(self.names),
            "metrics": {metric.name: json_of(metric.last) for metric in self.run.metrics},
            "outputs": list(self.outputs),
        }

    def __getitem__(self, name: str) -> Any:
        return self.job.pull(name)

    @property
    def heading(self) -> str:
        """One line on the job and what may be pulled."""
        saved = ", ".join(one_line(name) for name in self.names)
        pull = f"; saved {saved} (load one with .pull)" if saved else ""
        return f"Job {self.job.id} {views.job_state(self.job.snapshot)}{pull}"

    @property
    def view(self) -> View:
        """What it told of itself, and where its page is."""
        facts: list[tuple[str, Cell]] = [("cost", self.job.cost)]
        if used := run_views.use_words(self.run.use):
            facts.append(("use", used))
        facts.append(("page", Link(self.job.page, "result page")))
        tables = (run_views.metric_table(self.run.metrics),) if self.run.metrics else ()
        return View(self.heading, datetime.now(timezone.utc), tuple(facts), tables)

    def __repr__(self) -> str:
        return f"{to_text(self.view)}\n{self.outputs!r}".rstrip("\n")

    def _ipython_display_(self) -> None:
        publish_display_data(bundle_of(self.view))
        self.outputs.show()


def progress_words(job: models.Job, lens: Lens) -> str:
    """One line while a job is on its way: state, place or progress, reason, cost."""
    parts = [
        f"Job {one_line(job.id)} on {gpu_words(job.gpu_type, job.gpu_count, job.simulated)}: {views.job_state(job)}"
    ]
    if job.progress is not None:
        parts.append(format_fraction(job.progress))
    if job.explanation and not job.started_at:
        parts.append(explain(job.explanation, lens))
    if job.eta_end and not job.state.final:
        parts.append(f"ends about {lens.at(job.eta_end)}")
    parts.append(format_amount(job.cost_micros, job.currency))
    return " · ".join(parts)


class ProgressLine:
    """Shows a running job on one line: updated in place in a notebook, a new line per state in a terminal.

    Nothing is shown in the first two seconds, so that a short job leaves only its own output.
    """

    def __init__(self, in_place: bool, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._in_place = in_place
        self._monotonic = monotonic
        self._begun = monotonic()
        self._handle: Any = None
        self._last = ""

    def tick(self, job: models.Job) -> None:
        """Show the state if it says something new."""
        if self._monotonic() - self._begun < QUIET_SECONDS:
            return
        line = progress_words(job, Lens())
        new = line if self._in_place else views.job_state(job)
        if new == self._last:
            return
        self._last = new
        if not self._in_place:
            sys.stderr.write(f"{line}\n")
        elif self._handle is None:
            self._handle = display({"text/plain": line}, raw=True, display_id=True)
        else:
            self._handle.update({"text/plain": line}, raw=True)
