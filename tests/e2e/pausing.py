"""A spawner that halts, once and for ever, at the point its owner's name begins with: there the hub is killed.

``asked``: the service has the request, the hub has noted nothing. ``granted``: before the process. ``popened``: the
process is there, the hub has not noted it. ``reported``: billing has begun, the hub does not know the address yet.
``dead``: processes gone, GPUs not given back. ``released``: given back, the hub has not noted the end.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from jupyterhub.spawner import SimpleLocalProcessSpawner

from fastgpu.models import Lease, LeaseRequest
from fastgpu_hub.spawner.local import LocalGpuProcesses

HALTED = Path("halted")


async def halt(name: str, point: str) -> None:
    """For ever, where the name asks for it here and it has not been done."""
    if name.startswith(f"{point}-") and first_time(name):
        await asyncio.Event().wait()


def first_time(name: str) -> bool:
    """A file of the person's name tells the test, and the next hub, that it was done."""
    mark = HALTED / name
    new = not mark.exists()
    HALTED.mkdir(exist_ok=True)
    mark.touch()
    return new


class HaltingClient:
    """The SDK's client with halts around what changes something."""

    def __init__(self, client: Any, name: str) -> None:
        self._client, self._name = client, name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._client, attribute)

    async def request_lease(self, owner: str, request: LeaseRequest, *, idempotency_key: str | None = None) -> Lease:
        """Halts after the answer."""
        lease: Lease = await self._client.request_lease(owner, request, idempotency_key=idempotency_key)
        await halt(self._name, "asked")
        return lease

    async def lease_started(self, lease_id: str, pid: int | None = None) -> Lease:
        """Halts after the answer."""
        lease: Lease = await self._client.lease_started(lease_id, pid=pid)
        await halt(self._name, "reported")
        return lease

    async def release_lease(self, lease_id: str) -> Lease:
        """Halts before the request, and after the answer."""
        await halt(self._name, "dead")
        lease: Lease = await self._client.release_lease(lease_id)
        await halt(self._name, "released")
        return lease


class HaltingProcess(SimpleLocalProcessSpawner):
    """Halts around the start of the process."""

    async def start(self) -> Any:
        """Start the process, unless halted."""
        await halt(self.user.name, "granted")
        where = await super().start()
        await halt(self.user.name, "popened")
        return where


class HaltingSpawner(LocalGpuProcesses, HaltingProcess):
    """FastGPULocalSpawner with halts."""

    def _client(self) -> Any:
        return HaltingClient(super()._client(), self.user.name)
