"""FastGPULocalSpawner: servers as processes of this machine, without system users.

For real system users mix the same two parts into the hub's own spawner (the hub then runs as root)::

    from jupyterhub.spawner import LocalProcessSpawner
    from fastgpu_hub.spawner.local import LocalGpuProcesses

    class SystemUserSpawner(LocalGpuProcesses, LocalProcessSpawner): ...

CUDA_VISIBLE_DEVICES is an agreement, not a wall: processes of one machine can reach its other GPUs if they want to.
"""

from __future__ import annotations

import uuid
from typing import Any

from jupyterhub.spawner import SimpleLocalProcessSpawner
from traitlets import Unicode

from fastgpu_hub.spawner.mixin import FastGPUSpawnerMixin
from fastgpu_hub.spawner.processes import MARK_VARIABLE, end_marked


class LocalGpuProcesses(FastGPUSpawnerMixin):
    """The mixin for spawners of local processes: a stop ends every process the server ever started."""

    server_mark = Unicode(
        help="""Value of FASTGPU_SERVER_MARK in the environment of all processes of this server; new at each start."""
    )

    async def start(self) -> Any:
        """Start under a fresh mark, so that this server's processes can be told from any other's."""
        self.server_mark = uuid.uuid4().hex
        return await super().start()

    def gpu_environment(self) -> dict[str, str]:
        """The mixin's variables and the mark."""
        return {**super().gpu_environment(), MARK_VARIABLE: self.server_mark}

    async def end_workload(self) -> bool:
        """End whatever carries the mark: kernels in their own sessions, orphans, background processes."""
        mark = self.server_mark
        gone = await super().end_workload()
        return await end_marked(mark) and gone

    def get_state(self) -> dict[str, Any]:
        """The mark survives the hub, from before there is a process until all are gone."""
        state = super().get_state()
        if self.server_mark and (self.pid or self.in_between):
            state["fastgpu_mark"] = self.server_mark
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Take the mark up again."""
        super().load_state(state)
        self.server_mark = state.get("fastgpu_mark", "")


class FastGPULocalSpawner(LocalGpuProcesses, SimpleLocalProcessSpawner):
    """GPU servers as local processes of the hub's own user: for one machine among people who trust each other."""
