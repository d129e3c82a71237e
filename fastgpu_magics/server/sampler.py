"""One status for all tabs: whoever asks within a second gets the same sample, whoever asks meanwhile waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timezone

from fastgpu.errors import FastGPUError, Unavailable
from fastgpu.models import Status

STILL_CHARGED = "The GPU goes on running and is charged as before; the figures return by themselves."


@dataclass(frozen=True, slots=True)
class Problem:
    """Why there is no status: a stable code, a sentence, what to do, and since when it has been so."""

    code: str
    message: str
    hint: str
    since: datetime


class StatusSampler:
    """Asks the service for the caller's status at most once per ``min_interval_seconds``.

    ``fetch`` makes the request; it is given ``timeout_seconds``. A failure is a sample like any other, so that a
    service in trouble is not asked more often than a healthy one. ``monotonic`` (seconds) and ``utcnow`` are clocks.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Status]],
        *,
        min_interval_seconds: float,
        timeout_seconds: float,
        monotonic: Callable[[], float],
        utcnow: Callable[[], datetime] = lambda: datetime.now(timezone.utc),
    ) -> None:
        self._fetch = fetch
        self._min_interval_seconds = min_interval_seconds
        self._timeout_seconds = timeout_seconds
        self._monotonic = monotonic
        self._utcnow = utcnow
        self._latest: Status | Problem | None = None
        self._taken_at = 0.0
        self._pending: asyncio.Task[Status | Problem] | None = None

    async def sample(self) -> Status | Problem:
        """The latest sample if it is fresh, else a new one, shared by everybody who asks while it is under way."""
        if self._latest is not None and self._monotonic() - self._taken_at < self._min_interval_seconds:
            return self._latest
        if self._pending is None:
            self._pending = asyncio.create_task(self._take())
            self._pending.add_done_callback(self._settle)
        # One impatient caller must not take the sample away from the others.
        return await asyncio.shield(self._pending)

    async def close(self) -> None:
        """Give up a sample under way."""
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.gather(self._pending, return_exceptions=True)

    def _settle(self, _task: asyncio.Task[Status | Problem]) -> None:
        self._pending = None

    async def _take(self) -> Status | Problem:
        try:
            outcome: Status | Problem = await asyncio.wait_for(self._fetch(), self._timeout_seconds)
        except Unavailable as error:
            outcome = self._problem(error.code, error.message, STILL_CHARGED)
        except FastGPUError as error:
            outcome = self._problem(error.code, error.message, error.hint)
        except (TimeoutError, asyncio.TimeoutError):
            message = f"The FastGPU service did not answer within {self._timeout_seconds:g} s."
            outcome = self._problem(Unavailable.code, message, STILL_CHARGED)
        self._latest, self._taken_at = outcome, self._monotonic()
        return outcome

    def _problem(self, code: str, message: str, hint: str) -> Problem:
        before = self._latest
        since = before.since if isinstance(before, Problem) else self._utcnow()
        return Problem(code=code, message=message, hint=hint, since=since)
