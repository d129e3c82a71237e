"""What evidence says about time: an engine tells how long a job ran, our own clock tells when.

Engines stamp what they see with clocks of their own, which may be set while a job runs. The length of an interval that
an engine measured is taken, its place on the calendar is not.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from fastgpu_hub.broker import lifecycle
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import Store, UnitOfWork
from fastgpu_hub.broker.ports.world import Observation

log = logging.getLogger("fastgpu.clock")
# A clock that is corrected by less is no news.
LEAST_TOLD_MS = 10_000


def recorded_ms(workload: Workload) -> int:
    """The latest instant at which its own row says that it was there: for when no other evidence was kept."""
    return workload.charged_until_ms or workload.granted_ms or workload.requested_ms


def ran_until_ms(seen: Observation, billed_from_ms: int | None, now_ms: int) -> int:
    """The last instant at which a job is known to have run: so long after the start of its bill as its engine counted.

    Never later than now, unless now is before that start because our clock was set back; then the engine's count is
    all there is.
    """
    at_ms = seen.at_ms if seen.ended_ms is None else seen.ended_ms
    if seen.started_ms is None or billed_from_ms is None:
        return min(at_ms, now_ms)
    until_ms = billed_from_ms + max(0, at_ms - seen.started_ms)
    return until_ms if now_ms < billed_from_ms else min(until_ms, now_ms)


async def tell_of_clock(store: Store, live: Iterable[Workload], heartbeat_ms: int | None, now_ms: int) -> None:
    """Tell, in the log and on every live workload, when the clock is behind what this service last wrote down."""
    if heartbeat_ms is None or now_ms >= heartbeat_ms - LEAST_TOLD_MS:
        return
    back_ms = heartbeat_ms - now_ms
    log.error(
        "this machine's clock is %.0f s behind the last time the service recorded: it was set back. Nothing is billed "
        "twice; servers are not billed until the clock has passed that time again.",
        back_ms / 1000,
    )

    def flag(uow: UnitOfWork) -> None:
        for workload in live:
            lifecycle.note(uow, workload.id, now_ms, "clock_set_back", back_ms=back_ms)

    await store.write(flag)
