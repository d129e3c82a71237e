"""``JobArray``: the handle of an array. It holds the last answer; its jobs are handles of their own."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

from fastgpu import models, together
from fastgpu.errors import JobFailed
from fastgpu.formatting import format_money, one_line
from fastgpu.inside import value_of
from fastgpu.job import Job
from fastgpu.requests import LONG_POLL_SECONDS
from fastgpu.words import array_words

if TYPE_CHECKING:
    from fastgpu.aio import AsyncGPUClient
    from fastgpu.client import GPUClient


class JobArray:
    """An array you submitted: ``wait()`` blocks until all of its jobs have ended, ``results()`` is a table of them.

    Iterating gives the handles of its jobs, in the order of the sweep.
    """

    def __init__(
        self, client: GPUClient, snapshot: models.JobArray, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._monotonic = monotonic
        self.snapshot = snapshot

    def __repr__(self) -> str:
        array = self.snapshot
        cost = format_money(array.cost_micros, array.currency)
        return f"<JobArray {array.id} {one_line(array.name)!r}: {array_words(array)}, {cost}>"

    def __len__(self) -> int:
        return self.snapshot.size

    def __iter__(self) -> Iterator[Job]:
        return iter(self.jobs)

    @property
    def id(self) -> str:
        """The array's id."""
        return self.snapshot.id

    @property
    def jobs(self) -> list[Job]:
        """Handles of its jobs, each of its latest attempt."""
        return [Job(self._client, job) for job in self._client.jobs_of(self.id)]

    @property
    def done(self) -> bool:
        """True when every job has ended, one way or another."""
        return self.snapshot.done or self.refresh().done

    @property
    def counts(self) -> dict[str, int]:
        """How many jobs are in which state now."""
        return {state.value: count for state, count in self.refresh().counts.items()}

    @property
    def cost(self) -> str:
        """What its jobs have cost so far, all attempts together, for reading."""
        answer = self.refresh()
        return format_money(answer.cost_micros, answer.currency)

    def refresh(self) -> models.JobArray:
        """Ask now and return the whole answer."""
        self.snapshot = self._client.send(together.array(self.id))
        return self.snapshot

    def wait(self, timeout: float | None = None, tick: Callable[[models.JobArray], object] | None = None) -> JobArray:
        """Block until every job has ended and return the array. ``tick`` hears of each look at it.

        Raises TimeoutError after ``timeout`` seconds.
        """
        until = None if timeout is None else self._monotonic() + timeout
        while not self.refresh().done:
            if tick is not None:
                tick(self.snapshot)
            left = LONG_POLL_SECONDS if until is None else until - self._monotonic()
            if left <= 0:
                raise TimeoutError(f"array {self.id} is not done after {timeout} s: {array_words(self.snapshot)}")
            # Of those that have not ended, one that runs is nearest to news.
            job = min((job for job in self.snapshot.jobs if not job.state.final), key=_distance)
            seconds = max(1, min(LONG_POLL_SECONDS, int(left)))
            self._client.get_job_status(job.id, wait_seconds=seconds, state=job.state)
        if tick is not None:
            tick(self.snapshot)
        return self

    def cancel(self) -> JobArray:
        """Cancel every job that has not ended; what they used until then is charged."""
        self.snapshot = self._client.cancel_array(self.id)
        return self

    def raise_for_failure(self) -> None:
        """Raise JobFailed if a job of it has ended otherwise than well."""
        failed = [job for job in self.snapshot.jobs if job.state.final and job.state is not models.JobState.succeeded]
        if failed:
            raise JobFailed(
                f"Of array {self.id} {len(failed)} of {self.snapshot.size} jobs did not succeed.",
                hint=f"See why with: why {failed[0].id}, and what it printed with: logs {failed[0].id}.",
            )

    def results(self, timeout: float | None = None) -> list[dict[str, Any]]:
        """Wait for the end and return a row for each job: its parameters, how it ended, its cost and figures.

        The figures are the last values of what the job reported by :func:`fastgpu.log_metric`. ``pandas.DataFrame`` and
        the like take the rows as they are.
        """
        self.wait(timeout)
        return [
            {
                **{name: value_of(text) for name, text in job.parameters.items()},
                "job": job.id,
                "state": job.state.value,
                "cost": format_money(job.cost_micros),
                **{metric.name: metric.last.value for metric in self._client.job_metrics(job.id)},
            }
            for job in self.snapshot.jobs
        ]

    def pull(self, name: str) -> list[Any]:
        """The value of one saved variable of each job, in order. Raises NotFound when a job saved no such variable."""
        return [job.pull(name) for job in self.jobs]


def _distance(job: models.ArrayJob) -> tuple[int, int]:
    order = (models.JobState.stopping, models.JobState.running, models.JobState.starting, models.JobState.queued)
    return order.index(job.state), job.index


class AsyncJobArray:
    """Handle of an array for async code: ``await array`` waits for its end and returns it as it then stands."""

    def __init__(self, client: AsyncGPUClient, snapshot: models.JobArray) -> None:
        self._client = client
        self.snapshot = snapshot

    def __repr__(self) -> str:
        return f"<AsyncJobArray {self.snapshot.id} {array_words(self.snapshot)}>"

    def __await__(self) -> Generator[Any, None, models.JobArray]:
        return self.wait().__await__()

    @property
    def id(self) -> str:
        """The array's id."""
        return self.snapshot.id

    async def refresh(self) -> models.JobArray:
        """Ask now and return the whole answer."""
        self.snapshot = await self._client.send(together.array(self.id))
        return self.snapshot

    async def wait(self) -> models.JobArray:
        """Wait until every job has ended."""
        while not (await self.refresh()).done:
            job = min((job for job in self.snapshot.jobs if not job.state.final), key=_distance)
            await self._client.get_job_status(job.id, wait_seconds=LONG_POLL_SECONDS, state=job.state)
        return self.snapshot

    async def cancel(self) -> models.JobArray:
        """Cancel every job that has not ended; what they used until then is charged."""
        self.snapshot = await self._client.cancel_array(self.id)
        return self.snapshot
