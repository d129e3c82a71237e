"""Keeps time: settles intervals at their edges, renews horizons, notices where funding ends."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from fastgpu_hub.broker import funding
from fastgpu_hub.broker.ports.store import StoreUnavailable

if TYPE_CHECKING:
    from fastgpu_hub.broker.runtime import Runtime

log = logging.getLogger("fastgpu.broker")
RETRY_MS = 1000


class TimeKeeper:
    """Looks at each live workload when something of it is due. Nothing that fails for one keeps it from the others."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.due: dict[str, int] = {}
        self._wake = asyncio.Event()

    def look_at(self, workload_id: str, at_ms: int = 0) -> None:
        """Look at a workload now, or at an instant to come; it turns out when the next time is."""
        self.due[workload_id] = at_ms
        self._wake.set()

    def forget(self, workload_id: str) -> None:
        """The workload has ended."""
        self.due.pop(workload_id, None)

    async def run(self) -> None:
        """Until cancelled."""
        runtime = self._runtime
        while not runtime.closing:  # wait_for may swallow the cancellation
            now_ms = runtime.clock.now_ms()
            # All at once: they share a commit, and what fails for one does not delay another.
            await asyncio.gather(*[self._look(who, now_ms) for who, due_ms in self.due.items() if due_ms <= now_ms])
            self._wake.clear()
            # Not longer than the interval, for the clock may jump.
            until_ms = min([now_ms + runtime.settings.reconcile_interval_ms, *self.due.values()])
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.02, (until_ms - runtime.clock.now_ms()) / 1000))
            except asyncio.TimeoutError:
                continue

    async def _look(self, workload_id: str, now_ms: int) -> None:
        try:
            await self.edge(workload_id)
        except StoreUnavailable as error:
            log.error("the database does not answer, what is due for %s waits: %s", workload_id, error)
            self.due[workload_id] = now_ms + RETRY_MS
        except Exception:
            log.exception("what is due for %s could not be done", workload_id)
            self.due[workload_id] = now_ms + self._runtime.settings.reconcile_interval_ms

    async def edge(self, workload_id: str) -> None:
        """One workload at an edge: let it have its turn, or settle whole lines, renew or end its funding; note when to
        look again."""
        runtime = self._runtime
        if workload_id in runtime.waiting:
            await runtime.waiting.look(workload_id)
            return
        now_ms = runtime.clock.now_ms()
        seen_ms = runtime.seen_active_ms.get(workload_id, 0)
        look = await runtime.store.write(lambda uow: funding.edge(uow, workload_id, now_ms, seen_ms, runtime.settings))
        runtime.note_ending(workload_id, look)
        if look.stop is not None:
            end = replace(look.stop, message=f"Its funding ended. {look.stop.message}")
            await runtime.stop(workload_id, end)
        if look.due_ms is None:
            self.due.pop(workload_id, None)
        else:
            self.due[workload_id] = max(look.due_ms, now_ms + RETRY_MS) if look.due_ms <= now_ms else look.due_ms
        runtime.touch(workload_id)
