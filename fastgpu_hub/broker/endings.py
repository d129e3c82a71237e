"""When a running workload will be stopped, as far as that is known. Pure."""

from __future__ import annotations

from fastgpu_hub.broker.ports.records import Hold, Workload
from fastgpu_hub.pricing.explain import Explained, Refused

TIME_LIMIT = Refused("time_limit", "The time it was asked for is over.", instead="Ask for a longer time next time.")


def ending_of(workload: Workload, hold: Hold) -> tuple[int, Explained] | None:
    """When a running workload will be stopped and why, as far as that is known: its funding or its time limit ends."""
    if workload.ending is not None:
        return hold.until_ms, workload.ending
    return (hold.until_ms, TIME_LIMIT) if workload.time_limit_ms is not None else None
