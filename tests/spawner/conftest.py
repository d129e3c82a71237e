"""A spawner over a fake service and a fake server, and a real hub for those who ask for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from jupyterhub.spawner import Spawner

from fastgpu.errors import InvalidRequest
from fastgpu.models import Explanation, Gpu, Lease, LeaseRequest, LeaseState, Options
from fastgpu_hub.spawner import leasing
from fastgpu_hub.spawner import mixin as mixin_module
from fastgpu_hub.spawner.mixin import FastGPUSpawnerMixin

NOW = datetime(2026, 12, 1, 12, tzinfo=timezone.utc)


def lease(state: str = "granted", **changes: Any) -> Lease:
    held = state in ("granted", "running")
    fields: dict[str, Any] = {
        "id": "lease-1",
        "owner": "alice",
        "account": "class:cs101",
        "gpu_type": "h100-80gb",
        "gpu_count": 1,
        "state": state,
        "requested_at": NOW,
        "currency": "credits",
        "gpus": (Gpu(uuid="GPU-1", index=0, name="H100", gpu_type="h100-80gb"),) if held else (),
        "environment": {"CUDA_VISIBLE_DEVICES": "GPU-1"} if held else {},
    }
    return Lease(**{**fields, **changes})


class FakeService:
    """Plays the service: ``answers`` are what asking for the lease gives, one after the other; the last one stays."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.answers: list[Lease | Exception] = [lease()]
        self.started_answers: list[Exception] = []
        self.release_answers: list[Exception] = []
        self.changed = asyncio.Event()
        self.hang = False
        self.options_answer: Options | Exception = Options(user="alice", currency="credits")

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]

    def released(self) -> list[str]:
        return [call[1] for call in self.calls if call[0] == "release"]

    def _next(self) -> Lease:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def options(self, owner: str, account: str | None = None, promo_code: str | None = None) -> Options:
        self.calls.append(("options", owner, account, promo_code))
        if isinstance(self.options_answer, Exception):
            raise self.options_answer
        if promo_code == "ENDED":
            raise InvalidRequest("The code ENDED has ended.")
        return self.options_answer

    async def request_lease(self, owner: str, request: LeaseRequest, *, idempotency_key: str | None = None) -> Lease:
        self.calls.append(("request", owner, request, idempotency_key))
        if self.hang:
            self.hang = False
            await asyncio.Event().wait()
        return self._next()

    async def lease(self, lease_id: str, *, wait_seconds: int | None = None, state: LeaseState | None = None) -> Lease:
        self.calls.append(("lease", lease_id))
        if len(self.answers) == 1:
            await asyncio.sleep(0.02)
        return self._next()

    async def lease_started(self, lease_id: str, pid: int | None = None) -> Lease:
        self.calls.append(("started", lease_id, pid))
        if self.started_answers:
            raise self.started_answers.pop(0)
        return lease("running")

    async def release_lease(self, lease_id: str) -> Lease:
        self.calls.append(("release", lease_id))
        if self.release_answers:
            raise self.release_answers.pop(0)
        return lease("released")


class FakeServer(Spawner):
    """A spawner below the mixin: its "server" is a port of this process, and ``events`` says what happened to it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.events: list[str] = []
        self.environment_seen: dict[str, str] = {}
        self.exit_status: int | None = 0
        self.fails: Exception | None = None
        self.stoppable = True
        self.lost = False
        self._listener: asyncio.Server | None = None

    async def start(self) -> tuple[str, int]:
        self.environment_seen = self.get_env()
        if self.fails:
            raise self.fails
        if self.exit_status is None or self.exit_status == 0:
            self.exit_status = None

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(b"HTTP/1.0 200 OK\r\n\r\n{}")
            self.events.append("answered")
            writer.close()

        self._listener = await asyncio.start_server(answer, "127.0.0.1", 0)
        if self.exit_status is not None:
            await self._close()
            return "127.0.0.1", 9
        return "127.0.0.1", self._listener.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            await self._listener.wait_closed()
            self._listener = None

    async def poll(self) -> int | None:
        if self.lost:
            raise ConnectionError("the machine does not answer")
        if self.exit_status is not None:
            self.clear_state()
        return self.exit_status

    async def stop(self, now: bool = False) -> None:
        self.events.append("stopped")
        await self._close()
        if self.stoppable:
            self.exit_status = 0


class GpuServer(FastGPUSpawnerMixin, FakeServer):
    service: FakeService

    def _client(self) -> FakeService:
        return self.service


@pytest.fixture
def make_lease() -> Callable[..., Lease]:
    return lease


@pytest.fixture
def waiting() -> Callable[..., Lease]:
    """A queued lease at a place, for a reason."""

    def make(place: int, reason: str = "All 4 GPUs are in use.") -> Lease:
        return lease("queued", queue_place=place, explanation=Explanation(code="capacity", message=reason))

    return make


@pytest.fixture
def service() -> FakeService:
    return FakeService()


@pytest.fixture
def hub_user() -> SimpleNamespace:
    return SimpleNamespace(name="alice", url="/user/alice/", escaped_name="alice", groups=[])


@pytest.fixture
def hub_place() -> SimpleNamespace:
    return SimpleNamespace(public_host="", api_url="http://127.0.0.1:1/hub/api", base_url="/hub/")


@pytest.fixture
async def make_spawner(
    service: FakeService, hub_user: SimpleNamespace, hub_place: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., GpuServer]]:
    """Makes spawners; at the end no background work and no port may be left."""
    monkeypatch.setattr(leasing, "RETRY_SECONDS", (0.01,))
    made: list[GpuServer] = []

    def make(user_options: Any = None, **traits: Any) -> GpuServer:
        spawner = GpuServer(user=hub_user, hub=hub_place, api_token="secret", **traits)
        spawner.service = service
        spawner.user_options = {"gpu_type": "h100-80gb"} if user_options is None else user_options
        made.append(spawner)
        return spawner

    yield make
    for spawner in made:
        await spawner._close()
    await settle()


async def settle() -> None:
    """Wait for the background work of all spawners."""
    while mixin_module._background:
        await asyncio.wait(set(mixin_module._background), timeout=5)


@pytest.fixture(name="settle")
def settle_fixture() -> Callable[[], Any]:
    return settle
