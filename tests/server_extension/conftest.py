"""A FastGPU service that answers what the test wants, and a real Jupyter server with the extension before it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
from jupyter_server.serverapp import ServerApp
from tornado import web
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port

from fastgpu.models import Gpu, GpuUse, Lease, LeaseState, Status

SERVICE_TOKEN = "service-token-canary-5b1f"
JUPYTER_TOKEN = "jupyter-token"
LEASE_ID = "lease-1"
SHIPPED_CONFIG = Path(__file__).parents[2] / "fastgpu_magics/server/jupyter-config/fastgpu_magics.json"


@dataclass
class FakeService:
    """What the service received, and what it answers: ``code`` and ``body``, after waiting for ``gate``."""

    url: str = ""
    code: int = 200
    body: dict[str, Any] = field(default_factory=dict)
    gate: Callable[[], Any] | None = None
    tokens: list[str] = field(default_factory=list)
    notices: list[dict[str, Any]] = field(default_factory=list)
    events_code: int = 200
    listeners: list[_Events] = field(default_factory=list)
    positions: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        return len(self.tokens)

    async def tell(self, number: int, message: str = "Ends soon.") -> None:
        """A notice for the server's owner."""
        explanation = {"code": "credit", "message": message}
        at = "2026-03-02T12:00:00Z"
        self.notices.append({"id": number, "at": at, "kind": "ending", "explanation": explanation})
        for listener in self.listeners:
            await listener.write_notice(self.notices[-1])


class _Status(web.RequestHandler):
    def initialize(self, service: FakeService) -> None:
        self.service = service

    async def get(self) -> None:
        self.service.tokens.append(self.request.headers.get("Authorization", ""))
        if self.service.gate is not None:
            await self.service.gate()
        self.set_status(self.service.code)
        self.finish(json.dumps(self.service.body))


class _Events(web.RequestHandler):
    """The service's stream: what was kept after the reader's position, then what comes."""

    def initialize(self, service: FakeService) -> None:
        self.service = service
        self.gone = asyncio.Event()

    def on_connection_close(self) -> None:
        self.gone.set()

    async def get(self) -> None:
        self.service.positions.append(self.request.headers.get("Last-Event-ID", ""))
        if self.service.events_code != 200:
            self.set_status(self.service.events_code)
            self.finish(json.dumps(self.service.body))
            return
        self.set_header("Content-Type", "text/event-stream")
        self.write("retry: 50\n\n")
        await self.flush()
        for notice in self.service.notices:
            if notice["id"] > int(self.service.positions[-1] or 0):
                await self.write_notice(notice)
        self.service.listeners.append(self)
        await self.gone.wait()
        self.service.listeners.remove(self)

    async def write_notice(self, notice: dict[str, Any]) -> None:
        self.write(f"id: {notice['id']}\nevent: notice\ndata: {json.dumps(notice)}\n\n")
        await self.flush()


def a_status() -> Status:
    now = datetime(2026, 3, 2, 12, tzinfo=timezone.utc)
    gpu = Gpu(uuid="GPU-1", index=0, name="NVIDIA H100", gpu_type="h100-80gb", memory_bytes=80 * 2**30)
    lease = Lease(
        id=LEASE_ID,
        owner="alice",
        server_name="",
        account="class:cs101",
        gpu_type="h100-80gb",
        gpu_count=1,
        state=LeaseState.running,
        gpus=(gpu,),
        requested_at=now,
        rate_per_hour_micros=420_000,
        cost_micros=70_000,
        currency="credits",
    )
    use = GpuUse(gpu=gpu, sampled_at=now, utilisation_percent=63)
    return Status(user="alice", currency="credits", now=now, leases=(lease,), gpus=(use,))


ROUTES = {"status": _Status, "events": _Events}


@pytest.fixture
async def service() -> AsyncIterator[FakeService]:
    """The service on a free port."""
    fake = FakeService(body=a_status().model_dump(mode="json"))
    sockets, port = bind_unused_port()
    routes = [(rf"/services/fastgpu/api/{name}", handler, {"service": fake}) for name, handler in ROUTES.items()]
    server = HTTPServer(web.Application(routes))
    server.add_socket(sockets)
    fake.url = f"http://127.0.0.1:{port}/services/fastgpu"
    yield fake
    server.stop()
    await server.close_all_connections()


@pytest.fixture
def spawned_environment(monkeypatch: pytest.MonkeyPatch, service: FakeService) -> pytest.MonkeyPatch:
    """What FastGPU's spawner puts into a server's environment; a test may change it before the server starts."""
    monkeypatch.setenv("FASTGPU_URL", service.url)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", SERVICE_TOKEN)
    monkeypatch.setenv("FASTGPU_LEASE_ID", LEASE_ID)
    monkeypatch.delenv("FASTGPU_TOKEN", raising=False)
    return monkeypatch


class JupyterClient(httpx.AsyncClient):
    """A client of one Jupyter server, which is at hand as ``app``."""

    app: ServerApp


@pytest.fixture
async def start_jupyter(spawned_environment: pytest.MonkeyPatch, tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Start a Jupyter server with the extension (as the shipped configuration enables it); gives its HTTP client."""
    for name in ("CONFIG", "DATA", "RUNTIME"):
        spawned_environment.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / name.lower()))
    spawned_environment.setenv("JUPYTER_NO_CONFIG", "1")
    running: list[tuple[ServerApp, HTTPServer, JupyterClient]] = []

    async def start(**traits: Any) -> JupyterClient:
        enabled = json.loads(SHIPPED_CONFIG.read_text())["ServerApp"]["jpserver_extensions"]
        app = ServerApp(
            allow_root=True,
            open_browser=False,
            base_url="/user/alice/",
            root_dir=str(tmp_path),
            log_level=50,
            jpserver_extensions=enabled,
        )
        app.config.FastGPUServerExtension.update(traits)
        app.config.IdentityProvider.token = JUPYTER_TOKEN
        app.initialize(argv=[], new_httpserver=False, find_extensions=False)
        await app._post_start()
        sockets, port = bind_unused_port()
        server = HTTPServer(app.web_app)
        server.add_socket(sockets)
        client = JupyterClient(
            base_url=f"http://127.0.0.1:{port}/user/alice/",
            headers={"Authorization": f"token {JUPYTER_TOKEN}"},
            trust_env=False,
        )
        client.app = app
        running.append((app, server, client))
        return client

    yield start
    for app, server, client in running:
        await client.aclose()
        server.stop()
        await server.close_all_connections()
        await app._cleanup()
        app.clear_instance()
