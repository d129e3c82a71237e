"""When a running workload will be stopped, as far as that is known, and whether it started when planned. Pure."""

from __future__ import annotations

from dataclasses import replace

from fastgpu_hub.broker.ports.records import Hold, Workload
from fastgpu_hub.broker.settings import MINUTE_MS
from fastgpu_hub.pricing.explain import Explained, Refused
from fastgpu_hub.pricing.windows import day_and_time

TIME_LIMIT = Refused("time_limit", "The time it was asked for is over.", instead="Ask for a longer time next time.")


def ending_of(workload: Workload, hold: Hold) -> tuple[int, Explained] | None:
    """When a running workload will be stopped and why, as far as that is known: its funding or its time limit ends."""
    if workload.ending is not None:
        return hold.until_ms, workload.ending
    return (hold.until_ms, TIME_LIMIT) if workload.time_limit_ms is not None else None


def used_up(refused: Refused) -> Refused:
    """Why funding cannot be extended, said first for whom it concerns: what is used up; then its numbers."""
    if refused.code == "credit":
        what = f"The credit of {refused.numbers.get('account', 'its account')} is used up."
    else:
        what = "A limit is used up." if refused.code.startswith("quota_") else "Its funding cannot be extended."
    return replace(refused, message=f"{what} {refused.message}")


def started_words(workload: Workload, time_zone: str) -> str:
    """That a job started when that was planned, or how much later; empty when it was to start at once."""
    planned_ms, started_ms = workload.not_before_ms, workload.billed_from_ms
    if planned_ms is None or started_ms is None or workload.quoted_micros is None or workload.attempt > 1:
        return ""
    at, late_ms = day_and_time(planned_ms, time_zone), started_ms - planned_ms
    if late_ms < MINUTE_MS:
        return f"Started {at} as planned."
    return f"Started {late_ms // MINUTE_MS} min after {at}, the planned start: no sooner did it get its GPUs."
