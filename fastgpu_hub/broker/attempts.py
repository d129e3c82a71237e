"""Attempts at one job: how many are left, which comes next, and when. Reads only."""

from __future__ import annotations

from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.settings import MINUTE_MS

FIRST_PAUSE_MS, LONGEST_PAUSE_MS = MINUTE_MS // 2, 10 * MINUTE_MS


def attempts_left(job: Workload) -> int:
    """How many more times a job may be tried."""
    return max(0, int(job.spec.get("retries", 0)) + 1 - job.attempt)


def next_attempt(uow: UnitOfWork, job: Workload) -> Workload | None:
    """The attempt that followed this one, if any."""
    if not (job.state == "ended" and attempts_left(job)):
        return None
    attempts = uow.attempts([job.retry_of or job.id])
    return next((each for each in attempts if each.attempt == job.attempt + 1), None)


def pause_ms(attempt: int) -> int:
    """How long the attempt of that number waits: 30 s before the second, then twice as long each time, to 10 min."""
    return int(min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS << min(attempt - 2, 30)))
