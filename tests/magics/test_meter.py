"""The live meter: updates on the kernel's loop, ends when it should, never prints."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
import pytest

from fastgpu.aio import AsyncGPUClient
from fastgpu.client import GPUClient
from fastgpu_magics.meter import Meter
from tests.sdk.fake_service import GPU_USE, URL, FakeService


async def no_sleep(seconds: float) -> None:
    """Do not wait between repetitions."""


@pytest.fixture
def meter(service: FakeService, make_client: Callable[[], GPUClient]) -> Meter:
    with make_client() as client:
        answer = client.status()
    return Meter(
        answer,
        lambda: AsyncGPUClient(URL, "secret-token", transport=service.transport, sleep=no_sleep),
        interval_seconds=0.01,
    )


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.005)
    pytest.fail("it did not happen within five seconds")


async def test_it_shows_use_and_running_cost_and_follows_them(
    meter: Meter, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "63 %" in meter._body.value
    assert "0.07 credits" in meter._body.value
    monkeypatch.setitem(GPU_USE, "utilisation_percent", 97)
    meter.start()
    await until(lambda: "97 %" in meter._body.value)
    meter.close()


async def test_closing_ends_its_task(meter: Meter, capsys: pytest.CaptureFixture[str]) -> None:
    meter.start()
    assert meter.running
    await asyncio.sleep(0.03)
    meter.close()
    await until(lambda: not meter.running)
    meter.close()
    assert capsys.readouterr() == ("", "")


async def test_the_stop_button_ends_the_updates_and_leaves_what_is_shown(meter: Meter) -> None:
    meter.start()
    meter._stop_button.click()
    await until(lambda: not meter.running)
    assert meter._stop_button.disabled
    assert "63 %" in meter._body.value
    meter.close()


async def test_a_service_that_is_away_is_said_and_the_meter_goes_on(meter: Meter, service: FakeService) -> None:
    service.failures = [httpx.ConnectError("down")] * 5
    meter.start()
    await until(lambda: "Not updated" in meter._body.value)
    await until(lambda: "Not updated" not in meter._body.value)
    meter.close()


def test_where_widgets_are_unknown_it_is_a_table(meter: Meter) -> None:
    bundle = meter._repr_mimebundle_()
    assert "H100 (simulated)" in bundle["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in bundle
    meter.close()
