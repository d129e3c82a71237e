"""A real JupyterLab in a real browser, with FastGPU installed, before a pretended service."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastgpu.models import Explanation, Gpu, GpuUse, Lease, LeaseState, Notice, Status

ROOT = Path(__file__).parents[2]
LABEXTENSION = ROOT / "fastgpu_magics" / "labextension"
SERVER_CONFIG = ROOT / "fastgpu_magics" / "server" / "jupyter-config" / "fastgpu_magics.json"
CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SERVICE_TOKEN = "service-token-canary-5b1f"
VIEWPORT = {"width": 1280, "height": 720}
NEEDS = {
    "needs Chromium at /usr/bin/chromium": CHROMIUM.exists(),
    "needs the built labextension: npm ci && npm run build in labextension/": (LABEXTENSION / "package.json").is_file(),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here is slow and needs a browser; where something is missing it says what."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.browser)
            for reason, there in NEEDS.items():
                item.add_marker(pytest.mark.skipif(not there, reason=reason))


@dataclass
class FakeService:
    """A FastGPU service with one running lease; tests change it while JupyterLab watches."""

    url: str = ""
    simulated: bool = True
    lease_state: LeaseState = LeaseState.running
    down: bool = False
    started_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc) - timedelta(minutes=10))
    ends_at: datetime | None = None
    notices: list[Notice] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)
    streams: int = 0
    closing: bool = False

    def tell(self, number: int, message: str, minutes: int | None = None, kind: str = "ending", **more: str) -> None:
        """A notice for the server's owner; ``minutes``: from now to the end it speaks of."""
        now = datetime.now(timezone.utc)
        explanation = Explanation(code="credit", message=message, **more)
        ends_at = None if minutes is None else now + timedelta(minutes=minutes)
        with self.news:
            self.notices.append(
                Notice(id=number, at=now, kind=kind, explanation=explanation, workload_id="lease-1", ends_at=ends_at)
            )
            self.news.notify_all()

    def stream(self, last_id: int) -> Iterator[bytes]:
        """The notices after one as server-sent events, without end."""
        self.streams += 1
        yield b"retry: 100\n\n"
        while not self.closing:
            with self.news:
                unseen = [notice for notice in self.notices if notice.id > last_id]
                if not unseen:
                    self.news.wait(0.5)
            for notice in unseen:
                last_id = notice.id
                yield f"id: {last_id}\nevent: notice\ndata: {notice.model_dump_json()}\n\n".encode()
            yield b": still here\n\n"

    def status(self) -> Status:
        """The lease after ten minutes at 0.42 an hour, with 2 h 10 min left."""
        now = datetime.now(timezone.utc)
        gpu = Gpu(uuid="GPU-1", index=0, name="H100", gpu_type="h100-80gb", simulated=self.simulated)
        lease = Lease(
            id="lease-1",
            owner="alice",
            server_name="",
            account="class:cs101",
            gpu_type="h100-80gb",
            gpu_count=1,
            state=self.lease_state,
            gpus=(gpu,),
            requested_at=self.started_at,
            started_at=self.started_at,
            rate_per_hour_micros=420_000,
            cost_micros=int((now - self.started_at).total_seconds() * 420_000 / 3600),
            funded_until=self.started_at + timedelta(hours=2, minutes=20, seconds=50),
            ends_at=self.ends_at,
            ending=self.ends_at and Explanation(code="credit", message="Credit is used up.", instead="Ask for more."),
            promotion_name="Night owl",
            currency="credits",
            simulated=self.simulated,
        )
        use = GpuUse(
            gpu=gpu,
            sampled_at=now,
            utilisation_percent=63,
            memory_used_bytes=int(18.2 * 2**30),
            memory_total_bytes=80 * 2**30,
        )
        return Status(user="alice", currency="credits", now=now, leases=(lease,), gpus=(use,))


@pytest.fixture
def service() -> Iterator[FakeService]:
    """The service in a thread, on a free port."""
    fake = FakeService()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.endswith("/api/events") and not fake.down:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                try:
                    for piece in fake.stream(int(self.headers.get("Last-Event-ID", "0"))):
                        self.wfile.write(piece)
                except OSError:
                    return
                return
            body = b"" if fake.down else fake.status().model_dump_json().encode()
            self.send_response(503 if fake.down else 200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{server.server_port}/services/fastgpu"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield fake
    fake.closing = True
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def jupyterlab(service: FakeService, tmp_path: Path) -> Iterator[str]:
    """Address of a real JupyterLab in which FastGPU is installed as the wheel installs it, under /user/alice/."""
    data = tmp_path / "share" / "jupyter"
    shutil.copytree(LABEXTENSION, data / "labextensions" / "fastgpu")
    config = tmp_path / "etc" / "jupyter"
    (config / "jupyter_server_config.d").mkdir(parents=True)
    shutil.copy(SERVER_CONFIG, config / "jupyter_server_config.d")
    (data / "lab" / "settings").mkdir(parents=True)
    (data / "lab" / "settings" / "overrides.json").write_text(
        json.dumps({"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}})
    )
    (tmp_path / "work").mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "JUPYTER_PATH": str(data),
        "JUPYTER_CONFIG_PATH": str(config),
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"),
        "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
        "PYTHONPATH": str(ROOT),
        "FASTGPU_URL": service.url,
        "FASTGPU_LEASE_ID": "lease-1",
        "JUPYTERHUB_API_TOKEN": SERVICE_TOKEN,
    }
    arguments = [
        "--allow-root",
        "--no-browser",
        "--ServerApp.ip=127.0.0.1",
        f"--port={port}",
        "--ServerApp.port_retries=0",
        "--ServerApp.base_url=/user/alice/",
        "--IdentityProvider.token=t",
        "--LabApp.expose_app_in_browser=True",
        f"--LabApp.app_settings_dir={data / 'lab' / 'settings'}",
        "--FastGPUServerExtension.timeout_seconds=1",
        f"--ServerApp.root_dir={tmp_path / 'work'}",
    ]
    with (tmp_path / "jupyterlab.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *arguments], env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    address = f"http://127.0.0.1:{port}/user/alice/"
    try:
        _wait_for(f"{address}api/status?token=t", process, tmp_path / "jupyterlab.log")
        yield f"{address}lab?token=t"
    finally:
        process.terminate()
        process.wait(timeout=20)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text()}")


@pytest.fixture
def page(jupyterlab: str) -> Iterator[Any]:
    """JupyterLab open in Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_FLAGS)
        opened = browser.new_context(viewport=VIEWPORT).new_page()
        opened.goto(jupyterlab)
        opened.wait_for_selector("#jupyterlab-splash", state="detached", timeout=60_000)
        yield opened
        browser.close()
