"""Files around a job: those it keeps, those the service fetches for it, and the environment it runs in."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from fastgpu import models
from fastgpu.requests import Call, Received, file_path, many_of, nothing, post_call, query, segment

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Around:
    """What a submission says beside its program: fields of :class:`~fastgpu.models.JobSubmit` of the same names."""

    outputs: Sequence[str] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None
    lock: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """Patterns of the files that must be sent along."""
        return () if self.lock is None else (glob.escape(self.lock),)

    @property
    def fields(self) -> dict[str, Any]:
        """As the submission names them."""
        return {
            "outputs": tuple(self.outputs),
            "sources": dict(self.sources),
            "python": self.python,
            "lock": None if self.lock is None else os.path.relpath(self.lock),
        }


NOTHING_AROUND = Around()

# ---------------------------------------------------------------- calls


def kept_files(limit: int | None = None) -> Call[list[models.KeptFiles]]:
    """The caller's kept files by job, the largest first."""
    return Call("GET", "api/artifacts", many_of(models.KeptFiles), params=query(limit=limit))


def artifacts(job_id: str) -> Call[list[models.Artifact]]:
    """What is kept of a job."""
    return Call("GET", f"api/jobs/{segment(job_id)}/artifacts", many_of(models.Artifact))


def artifact(job_id: str, path: str) -> Call[bytes]:
    """The bytes of a kept file."""

    def content(received: Received) -> bytes:
        return received.content

    return Call("GET", f"api/jobs/{segment(job_id)}/artifacts/{file_path(path)}", content)


def keep_artifacts(job_id: str, request: models.ArtifactsKeep, key: str | None = None) -> Call[models.Job]:
    """Keep a job's outputs after its end."""
    return post_call(f"api/jobs/{segment(job_id)}/artifacts", request, models.Job, key)


def delete_artifacts(job_id: str, path: str | None = None) -> Call[None]:
    """Delete all that is kept of a job, or one file."""
    below = "" if path is None else f"/{file_path(path)}"
    return Call("DELETE", f"api/jobs/{segment(job_id)}/artifacts{below}", nothing)


# ---------------------------------------------------------------- methods of the clients


class Keeping:
    """What :class:`~fastgpu.client.GPUClient` does with kept files."""

    def send(self, call: Call[T]) -> T:
        """Send one call and read its answer."""
        raise NotImplementedError

    def save(self, call: Call[bytes], destination: Path) -> None:
        """Stream an answer to disk."""
        raise NotImplementedError

    def kept_files(self, limit: int | None = None) -> list[models.KeptFiles]:
        """My kept files by job, the largest first."""
        return self.send(kept_files(limit))

    def artifacts(self, job_id: str) -> list[models.Artifact]:
        """What is kept of a job."""
        return self.send(artifacts(job_id))

    def read_artifact(self, job_id: str, path: str) -> bytes:
        """The bytes of a kept file."""
        return self.send(artifact(job_id, path))

    def save_artifact(self, job_id: str, path: str, destination: Path) -> None:
        """Stream a kept file to disk; ``destination`` appears only when whole."""
        self.save(artifact(job_id, path), destination)

    def keep_artifacts(self, job_id: str, outputs: Sequence[str] = ()) -> models.Job:
        """Keep a job's outputs after its end (again): those it named, or those that these patterns name."""
        return self.send(keep_artifacts(job_id, models.ArtifactsKeep(outputs=tuple(outputs))))

    def delete_artifacts(self, job_id: str, path: str | None = None) -> None:
        """Delete all that is kept of a job, or one file of it."""
        self.send(delete_artifacts(job_id, path))


class AsyncKeeping:
    """What :class:`~fastgpu.aio.AsyncGPUClient` does with kept files."""

    async def send(self, call: Call[T]) -> T:
        """Send one call and read its answer."""
        raise NotImplementedError

    async def kept_files(self, limit: int | None = None) -> list[models.KeptFiles]:
        """My kept files by job, the largest first."""
        return await self.send(kept_files(limit))

    async def artifacts(self, job_id: str) -> list[models.Artifact]:
        """What is kept of a job."""
        return await self.send(artifacts(job_id))

    async def read_artifact(self, job_id: str, path: str) -> bytes:
        """The bytes of a kept file."""
        return await self.send(artifact(job_id, path))

    async def keep_artifacts(self, job_id: str, outputs: Sequence[str] = ()) -> models.Job:
        """Keep a job's outputs after its end (again): those it named, or those that these patterns name."""
        return await self.send(keep_artifacts(job_id, models.ArtifactsKeep(outputs=tuple(outputs))))

    async def delete_artifacts(self, job_id: str, path: str | None = None) -> None:
        """Delete all that is kept of a job, or one file of it."""
        await self.send(delete_artifacts(job_id, path))
