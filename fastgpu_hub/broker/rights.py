"""Rights as JupyterHub gives them, followed: each change that is seen is an entry of the audit."""

from __future__ import annotations

from typing import Any

from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.ports.records import AuditEntry
from fastgpu_hub.broker.ports.store import Store, UnitOfWork

# Roles are given in the hub; who gave them, only the hub knows.
BY = "service:jupyterhub"


class Rights:
    """What each person was seen to be allowed: to administrate, to teach which classes."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, Any]] = {}

    async def see(self, store: Store, actor: Actor, now_ms: int) -> None:
        """Somebody signed in with these rights. Writes only when they are other than the last ones."""
        now = {"admin": actor.admin, "teaches": list(actor.teaches)}
        if self._seen.get(actor.name) == now:
            return
        none = {"admin": False, "teaches": []}
        name = f"rights:{actor.name}"

        def note(uow: UnitOfWork) -> None:
            before = uow.setting(name)
            if (before or none) != now:
                uow.set_setting(name, now)
                uow.add_audit(AuditEntry(now_ms, BY, "roles", actor.name, before, now))

        if (await store.read(lambda uow: uow.setting(name)) or none) != now:
            await store.write(note)
        self._seen[actor.name] = now
