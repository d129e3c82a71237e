"""The real service over HTTP: real broker, SQLite store, an engine that runs nothing; only the hub is pretended."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import HTTPError

from fastgpu_hub.artifacts import JobFiles
from fastgpu_hub.broker.broker import Broker
from fastgpu_hub.broker.ports.world import HubUnavailable, HubUser
from fastgpu_hub.engines.fake import FakeEngine
from fastgpu_hub.probes.simulated import SimulatedProbe
from fastgpu_hub.service.app import Site, make_app
from fastgpu_hub.service.auth import FastGPUAuth
from fastgpu_hub.service.clock import SystemClock
from fastgpu_hub.service.routes import BLOB_LIMIT_BYTES
from fastgpu_hub.service.seeds import apply_seeds, read_seeds
from fastgpu_hub.store import open_store

PREFIX = "/services/fastgpu/"
USE = "custom:fastgpu:use"


def person(name: str, *scopes: str, groups: tuple[str, ...] = ()) -> dict[str, Any]:
    """A user model as the hub answers it for a token."""
    return {"kind": "user", "name": name, "groups": list(groups), "admin": False, "scopes": list(scopes)}


PEOPLE: dict[str, dict[str, Any]] = {
    "t-alice": person("alice", USE, f"access:services!service={PREFIX}", groups=("cs101",)),
    "t-bob": person("bob", USE, groups=("cs101",)),
    "t-carol": person("carol", USE, groups=("bio7",)),
    "t-tina": person("tina", USE, "custom:fastgpu:teach!group=cs101"),
    "t-theo": person("theo", USE, "custom:fastgpu:teach!group=bio7"),
    "t-root": person("root", USE, "custom:fastgpu:admin"),
    "t-spawner": {"kind": "service", "name": "fastgpu-spawner", "scopes": ["custom:fastgpu:spawn"]},
    "t-metrics": {"kind": "service", "name": "prometheus", "scopes": ["custom:fastgpu:metrics"]},
    "t-narrow": person("alice", "self", groups=("cs101",)),
}


class FakeAuth(FastGPUAuth):
    """The hub's answer for a token comes from a table; everything else is the real thing."""

    people: dict[str, dict[str, Any]]
    down = False

    async def _answer(self, token: str) -> dict[str, Any] | None:
        if self.down:
            raise HTTPError(502, "upstream problem")
        return self.people.get(token)

    def user_for_token(self, token: str, use_cache: bool = True, session_id: str = "", *, sync: bool = True) -> Any:
        return self._call_coroutine(sync, self._answer, token)


@dataclass
class FakeHub:
    """The hub's people, groups and servers."""

    groups: dict[str, list[str]] = field(default_factory=lambda: {"cs101": ["alice", "bob"], "bio7": ["carol"]})
    servers: set[tuple[str, str]] = field(default_factory=set)
    stopped: list[tuple[str, str]] = field(default_factory=list)
    down: bool = False

    def _up(self) -> None:
        if self.down:
            raise HubUnavailable("the hub does not answer")

    async def user(self, name: str) -> HubUser | None:
        self._up()
        classes = tuple(sorted(group for group, names in self.groups.items() if name in names))
        return HubUser(name, classes) if classes else None

    async def class_members(self, name: str) -> list[str] | None:
        self._up()
        return self.groups.get(name)

    async def server_active(self, owner: str, server_name: str) -> bool:
        self._up()
        return True

    async def stop_server(self, owner: str, server_name: str) -> None:
        self.stopped.append((owner, server_name))


SEEDS = {
    "prices": [{"gpu_type": "h100-80gb", "per_gpu_hour": "0.50"}],
    "grants": [{"account": "class:cs101", "amount": "100"}, {"account": "person:carol", "amount": "5"}],
    "quotas": [
        {"scope": "member", "name": "cs101", "metric": "concurrent_gpus", "limit": 2},
        {"scope": "class", "name": "cs101", "metric": "spend_micros", "limit": "80", "window": "week"},
    ],
    "promotions": [
        {
            "name": "Launch <b>week</b>",
            "percent_off": 50,
            "audience": ["class:cs101"],
            "starts_at": "2024-01-01T00:00:00Z",
            "ends_at": "2090-01-01T00:00:00Z",
        }
    ],
}


@dataclass
class Service:
    """A running service and what is behind it."""

    url: str
    site: Site
    broker: Broker
    engine: FakeEngine
    hub: FakeHub
    auth: FakeAuth
    client: httpx.AsyncClient

    async def call(self, token: str | None, method: str, path: str, **kwargs: Any) -> httpx.Response:
        headers = dict(kwargs.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"token {token}"
        return await self.client.request(method, self.url + path, headers=headers, **kwargs)

    async def submit(self, token: str = "t-alice", **fields: Any) -> dict[str, Any]:
        body = {"kind": "command", "argv": ["true"], "gpu_type": "h100-80gb", "name": "train", **fields}
        answer = await self.call(token, "POST", "api/jobs", json=body)
        assert answer.status_code == 201, answer.text
        return answer.json()

    async def running(self, token: str = "t-alice", **fields: Any) -> dict[str, Any]:
        """Submit a job and wait until it runs."""
        job = await self.submit(token, **fields)
        for _ in range(20):
            path = f"api/jobs/{job['id']}?wait_seconds=5&state={job['state']}"
            job = (await self.call(token, "GET", path)).json()
            if job["state"] == "running":
                return job
        raise AssertionError(job)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables and nothing in them; copying it is faster than making it."""
    path = tmp_path_factory.mktemp("empty") / "fastgpu.sqlite"
    asyncio.run(open_store(f"sqlite:///{path}").close())
    return path


@pytest.fixture
async def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Service]]]:
    """Opens the service over a database: ``await serve(url)``; further arguments are those of ``open_store``."""
    monkeypatch.setenv("JUPYTERHUB_CLIENT_ID", "service-fastgpu")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "the-services-own-token")
    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", PREFIX)
    monkeypatch.setenv("JUPYTERHUB_SERVICE_NAME", "fastgpu")
    async with AsyncExitStack() as stack:

        async def start(url: str, **options: Any) -> Service:
            store = await asyncio.to_thread(partial(open_store, url, **options))
            stack.push_async_callback(store.close)
            engine, hub = FakeEngine(), FakeHub()
            files = JobFiles(artifacts_url=str(tmp_path / "artifacts"))
            broker = Broker(store, engine, SimulatedProbe(4), hub, SystemClock(), files=files)
            await broker.start()
            stack.push_async_callback(broker.close)
            assert await apply_seeds(broker, read_seeds(SEEDS)) == 6
            auth = FakeAuth(base_url=PREFIX)
            auth.people = {token: dict(model) for token, model in PEOPLE.items()}
            site = Site(broker, auth, prefix=PREFIX)
            server = HTTPServer(make_app(site, b"0" * 32), max_body_size=BLOB_LIMIT_BYTES)
            sockets = bind_sockets(0, "127.0.0.1")
            server.add_sockets(sockets)
            stack.push_async_callback(server.close_all_connections)
            stack.callback(server.stop)
            port = sockets[0].getsockname()[1]
            client = await stack.enter_async_context(httpx.AsyncClient(timeout=20))
            return Service(f"http://127.0.0.1:{port}{PREFIX}", site, broker, engine, hub, auth, client)

        yield start


@pytest.fixture
async def service(tmp_path: Path, empty_database: Path, serve: Callable[..., Awaitable[Service]]) -> Service:
    """The service over a SQLite database."""
    shutil.copy(empty_database, tmp_path / "fastgpu.sqlite")
    return await serve(f"sqlite:///{tmp_path}/fastgpu.sqlite")


@pytest.fixture
def cookies(service: Service) -> Callable[[str], dict[str, str]]:
    """The sign-in cookie that a browser of this token's owner holds."""
    from tornado.web import create_signed_value

    def make(token: str) -> dict[str, str]:
        return {"service-fastgpu": create_signed_value(b"0" * 32, "service-fastgpu", token).decode()}

    return make
