"""A real hub from ``jupyterhub_config.py`` on free ports, a real browser, people who sign in."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest

from fastgpu import GPUClient
from tools.hub import HubProcess, Ports
from tools.student import Student

T = TypeVar("T")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = """
    --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync
""".split()  # noqa: SIM905  (read as one would type it)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder starts a real hub."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.hub)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """The demo hub with twelve simulated GPUs. Ends without leftovers."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    if shutil.which("configurable-http-proxy", path=path) is None:
        pytest.skip("needs configurable-http-proxy: `make test` installs it into .venv")
    folder = tmp_path_factory.mktemp("hub")
    with (folder / "hub.log").open("wb") as log:
        process = HubProcess(
            folder / "state",
            Ports.free(),
            log=log,
            environment={"FASTGPU_DEMO_PROBE": "simulated", "FASTGPU_DEMO_GPUS": "12"},
        )
        try:
            process.start()
            yield process
        except RuntimeError as error:
            pytest.fail(f"{error}\n{(folder / 'hub.log').read_text(errors='replace')[-4000:]}")
        finally:
            killed = process.stop()
    assert killed == [], f"the hub left these behind: {killed}"


@pytest.fixture(scope="module")
def client_of(hub: HubProcess) -> Iterator[Callable[[str], GPUClient]]:
    """An SDK client of a demo person."""
    clients: dict[str, GPUClient] = {}

    def make(name: str) -> GPUClient:
        if name not in clients:
            clients[name] = GPUClient(url=hub.service_url, token=in_thread(token_of(hub, name)))
        return clients[name]

    yield make
    for client in clients.values():
        client.close()


def in_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine while Playwright's loop runs in this thread."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


async def token_of(hub: HubProcess, name: str) -> str:
    """A token that the person made on the hub."""
    async with Student(hub.url, name, "fastgpu") as person:
        await person.sign_in()
        return person.token


@pytest.fixture
def stop_server(hub: HubProcess) -> Callable[[str], None]:
    """Stop a demo person's server and wait until it is gone."""

    async def stop(name: str) -> None:
        async with Student(hub.url, name, "fastgpu") as person:
            await person.sign_in()
            await person.stop_server()

    return lambda name: in_thread(stop(name))


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium. Not for the whole session: its event loop would be in the way of other tests' loops."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def sign_in(hub: HubProcess, chromium):
    """Open a page signed in as a demo person."""
    contexts = []

    def open_page(name: str, path: str = "/hub/home"):
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{hub.url}/hub/login")
        page.fill("#username_input", name)
        page.fill("#password_input", "fastgpu")
        page.click("#login_submit")
        page.wait_for_url(lambda url: "/hub/login" not in url)  # to their server if it runs
        page.goto(f"{hub.url}{path}")
        return page

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def picture(tmp_path: Path):
    """Save a screenshot, into FASTGPU_SCREENSHOTS when that is set (the README's pictures are made so)."""

    def save(page_or_locator, name: str, **options) -> None:
        folder = Path(os.environ.get("FASTGPU_SCREENSHOTS", tmp_path))
        page_or_locator.screenshot(path=folder / f"{name}.png", **options)

    return save
