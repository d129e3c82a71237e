"""Spot jobs give way: the scheduler's orders to interrupt them, carried out. What follows is ``aftermath``'s.

The scheduler remembers who is to give way for as long as they hold GPUs. What a crash keeps from the store, it orders
anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastgpu_hub.broker import lifecycle
from fastgpu_hub.broker.attempts import INTERRUPTED

if TYPE_CHECKING:
    from fastgpu_hub.broker.runtime import Runtime


async def interrupt(runtime: Runtime, job_id: str) -> None:
    """Order the stop of a job, once its grant is in the store: it may still be on its way there."""
    now_ms = runtime.clock.now_ms()
    job = await runtime.persist(lambda uow: lifecycle.order_stop(uow, job_id, now_ms, INTERRUPTED))
    if job is not None and job.state != "queued":
        runtime.news.told(job.owner)
        runtime.stopped(job)


async def gave_way(runtime: Runtime, job_id: str) -> bool:
    """Whether a job that was granted its GPUs is to give them up before it is started: then it is ended."""
    if job_id not in runtime.state.preempting:
        return False
    await interrupt(runtime, job_id)
    await runtime.follow(await runtime.engine.observe(job_id))
    return True
