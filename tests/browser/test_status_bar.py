"""A student sees in JupyterLab's status bar what the server's GPU does and costs, in a real browser."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from fastgpu.models import LeaseState

SERVICE_TOKEN = "service-token-canary-5b1f"
ITEM = ".jp-FastGPU-status-text"


def _use_theme(page: Any, name: str) -> None:
    page.evaluate("name => window.jupyterapp.commands.execute('apputils:change-theme', { theme: name })", name)
    light = "true" if name == "JupyterLab Light" else "false"
    page.wait_for_selector(f"body[data-jp-theme-light='{light}']", state="attached")
    page.wait_for_selector("#jupyterlab-splash", state="detached")


def test_the_status_bar_tells_use_cost_and_trouble(page: Any, service: Any, tmp_path: Path) -> None:
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

    service.ends_at = datetime.now(timezone.utc) + timedelta(hours=1)
    page.wait_for_function(f"document.querySelector('{ITEM}').getAttribute('aria-label').includes('Ends at ')")
    assert ": Credit is used up. Ask for more." in item.get_attribute("aria-label")

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


def test_the_running_cost_ticks_between_samples_and_the_item_can_be_hidden(page: Any, service: Any) -> None:
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
