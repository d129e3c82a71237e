"""FastGPUSpawnerMixin: mix it in front of any spawner and its servers start inside a GPU lease.

    class MySpawner(FastGPUSpawnerMixin, SomeSpawner): ...

The mixin asks the service like any other client. A server without a GPU never needs the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from jupyterhub.utils import maybe_future
from sqlalchemy.orm import object_session
from traitlets import Float, Integer, Unicode, default

from fastgpu.errors import FastGPUError, Unavailable
from fastgpu.models import Lease
from fastgpu_hub.spawner import leasing
from fastgpu_hub.spawner.options import ServerChoice
from fastgpu_hub.spawner.page import SpawnPage
from fastgpu_hub.spawner.progress import ProgressLog
from fastgpu_hub.spawner.readiness import wait_ready
from fastgpu_hub.spawner.refusal import refused

# Keeps background tasks alive until they are done; the event loop itself holds only weak references.
_background: set[asyncio.Task[Any]] = set()


def _in_background(coroutine: Any) -> asyncio.Task[Any]:
    task = asyncio.get_running_loop().create_task(coroutine)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task


class FastGPUSpawnerMixin(SpawnPage):
    """A server's GPUs: asked for, waited for, handed to the server, reported as in use, given back."""

    fastgpu_server_url = Unicode(
        help="""
        Address of the FastGPU service as seen from people's servers; they get it as FASTGPU_URL.

        Default: the same as `fastgpu_url`. Set it when servers run on other machines or in pods.
        """,
    ).tag(config=True)

    queue_timeout = Integer(
        600,
        min=0,
        help="""
        Seconds a starting server may wait in the queue for its GPUs.

        After that the start fails with a message that says the place reached; nothing is charged. `start_timeout`
        limits it too: the queue ends `start_margin` seconds before it.
        """,
    ).tag(config=True)

    start_margin = Integer(
        60,
        min=1,
        help="""
        Seconds of `start_timeout` kept for the server itself to start, after its GPUs were granted.
        """,
    ).tag(config=True)

    release_timeout = Float(
        5.0,
        min=0,
        help="""
        Most seconds a stopping server waits for the service to take its GPUs back.

        It does not wait for a service that is away (a hub that ends stops its services first). The release then goes on
        in the background until it is done, by the hub that comes next if need be.
        """,
    ).tag(config=True)

    lease_id = Unicode(help="""Id of the lease whose GPUs this server holds or waits for; empty without one.""")

    _starting = False
    _unfinished = False  # a start or a stop is under way: a hub that dies now leaves it to the next one
    _interrupted = False  # the hub before this one died in the middle of one
    _unreported = False  # the server runs, the service has not been told yet

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lease: Lease | None = None
        self._progress = ProgressLog()
        self._endings: dict[str, asyncio.Task[bool]] = {}
        self._unreleased: set[str] = set()
        self._service_away = asyncio.Event()  # the latest try to give GPUs back found nobody
        super().__init__(*args, **kwargs)

    @default("fastgpu_server_url")
    def _default_fastgpu_server_url(self) -> str:
        return self.fastgpu_url

    @default("start_timeout")
    def _default_start_timeout(self) -> int:
        # The hub's limit covers the queue as well, so its usual 60 s would end every wait.
        return self.queue_timeout + 2 * self.start_margin

    # -------------------------------------------------------------- start

    async def start(self) -> Any:
        """Get the lease (when GPUs are wanted), start the server in it, wait until it answers, report it as running."""
        self._starting = self._unfinished = True
        self._interrupted = False
        self._progress = ProgressLog()
        began = time.monotonic()
        try:
            self._save_state()
            choice = self._parsed(self.user_options)
            self.prepare(choice)
            if choice.wants_gpu:
                await self._acquire(choice, began)
            self._progress.close()
            return await self._start_server()
        except FastGPUError as error:
            raise refused(error) from None
        finally:
            self._progress.close()
            self._starting = self._unfinished = False

    def prepare(self, choice: ServerChoice) -> None:
        """Adapt the server to the choice before anything is asked for; a spawner below may refuse here."""

    async def _acquire(self, choice: ServerChoice, began: float) -> None:
        budget = min(self.queue_timeout, self.start_timeout - self.start_margin - (time.monotonic() - began))
        key = f"spawn-{uuid.uuid4().hex}"
        self._progress.say(5, f"Asking for {choice.gpu_count} × {choice.gpu_type}")
        lease = await self._request(choice, key)
        self.lease_id = lease.id
        self._save_state()
        try:
            self._lease = await leasing.wait_granted(
                self._client(), lease, wait_seconds=budget, tell=self._progress.say_lease
            )
        except BaseException:
            self._give_back()
            raise

    async def _request(self, choice: ServerChoice, key: str) -> Lease:
        """Post the wish. When it is unknown whether it arrived, what may have come of it is given back."""
        request = choice.lease_request(self.name)
        owner = self.user.name
        try:
            return await self._client().request_lease(owner, request, idempotency_key=key)
        except (asyncio.CancelledError, Unavailable):

            async def ask_and_release() -> None:
                lease = await self._client().request_lease(owner, request, idempotency_key=key)
                await self._client().release_lease(lease.id)

            _in_background(
                leasing.until_done(
                    f"withdraw the request for GPUs of {self._log_name}", ask_and_release, self.log, most_tries=20
                )
            )
            raise

    async def _start_server(self) -> Any:
        lease_id = self.lease_id
        try:
            where = await maybe_future(super().start())
            self._save_state()
            await wait_ready(self._reachable_at(where), self.http_timeout, self._exit_status)
            await self._report_started()
        except BaseException as error:
            self._starting = False
            ending = self._end(lease_id)
            if isinstance(error, Exception):
                await self._patiently(ending)
            raise
        return where

    def _reachable_at(self, where: Any) -> str:
        base_url = self.server.base_url if self.server else "/"
        if isinstance(where, str):
            return where.rstrip("/") + base_url
        host, port = where
        scheme = "https" if self.internal_ssl else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{base_url}"

    async def _exit_status(self) -> int | None:
        return await maybe_future(super().poll())

    async def _report_started(self) -> None:
        if not self.lease_id:
            return
        try:
            await self._client().lease_started(self.lease_id, pid=self._pid)
        except Unavailable as error:
            self.log.warning("%s runs, but the service does not know it yet: %s", self._log_name, error)
            self._report_later()

    def _report_later(self) -> None:
        lease_id, pid = self.lease_id, self._pid
        self._unreported = True

        async def report() -> None:
            await self._client().lease_started(lease_id, pid=pid)

        async def until_reported() -> None:
            await leasing.until_done(f"report lease {lease_id} as running", report, self.log)
            self._unreported = False

        _in_background(until_reported())

    @property
    def _pid(self) -> int | None:
        return getattr(self, "pid", 0) or None

    # -------------------------------------------------------------- the server's environment

    def get_env(self) -> dict[str, str]:
        """The hub's environment plus ours, which has the last word: the server, not a person, decides on GPUs."""
        environment: dict[str, str] = super().get_env()
        environment.update(self.gpu_environment())
        return environment

    def gpu_environment(self) -> dict[str, str]:
        """Variables that tell the server of its GPUs; an empty CUDA_VISIBLE_DEVICES hides all of them."""
        environment = {"FASTGPU_URL": self.fastgpu_server_url, "CUDA_VISIBLE_DEVICES": ""}
        if self._lease is not None:
            environment.update(self._lease.environment)
            environment["FASTGPU_LEASE_ID"] = self._lease.id
        return environment

    # -------------------------------------------------------------- progress

    async def progress(self) -> AsyncIterator[dict[str, Any]]:
        """Queue place and reason as they change, then what the spawner below tells."""
        async for event in self._progress.follow():
            yield event
        async with contextlib.aclosing(super().progress()) as below:
            async for event in below:
                yield event

    # -------------------------------------------------------------- the end

    async def poll(self) -> int | None:
        """As the spawner below says; an exit gives the GPUs back. A failing look says nothing and changes nothing."""
        if self._starting:
            return None
        lease_id = self.lease_id
        if self._interrupted:
            await self._end_interrupted()
        status: int | None = await maybe_future(super().poll())
        if status is not None:
            self._end(lease_id)
        return status

    async def _end_interrupted(self) -> None:
        """End what an earlier hub was starting or stopping: nobody waits for it, nobody knows whether it is whole."""
        self._interrupted, self._unfinished = False, True  # the spawner below polls while it stops
        gone = False
        try:
            gone = await self.end_workload()
        except Exception:
            self.log.exception("Cannot yet end %s, whose start or stop was interrupted", self._log_name)
        finally:
            self._interrupted, self._unfinished = not gone, False

    async def stop(self, now: bool = False) -> None:
        """Stop the server, then give its GPUs back."""
        lease_id = self.lease_id
        self._unfinished = True
        try:
            self._save_state()
            await maybe_future(super().stop(now=now))
            await self._patiently(self._end(lease_id))
        finally:
            self._unfinished = False

    async def _patiently(self, ending: asyncio.Task[bool]) -> None:
        """Wait for a release as long as that is worth the wait; it goes on by itself."""
        away = asyncio.ensure_future(self._service_away.wait())
        try:
            await asyncio.wait({ending, away}, timeout=self.release_timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            away.cancel()

    async def end_workload(self) -> bool:
        """Make sure that nothing of the server runs any more; True when that is known."""
        if await maybe_future(super().poll()) is None:
            await maybe_future(super().stop(now=True))
        return await maybe_future(super().poll()) is not None

    def _end(self, lease_id: str) -> asyncio.Task[bool]:
        """End what is left of the server, then release its lease: once per lease, however often it is asked for."""
        ending = self._endings.get(lease_id)
        if ending is None or (ending.done() and not (lease_id and ending.result())):
            ending = self._endings[lease_id] = _in_background(self._end_and_release(lease_id))
        return ending

    async def _end_and_release(self, lease_id: str) -> bool:
        try:
            gone = await self.end_workload()
        except Exception:
            self.log.exception("Cannot tell whether %s has ended", self._log_name)
            gone = False
        if not gone:
            self.log.error("%s is not known to be gone: its GPUs (lease %s) stay taken", self._log_name, lease_id)
            return False
        return await self._release(lease_id) if lease_id else True

    def _give_back(self) -> None:
        """Release a lease that no process has used yet."""
        lease_id, self.lease_id, self._lease = self.lease_id, "", None
        self._endings[lease_id] = _in_background(self._release(lease_id))

    async def _release(self, lease_id: str) -> bool:
        self._unreleased.add(lease_id)
        self._service_away.clear()

        async def release() -> None:
            await self._client().release_lease(lease_id)

        what = f"release lease {lease_id} of {self._log_name}"
        released = await leasing.until_done(what, release, self.log, missed=self._service_away.set)
        self._service_away.clear()
        if released:
            self._unreleased.discard(lease_id)
        return released

    # -------------------------------------------------------------- state

    def get_state(self) -> dict[str, Any]:
        """The spawner's state with the lease, and any lease whose release the service has not yet taken."""
        state: dict[str, Any] = super().get_state()
        if self.lease_id:
            state["fastgpu_lease_id"] = self.lease_id
            if self._unreported:
                state["fastgpu_unreported"] = True
        if self._unreleased:
            state["fastgpu_unreleased"] = sorted(self._unreleased)
        if self.in_between:
            state["fastgpu_in_between"] = True
        return state

    @property
    def in_between(self) -> bool:
        """True from the moment a start or a stop begins until its end is known."""
        return self._unfinished or self._interrupted

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume after a restart of the hub: the lease goes on; what was left undone is done."""
        super().load_state(state)
        self.lease_id = state.get("fastgpu_lease_id", "")
        self._interrupted = state.get("fastgpu_in_between", False)
        with contextlib.suppress(RuntimeError):  # no event loop: a tool is only looking
            asyncio.get_running_loop()
            for lease_id in state.get("fastgpu_unreleased", ()):
                _in_background(self._release(lease_id))
            if state.get("fastgpu_unreported"):
                self._report_later()

    def clear_state(self) -> None:
        """Forget the lease; giving it back is the business of every way a server ends."""
        super().clear_state()
        self.lease_id = ""
        self._lease = None

    def _save_state(self) -> None:
        """Keep what a hub that dies now must find when it comes back: before and while a server starts or stops."""
        if self.orm_spawner is None:
            return
        self.orm_spawner.state = self.get_state()
        if (session := object_session(self.orm_spawner)) is not None:
            session.commit()
