"""Jobs that start only when others have succeeded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.ports.records import Dependency, Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.waiting import STATES, latest_attempts
from fastgpu_hub.pricing.explain import Refused

MOST_DEPENDENCIES = 10_000


def needed_ids(
    uow: UnitOfWork, after: Sequence[str], job: Callable[[str], Workload], array: Callable[[str], Sequence[Workload]]
) -> tuple[str, ...]:
    """The jobs that must have succeeded, each by its first attempt's id; of an array all its jobs.

    ``job`` and ``array`` look up what the caller may see, and raise Refusal for anything else. Raises Refusal
    (``dependency_failed``) when one of them has ended otherwise already.
    """
    named = [each for name in after for each in (array(name) if name.startswith("a-") else [job(name)])]
    first_ids = tuple(dict.fromkeys(workload.retry_of or workload.id for workload in named))
    latest = latest_attempts(uow, first_ids)
    for first_id in first_ids:
        last = latest[first_id]
        if last.state == "ended" and last.outcome != "succeeded":
            raise Refusal(
                Refused(
                    "dependency_failed",
                    f"It is to start after {last.id}, which {STATES[last.outcome or 'lost']}: it would never start.",
                    {"needs": last.id},
                    instead=f"Submit {last.name} again, and name that job.",
                )
            )
    return first_ids


def note(uow: UnitOfWork, workload_ids: Sequence[str], needs: Sequence[str]) -> None:
    """Make workloads wait for jobs. Raises Refusal when that is too much to keep."""
    if len(workload_ids) * len(needs) > MOST_DEPENDENCIES:
        raise Refusal(
            Refused(
                "invalid_request",
                f"{len(workload_ids)} jobs that each wait for {len(needs)} are {len(workload_ids) * len(needs)} "
                f"dependencies; at most {MOST_DEPENDENCIES} are kept.",
                {"dependencies": len(workload_ids) * len(needs), "limit": MOST_DEPENDENCIES},
                instead="Let one job wait for all of them, and these for that one.",
            )
        )
    uow.add_dependencies([Dependency(waits, needs_id) for waits in workload_ids for needs_id in needs])
