"""An engine that runs nothing: whoever uses it says what its jobs do. For tests and simulation, deterministic."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

from fastgpu_hub.broker.ports.world import ENGINE_FAULT, FileEntry, Launch, Observation, Reported
from fastgpu_hub.pricing.explain import Explained


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(slots=True)
class _Job:
    launch: Launch
    seen: Observation
    log: bytes = b""
    progress: float | None = None
    metrics: bytes = b""
    files: dict[str, bytes] = field(default_factory=dict)
    stops: int = 0


class FakeEngine:
    """Keeps jobs in memory. A job runs as soon as it is started (``auto_run``) until it is told to end.

    ``now_ms`` is the clock. Like any engine it reports through ``notify`` on the event loop, after the call that
    brought the change. ``launches`` lists what was really started, in order.
    """

    def __init__(self, now_ms: Callable[[], int] = _wall_ms, *, auto_run: bool = True) -> None:
        self._now_ms = now_ms
        self._auto_run = auto_run
        self._jobs: dict[str, _Job] = {}
        self._blobs: dict[str, bytes] = {}
        self._blobs_ms: dict[str, int] = {}
        self._saved: dict[str, dict[str, bytes]] = {}
        self._notify: Callable[[Observation], None] | None = None
        self.launches: list[Launch] = []
        self.removed_checkpoints: list[str] = []

    # ------------------------------------------------------------ what the tests drive

    def run(self, lease_id: str) -> None:
        """The job's command has been executed."""
        now = self._now_ms()
        self._see(lease_id, state="running", started_ms=now)

    def finish(self, lease_id: str, exit_code: int = 0) -> None:
        """The job ends by itself."""
        self._end(lease_id, "exit", exit_code)

    def fail_to_start(
        self, lease_id: str, message: str = "The job could not be started.", *, engine_fault: bool = False
    ) -> None:
        """The job's command cannot be executed, or, by no fault of the job, not even be tried."""
        self._end(lease_id, "failed_to_start", None, message, ENGINE_FAULT if engine_fault else "")

    def kill(self, lease_id: str, message: str = "The machine was restarted while the job ran.") -> None:
        """The job's processes are gone, and nobody knows with which exit code."""
        self._end(lease_id, "killed", None, message)

    def lose_sight(self, lease_id: str) -> None:
        """The engine cannot tell any more what the job does."""
        self._see(lease_id, state="unknown", reason=Explained("cannot_tell", "The engine cannot tell."))

    def tick(self) -> None:
        """End the jobs whose time limit has passed on the clock."""
        for lease_id, job in list(self._jobs.items()):
            started = job.seen.started_ms
            if (
                job.seen.state == "running"
                and started is not None
                and self._now_ms() >= started + job.launch.time_limit_ms
            ):
                self._end(lease_id, "timed_out", 143, "The job reached its time limit and was stopped.")

    def write_log(self, lease_id: str, data: bytes) -> None:
        """The job prints."""
        self._jobs[lease_id].log += data

    def set_progress(self, lease_id: str, progress: float | None) -> None:
        """The job reports how far it is."""
        self._jobs[lease_id].progress = progress

    def log_metric(self, lease_id: str, name: str, value: float, step: int | None = None) -> None:
        """The job reports a figure."""
        line = {"name": name, "value": value, "step": step, "at_ms": self._now_ms()}
        self._jobs[lease_id].metrics += json.dumps(line).encode() + b"\n"

    def put_file(self, lease_id: str, path: str, data: bytes) -> None:
        """The job writes a file."""
        self._jobs[lease_id].files[path] = data

    def put_checkpoint(self, lease_id: str, path: str, data: bytes) -> None:
        """The job saves where it is, for its next attempt."""
        launch = self._jobs[lease_id].launch
        self._saved.setdefault(launch.checkpoint_id or lease_id, {})[f"@checkpoints/{path}"] = data

    # ------------------------------------------------------------ the port

    async def open(self, notify: Callable[[Observation], None]) -> list[Observation]:
        """Begin to report; what is known of all jobs."""
        self._notify = notify
        return [replace(job.seen, at_ms=self._now_ms()) for job in self._jobs.values()]

    async def start(self, launch: Launch) -> None:
        """Start a job once, or fail it when input bytes are missing. Raises RuntimeError when not open."""
        if self._notify is None:
            raise RuntimeError("the engine is not open")
        lease_id = launch.lease_id
        if lease_id in self._jobs:
            return
        self._jobs[lease_id] = _Job(launch, Observation(lease_id, "starting", self._now_ms()))
        missing = [path for path, sha256 in launch.inputs.items() if sha256 not in self._blobs]
        if missing:
            self.fail_to_start(lease_id, f"The bytes of the input file {missing[0]!r} are not here.")
            return
        self._jobs[lease_id].files.update({path: self._blobs[sha256] for path, sha256 in launch.inputs.items()})
        self.launches.append(launch)
        if self._auto_run:
            self.run(lease_id)

    async def stop(self, lease_id: str, grace_seconds: float) -> None:
        """End the job at once; it obeys in less than any grace."""
        job = self._jobs.get(lease_id)
        if job is not None and job.seen.state != "exited":
            job.stops += 1
            self._end(lease_id, "stopped", 143 if job.seen.started_ms else None, "The job was stopped.")

    async def observe(self, lease_id: str) -> Observation:
        """What is known of a lease now."""
        job = self._jobs.get(lease_id)
        if job is None:
            return Observation(lease_id, "absent", self._now_ms())
        return replace(job.seen, at_ms=self._now_ms())

    def add_blob(self, write: Callable[[BinaryIO], None]) -> str:
        """Keep what is written under its SHA-256."""
        buffer = io.BytesIO()
        write(buffer)
        sha256 = hashlib.sha256(buffer.getvalue()).hexdigest()
        self._keep_blob(sha256, buffer.getvalue())
        return sha256

    def _keep_blob(self, sha256: str, data: bytes) -> None:
        self._blobs[sha256], self._blobs_ms[sha256] = data, self._now_ms()

    def sweep_blobs(self, named: Collection[str], before_ms: int) -> int:
        """Forget the blobs that are not named and were put before an instant; how many."""
        gone = [each for each in self._blobs if each not in named and self._blobs_ms[each] < before_ms]
        for sha256 in gone:
            del self._blobs[sha256]
        return len(gone)

    def environment_names(self) -> Sequence[str]:
        """Names of the environments that a job can choose from."""
        return ("torch",)

    def remove_jobs(self, lease_ids: Sequence[str], checkpoints_of: Sequence[str] = ()) -> None:
        """Forget jobs that have ended. ``removed_checkpoints`` lists whose checkpoints would have gone."""
        for lease_id in lease_ids:
            if lease_id in self._jobs and self._jobs[lease_id].seen.state == "exited":
                del self._jobs[lease_id]
        for first_id in checkpoints_of:
            self._saved.pop(first_id, None)
        self.removed_checkpoints += checkpoints_of

    async def put_blob(self, sha256: str, chunks: Sequence[bytes]) -> None:
        """Keep bytes under their hash. Raises ValueError when they do not match it."""
        data = b"".join(chunks)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError("the bytes do not have this SHA-256")
        self._keep_blob(sha256, data)

    def has_blob(self, sha256: str) -> bool:
        """Whether the bytes of this hash are here."""
        return sha256 in self._blobs

    def log_size(self, lease_id: str) -> int:
        """Bytes of output so far."""
        job = self._jobs.get(lease_id)
        return len(job.log) if job else 0

    def read_log(self, lease_id: str, offset: int, limit_bytes: int) -> bytes:
        """Output from ``offset`` on."""
        job = self._jobs.get(lease_id)
        return job.log[offset : offset + limit_bytes] if job else b""

    def on_log(self, lease_id: str, tell: Callable[[], None]) -> Callable[[], None]:
        """Nobody is told."""
        return lambda: None

    def progress(self, lease_id: str) -> float | None:
        """As set by :meth:`set_progress`."""
        job = self._jobs.get(lease_id)
        return job.progress if job else None

    def metrics(self, lease_id: str) -> Reported:
        """As written by :meth:`log_metric`."""
        job = self._jobs.get(lease_id)
        return Reported(job.metrics, len(job.metrics)) if job else Reported()

    def files(self, lease_id: str) -> list[FileEntry]:
        """Inputs and what :meth:`put_file` added, sorted by path."""
        job = self._jobs.get(lease_id)
        return [FileEntry(path, len(data)) for path, data in sorted(self._files(job).items())] if job else []

    def _files(self, job: _Job) -> dict[str, bytes]:
        return job.files | self._saved.get(job.launch.checkpoint_id or job.launch.lease_id, {})

    def read_file(self, lease_id: str, path: str) -> bytes | None:
        """Bytes of one of :meth:`files`."""
        job = self._jobs.get(lease_id)
        return self._files(job).get(path) if job else None

    def open_file(self, lease_id: str, path: str) -> BinaryIO | None:
        """One of :meth:`files`, to read from."""
        data = self.read_file(lease_id, path)
        return None if data is None else io.BytesIO(data)

    def root_pids(self, lease_id: str) -> list[int]:
        """None of its jobs has processes."""
        return []

    async def close(self) -> None:
        """Stop reporting; the jobs stay as they are."""
        self._notify = None

    # ------------------------------------------------------------

    def _end(self, lease_id: str, ending: str, exit_code: int | None, message: str = "", code: str = "") -> None:
        code = code or ("time_limit" if ending == "timed_out" else ending)
        self._see(
            lease_id,
            state="exited",
            ended_ms=self._now_ms(),
            exit_code=exit_code,
            ending=ending,
            reason=Explained(code, message) if message else None,
        )

    def _see(self, lease_id: str, **changes: object) -> None:
        job = self._jobs[lease_id]
        if job.seen.state == "exited":
            raise ValueError(f"job {lease_id} has ended already")
        job.seen = replace(job.seen, at_ms=self._now_ms(), **changes)  # type: ignore[arg-type]
        if self._notify is not None:
            asyncio.get_running_loop().call_soon(self._notify, job.seen)
