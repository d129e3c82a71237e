"""The pages in a real browser: whole without JavaScript, fitting a narrow screen, ticking where they count down."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.browser]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = """
    --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync
""".split()  # noqa: SIM905  (read as one would type it)


@pytest.fixture
async def open_page(service: Any, cookies: Callable[[str], dict[str, str]]) -> AsyncIterator[Any]:
    """Open one of our pages in Chromium with the sign-in cookie of a token's owner."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)

        async def visit(token: str, path: str, **options: Any) -> Any:
            context = await browser.new_context(**options)
            signed = [{"name": name, "value": value, "url": service.url} for name, value in cookies(token).items()]
            await context.add_cookies(signed)
            page = await context.new_page()
            page.set_default_timeout(20_000)
            await page.goto(service.url + path)
            return page

        yield visit
        await browser.close()


async def test_a_promotion_is_previewed_corrected_and_published_without_javascript(open_page: Any) -> None:
    page = await open_page("t-tina", "classes/cs101", java_script_enabled=False)
    await page.get_by_role("link", name="New promotion").first.click()
    await page.get_by_label("Name").fill("Night <owls>")
    assert not await page.get_by_label("Price per GPU-hour").is_visible(), "only the fields of the chosen kind"
    await page.get_by_role("textbox", name="Percent off").fill("130")
    await page.get_by_role("button", name="What would last week have cost?").click()
    wrong = page.get_by_role("textbox", name="Percent off")
    assert await wrong.input_value() == "130"
    assert await wrong.get_attribute("aria-invalid") == "true"
    beside = await wrong.get_attribute("aria-describedby")
    assert "cannot be 130" in await page.locator(f"#{beside.split()[-1]}").inner_text()
    assert await page.evaluate("document.activeElement.name") == "percent_off"
    await wrong.fill("30")
    await page.get_by_role("button", name="What would last week have cost?").click()
    assert await page.get_by_role("heading", name="What last week would have cost").is_visible()
    assert await page.get_by_label("Name").input_value() == "Night <owls>"
    await page.get_by_role("button", name="Publish", exact=True).click()
    assert "is set up" in await page.get_by_role("status").inner_text()
    assert await page.get_by_role("heading", name="Night <owls>").is_visible()
    await page.get_by_text("End …", exact=True).click()
    await page.get_by_role("button", name="Yes, End Night <owls>").click()
    await page.get_by_role("link", name="Undo: restore it").click()
    await page.get_by_role("button", name="Restore version 1").click()
    assert "counts again" in await page.get_by_role("status").inner_text()


async def test_a_receipts_files_open_with_the_cookie_alone(service: Any, open_page: Any) -> None:
    job = await service.running(name="short")
    service.engine.finish(job["id"])
    await service.call("t-alice", "GET", f"api/jobs/{job['id']}?wait_seconds=5&state=running")
    page = await open_page("t-alice", f"receipts/{job['id']}")
    async with page.expect_download() as download:
        await page.get_by_role("link", name="CSV").click()
    assert (await download.value).suggested_filename == f"receipt-{job['id']}.csv"
    await page.get_by_role("link", name="HTML").click()
    assert "It adds up" in await page.locator("body").inner_text()
    assert await page.evaluate("getComputedStyle(document.querySelector('table')).borderCollapse") == "collapse"


async def test_every_page_fits_a_narrow_screen(service: Any, open_page: Any) -> None:
    job = await service.running(name="a-name-that-is-" + "very-" * 15 + "long", argv=["x" * 300])
    for step in range(20):
        service.engine.log_metric(job["id"], "accuracy-" + "y" * 80, step / 20, step)
    service.engine.write_log(job["id"], b"z" * 3000)
    service.engine.put_file(job["id"], "w" * 200, b"")
    for token, paths in {
        "t-alice": ("", "asks", f"jobs/{job['id']}"),
        "t-tina": ("classes/cs101", "promotions/new?class=cs101", "promotions/1"),
        "t-root": ("admin", "admin/audit", "admin/account?account=class:cs101"),
    }.items():
        page = await open_page(token, paths[0], viewport={"width": 400, "height": 800})
        for path in paths:
            await page.goto(service.url + path)
            await page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
            assert await page.evaluate("document.documentElement.scrollWidth") <= 400, path


async def test_a_run_is_read_and_stopped_on_its_page_without_javascript(service: Any, open_page: Any) -> None:
    job = await service.running(name="train")
    for step in range(20):
        service.engine.log_metric(job["id"], "accuracy", step / 20, step)
    image = base64.b64encode(b"\x89PNG\r\n").decode()
    output = {"output_type": "display_data", "data": {"image/png": image, "text/plain": "a plot"}}
    notebook = {"cells": [{"cell_type": "code", "source": "plot()", "outputs": [output]}]}
    service.engine.put_file(job["id"], "result.ipynb", json.dumps(notebook).encode())
    page = await open_page("t-alice", "", java_script_enabled=False)
    await page.get_by_role("link", name="train", exact=True).click()
    assert await page.get_by_role("heading", name="train running").is_visible()
    chart = page.get_by_role("img", name="accuracy over 20 values: from 0 to 0.95, best 0.95 at step 19")
    assert (await chart.bounding_box())["height"] > 50
    line = chart.locator("polyline")
    assert await line.evaluate("(line) => getComputedStyle(line).fill") == "none", "the page's own style reaches it"
    assert await page.get_by_role("img", name="a plot").is_visible()
    await page.get_by_text("Stop …", exact=True).click()
    await page.get_by_role("button", name="Yes, stop it").click()
    assert "being stopped" in await page.get_by_role("status").inner_text()
    assert "/jobs/" in page.url


async def test_a_countdown_ticks_until_it_is_over(service: Any, open_page: Any) -> None:
    ends = datetime.now(timezone.utc) + timedelta(hours=2, minutes=30)
    promotion = {"name": "Flash", "percent_off": 5, "starts_at": "2025-01-01T00:00:00Z", "ends_at": ends.isoformat()}
    assert (await service.call("t-root", "POST", "api/promotions", json=promotion)).status_code == 201
    page = await open_page("t-alice", "")
    await page.clock.install(time=datetime(2031, 5, 1, tzinfo=timezone.utc))  # that machine's own clock does not matter
    await page.reload()
    countdown = page.locator(f"[data-until^='{ends:%Y-%m-%dT%H:%M:%S}']")
    assert (await countdown.inner_text()).startswith("in 2 h 2")
    await page.clock.fast_forward("02:00:00")
    assert (await countdown.inner_text()).startswith("in 2")
    assert " min" in await countdown.inner_text()
    await page.clock.fast_forward("00:40:00")
    assert await countdown.inner_text() == "over: reload the page"
    absolute = page.locator(f"time[datetime^='{ends:%Y-%m-%dT%H:%M:%S}']")
    assert f"{ends:%H:%M} UTC" in await absolute.inner_text(), "the instant itself stays"
