"""Whoever waits for something about a workload to change."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class Watchers:
    """Wakes those who wait, by workload. All methods run on one event loop."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[asyncio.Event]] = {}

    def touch(self, workload_id: str) -> None:
        """Something about a workload changed: wake whoever waits for that."""
        for event in self._watchers.pop(workload_id, ()):
            event.set()

    def watched(self) -> list[str]:
        """The workloads that somebody waits for."""
        return list(self._watchers)

    @contextmanager
    def watching(self, workload_id: str, event: asyncio.Event) -> Iterator[None]:
        """Have an event set once, when something about the workload changes meanwhile."""
        watchers = self._watchers.setdefault(workload_id, set())
        watchers.add(event)
        try:
            yield
        finally:
            watchers.discard(event)
            if not watchers and self._watchers.get(workload_id) is watchers:
                del self._watchers[workload_id]

    async def wait_changed(self, workload_id: str, timeout_seconds: float) -> None:
        """Return when something about the workload changed, or the time is up."""
        event = asyncio.Event()
        with self.watching(workload_id, event), suppress(asyncio.TimeoutError):
            await asyncio.wait_for(event.wait(), timeout_seconds)
