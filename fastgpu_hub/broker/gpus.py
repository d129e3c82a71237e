"""The GPUs found and their latest readings. The scheduler hears of what comes and goes, is lost or well again."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from fastgpu_hub.broker.lifecycle import LIVE
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.world import GpuDevice, GpuProbe, GpuSample
from fastgpu_hub.scheduling import scheduler
from fastgpu_hub.scheduling.inventory import Device

if TYPE_CHECKING:
    from fastgpu_hub.broker.runtime import Runtime

log = logging.getLogger("fastgpu.broker")


class Gpus:
    """What the probe tells. A probe that fails changes nothing: the devices and readings of before stay."""

    def __init__(self, runtime: Runtime, probe: GpuProbe) -> None:
        self._runtime, self._probe = runtime, probe
        self.devices: dict[str, GpuDevice] = {}
        self.samples: dict[str, GpuSample] = {}
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def find(self) -> None:
        """Look which devices there are."""
        try:
            found = await asyncio.to_thread(self._probe.devices)
        except Exception:
            log.exception("the GPUs could not be listed; those known before are kept")
            return
        devices = {device.uuid: device for device in found}
        if devices != self.devices:
            self.devices = devices
            known = tuple(Device(d.uuid, d.gpu_type, d.node, d.index) for d in devices.values())
            self._runtime.feed(scheduler.Discovered(known, self._runtime.clock.now_ms()))

    async def sample(self, max_age_ms: int = 1500, *, patience_seconds: float | None = None) -> dict[str, GpuSample]:
        """Readings of all devices, at most ``max_age_ms`` old; calls at the same time share one reading.

        A lost device is fenced, a recovered one given back. After ``patience_seconds`` the latest readings there are
        come back, and the probe may take the time it needs. Raises StoreUnavailable.
        """
        loop = asyncio.get_running_loop()
        if self._reading is None:
            if (loop.time() - self._read_at) * 1000 < max_age_ms:
                return self.samples
            self._reading = self._runtime.spawn(self._read())
        reading = self._reading
        await asyncio.wait({reading}, timeout=patience_seconds)
        if reading.done() and not reading.cancelled():
            reading.result()
        return self.samples

    async def _read(self) -> None:
        try:
            # Only simulated devices are told of processes, and finding those costs a look at all of the machine's.
            live: list[Workload] = []
            if any(device.simulated for device in self.devices.values()):
                live = await self._runtime.store.read(lambda uow: uow.workloads(states=LIVE))
            holders = self._runtime.state.inventory.holder
            try:
                self.samples = await asyncio.to_thread(self._ask, holders, live)
            except Exception:
                log.exception("the GPUs could not be read")
                return
            self._runtime.runs.seen(holders, self.samples)
            for uuid, sample in self.samples.items():
                fenced = self._runtime.state.inventory.fenced.get(uuid)
                if sample.lost and fenced is None:
                    self._runtime.feed(scheduler.Fenced(uuid, "lost", self._runtime.clock.now_ms()))
                elif not sample.lost and fenced == "lost":
                    self._runtime.feed(scheduler.Unfenced(uuid, self._runtime.clock.now_ms()))
        finally:
            self._read_at = asyncio.get_running_loop().time()
            self._reading = None

    def _ask(self, holders: dict[str, str], live: list[Workload]) -> dict[str, GpuSample]:
        engine = self._runtime.engine
        pids = {w.id: engine.root_pids(w.id) or ([w.pid] if w.pid else []) for w in live if w.simulated}
        return self._probe.sample({uuid: pids.get(holder, []) for uuid, holder in holders.items()})
