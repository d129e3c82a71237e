"""Reading a stream of notices with httpx, once for each sender; everything but the transport is in ``events``."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from fastgpu import answers, models
from fastgpu.connection import CONNECT_SECONDS, Connection
from fastgpu.events import Following
from fastgpu.requests import Call, Received

if TYPE_CHECKING:
    import httpx

ENDED = "the stream ended"


def follow(
    http: httpx.Client, connection: Connection, sleep: Callable[[float], None], after: int | None
) -> Iterator[models.Notice]:
    """Notices as they come, without end; connects anew where it was when the connection is lost."""
    import httpx

    following = Following(after)
    while True:
        received, reason, call = None, ENDED, following.call()
        try:
            with http.stream(call.method, connection.address(call.path), **_settings(call)) as response:
                if response.status_code in call.accept:
                    following.connected()
                    for chunk in response.iter_bytes():
                        yield from following.feed(chunk)
                else:
                    received = Received(response.status_code, response.headers, response.read())
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise answers.unreachable(connection.url, str(error)) from error
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
        sleep(following.pause(received, reason, connection.url, random.random))


async def follow_async(
    http: httpx.AsyncClient, connection: Connection, sleep: Callable[[float], Awaitable[None]], after: int | None
) -> AsyncGenerator[models.Notice, None]:
    """The async twin of :func:`follow`."""
    import httpx

    following = Following(after)
    while True:
        received, reason, call = None, ENDED, following.call()
        try:
            async with http.stream(call.method, connection.address(call.path), **_settings(call)) as response:
                if response.status_code in call.accept:
                    following.connected()
                    async for chunk in response.aiter_bytes():
                        for notice in following.feed(chunk):
                            yield notice
                else:
                    received = Received(response.status_code, response.headers, await response.aread())
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise answers.unreachable(connection.url, str(error)) from error
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
        await sleep(following.pause(received, reason, connection.url, random.random))


def _settings(call: Call[None]) -> dict[str, Any]:
    import httpx

    return {"headers": call.headers, "timeout": httpx.Timeout(call.timeout_seconds, connect=CONNECT_SECONDS)}
