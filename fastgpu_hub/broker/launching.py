"""The start of granted jobs: each is handed to the engine, once at a time."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from fastgpu_hub.broker import exits, interruptions
from fastgpu_hub.broker.orders import grace_ms, launch_of
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.world import ENGINE_FAULT
from fastgpu_hub.pricing.explain import Explained

if TYPE_CHECKING:
    from fastgpu_hub.broker.runtime import Runtime

log = logging.getLogger("fastgpu.broker")
NOT_STARTED = Explained(ENGINE_FAULT, "It could not be started, by a fault of the service.", instead=exits.ASK)


class Launcher:
    """Hands granted jobs to the engine of one service. All methods run on its event loop."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._under_way: set[str] = set()

    def is_at(self, job_id: str) -> bool:
        """Whether a job is being started: then that the engine has no trace of it says nothing."""
        return job_id in self._under_way

    async def launch(self, job: Workload) -> None:
        """Start a granted job, unless that is under way: a start that failed is written down before another begins."""
        if job.id in self._under_way:
            return
        self._under_way.add(job.id)
        try:
            await self._launch(job)
        finally:
            self._under_way.discard(job.id)

    async def _launch(self, job: Workload) -> None:
        runtime = self._runtime
        if await interruptions.gave_way(runtime, job.id) or runtime.files.fetches_for(job):
            return
        try:
            await runtime.engine.start(launch_of(job, runtime.settings, runtime.files.fetched(job.id)))
        except Exception:
            log.exception("job %s could not be handed to the engine", job.id)
            await self._not_started(job.id)
            return
        if job.id in runtime.to_stop or job.id not in runtime.state.holding:  # while it was being started
            await runtime.engine.stop(job.id, grace_ms(job, runtime.settings) / 1000)

    async def _not_started(self, job_id: str) -> None:
        """Where it is known that a job was not started, it has failed, by no fault of its own."""
        seen = await self._runtime.engine.observe(job_id)
        if seen.state == "absent":
            failed = replace(seen, state="exited", ending="failed_to_start", reason=NOT_STARTED)
            await exits.exited(self._runtime, failed)
