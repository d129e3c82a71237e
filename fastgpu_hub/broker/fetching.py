"""Inputs that a job names by address: checked when it is submitted, fetched after it was granted, before it starts."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from threading import Event
from typing import BinaryIO

from fastgpu import models
from fastgpu_hub.broker.actors import can_be_stored, not_found
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.jobs_input import check_input_paths
from fastgpu_hub.broker.outputs import check_outputs
from fastgpu_hub.broker.ports.files import CannotFetch, FileStore
from fastgpu_hub.broker.ports.records import Artifact, Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.ports.world import Engine
from fastgpu_hub.pricing.explain import Refused

ARTIFACT = "artifact:"
MOST_SOURCES = 100
_OF_JOB = re.compile(r"artifact:([A-Za-z0-9][A-Za-z0-9_\-]{0,99})/(.+)", re.DOTALL)


def refusal(request: models.JobSubmit, store: FileStore | None, environments: Iterable[str]) -> Refused | None:
    """The first thing wrong with a job's outputs, sources, environment and lock file, by their form."""
    if store is None and (request.outputs or request.sources):
        return Refused("invalid_request", "This hub has no artifact store: it keeps no outputs and fetches no sources.")
    if refused := check_outputs(request.outputs):
        return refused
    if len(request.sources) > MOST_SOURCES:
        return Refused(
            "invalid_request",
            f"The job names {len(request.sources)} sources; at most {MOST_SOURCES} are fetched.",
            {"sources": len(request.sources), "limit": MOST_SOURCES},
        )
    if refused := check_input_paths([*(entry.path for entry in request.inputs), *request.sources]):
        return refused
    for address in request.sources.values():
        if address.startswith(ARTIFACT):
            refused = None if _OF_JOB.fullmatch(address) else _no_artifact_address(address)
        else:
            refused = store.check_source(address) if store else None
        if refused:
            return refused
    return _environment_refusal(request, tuple(environments))


def _no_artifact_address(address: str) -> Refused:
    shown = ascii(address[:200])
    return Refused("invalid_request", f"{shown} names no kept file.", instead="Write artifact:JOB/PATH.")


def _environment_refusal(request: models.JobSubmit, known: tuple[str, ...]) -> Refused | None:
    if request.python is not None and request.python not in known:
        there_are = ", ".join(known) or "none but the default"
        return Refused(
            "invalid_request",
            f"There is no environment {request.python!r} here.",
            instead=f"Environments here: {there_are}. Leave python out, or bring a lock file.",
        )
    if request.lock is None:
        return None
    if request.kind == "command":
        return Refused(
            "invalid_request",
            "A lock file is for scripts and notebooks; a command chooses its own interpreter.",
            instead="Run a script, or leave lock out.",
        )
    if request.lock not in {entry.path for entry in request.inputs}:
        return Refused(
            "invalid_request",
            f"The lock file {request.lock!a} is not among the job's inputs.",
            instead="Send it along with the job's files.",
        )
    return None


def check_artifact_owners(uow: UnitOfWork, owner: str, request: models.JobSubmit) -> None:
    """Raises Refusal when a source is of a job that is not the submitter's own."""
    for address in request.sources.values():
        if match := _OF_JOB.fullmatch(address):
            job = uow.workload(match[1]) if can_be_stored(match[1]) else None
            if job is None or job.kind != "job" or job.owner != owner:
                raise Refusal(not_found("job", match[1]))


def artifact_of(uow: UnitOfWork, owner: str, address: str) -> Artifact | None:
    """The kept file at an ``artifact:`` address, None while it is still being kept.

    A job's name stands for its latest attempt. Raises CannotFetch when there is no such file of this owner.
    """
    match = _OF_JOB.fullmatch(address)
    attempts = uow.attempts([match[1]]) if match else []
    if match is None or not attempts or attempts[0].owner != owner:
        raise CannotFetch(f"There is no kept file {address[:200]!a}.")
    job = attempts[-1]
    if job.artifacts == "keeping":
        return None
    found = [each for each in uow.artifacts(job.id) if each.path == match[2]]
    if found and found[-1].deleted_ms is None:
        return found[-1]
    if found:
        raise CannotFetch(f"The file {match[2][:200]!a} of job {job.id} was removed from the artifact store.")
    why = "has not ended" if job.state != "ended" else "kept no such file"
    raise CannotFetch(f"Job {job.id} {why}: {match[2][:200]!a}.")


class Fetch:
    """The fetching of one job's inputs: until when it may go on, and how much more may come."""

    def __init__(self, workload: Workload, limit_bytes: int, seconds: float) -> None:
        self.workload = workload
        self.given_up = Event()
        self._left_bytes = limit_bytes
        self.until = time.monotonic() + seconds

    def go_on(self) -> bool:
        """Whether there is time left, and somebody waits for it."""
        return not self.given_up.is_set() and time.monotonic() < self.until

    def into_blob(self, engine: Engine, store: FileStore, address: str) -> str:
        """Fetch one input into the engine's blobs; its SHA-256. Blocks. Raises CannotFetch."""

        def write(file: BinaryIO) -> None:
            self._left_bytes -= store.fetch(address, file, self._left_bytes, self.go_on)

        return engine.add_blob(write)

    def copy_into_blob(self, engine: Engine, open_source: Callable[[], BinaryIO], size_bytes: int) -> str:
        """As ``into_blob``, for a kept file."""
        if size_bytes > self._left_bytes:
            raise CannotFetch(f"It is larger than the {self._left_bytes} bytes that may still be fetched for this job.")
        self._left_bytes -= size_bytes

        def write(file: BinaryIO) -> None:
            with open_source() as source:
                while part := source.read(1 << 20):
                    if not self.go_on():
                        raise CannotFetch("Fetching the sources took too long.")
                    file.write(part)

        return engine.add_blob(write)
