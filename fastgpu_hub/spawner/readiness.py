"""Wait for a freshly started server tightly, so that the hub's own, slower polling finds it ready at once.

The hub asks with a pause that doubles up to seconds; on the way to a server that needs a few seconds to import, that
costs one or two. A refused connection on the same machine costs microseconds, so asking every 20 ms is cheap.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from fastgpu_hub.spawner.waiting import within

POLL_SECONDS = 0.02


class ServerExited(RuntimeError):
    """The server's process ended before it ever answered; ``status`` is its exit status."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the server exited with status {status} before it was ready")
        self.status = status
        self.jupyterhub_message = (
            f"The server exited with status {status} before it was ready. Its log tells the administrator why."
        )


async def wait_ready(
    url: str, timeout_seconds: float, exited: Callable[[], Awaitable[int | None]], *, path: str = "api"
) -> bool:
    """Wait until the server at ``url`` answers HTTP below 500 (with TLS: accepts connections).

    Returns False when the time is over: the hub's own check then has the last word. Raises :class:`ServerExited` as
    soon as ``exited()`` gives a status.
    """
    target = urlsplit(url)
    deadline = time.monotonic() + timeout_seconds
    checked = 0.0
    while (now := time.monotonic()) < deadline:
        if await _answers(target.scheme, target.hostname or "127.0.0.1", target.port or 80, f"{target.path}{path}"):
            return True
        if now - checked >= 0.25:
            checked = now
            if (status := await exited()) is not None:
                raise ServerExited(status)
        await asyncio.sleep(POLL_SECONDS)
    return False


async def _answers(scheme: str, host: str, port: int, path: str) -> bool:
    try:
        reader, writer = await within(5, asyncio.open_connection(host, port))
    except (OSError, asyncio.TimeoutError):
        return False
    try:
        if scheme == "https":
            return True
        writer.write(f"GET {path} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        status_line = await within(5, reader.readline())
        parts = status_line.split()
        return len(parts) >= 2 and parts[0].startswith(b"HTTP/") and parts[1].isdigit() and int(parts[1]) < 500
    except (OSError, asyncio.TimeoutError):
        return False
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
