"""Jobs that belong together: sweeps, jobs that wait for others, attempts; and what the clients do with arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from fastgpu import models, requests
from fastgpu.errors import InvalidRequest
from fastgpu.formatting import one_line
from fastgpu.requests import Call, one_of, post_call, segment

if TYPE_CHECKING:
    from fastgpu.aio import AsyncGPUClient
    from fastgpu.client import GPUClient
    from fastgpu.job_array import AsyncJobArray, JobArray

T = TypeVar("T")
MOST_LISTED = 1000


@dataclass(frozen=True, slots=True)
class Together:
    """What a submission says of other jobs and attempts.

    ``array`` makes a job for each combination of values, at most ``max_running`` at once; ``after`` are jobs or arrays
    (handles or ids) that must have succeeded; ``retries`` counts further attempts; ``grace`` are seconds. A ``spot``
    job is cheaper, and is interrupted and put back into the queue when one that pays in full needs its GPUs.
    """

    array: Mapping[str, Iterable[object]] | None = None
    max_running: int | None = None
    after: object = ()
    retries: int = 0
    grace: int | None = None
    spot: bool = False

    @property
    def fields(self) -> dict[str, Any]:
        """As the submission names them. Raises InvalidRequest."""
        return {
            "sweep": {name: _values(name, values) for name, values in (self.array or {}).items()},
            "max_running": self.max_running,
            "after": _ids(self.after),
            "retries": self.retries,
            "grace_seconds": self.grace,
            "spot": self.spot,
        }


ALONE = Together()


def _values(name: str, values: Iterable[object]) -> tuple[str, ...]:
    if isinstance(values, str):
        raise InvalidRequest(f"the values of {one_line(name)} are one text; give a list of them.")
    return tuple(str(value) for value in values)


def _ids(after: object) -> tuple[str, ...]:
    """Ids of handles or ids, one or several."""
    several = after if isinstance(after, Sequence) and not isinstance(after, str) else (after,)
    return tuple(each if isinstance(each, str) else str(getattr(each, "id", each)) for each in several)


def sweep_of(option: str, given: Iterable[str] | None) -> dict[str, list[str]] | None:
    """The sweep of words such as ``lr=1e-3,1e-4``; None without any. Raises InvalidRequest naming the word."""
    sweep: dict[str, list[str]] = {}
    for word in given or ():
        name, equals, values = word.partition("=")
        found = [value.strip() for value in values.split(",") if value.strip()]
        if not (name.isidentifier() and equals and found):
            raise InvalidRequest(f"{option} {one_line(word)!r} is not NAME=VALUE,VALUE,…, for example lr=1e-3,1e-4.")
        if name in sweep:
            raise InvalidRequest(f"{option} gives {name} twice.")
        sweep[name] = found
    return sweep or None


# ---------------------------------------------------------------- calls


def submit_array(request: models.JobSubmit, key: str | None = None) -> Call[models.JobArray]:
    """Submit a sweep whose input files are already there."""
    return post_call("api/arrays", request, models.JobArray, key)


def array(array_id: str) -> Call[models.JobArray]:
    """An array with all its jobs."""
    return Call("GET", f"api/arrays/{segment(array_id)}", one_of(models.JobArray))


def cancel_array(array_id: str, key: str | None = None) -> Call[models.JobArray]:
    """Cancel all jobs of an array."""
    return post_call(f"api/arrays/{segment(array_id)}/cancel", None, models.JobArray, key)


def cancel_one(client: GPUClient, some_id: str) -> models.Job | models.JobArray:
    """Cancel a job, or all jobs of an array, by its id."""
    return client.cancel_array(some_id) if some_id.startswith("a-") else client.cancel(some_id)


# ---------------------------------------------------------------- methods of the clients


class Sweeping:
    """What :class:`~fastgpu.client.GPUClient` does with arrays."""

    def send(self, call: Call[T]) -> T:
        """Send one call and read its answer."""
        raise NotImplementedError

    def array(self: GPUClient, array_id: str) -> JobArray:  # type: ignore[misc]
        """Handle of an array by its id."""
        from fastgpu.job_array import JobArray

        return JobArray(self, self.send(array(array_id)))

    def cancel_array(self, array_id: str) -> models.JobArray:
        """Cancel all jobs of an array; what they used until then is charged."""
        return self.send(cancel_array(array_id))

    def jobs_of(self, array_id: str) -> list[models.Job]:
        """The jobs of an array in its order, each as its latest attempt stands."""
        places = {job.id: job.index for job in self.send(array(array_id)).jobs}
        listed = self.send(requests.jobs("all", MOST_LISTED, array=array_id))
        found = {job.id: job for job in listed if job.id in places}
        for job_id in set(places) - set(found):  # pushed out of the list by attempts
            found[job_id] = self.send(requests.job(job_id))
        return sorted(found.values(), key=lambda job: places[job.id])

    def listed(self, state: str = "all", limit: int | None = None) -> list[models.Job | models.JobArray]:
        """My jobs, newest first, with each array as one."""
        jobs = self.send(requests.jobs("active" if state == "active" else "all", limit, of_arrays="one"))
        return [job if job.array_id is None else self.send(array(job.array_id)) for job in jobs]


class AsyncSweeping:
    """What :class:`~fastgpu.aio.AsyncGPUClient` does with arrays."""

    async def send(self, call: Call[T]) -> T:
        """Send one call and read its answer."""
        raise NotImplementedError

    async def array(self: AsyncGPUClient, array_id: str) -> AsyncJobArray:  # type: ignore[misc]
        """Handle of an array by its id."""
        from fastgpu.job_array import AsyncJobArray

        return AsyncJobArray(self, await self.send(array(array_id)))

    async def cancel_array(self, array_id: str) -> models.JobArray:
        """Cancel all jobs of an array; what they used until then is charged."""
        return await self.send(cancel_array(array_id))
