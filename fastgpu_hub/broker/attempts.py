"""Attempts at one job: how many are left, which comes next, and when; which end by an interruption. Reads only."""

from __future__ import annotations

from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.settings import MINUTE_MS
from fastgpu_hub.pricing.explain import Explained

FIRST_PAUSE_MS, LONGEST_PAUSE_MS = MINUTE_MS // 2, 10 * MINUTE_MS
# Who was interrupted so often runs to its end: nobody waits for ever behind jobs that pay more.
MOST_INTERRUPTIONS = 5
INTERRUPTED = Explained(
    "preempted",
    "Interrupted to make room for a job that pays the full price; it goes back into the queue.",
    instead="What it saved in FASTGPU_CHECKPOINT_DIR is there when it starts again. Nothing is charged from here on.",
)


def may_be_interrupted(workload: Workload) -> bool:
    """Whether a workload may be stopped to make room for another: spot jobs, up to ``MOST_INTERRUPTIONS`` times."""
    return workload.spot_percent_off is not None and workload.interruptions < MOST_INTERRUPTIONS


def interrupted(workload: Workload) -> bool:
    """Whether a workload is being, or was, stopped to make room for another."""
    return workload.stop_reason is not None and workload.stop_reason.code == INTERRUPTED.code


def attempts_left(job: Workload) -> int:
    """How many more times a job may be tried. Interruptions do not count."""
    return max(0, int(job.spec.get("retries", 0)) + 1 + job.interruptions - job.attempt)


def next_attempt(uow: UnitOfWork, job: Workload) -> Workload | None:
    """The attempt that followed this one, if any."""
    if not (job.state == "ended" and (attempts_left(job) or interrupted(job))):
        return None
    attempts = uow.attempts([job.retry_of or job.id])
    return next((each for each in attempts if each.attempt == job.attempt + 1), None)


def pause_ms(attempt: int) -> int:
    """How long the attempt of that number waits: 30 s before the second, then twice as long each time, to 10 min."""
    return int(min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS << min(attempt - 2, 30)))
