"""A time limit on an awaitable that never swallows a cancellation.

``asyncio.wait_for`` (before Python 3.12) returns the result, and forgets that it was cancelled, when both come in the
same moment. A start whose cancellation is lost goes on as if nobody had stopped the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def within(seconds: float, awaitable: Awaitable[T]) -> T:
    """The awaitable's result. Raises ``asyncio.TimeoutError`` when it takes longer; it is cancelled then."""
    task = asyncio.ensure_future(awaitable)
    try:
        await asyncio.wait({task}, timeout=max(seconds, 0))
        if not task.done():
            raise asyncio.TimeoutError
        return task.result()
    finally:
        if not task.cancel() and not task.cancelled():
            task.exception()  # seen, so that asyncio does not complain of an error nobody asked for
