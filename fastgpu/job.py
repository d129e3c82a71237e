"""``Job``: the handle of a submitted job. It holds the last answer and asks again when that has grown old."""

from __future__ import annotations

import json
import pickle  # results of one's own jobs only: see Job.pull
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from fastgpu import models
from fastgpu.errors import Conflict, FastGPUError, JobFailed, NotAllowed, NotFound
from fastgpu.following import Patience, follow
from fastgpu.formatting import clean_text, format_fraction, format_money, one_line
from fastgpu.requests import LONG_POLL_SECONDS, LogPart
from fastgpu.result_files import OUTPUT_FOLDER, OUTPUT_LIST, RESULT_NOTEBOOK

if TYPE_CHECKING:
    from fastgpu.client import GPUClient

FRESH_SECONDS = 1.0
MOST_LOOKS, LOOK_SECONDS = 5, 0.05


class Job:
    """A job you submitted.

    Properties tell the state as it was at most a second ago; ``wait()`` blocks until the end, ``result()`` and
    ``pull('name')`` bring back what the job saved, ``logs()`` what it printed, ``download()`` its files. When it is
    tried again after a failure that was not its own, the handle is that of the latest attempt.
    """

    def __init__(
        self, client: GPUClient, snapshot: models.Job, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._monotonic = monotonic
        self.log_offset = 0
        self._keep(snapshot)

    def _keep(self, snapshot: models.Job) -> models.Job:
        self._snapshot = snapshot
        self._seen = self._monotonic()
        return snapshot

    def _latest(self, snapshot: models.Job) -> models.Job:
        """Keep the latest attempt of what was answered."""
        while snapshot.next_attempt is not None:
            snapshot = self._client.get_job_status(snapshot.next_attempt)
        return self._keep(snapshot)

    def __repr__(self) -> str:
        job = self._snapshot
        again = f", attempt {job.attempt}" if job.attempt > 1 else ""
        done = "" if job.progress is None else f", {format_fraction(job.progress)}"
        return f"<Job {job.id} {one_line(job.name)!r}: {job.state.value}{again}{done}, {self._cost_of(job)}>"

    # ---------------------------------------------------------------- what it is

    @property
    def id(self) -> str:
        """The job's id, also its lease's."""
        return self._snapshot.id

    @property
    def name(self) -> str:
        """The job's name."""
        return self._snapshot.name

    @property
    def snapshot(self) -> models.Job:
        """The last answer, whatever its age."""
        return self._snapshot

    def refresh(self) -> models.Job:
        """Ask now and return the whole answer."""
        return self._latest(self._client.get_job_status(self.id))

    def placed(self) -> Job:
        """The job, as soon as it is known whether it starts or why it waits: moments after it was taken.

        Never raises: it is taken, whatever happens to the service now.
        """
        with suppress(FastGPUError):
            for _ in range(MOST_LOOKS):
                if self._snapshot.explanation is None or self._snapshot.explanation.code != "admitting":
                    break
                time.sleep(LOOK_SECONDS)
                self.refresh()
        return self

    def _recent(self) -> models.Job:
        old = self._monotonic() - self._seen >= FRESH_SECONDS
        known = self._snapshot.state.final and self._snapshot.next_attempt is None
        return self.refresh() if old and not known else self._snapshot

    @property
    def state(self) -> models.JobState:
        """queued, starting, running, stopping; or in the end succeeded, failed, cancelled, timed_out, lost."""
        return self._recent().state

    @property
    def done(self) -> bool:
        """True when the job has ended, one way or another."""
        return self.state.final

    @property
    def cost(self) -> str:
        """What it has cost so far, for reading: ``0.42 credits``."""
        return self._cost_of(self._recent())

    @property
    def cost_micros(self) -> int:
        """What it has cost so far, for computing: micro-units."""
        return self._recent().cost_micros

    @staticmethod
    def _cost_of(job: models.Job) -> str:
        return format_money(job.cost_micros, job.currency)

    @property
    def progress(self) -> float | None:
        """0–1 as the job reports it through ``fastgpu.progress``, else as its last progress bar says; None without."""
        return self._recent().progress

    @property
    def eta(self) -> datetime | None:
        """The best estimate of its end (UTC); None when there is none."""
        return self._recent().eta_end

    # ---------------------------------------------------------------- following it

    def wait(self, timeout: float | None = None) -> Job:
        """Block until its latest attempt has ended and return it. Raises TimeoutError after ``timeout`` seconds."""
        until = None if timeout is None else self._monotonic() + timeout
        self._latest(self._snapshot)
        while not self._snapshot.state.final:
            left = LONG_POLL_SECONDS if until is None else until - self._monotonic()
            if left <= 0:
                raise TimeoutError(f"job {self.id} is still {self._snapshot.state.value} after {timeout} s")
            seconds = max(1, min(LONG_POLL_SECONDS, int(left)))
            self._latest(self._client.get_job_status(self.id, wait_seconds=seconds, state=self._snapshot.state))
        return self

    def logs(self, tail_bytes: int | None = None, *, latest: bool = True) -> str:
        """What its latest attempt printed so far, without terminal escape sequences; all, or about the last bytes.

        With ``latest=False`` what the attempt printed that the handle is of.
        """
        if latest:
            self._recent()
        start = 0 if tail_bytes is None else max(0, self.refresh().log_bytes - tail_bytes)
        return clean_text(b"".join(self._log_parts(start)).decode("utf-8", "replace"))

    def _log_parts(self, offset: int) -> Iterator[bytes]:
        while True:
            part = self._client.log_part(self.id, offset)
            yield part.data
            offset = part.next_offset
            if not part.data or offset >= part.size:
                return

    def follow(
        self, offset: int = 0, wait_seconds: int = 1, tell: Callable[[str], object] | None = None
    ) -> Iterator[str]:
        """What it prints from byte ``offset`` on, as it comes, until it ends; then what its next attempt prints.

        At least every ``wait_seconds`` seconds there is a text, if only an empty one, so that a caller can look at
        ``snapshot`` and show progress between two lines. While the service is away it is waited for, and ``tell`` is
        told so; then it goes on where it was. ``log_offset`` tells where to go on after an interruption.
        """
        self.log_offset = offset
        yield from follow(self, wait_seconds, Patience(self._client.pause, tell))

    def log_part(self, attempt: str, offset: int, wait_seconds: int | None = None) -> LogPart:
        """A piece of an attempt's output from a byte on; with ``wait_seconds`` once there is one, or after that."""
        return self._client.log_part(attempt, offset, wait_seconds=wait_seconds)

    def look(self) -> models.Job:
        """The answer, asked for anew when the last one is a second old."""
        return self._recent()

    def follow_to_end(
        self,
        write: Callable[[str], object],
        tell: Callable[[str], object],
        tick: Callable[[models.Job], object] | None = None,
    ) -> bool:
        """Write what it prints until it ends; an interrupt cancels it, a second one leaves it to itself.

        ``write`` gets the job's text, ``tell`` our own remarks, ``tick`` the state at least once a second. Returns
        False when it was left to itself.
        """
        interrupted = cancelled = False
        self.log_offset = 0
        while True:
            try:
                if interrupted and not cancelled:
                    with suppress(Conflict):  # it ended by itself meanwhile
                        self.cancel()
                    cancelled = True
                for text in self.follow(self.log_offset, tell=tell):
                    if text:
                        write(text)
                    if tick:
                        tick(self._snapshot)
                return True
            except KeyboardInterrupt:
                if interrupted:
                    tell(f"Detached from job {self.id}; see it with: jobs, logs {self.id}, cancel {self.id}.")
                    return False
                interrupted = True
                tell(f"Cancelling job {self.id}; interrupt again to detach from it.")

    def cancel(self) -> Job:
        """Cancel it; what it used until then is charged. Raises Conflict when it has already ended."""
        self._keep(self._client.cancel(self.id))
        return self

    # ---------------------------------------------------------------- what it left behind

    def metrics(self) -> list[models.Metric]:
        """The figures it reports by :func:`fastgpu.log_metric`: each with its values by step, its last and its best."""
        return self._client.job_metrics(self.id)

    def details(self) -> models.Run:
        """All that its result page shows: use of its GPUs over the run, figures, attempts."""
        return self._client.job_run(self.id)

    @property
    def page(self) -> str:
        """Address of its result page; a path on the hub where the hub's own address is not known here."""
        return self._client.page(f"jobs/{self.id}")

    def files(self) -> list[models.JobFile]:
        """The files it left behind."""
        return self._client.job_files(self.id)

    def download(self, folder: str | Path = ".", paths: Sequence[str] | None = None) -> list[Path]:
        """Save its files (all, or ``paths``) under ``folder`` and return where they lie now."""
        root = Path(folder)
        saved = []
        for path in [file.path for file in self.files()] if paths is None else paths:
            target = root / _safe_path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._client.save_file(self.id, path, target)
            saved.append(target)
        return saved

    def artifacts(self) -> list[models.Artifact]:
        """The files that are kept of it, whatever becomes of its folder."""
        return self._client.artifacts(self.id)

    def download_artifact(self, path: str, folder: str | Path = ".") -> Path:
        """Save one kept file under ``folder`` and return where it lies now."""
        return self.download_artifacts(folder, [path])[0]

    def download_artifacts(self, folder: str | Path = ".", paths: Sequence[str] | None = None) -> list[Path]:
        """Save its kept files (all, or ``paths``) under ``folder`` and return where they lie now."""
        root = Path(folder)
        saved = []
        for path in [file.path for file in self.artifacts()] if paths is None else paths:
            target = root / _safe_path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._client.save_artifact(self.id, path, target)
            saved.append(target)
        return saved

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the variables it saved, as given with ``--out``; empty for a script."""
        return tuple(self._output_list().get("outputs", {}))

    def _output_list(self) -> dict[str, Any]:
        try:
            listed = json.loads(self._client.read_file(self.id, OUTPUT_LIST))
        except NotFound:
            return {}
        return listed if isinstance(listed, dict) else {}

    def pull(self, name: str) -> Any:
        """The value of one saved variable, loaded into this Python.

        Loading runs code that the job's owner wrote: a job of anybody else is refused (NotAllowed) before a byte of it
        is read. Raises NotFound when the job saved no such variable.
        """
        self._refuse_another_owner()
        return self._load(name, self._output_list())

    def _load(self, name: str, listed: dict[str, Any]) -> Any:
        if name not in listed.get("outputs", {}):
            names = ", ".join(listed.get("outputs", {})) or "nothing"
            raise NotFound(f"Job {self.id} saved no {name!r}; it saved {one_line(names)}.")
        try:
            return pickle.loads(self._client.read_file(self.id, f"{OUTPUT_FOLDER}/{name}.pkl"))  # noqa: S301
        except FastGPUError:
            raise
        except Exception as error:  # unpickling may raise anything
            raise JobFailed(
                f"{name!r} of job {self.id} cannot be loaded here: {one_line(str(error))}.",
                hint=f"It was saved by Python {listed.get('python', '?')}; install what it needs in this kernel.",
            ) from error

    def _refuse_another_owner(self) -> None:
        me = self._client.me().name
        if self._snapshot.owner != me:
            raise NotAllowed(
                f"Job {self.id} belongs to {one_line(self._snapshot.owner)}, not to {one_line(me)}; "
                "loading its results would run that person's code.",
                hint="Use job.files() and job.download() to look at them.",
            )

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the end and return the saved variables by name (none for a script).

        Raises JobFailed when it did not succeed, with its last lines as the message's end.
        """
        self.wait(timeout)
        self.raise_for_failure()
        listed = self._output_list()
        if listed.get("outputs"):
            self._refuse_another_owner()
        return {name: self._load(name, listed) for name in listed.get("outputs", {})}

    def raise_for_failure(self) -> None:
        """Raise JobFailed if it has ended otherwise than well."""
        job = self._snapshot
        if not job.state.final or job.state is models.JobState.succeeded:
            return
        code = "" if job.exit_code is None else f" with exit code {job.exit_code}"
        ended = f"{_ENDED[job.state]}{code}."
        raise JobFailed(
            one_line(f"Job {job.id}: {job.explanation.message if job.explanation else ended}"),
            hint=f"See %fastgpu logs {job.id} or job.logs().",
            explanation=job.explanation,
        )

    @property
    def outputs(self) -> Any:
        """The outputs of its executed notebook, in nbformat's form; empty for a script."""
        try:
            notebook = json.loads(self._client.read_file(self.id, RESULT_NOTEBOOK))
        except NotFound:
            return ()
        cells = notebook.get("cells", [])
        return tuple(output for cell in cells for output in cell.get("outputs", []))


_ENDED = {
    models.JobState.failed: "it failed",
    models.JobState.cancelled: "it was cancelled",
    models.JobState.timed_out: "it reached its time limit",
    models.JobState.lost: "it was lost",
}


def _safe_path(path: str) -> PurePosixPath:
    """A relative path that stays below where it is put. Raises NotAllowed."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\\" in path or not pure.parts:
        raise NotAllowed(f"{one_line(path)!r} would be written outside the folder.")
    return pure
