"""News reaches every tab of this server over one stream of the service's, and only who is signed in here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from typing import Any

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

SERVICE_TOKEN = "service-token-canary-5b1f"
JUPYTER_TOKEN = "jupyter-token"


def request_of(client: Any, token: str | None = JUPYTER_TOKEN, **headers: str) -> HTTPRequest:
    url = str(client.base_url).replace("http:", "ws:") + "fastgpu/api/events"
    return HTTPRequest(url, headers={**({"Authorization": f"token {token}"} if token else {}), **headers})


@asynccontextmanager
async def tab_of(client: Any) -> AsyncIterator[WebSocketClientConnection]:
    tab = await websocket_connect(request_of(client))
    try:
        yield tab
    finally:
        tab.close()


async def hears(tab: WebSocketClientConnection, *numbers: int) -> dict[str, Any]:
    """Read until these notices came, and no others; the last message."""
    found: list[int] = []
    while len(found) < len(numbers):
        message = await asyncio.wait_for(tab.read_message(), 5)
        assert message is not None
        assert SERVICE_TOKEN not in str(message)
        news = json.loads(message)
        found += [notice["id"] for notice in news["notices"]]
    assert found == list(numbers)
    return news


async def until(true: Callable[[], bool]) -> None:
    for _ in range(500):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that")


async def test_all_tabs_hear_the_news_over_one_stream(start_jupyter: Callable[..., Any], service: Any) -> None:
    await service.tell(3)
    client = await start_jupyter()
    async with tab_of(client) as one, tab_of(client) as other:
        for tab in (one, other):
            message = await hears(tab, 3)
            assert message["service_url"] == "/services/fastgpu/"
            assert message["notices"][0]["explanation"]["message"] == "Ends soon."
            assert abs((datetime.now(timezone.utc) - datetime.fromisoformat(message["now"])).total_seconds()) < 5
        await until(lambda: len(service.listeners) == 1)
        await service.tell(4)
        await asyncio.gather(hears(one, 4), hears(other, 4))
        async with tab_of(client) as late:
            await hears(late, 3, 4)
        assert service.positions == ["0"]


async def test_the_service_is_left_alone_after_the_last_tab_and_goes_on_where_it_was(
    start_jupyter: Callable[..., Any], service: Any
) -> None:
    client = await start_jupyter()
    await asyncio.sleep(0.05)
    assert service.positions == []
    async with tab_of(client) as tab:
        await until(lambda: len(service.listeners) == 1)
        await service.tell(7)
        await hears(tab, 7)
    await until(lambda: not service.listeners)
    await service.tell(8)
    async with tab_of(client) as tab:
        await hears(tab, 7, 8)
    assert service.positions == ["0", "7"]


@pytest.mark.slow
async def test_a_stream_the_service_ends_is_opened_anew_and_nothing_comes_twice(
    start_jupyter: Callable[..., Any], service: Any
) -> None:
    client = await start_jupyter()
    async with tab_of(client) as tab:
        await until(lambda: len(service.listeners) == 1)
        await service.tell(7)
        await hears(tab, 7)
        service.listeners[0].gone.set()
        await until(lambda: not service.listeners)
        await service.tell(8)
        await hears(tab, 8)
    assert service.positions == ["0", "7"]


@pytest.mark.slow
async def test_after_a_restored_backup_the_old_news_is_forgotten(
    start_jupyter: Callable[..., Any], service: Any
) -> None:
    client = await start_jupyter()
    async with tab_of(client) as tab:
        await until(lambda: len(service.listeners) == 1)
        await service.tell(50)
        await hears(tab, 50)
        await service.tell(3)
        await hears(tab, 3)
        async with tab_of(client) as late:
            await hears(late, 3)


@pytest.mark.slow
async def test_a_refusal_of_the_service_leaves_the_tab_in_peace_and_is_asked_again(
    start_jupyter: Callable[..., Any], service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastgpu_magics.server.extension.RETRY_SECONDS", 0.05)
    service.events_code = 401
    client = await start_jupyter()
    async with tab_of(client) as tab:
        await until(lambda: len(service.positions) >= 2)
        service.events_code = 200
        await service.tell(3)
        await hears(tab, 3)


@pytest.mark.parametrize("token", [None, "wrong"])
async def test_a_stranger_gets_no_socket(start_jupyter: Callable[..., Any], service: Any, token: str | None) -> None:
    client = await start_jupyter()
    with pytest.raises(HTTPClientError) as refused:
        await websocket_connect(request_of(client, token))
    assert refused.value.code == 403
    assert service.positions == []


@pytest.mark.slow
async def test_a_browser_gets_a_socket_by_its_cookie_but_not_for_another_site(
    start_jupyter: Callable[..., Any], service: Any
) -> None:
    client = await start_jupyter()
    await client.get("api/status", params={"token": JUPYTER_TOKEN}, headers={"Authorization": ""})
    cookie = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    own_site = str(client.base_url).partition("/user/")[0]
    with pytest.raises(HTTPClientError) as refused:
        await websocket_connect(request_of(client, None, Cookie=cookie, Origin="http://evil.example"))
    assert refused.value.code == 403
    assert service.positions == []
    tab = await websocket_connect(request_of(client, None, Cookie=cookie, Origin=own_site))
    await until(lambda: len(service.listeners) == 1)
    tab.close()


@pytest.mark.slow
async def test_a_server_without_a_hub_has_no_news_and_works(
    start_jupyter: Callable[..., Any], spawned_environment: pytest.MonkeyPatch, service: Any
) -> None:
    for name in ("FASTGPU_URL", "JUPYTERHUB_API_TOKEN", "FASTGPU_LEASE_ID"):
        spawned_environment.delenv(name)
    client = await start_jupyter()
    async with tab_of(client):
        await asyncio.sleep(0.05)
        assert (await client.get("fastgpu/api/status")).status_code == 200
    assert service.positions == []


@pytest.mark.slow
async def test_listening_is_not_activity(start_jupyter: Callable[..., Any], service: Any) -> None:
    client = await start_jupyter()
    query = {"no_track_activity": "1"}
    before = (await client.get("api/status", params=query)).json()["last_activity"]
    async with tab_of(client) as tab:
        await until(lambda: len(service.listeners) == 1)
        await service.tell(7)
        await hears(tab, 7)
    assert (await client.get("api/status", params=query)).json()["last_activity"] == before


@pytest.mark.slow
async def test_a_server_that_stops_ends_sockets_and_stream(start_jupyter: Callable[..., Any], service: Any) -> None:
    client = await start_jupyter()
    async with tab_of(client) as tab:
        await until(lambda: len(service.listeners) == 1)
        await client.app.extension_manager.stop_all_extensions()
        assert await asyncio.wait_for(tab.read_message(), 5) is None
        await until(lambda: not service.listeners)
