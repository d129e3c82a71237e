"""Queued workloads that may not have their turn yet: which, why, and when to look again.

A queued workload is handed to the scheduler once every job that it needs has succeeded and its earliest start has
come. Both follow from the store alone, so nothing is lost with a restart.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastgpu_hub.broker.admission import Rules
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.pricing.explain import Explained

if TYPE_CHECKING:
    from fastgpu_hub.broker.runtime import Runtime

ARRAY_LIMIT = "array:"  # how the scheduler is told of an array's own limit, before its id
RESERVED = "The money for it stays reserved."


@dataclass(frozen=True, slots=True)
class Hindrance:
    """Why a queued workload is kept out of the queue; ``until_ms`` is when that passes by itself, None if never."""

    reason: Explained
    until_ms: int | None = None


def hindrance(uow: UnitOfWork, workload: Workload, now_ms: int) -> Hindrance | None:
    """What keeps a workload out of the queue; None when nothing does, or it does not wait."""
    return hindrances(uow, [workload], now_ms).get(workload.id)


def hindrances(uow: UnitOfWork, workloads: Iterable[Workload], now_ms: int) -> dict[str, Hindrance]:
    """What keeps workloads out of the queue, by id; those that nothing does lack."""
    queued = [workload for workload in workloads if workload.state == "queued"]
    found = needed(uow, [workload for workload in queued if workload.spec.get("after")])
    for workload in queued:
        if workload.id not in found and (early := _too_early(workload, now_ms)) is not None:
            found[workload.id] = early
    return found


def needed(uow: UnitOfWork, workloads: Sequence[Workload]) -> dict[str, Hindrance]:
    """Of workloads that were made to wait for jobs: for which they still do."""
    if not workloads:
        return {}
    of: dict[str, list[str]] = {}
    for dependency in uow.needs([workload.id for workload in workloads]):
        of.setdefault(dependency.workload_id, []).append(dependency.needs_id)
    latest = latest_attempts(uow, sorted({needs_id for needs in of.values() for needs_id in needs}))
    return {
        workload_id: Hindrance(_waits_for(left, len(needs)))
        for workload_id, needs in of.items()
        if (left := [latest[n] for n in needs if n in latest and latest[n].outcome != "succeeded"])
    }


def latest_attempts(uow: UnitOfWork, first_ids: Sequence[str]) -> dict[str, Workload]:
    """The latest attempt at each of these jobs, by the id of the first one."""
    return {workload.retry_of or workload.id: workload for workload in uow.attempts(first_ids)} if first_ids else {}


_NEARER_ITS_END = ("queued", "granted", "running", "stopping", "ended")


def _waits_for(left: Sequence[Workload], of: int) -> Explained:
    nearest = max(left, key=lambda workload: _NEARER_ITS_END.index(workload.state))
    which = f"{nearest.id}, which {STATES[nearest.outcome or nearest.state]}"
    more = f", and for {len(left) - 1} more of {of} jobs" if len(left) > 1 else ""
    return Explained(
        "dependency",
        f"Waits for {which}{more}. {RESERVED}",
        {"needs": nearest.id, "left": len(left), "of": of},
        instead="It starts by itself when all of them have succeeded, and is cancelled when one does not.",
    )


STATES: Mapping[str, str] = {
    "queued": "is queued",
    "granted": "is starting",
    "running": "is running",
    "stopping": "is being stopped",
    "failed": "failed",
    "cancelled": "was cancelled",
    "timed_out": "reached its time limit",
    "lost": "was lost",
}


def _too_early(workload: Workload, now_ms: int) -> Hindrance | None:
    start_ms = workload.not_before_ms
    if start_ms is None or start_ms <= now_ms:
        return None
    numbers: dict[str, int | str] = {"wait_seconds": -(-(start_ms - now_ms) // 1000)}
    if workload.attempt > 1:
        words = f"Attempt {workload.attempt} starts a little later, in case what made the last one fail passes."
        return Hindrance(
            Explained("back_off", f"{words} {RESERVED}", numbers | {"attempt": workload.attempt}, start_ms), start_ms
        )
    if workload.explanation is not None:  # why it was put off, as it was planned
        return Hindrance(workload.explanation, start_ms)
    return Hindrance(Explained("start_time", f"Its start time has not come. {RESERVED}", numbers, start_ms), start_ms)


def of_its_array(reason: Explained, workload: Workload) -> Explained:
    """Why a job of an array waits, in the array's words where it is the array's own limit that keeps it."""
    if reason.numbers.get("quota") != f"{ARRAY_LIMIT}{workload.array_id}":
        return reason
    most = int(workload.spec.get("max_running") or 0)
    return Explained(
        "array_limit",
        f"Waits for its array: {most} of its jobs run, and no more are to run at once.",
        {"limit": most, "array": workload.array_id or ""},
        instead="It starts by itself when one of them ends.",
    )


class WaitingRoom:
    """Those known to be kept out of the scheduler's queue; the time keeper looks at them when their time has come."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._kept: set[str] = set()

    def __contains__(self, workload_id: str) -> bool:
        return workload_id in self._kept

    def keep(self, workload_id: str, hindrance: Hindrance) -> None:
        """Keep a workload out until its time has come, or until it is looked at for another reason."""
        self._kept.add(workload_id)
        if hindrance.until_ms is not None:
            self._runtime.time.look_at(workload_id, hindrance.until_ms)

    def forget(self, workload_id: str) -> None:
        """It waits no more."""
        if workload_id in self._kept:
            self._kept.discard(workload_id)
            self._runtime.time.forget(workload_id)

    def knows(self, hindered: Mapping[str, Hindrance]) -> bool:
        """Whether these are the ones that are known."""
        return self._kept == set(hindered)

    def keep_only(self, hindered: Mapping[str, Hindrance]) -> None:
        """These are all there are, by the store."""
        for workload_id in self._kept - set(hindered):
            self.forget(workload_id)
        for workload_id in set(hindered) - self._kept:
            self.keep(workload_id, hindered[workload_id])

    async def look(self, workload_id: str) -> None:
        """Hand a workload to the scheduler if nothing keeps it out any more. Raises StoreUnavailable."""
        runtime = self._runtime
        now_ms = runtime.clock.now_ms()

        def read(uow: UnitOfWork) -> tuple[Workload | None, Hindrance | None, Rules]:
            workload = uow.workload(workload_id)
            kept_out = None if workload is None else hindrance(uow, workload, now_ms)
            return workload, kept_out, Rules.load(uow)

        workload, hindered, rules = await runtime.store.read(read)
        if workload is None or workload.state != "queued":
            self.forget(workload_id)
        else:
            runtime.arrived(workload, rules, hindered)
        runtime.touch(workload_id)
