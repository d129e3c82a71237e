from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from fastgpu_hub.broker.ports.world import Launch, Observation
from fastgpu_hub.engines.local import LocalEngine


class Bench:
    """A folder, the engine that works in it, what it has reported, and how to restart it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = {"stop_grace_seconds": 0.2}
        self.seen: list[Observation] = []
        self.known: list[Observation] = []
        self._news = asyncio.Event()
        self.engine: LocalEngine

    async def open(self, **settings: Any) -> LocalEngine:
        self.engine = LocalEngine(state_dir=str(self.folder), **self.settings | settings)
        self.known = await self.engine.open(self._notify)
        return self.engine

    def _notify(self, observation: Observation) -> None:
        self.seen.append(observation)
        self._news.set()

    async def restart(self, meanwhile: Callable[[], None] = lambda: None) -> Observation:
        """Close the engine and open a new one; what that knows of the one job."""
        await self.engine.close()
        self.seen.clear()
        meanwhile()
        await self.open()
        assert len(self.known) == 1
        return self.known[0]

    async def start(self, code: str, lease_id: str = "j1", **changes: Any) -> None:
        """Start a job that runs Python code without site packages (it starts faster)."""
        values: dict[str, Any] = {
            "lease_id": lease_id,
            "owner": "alice",
            "kind": "command",
            "argv": (sys.executable, "-S", "-c", code),
            "gpu_uuids": ("GPU-1",),
            "time_limit_ms": 60_000,
        }
        await self.engine.start(Launch(**values | changes))

    async def until(self, state: str, lease_id: str = "j1") -> Observation:
        while True:
            for observation in self.seen:
                if (observation.lease_id, observation.state) == (lease_id, state):
                    return observation
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 20)

    async def run(self, code: str, lease_id: str = "j1", **changes: Any) -> str:
        """Run a job to its end; its output."""
        await self.start(code, lease_id, **changes)
        await self.until("exited", lease_id)
        return self.log(lease_id)

    def log(self, lease_id: str = "j1") -> str:
        return self.engine.read_log(lease_id, 0, 10**7).decode()

    async def log_has(self, text: str, lease_id: str = "j1") -> None:
        for _ in range(1000):
            if text in self.log(lease_id):
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{text!r} is not in the log: {self.log(lease_id)!r}")

    def work(self, lease_id: str = "j1") -> Path:
        return self.folder / "jobs" / lease_id / "work"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path)
    await bench.open()
    yield bench
    await bench.engine.close()
    sweeper = await bench.open(stop_jobs_on_exit=True, stop_grace_seconds=0)
    await sweeper.close()
