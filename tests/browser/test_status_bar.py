"""A student sees in JupyterLab's status bar what the server's GPU does and costs, in a real browser."""

from __future__ import annotations

import json
import os
import re
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

from fastgpu.models import Gpu, GpuUse, Lease, LeaseState, Status

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
ITEM = ".jp-FastGPU-status-text"
VIEWPORT = {"width": 1280, "height": 720}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Chromium at /usr/bin/chromium"),
    pytest.mark.skipif(
        not (LABEXTENSION / "package.json").is_file(),
        reason="needs the built labextension: npm ci && npm run build in labextension/",
    ),
]


@dataclass
class FakeService:
    """A FastGPU service with one running lease; tests change it while JupyterLab watches."""

    url: str = ""
    simulated: bool = True
    lease_state: LeaseState = LeaseState.running
    down: bool = False
    started_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc) - timedelta(minutes=10))

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
        opened = browser.new_page(viewport=VIEWPORT)
        opened.goto(jupyterlab)
        opened.wait_for_selector("#jupyterlab-splash", state="detached", timeout=60_000)
        yield opened
        browser.close()


def _use_theme(page: Any, name: str) -> None:
    page.evaluate("name => window.jupyterapp.commands.execute('apputils:change-theme', { theme: name })", name)
    light = "true" if name == "JupyterLab Light" else "false"
    page.wait_for_selector(f"body[data-jp-theme-light='{light}']", state="attached")
    page.wait_for_selector("#jupyterlab-splash", state="detached")


def test_the_status_bar_tells_use_cost_and_trouble(page: Any, service: FakeService, tmp_path: Path) -> None:
    received: list[Any] = []
    page.on("response", lambda response: "/fastgpu/api/" in response.url and received.append(response))
    item = page.locator(ITEM)
    item.wait_for(state="visible", timeout=30_000)
    expected = r"H100 \(simulated\) · 63 % · 18\.2/80 GB · 0\.42 credits/h · spent 0\.07 · 2 h 1[01] left"
    assert re.fullmatch(expected, item.inner_text())
    assert "simulated GPU" in item.get_attribute("aria-label")
    assert "Memory in use: 18.2 of 80 GB." in item.get_attribute("aria-label")
    assert item.get_attribute("href") == "/services/fastgpu/"
    assert item.get_attribute("target") == "_blank"

    page.wait_for_selector(".jp-LauncherCard")
    for theme in ("JupyterLab Light", "JupyterLab Dark"):
        _use_theme(page, theme)
        page.screenshot(path=tmp_path / f"status-bar-{theme.split()[-1].lower()}.png")

    service.down = True
    page.wait_for_function(f"document.querySelector('{ITEM}').textContent.startsWith('FastGPU: no answer since ')")
    page.screenshot(path=tmp_path / "status-bar-trouble.png")

    service.down = False
    service.lease_state = LeaseState.released
    page.wait_for_function(f"document.querySelector('{ITEM}').textContent.includes('no longer holds a GPU')")
    bodies = [response.text() for response in received]
    assert any("Night owl" in body for body in bodies)
    assert SERVICE_TOKEN not in "".join(bodies)


def test_the_running_cost_ticks_between_samples_and_the_item_can_be_hidden(page: Any, service: FakeService) -> None:
    service.started_at = datetime.now(timezone.utc) - timedelta(hours=2, minutes=20, seconds=20)
    settings = "window.jupyterapp.serviceManager.settings"
    page.evaluate(f"{settings}.save('fastgpu:status-bar', JSON.stringify({{ pollRateMs: 600000 }}))")
    page.reload()
    item = page.locator(ITEM)
    item.wait_for(state="visible", timeout=30_000)
    page.wait_for_function(f"/ \\d+ s left$/.test(document.querySelector('{ITEM}').textContent)")
    before = item.inner_text()
    page.wait_for_function(f"before => document.querySelector('{ITEM}').textContent !== before", arg=before)

    page.evaluate(f"{settings}.save('fastgpu:status-bar', JSON.stringify({{ hide: true }}))")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.wait_for_function("window.jupyterapp?.isPluginActivated('fastgpu:status-bar')")
    page.wait_for_selector("#jupyterlab-splash", state="detached")
    page.wait_for_timeout(1500)
    assert not item.is_visible()
    assert not [url for url in asked if "/fastgpu/api/" in url]
