"""Asking for a lease and giving it back: the conversation with the service, free of JupyterHub.

Written against the methods of :class:`fastgpu.aio.AsyncGPUClient` it uses (:class:`Client`), so that tests drive it
with a fake.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from logging import Logger, LoggerAdapter
from typing import Any, Protocol

from fastgpu.errors import FastGPUError, NotFound, Unavailable
from fastgpu.models import Explanation, Lease, LeaseRequest, LeaseState, Options
from fastgpu_hub.spawner.waiting import within

Tell = Callable[[Lease], None]
Log = Logger | LoggerAdapter

_WAITING = {LeaseState.queued}
_HELD = {LeaseState.granted, LeaseState.running}
LONG_POLL_SECONDS = 20
QUICK_ANSWER_SECONDS = 0.5
RETRY_SECONDS = (0.5, 1, 2, 5, 10)  # the last one also bounds how long GPUs stay taken once the service is back


class Client(Protocol):
    """What the spawner uses of the SDK's asynchronous client."""

    async def options(self, owner: str, account: str | None = None, promo_code: str | None = None) -> Options: ...
    async def request_lease(
        self, owner: str, request: LeaseRequest, *, idempotency_key: str | None = None
    ) -> Lease: ...
    async def lease(
        self, lease_id: str, *, wait_seconds: int | None = None, state: LeaseState | None = None
    ) -> Lease: ...
    async def lease_started(self, lease_id: str, pid: int | None = None) -> Lease: ...
    async def release_lease(self, lease_id: str) -> Lease: ...


class QueueTimeout(FastGPUError):
    """No GPU came free within the time a start may wait."""

    code = "queue_timeout"


class LeaseRefused(FastGPUError):
    """The lease was refused or ended before the server could use it."""

    code = "refused"


async def wait_granted(client: Client, lease: Lease, *, wait_seconds: float, tell: Tell) -> Lease:
    """Follow a lease until it holds its GPUs; ``tell`` hears of every change of place or reason.

    Raises :class:`QueueTimeout` after ``wait_seconds`` and :class:`LeaseRefused` when the lease ends instead. An
    unreachable service is asked again until the time is over: a lost connection says nothing about the lease.
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        tell(lease)
        if lease.state in _HELD:
            return lease
        if lease.state not in _WAITING:
            raise _ended(lease)
        left = deadline - time.monotonic()
        if left <= 0:
            raise _timed_out(lease, wait_seconds)
        asked, before = time.monotonic(), lease
        wait_seconds_now = max(1, min(LONG_POLL_SECONDS, int(left)))
        with contextlib.suppress(asyncio.TimeoutError, Unavailable):
            lease = await within(left + 1, client.lease(lease.id, wait_seconds=wait_seconds_now, state=lease.state))
        if lease == before and time.monotonic() - asked < QUICK_ANSWER_SECONDS:
            await asyncio.sleep(min(QUICK_ANSWER_SECONDS, left))  # not a long poll: do not ask without a pause


def _ended(lease: Lease) -> LeaseRefused:
    why = lease.explanation or Explanation(
        code=lease.state.value, message=f"The GPU lease {lease.id} was {lease.state.value} before the server started."
    )
    return LeaseRefused(why.message, code=why.code, hint=why.instead, explanation=why)


def _timed_out(lease: Lease, wait_seconds: float) -> QueueTimeout:
    place = f" It was at place {lease.queue_place} of the queue." if lease.queue_place is not None else ""
    reason = f" {lease.explanation.message}" if lease.explanation else ""
    gpus = f"{lease.gpu_count} × {lease.gpu_type}"
    return QueueTimeout(
        f"No {gpus} came free within {round(wait_seconds)} s.{place}{reason}",
        hint="Nothing was charged. Choose another GPU type, submit a job (it waits in the queue without you), or start "
        "without a GPU.",
    )


async def until_done(
    what: str,
    attempt: Callable[[], Awaitable[Any]],
    log: Log,
    *,
    most_tries: int | None = None,
    missed: Callable[[], None] = lambda: None,
) -> bool:
    """Repeat ``attempt`` until the service took it, with growing delays, for ever unless ``most_tries`` says otherwise.

    ``missed`` is called after each try that did not reach the service. True when it was done (an unknown lease counts:
    there is nothing left to do). A refusal is final and logged: False.
    """
    tries = 0
    while True:
        try:
            await attempt()
        except NotFound:
            return True
        except Unavailable as error:
            delay = RETRY_SECONDS[min(tries, len(RETRY_SECONDS) - 1)]
            tries += 1
            missed()
            if tries == most_tries:
                log.error("Giving up to %s after %i tries: %s", what, tries, error)
                return False
            log.warning("Cannot %s yet (try %i): %s; next try in %s s", what, tries, error, delay)
            await asyncio.sleep(delay)
        except FastGPUError as error:
            log.error("Cannot %s: %s", what, error)
            return False
        else:
            return True
