"""JupyterLab's status comes through this server: with its token, once per interval, problems in words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

SERVICE_TOKEN = "service-token-canary-5b1f"
STATUS = "fastgpu/api/status"


async def test_status_is_relayed_with_the_servers_own_token_lease_and_page(
    start_jupyter: Callable[..., Any], service: Any
) -> None:
    client = await start_jupyter()
    response = await client.get(STATUS)
    assert response.status_code == 200
    assert response.headers["Cache-Control"] == "no-store"
    assert response.json() == {
        "lease_id": "lease-1",
        "service_url": "/services/fastgpu/",
        "status": service.body,
        "problem": None,
    }
    assert service.tokens == [f"token {SERVICE_TOKEN}"]


async def test_many_tabs_make_one_upstream_request_per_interval(
    start_jupyter: Callable[..., Any], service: Any
) -> None:
    client = await start_jupyter(min_interval_seconds=0.3)
    release = asyncio.Event()
    service.gate = release.wait
    tabs = [asyncio.create_task(client.get(STATUS)) for _ in range(20)]
    while not service.requests:
        await asyncio.sleep(0.01)
    release.set()
    answers = [response.json() for response in await asyncio.gather(*tabs)]
    assert answers == [answers[0]] * 20
    await client.get(STATUS)
    assert service.requests == 1
    await asyncio.sleep(0.35)
    await client.get(STATUS)
    assert service.requests == 2


async def test_the_token_never_reaches_the_browser(start_jupyter: Callable[..., Any], service: Any) -> None:
    client = await start_jupyter(min_interval_seconds=0.1)
    answers = [await client.get(STATUS)]
    for service.code, service.body in [
        (401, {"error": {"code": "not_signed_in", "message": "no"}}),
        (500, {}),
        (200, {}),
    ]:
        await asyncio.sleep(0.12)
        answers.append(await client.get(STATUS))
    assert service.requests == 4
    for response in answers:
        assert SERVICE_TOKEN not in response.text
        assert SERVICE_TOKEN not in str(response.headers)


@pytest.mark.parametrize("headers", [{"Authorization": ""}, {"Authorization": "token wrong"}])
async def test_a_stranger_learns_nothing(
    start_jupyter: Callable[..., Any], service: Any, headers: dict[str, str]
) -> None:
    client = await start_jupyter()
    response = await client.get(STATUS, headers=headers)
    assert response.status_code == 403
    assert "lease" not in response.text
    assert service.requests == 0


async def test_a_refused_token_is_a_problem_with_its_reason(start_jupyter: Callable[..., Any], service: Any) -> None:
    service.code = 401
    service.body = {
        "error": {"code": "not_signed_in", "message": "The token is not known.", "instead": "Sign in anew."}
    }
    client = await start_jupyter()
    answer = (await client.get(STATUS)).json()
    assert answer["status"] is None
    assert answer["problem"]["code"] == "not_signed_in"
    assert answer["problem"]["message"] == "The token is not known."


async def test_a_silent_service_is_a_problem_since_its_first_silence_and_ends_by_itself(
    start_jupyter: Callable[..., Any], service: Any
) -> None:
    client = await start_jupyter(min_interval_seconds=0.1, timeout_seconds=0.3)
    never = asyncio.Event()
    service.gate = never.wait
    first = (await client.get(STATUS)).json()
    assert first["lease_id"] == "lease-1"
    assert first["status"] is None
    assert first["problem"]["code"] == "unavailable"
    assert "charged" in first["problem"]["hint"]
    await asyncio.sleep(0.12)
    second = (await client.get(STATUS)).json()
    assert second["problem"]["since"] == first["problem"]["since"]
    never.set()
    await asyncio.sleep(0.12)
    assert (await client.get(STATUS)).json()["problem"] is None


async def test_a_service_that_is_down_is_a_problem(
    start_jupyter: Callable[..., Any], spawned_environment: pytest.MonkeyPatch
) -> None:
    spawned_environment.setenv("FASTGPU_URL", "http://127.0.0.1:9/services/fastgpu")
    client = await start_jupyter(timeout_seconds=0.5)
    answer = (await client.get(STATUS)).json()
    assert answer["problem"]["code"] == "unavailable"
    assert answer["service_url"] == "/services/fastgpu/"


async def test_a_server_without_gpu_or_hub_says_so_and_works(
    start_jupyter: Callable[..., Any], spawned_environment: pytest.MonkeyPatch
) -> None:
    for name in ("FASTGPU_URL", "JUPYTERHUB_API_TOKEN", "FASTGPU_LEASE_ID"):
        spawned_environment.delenv(name)
    client = await start_jupyter()
    answer = (await client.get(STATUS)).json()
    assert answer["lease_id"] is answer["service_url"] is answer["status"] is None


async def test_the_administrator_may_name_another_page(start_jupyter: Callable[..., Any]) -> None:
    client = await start_jupyter(public_url="https://services.hub.example.org/services/fastgpu/")
    answer = (await client.get(STATUS)).json()
    assert answer["service_url"] == "https://services.hub.example.org/services/fastgpu/"


async def test_a_polling_page_is_not_activity(start_jupyter: Callable[..., Any]) -> None:
    client = await start_jupyter()
    before = (await client.get("api/status", params={"no_track_activity": "1"})).json()["last_activity"]
    await client.get(STATUS)
    after = (await client.get("api/status", params={"no_track_activity": "1"})).json()["last_activity"]
    assert after == before
