"""What is simulated: jobs and the pools of GPUs they run on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from fastgpu_hub.scheduling.inventory import Device, Inventory

Kind = Literal["job", "server"]


class TraceError(Exception):
    """A trace cannot be simulated; the message names the file and line, what is wrong there, and what helps."""


@dataclass(frozen=True, slots=True)
class Job:
    """A request as it was submitted, and how long it ran (which the scheduler is not told).

    ``limit_ms`` is the requested time, None where none was given. ``user`` and ``name`` are empty when unknown.
    """

    id: str
    user: str
    pool: str
    gpu_count: int
    submit_ms: int
    run_ms: int
    limit_ms: int | None = None
    name: str = ""
    kind: Kind = "job"


@dataclass(frozen=True, slots=True)
class Pool:
    """GPUs that are interchangeable for those who ask: one virtual cluster. ``node_gpus`` has a count for each node."""

    name: str
    node_gpus: tuple[int, ...]

    @property
    def gpus(self) -> int:
        """GPUs in all."""
        return sum(self.node_gpus)


@dataclass(frozen=True, slots=True)
class Workload:
    """Jobs in the order of their submission, their pools, and in words how many were left out and why."""

    name: str
    jobs: tuple[Job, ...]
    pools: tuple[Pool, ...]
    left_out: tuple[str, ...] = ()

    @property
    def gpus(self) -> int:
        """GPUs of all pools."""
        return sum(pool.gpus for pool in self.pools)


def workload(name: str, jobs: Iterable[Job], pools: Iterable[Pool], left_out: Iterable[str] = ()) -> Workload:
    """A workload of those jobs that can ever run, by submission; equal submissions keep the order given.

    Raises TraceError when no job is left.
    """
    kept_pools = tuple(pools)
    inventory = Inventory()
    inventory.discover(devices(kept_pools))
    given = list(jobs)
    fitting = [job for job in given if inventory.pools[job.pool].could_ever(job.gpu_count)]
    notes = list(left_out)
    if too_large := len(given) - len(fitting):
        notes.append(f"{counted(too_large, 'job')} that never {'fits' if too_large == 1 else 'fit'} into the pool")
    if not fitting:
        raise TraceError(f"{name}: no job to simulate; left out: {', '.join(notes) or 'nothing, there is none'}")
    fitting.sort(key=lambda job: job.submit_ms)
    return Workload(name, tuple(fitting), kept_pools, tuple(notes))


def devices(pools: Iterable[Pool]) -> Iterator[Device]:
    """The devices of pools: each pool is a GPU type of its own."""
    for pool in pools:
        for place, size in enumerate(pool.node_gpus):
            node = f"{pool.name}-{place:05}"
            for index in range(size):
                yield Device(f"{node}-{index:05}", pool.name, node, index)


def counted(number: int, thing: str) -> str:
    """``1 job``, ``1,200 jobs``."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
