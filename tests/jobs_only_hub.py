"""A hub in which everybody is known, nobody is in a class and no server runs: for tests of jobs alone."""

from __future__ import annotations

from fastgpu_hub.broker.ports.world import HubUser


class JobsOnlyHub:
    """What the broker asks of a hub."""

    async def user(self, name: str) -> HubUser | None:
        return HubUser(name)

    async def class_members(self, name: str) -> list[str] | None:
        return None

    async def server_active(self, owner: str, server_name: str) -> bool:
        return False

    async def stop_server(self, owner: str, server_name: str) -> None: ...
