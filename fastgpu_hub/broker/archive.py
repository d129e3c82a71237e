"""What jobs left: their log and folder as long as these are there, and the files that were kept as artifacts."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial

from fastgpu import models
from fastgpu_hub.broker import retention, views
from fastgpu_hub.broker.actors import Actor, not_allowed, not_found
from fastgpu_hub.broker.idempotency import IdempotencyClaim, Refusal
from fastgpu_hub.broker.office import Office
from fastgpu_hub.broker.outputs import check_outputs
from fastgpu_hub.broker.ports.files import FilesUnavailable
from fastgpu_hub.broker.ports.records import Artifact, AuditEntry, Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.windows import when

PART_BYTES = 1 << 20
QUICK_BYTES = 1 << 16  # so much is read sooner than a thread is asked to


@dataclass(frozen=True, slots=True)
class Content:
    """A kept file to hand out: its size, and its bytes a piece at a time (each takes a moment to read)."""

    size_bytes: int
    parts: Generator[bytes, None, None]


class Archive(Office):
    """Hands out, keeps and deletes the files that jobs left."""

    async def _job_with_files(self, actor: Actor, job_id: str) -> Workload | Refused:
        return await self._read(lambda uow: self._visible_with_files(uow, actor, job_id))

    def _visible_with_files(self, uow: UnitOfWork, actor: Actor, job_id: str) -> Workload:
        workload = self._visible(uow, actor, job_id, "job")
        if gone := retention.removed(workload, self.settings.time_zone):
            raise Refusal(gone)
        return workload

    async def job_log(
        self, actor: Actor, job_id: str, offset: int, limit_bytes: int
    ) -> tuple[bytes, int, str] | Refused:
        """Bytes of the job's output from an offset, its whole size, the job's state."""

        def part(job: Workload) -> tuple[bytes, int, str]:
            data = self.engine.read_log(job_id, offset, limit_bytes)
            return data, max(self.engine.log_size(job_id), offset + len(data)), views.state_of_job(job).value

        known = self.store.at_hand(job_id)
        visible = known is not None and known.kind == "job" and actor.sees(known)
        if known is not None and visible and self.engine.log_size(job_id) - offset <= QUICK_BYTES:
            return part(known)
        # The job first, then its log: of one that has ended all output is there.
        return await self._read(lambda uow: part(self._visible_with_files(uow, actor, job_id)))

    async def job_files(self, actor: Actor, job_id: str) -> list[models.JobFile] | Refused:
        """Files in the job's directory."""
        job = await self._job_with_files(actor, job_id)
        if isinstance(job, Refused):
            return job
        found = await asyncio.to_thread(self.engine.files, job_id)
        return [models.JobFile(path=entry.path, size_bytes=entry.size_bytes) for entry in found]

    async def job_file(self, actor: Actor, job_id: str, path: str) -> bytes | Refused:
        """Bytes of one file."""
        job = await self._job_with_files(actor, job_id)
        if isinstance(job, Refused):
            return job
        content = await asyncio.to_thread(self.engine.read_file, job_id, path)
        return content if content is not None else not_found("file", path)

    # ------------------------------------------------------------ artifacts

    async def kept_files(self, actor: Actor, limit: int = 100) -> list[models.KeptFiles]:
        """The caller's artifacts by job, the largest first."""

        def look(uow: UnitOfWork) -> list[models.KeptFiles]:
            rows = uow.kept_by_job(actor.name, limit)
            names = {job.id: job.name for job in uow.workloads_of([row[0] for row in rows])}
            return [
                models.KeptFiles(
                    job_id=job_id, job_name=names[job_id], files=files, size_bytes=size, kept_at=views.at(at_ms)
                )
                for job_id, files, size, at_ms in rows
            ]

        return await self.store.read(look)

    async def artifacts(self, actor: Actor, job_id: str) -> list[models.Artifact] | Refused:
        """What is kept of a job, by path."""
        return await self._read(lambda uow: self._artifacts(uow, self._visible(uow, actor, job_id, "job")))

    @staticmethod
    def _artifacts(uow: UnitOfWork, job: Workload) -> list[models.Artifact]:
        living = [] if job.artifacts == "keeping" else [a for a in uow.artifacts(job.id) if a.deleted_ms is None]
        return sorted(
            (
                models.Artifact(job_id=job.id, path=a.path, size_bytes=a.size_bytes, kept_at=views.at(a.created_ms))
                for a in living
            ),
            key=lambda artifact: artifact.path,
        )

    async def artifact(self, actor: Actor, job_id: str, path: str) -> Content | Refused:
        """A kept file's bytes."""
        found = await self._read(lambda uow: self._artifact(uow, self._visible(uow, actor, job_id, "job"), path))
        store = self.runtime.files.store
        if isinstance(found, Refused) or store is None:
            return found if isinstance(found, Refused) else not_found("kept file", path)
        try:
            source = await self.runtime.files.blocking(partial(store.open, found.url))
        except FileNotFoundError:
            return Refused("removed", f"The artifact store has lost {path[:200]!a} of job {job_id}.")
        except FilesUnavailable:
            message = "The artifact store does not answer right now; nothing was changed."
            return Refused("unavailable", message, instead="Repeat the same call in a moment.")

        def parts() -> Generator[bytes, None, None]:
            with source:
                while part := source.read(PART_BYTES):
                    yield part

        return Content(found.size_bytes, parts())

    def _artifact(self, uow: UnitOfWork, job: Workload, path: str) -> Artifact:
        """The kept file at a path. Raises Refusal when there is none, with when it went where it was."""
        found = [each for each in uow.artifacts(job.id) if each.path == path]
        if not found or job.artifacts == "keeping":
            raise Refusal(not_found("kept file", path))
        if (removed_ms := found[-1].deleted_ms) is not None:
            date = when(removed_ms, self.settings.time_zone)
            message = f"The kept file {path[:200]!a} of job {job.id} was removed on {date}."
            raise Refusal(Refused("removed", message, {"removed_ms": removed_ms}))
        return found[-1]

    async def delete_artifacts(self, actor: Actor, job_id: str, path: str | None = None) -> Refused | None:
        """Delete what is kept of a job, or one file of it. By its owner, or an administrator."""
        now_ms = self.clock.now_ms()

        def delete(uow: UnitOfWork) -> None:
            job = self._own(uow, actor, job_id)
            if job.artifacts == "keeping":
                raise Refusal(
                    Refused("conflict", f"The files of job {job_id} are just being kept.", instead="Try again soon.")
                )
            doomed = [artifact for artifact in uow.artifacts(job_id) if path in (None, artifact.path)]
            if path is not None and not doomed:
                raise Refusal(not_found("kept file", path))
            living = [artifact for artifact in doomed if artifact.deleted_ms is None]
            uow.delete_artifacts([artifact.id for artifact in living], now_ms)
            if living and actor.name != job.owner:
                before = {"owner": job.owner, "files": [artifact.path for artifact in living][:100]}
                uow.add_audit(AuditEntry(now_ms, actor.name, "delete_artifacts", job_id, before, None))

        try:
            await self.store.write(delete)
        except Refusal as error:
            return error.refused
        self.runtime.files.wake()
        return None

    def _own(self, uow: UnitOfWork, actor: Actor, job_id: str) -> Workload:
        job = self._visible(uow, actor, job_id, "job")
        if actor.name != job.owner and not actor.admin:
            raise Refusal(not_allowed("Only its owner decides what is kept of a job."))
        return job

    async def keep_artifacts(
        self, actor: Actor, job_id: str, request: models.ArtifactsKeep, *, key: IdempotencyClaim | None = None
    ) -> models.Job | Refused:
        """Keep a job's outputs after its end: those it named, or others. What is kept of it already is replaced."""
        if self.runtime.files.store is None:
            return not_allowed("This hub has no artifact store.")
        if refused := check_outputs(request.outputs):
            return refused

        def keep(uow: UnitOfWork) -> models.Job:
            job = self._own(uow, actor, job_id)
            if gone := retention.removed(job, self.settings.time_zone):
                raise Refusal(gone)
            patterns = list(request.outputs) or job.spec.get("outputs", [])
            if job.state != "ended" or not patterns:
                why = "has not ended" if job.state != "ended" else "named no outputs"
                instead = "Wait for its end." if job.state != "ended" else "Name the files to keep."
                raise Refusal(Refused("conflict", f"Job {job_id} {why}.", instead=instead))
            if job.artifacts != "keeping":
                spec = {**job.spec, "outputs": patterns}
                uow.save_workload(replace(job, spec=spec, artifacts="keeping", artifacts_note=None))
            return self._job_view(uow, uow.workload(job_id) or job)

        answer = await self._write(actor, key, models.Job, keep)
        self.runtime.files.wake()
        return answer
