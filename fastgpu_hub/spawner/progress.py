"""What a starting server's page tells: events that several viewers can follow, from the first one on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from markupsafe import escape

from fastgpu.formatting import format_date_time, one_line
from fastgpu.models import Lease, LeaseState


class ProgressLog:
    """An append-only list of progress events; following it ends when it is closed."""

    def __init__(self) -> None:
        self._events: list[dict[str, Any]] = []
        self._changed = asyncio.Event()
        self._closed = False

    def say(self, percent: int, message: str) -> None:
        """Add an event, unless the last one said the same. ``message`` is plain text, whatever it contains."""
        text = one_line(message)
        if self._events and self._events[-1]["message"] == text:
            return
        self._events.append({"progress": percent, "message": text, "html_message": str(escape(text))})
        self._wake()

    def say_lease(self, lease: Lease) -> None:
        """Tell where a lease stands: its place in the queue and why it waits, or which GPUs it got."""
        percent = 10 if lease.state is LeaseState.queued else 30
        message = lease_message(lease)
        if message:
            self.say(percent, message)

    def close(self) -> None:
        """No more events come."""
        self._closed = True
        self._wake()

    async def follow(self) -> AsyncIterator[dict[str, Any]]:
        """All events from the first one on, as they come."""
        at = 0
        while True:
            changed = self._changed
            while at < len(self._events):
                yield dict(self._events[at])
                at += 1
            if self._closed:
                return
            await changed.wait()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def lease_message(lease: Lease) -> str:
    """One sentence or two on a lease; empty when there is nothing to wait for or to tell."""
    gpus = f"{lease.gpu_count} × {lease.gpu_type}{' (simulated)' if lease.simulated else ''}"
    reason = f" {lease.explanation.message}" if lease.explanation else ""
    if lease.state is LeaseState.queued:
        place = f"Place {lease.queue_place} in the queue" if lease.queue_place is not None else "In the queue"
        start = f" Will probably start {format_date_time(lease.eta_start)}." if lease.eta_start else ""
        return f"{place} for {gpus}.{reason}{start}"
    if lease.state is LeaseState.granted:
        return f"Got {gpus}. Starting the server."
    return ""
