"""The end of jobs as engines tell it: what was the job's own doing, what was not, and up to when it is billed."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from fastgpu_hub.broker import aftermath, lifecycle
from fastgpu_hub.broker.aftermath import Ended
from fastgpu_hub.broker.attempts import attempts_left
from fastgpu_hub.broker.evidence import ran_until_ms
from fastgpu_hub.broker.lifecycle import LIVE
from fastgpu_hub.broker.ports.store import StoreUnavailable, UnitOfWork
from fastgpu_hub.broker.ports.world import ENGINE_FAULT, Observation
from fastgpu_hub.broker.run_keeper import keep
from fastgpu_hub.pricing.explain import Explained

if TYPE_CHECKING:
    from fastgpu_hub.broker.runtime import Runtime

OUTCOMES = {"timed_out": "timed_out", "stopped": "cancelled", "failed_to_start": "failed", "killed": "lost"}
ASK = "Tell the administrator: the service's log says more."


async def exited(runtime: Runtime, seen: Observation) -> None:
    """A job's processes are known gone: end its bill, and begin what follows."""
    now_ms = runtime.clock.now_ms()
    outcome = OUTCOMES.get(seen.ending) or ("succeeded" if seen.exit_code == 0 else "failed")
    faulty = await _faulty_gpus(runtime, seen.lease_id) if outcome == "failed" else {}
    record = await runtime.runs.closing(seen.lease_id)

    def end(uow: UnitOfWork) -> Ended:
        keep(uow, record)
        billed_from_ms, how, reason = None, outcome, seen.reason
        if seen.started_ms is not None:
            started_ms = min(seen.started_ms, now_ms)
            job = lifecycle.started(uow, seen.lease_id, started_ms, None, runtime.settings)
            billed_from_ms = job.billed_from_ms if job else None
        if faulty:
            how, reason = "lost", _lost_gpu(faulty)
        not_started = seen.ending == "failed_to_start" and reason is not None and reason.code == ENGINE_FAULT
        return aftermath.finish(
            uow,
            seen.lease_id,
            ran_until_ms(seen, billed_from_ms, now_ms),
            how,
            runtime.settings,
            now_ms=now_ms,
            reason=reason,
            exit_code=seen.exit_code,
            not_its_own=how == "lost" or not_started,
        )

    runtime.ended(await runtime.persist(end))


async def _faulty_gpus(runtime: Runtime, job_id: str) -> dict[str, str]:
    """GPUs of a job that failed which are fenced by now, with why: then its failure is put down to them.

    Asked anew only where it matters: when the job would be tried again.
    """
    job = await runtime.persist(lambda uow: uow.workload(job_id))
    if job is None or job.state == "ended":
        return {}
    if attempts_left(job):
        with suppress(StoreUnavailable):
            await runtime.gpus.sample(max_age_ms=0)
    fenced = runtime.state.inventory.fenced
    return {uuid: fenced[uuid] for uuid in job.gpu_uuids if uuid in fenced}


def _lost_gpu(faulty: dict[str, str]) -> Explained:
    uuid, why = next(iter(faulty.items()))
    words = "was lost" if why == "lost" else f"was taken out of use ({why})"
    return Explained("gpu_lost", f"Its GPU {uuid} {words} while it ran.", {"gpu": uuid})


async def absent(runtime: Runtime, job_id: str) -> None:
    """The engine never started it: start it now if it was granted, else it is lost (its folder is gone)."""
    job = await runtime.store.read(lambda uow: uow.workload(job_id))
    if job is None or job.state not in LIVE:
        return
    if job.state == "granted":
        await runtime.launcher.launch(job)
        return
    last_ms, now_ms = runtime.last_seen_ms(job), runtime.clock.now_ms()
    outcome = "cancelled" if job.billed_from_ms is None else "lost"
    runtime.ended(
        await runtime.persist(
            lambda uow: aftermath.finish(
                uow, job_id, last_ms, outcome, runtime.settings, now_ms=now_ms, not_its_own=outcome == "lost"
            )
        )
    )
