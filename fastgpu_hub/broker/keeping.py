"""Keeping what jobs leave: a job's outputs are copied to the artifact store after its end, all of them or none.

That a job's outputs are to be kept is written down with its end, what is to be copied before it is copied, and that it
is kept after. Whatever is interrupted is done again; it has the same address then, so nothing is there twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import BinaryIO, cast

from fastgpu_hub.broker import admission, lifecycle, outputs
from fastgpu_hub.broker.admission import Rules
from fastgpu_hub.broker.ports.files import FileStore, FilesUnavailable
from fastgpu_hub.broker.ports.records import Artifact, Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.ports.world import Engine, FileEntry
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.pricing import quotas
from fastgpu_hub.pricing.explain import Explained, Refused
from fastgpu_hub.pricing.quota_words import format_bytes

log = logging.getLogger("fastgpu.files")
MOST_NAMED = 5


class Changed(Exception):
    """A file is not what it was when it was looked at."""


def wanted(engine: Engine, workload: Workload, settings: Settings) -> list[FileEntry] | Refused:
    """The files that a job's outputs name, or why they are too many. Blocks as long as looking takes."""
    found = engine.files(workload.id)
    chosen = outputs.matching(workload.spec.get("outputs", ()), found)
    return outputs.over_caps(chosen, settings.max_artifacts, settings.max_artifact_bytes) or chosen


def plan(
    uow: UnitOfWork,
    workload_id: str,
    files: Sequence[FileEntry] | Refused,
    store: FileStore,
    now_ms: int,
    currency: str,
) -> list[Artifact]:
    """Write down what is to be copied, if it may be kept; else why not, and tell the owner. Returns what to copy.

    One transaction for all: what two jobs keep at the same moment never passes a limit together.
    """
    workload = uow.workload(workload_id)
    if workload is None or workload.artifacts != "keeping":
        return []
    before = uow.artifacts(workload_id)
    uow.delete_artifacts([each.id for each in before if each.deleted_ms is None], now_ms)
    if not isinstance(files, Refused):
        files = _over_limit(uow, workload, files, now_ms, currency) or files
    if isinstance(files, Refused):
        not_kept(uow, workload, files, now_ms)
        return []
    new = [
        Artifact(0, workload_id, workload.owner, file.path, file.size_bytes, _url(store, workload, file), now_ms)
        for file in files
    ]
    taken = {artifact.url for artifact in new}
    uow.artifacts_gone([each.id for each in before if each.url in taken])  # what lies there is overwritten, not removed
    return uow.add_artifacts(new)


def _url(store: FileStore, workload: Workload, file: FileEntry) -> str:
    return store.url_of(workload.owner, workload.id, file.path)


def _over_limit(
    uow: UnitOfWork, workload: Workload, files: Sequence[FileEntry], now_ms: int, currency: str
) -> Refused | None:
    """What forbids keeping these files; a soft limit only warns."""
    customer = lifecycle.customer_of(workload)
    size = sum(file.size_bytes for file in files)
    for limit in Rules.load(uow).limits(customer, None, now_ms):
        if limit.metric != quotas.ARTIFACT_BYTES or quotas.window_at(limit, now_ms) is None:
            continue
        refused = quotas.check(admission.state_now(uow, limit, customer, now_ms, {}), size, currency=currency)
        if refused and limit.soft:
            lifecycle.tell(uow, workload, now_ms, "soft_limit", refused)
        elif refused:
            return _with_names(uow, workload, files, refused)
    return None


def _with_names(uow: UnitOfWork, workload: Workload, files: Sequence[FileEntry], refused: Refused) -> Refused:
    """The refusal with the files it is about, and which others to delete."""
    named = ", ".join(file.path for file in files[:MOST_NAMED])
    more = f" and {len(files) - MOST_NAMED} more" if len(files) > MOST_NAMED else ""
    largest = [f"{row[0]} ({format_bytes(row[2])})" for row in uow.kept_by_job(workload.owner, limit=3)]
    most = f" Most of yours are of {', '.join(largest)}." if largest else ""
    return replace(
        refused,
        message=f"The outputs of job {workload.id} are not kept ({named}{more}). {refused.message}",
        instead=f"Delete kept files with: fastgpu artifacts rm ID.{most} Then: fastgpu artifacts keep {workload.id}.",
    )


def kept(uow: UnitOfWork, workload_id: str, copied: Sequence[Artifact], now_ms: int) -> Workload | None:
    """Everything was copied."""
    workload = uow.workload(workload_id)
    if workload is None or workload.artifacts != "keeping":
        return None
    size = sum(artifact.size_bytes for artifact in copied)
    files = f"{len(copied)} file{'s' * (len(copied) != 1)}"
    message = f"Kept {files}, {format_bytes(size)}." if copied else "None of its files is one of its outputs."
    note = Explained("kept", message, {"files": len(copied), "bytes": size})
    return _closed(uow, workload, "kept", note, now_ms)


def not_kept(uow: UnitOfWork, workload: Workload, refused: Refused, now_ms: int) -> Workload:
    """Nothing is kept, and its owner is told why."""
    living = [each.id for each in uow.artifacts(workload.id) if each.deleted_ms is None]
    uow.delete_artifacts(living, now_ms)
    lifecycle.tell(uow, workload, now_ms, "not_kept", refused)
    return _closed(uow, workload, "failed", refused, now_ms)


def _closed(uow: UnitOfWork, workload: Workload, state: str, explained: Explained, now_ms: int) -> Workload:
    closed = replace(workload, artifacts=state, artifacts_note=explained)
    uow.save_workload(closed)
    detail = {"code": explained.code, "message": explained.message}
    lifecycle.note(uow, workload.id, now_ms, f"artifacts_{state}", **detail)
    return closed


def waits(uow: UnitOfWork, workload_id: str) -> None:
    """The store does not take its files now: say so with the job."""
    workload = uow.workload(workload_id)
    if workload is not None and workload.artifacts == "keeping" and workload.artifacts_note is None:
        message = "The artifact store does not take its files at the moment; they are kept as soon as it does."
        uow.save_workload(replace(workload, artifacts_note=Explained("artifacts_waiting", message)))


class _Stoppable:
    """A file to read from as long as ``go_on`` says so: nobody can stop a thread that copies a large one."""

    def __init__(self, file: BinaryIO, go_on: Callable[[], bool]) -> None:
        self._file, self._go_on = file, go_on

    def read(self, size: int = -1) -> bytes:
        if not self._go_on():
            raise FilesUnavailable("the service is closing")
        return self._file.read(size)


def copy(engine: Engine, store: FileStore, artifact: Artifact, go_on: Callable[[], bool] = lambda: True) -> None:
    """Copy one file. Raises Changed when it is not what it was, FilesUnavailable. Blocks."""
    source = engine.open_file(artifact.workload_id, artifact.path)
    if source is None:
        raise Changed(artifact.path)
    with source:
        try:
            store.put(artifact.url, cast("BinaryIO", _Stoppable(source, go_on)), artifact.size_bytes)
        except ValueError as error:
            raise Changed(f"{artifact.path}: {error}") from None
