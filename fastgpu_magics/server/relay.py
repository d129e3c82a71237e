"""News for all tabs from one stream: the service is listened to once, while anybody here listens."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from fastgpu.errors import FastGPUError
from fastgpu.models import Notice

log = logging.getLogger("fastgpu.server")

KEPT_NOTICES = 50
RETRY_SECONDS = 60.0


class NoticeRelay:
    """Reads the owner's notices while there are listeners, and keeps the latest for those who come later.

    ``connect`` opens the stream of notices after an id (0: the latest that the service keeps). The client in it
    reconnects by itself; where the service refuses, it is asked again every ``retry_seconds``.
    """

    def __init__(self, connect: Callable[[int], AsyncGenerator[Notice, None]], *, retry_seconds: float) -> None:
        self._connect = connect
        self._retry_seconds = retry_seconds
        self._kept: deque[Notice] = deque(maxlen=KEPT_NOTICES)
        self._heard = 0
        self._listeners: set[Listener] = set()
        self._reading: asyncio.Task[None] | None = None

    def listen(self) -> Listener:
        """A new listener: ``with listener: async for notices in listener``; it begins with the notices kept here."""
        return Listener(self)

    async def close(self) -> None:
        """Stop listening to the service, and end all listeners."""
        for listener in self._listeners:
            listener.end()
        self._listeners.clear()
        await self._stop()

    def join(self, listener: Listener) -> None:
        """A listener begins: from the first one on the service is listened to."""
        self._listeners.add(listener)
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())

    def leave(self, listener: Listener) -> None:
        """A listener is gone; after the last one the service is left alone."""
        self._listeners.discard(listener)
        if not self._listeners and self._reading is not None:
            self._reading.cancel()
            self._reading = None

    def since(self, heard: int) -> tuple[int, list[Notice]]:
        """How many notices were heard here in all, and those kept that came after the first ``heard``."""
        missed = min(self._heard - heard, len(self._kept))
        return self._heard, list(self._kept)[len(self._kept) - missed :]

    async def _stop(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self) -> None:
        while True:
            try:
                async with aclosing(self._connect(self._kept[-1].id if self._kept else 0)) as notices:
                    async for notice in notices:
                        if self._kept and notice.id <= self._kept[-1].id:  # a backup was put back: what was, is not
                            self._kept.clear()
                        self._kept.append(notice)
                        self._heard += 1
                        for listener in self._listeners:
                            listener.wake()
            except FastGPUError as error:  # the status bar says the same in words
                log.info("no news from the FastGPU service for now: %s", error)
            await asyncio.sleep(self._retry_seconds)


class Listener:
    """One tab's ear: its own place in the notices that the relay keeps."""

    def __init__(self, relay: NoticeRelay) -> None:
        self._relay = relay
        self._news = asyncio.Event()
        self._ended = False

    def __enter__(self) -> Listener:
        self._relay.join(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._relay.leave(self)

    def wake(self) -> None:
        """There is news."""
        self._news.set()

    def end(self) -> None:
        """No more news will come."""
        self._ended = True
        self._news.set()

    async def __aiter__(self) -> AsyncIterator[list[Notice]]:
        heard = 0
        while not self._ended:
            self._news.clear()
            heard, notices = self._relay.since(heard)
            if notices:
                yield notices
            if not self._ended:
                await self._news.wait()
