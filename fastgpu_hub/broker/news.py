"""News on its way to people: the notices kept for a person, and streams that wake when there are more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass

from fastgpu import models
from fastgpu_hub.broker import views
from fastgpu_hub.broker.ports.records import Notice
from fastgpu_hub.broker.ports.store import Store
from fastgpu_hub.pricing.explain import Refused

MOST_STREAMS = 20
MOST_AT_ONCE = 100
HEARTBEAT_SECONDS = 15.0
CLOSING_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Told:
    """One step of a stream: new notices, oldest first (none: still here), and the id up to which all was told."""

    last_id: int
    notices: tuple[models.Notice, ...] = ()


class News:
    """Reads people's notices and wakes their streams. All methods but ``read`` run on one event loop.

    What is told is always read from the store, and read once more with each heartbeat: a wake-up that was lost makes
    news late, never lost.
    """

    def __init__(self, store: Store, heartbeat_seconds: float = HEARTBEAT_SECONDS) -> None:
        self.heartbeat_seconds = heartbeat_seconds
        self._store = store
        self._streams: dict[str, set[Stream]] = {}
        self._none_left = asyncio.Event()

    def told(self, owner: str) -> None:
        """Notices for this person were committed: wake whoever waits for them."""
        for stream in self._streams.get(owner, ()):
            stream.wake()

    async def read(self, owner: str, after: int, limit: int) -> tuple[models.Notice, ...]:
        """The person's notices after one, oldest first; the latest ``limit`` of them. Raises StoreUnavailable."""
        found = await self._store.read(lambda uow: uow.notices(owner, after, limit))
        return tuple(notice_view(notice) for notice in found)

    def stream(self, owner: str, after: int | None) -> Stream | Refused:
        """A new stream of the person's notices after one, or from now on; refused beyond ``MOST_STREAMS``."""
        streams = self._streams.setdefault(owner, set())
        if len(streams) >= MOST_STREAMS:
            return Refused(
                "too_many_streams",
                f"{owner} already listens {len(streams)} times; {MOST_STREAMS} is the most.",
                {"streams": len(streams), "limit": MOST_STREAMS},
                instead="Close another listener, or ask GET api/notices from time to time.",
            )
        stream = Stream(self, owner, after)
        streams.add(stream)
        return stream

    def forget(self, owner: str, stream: Stream) -> None:
        """A stream is over; forgetting it twice is the same as once."""
        streams = self._streams.get(owner, set())
        streams.discard(stream)
        if not streams:
            self._streams.pop(owner, None)
        if not self._streams:
            self._none_left.set()

    async def close(self) -> None:
        """End every stream; return once all are gone, or after two seconds: a listener may have stopped reading."""
        self._none_left.clear()
        for stream in [stream for streams in self._streams.values() for stream in streams]:
            stream.end()
        if self._streams:
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._none_left.wait(), CLOSING_SECONDS)


class Stream:
    """One person's notices as they come: ``with stream: async for told in stream``.

    The first step comes at once, with what was missed (at most ``MOST_AT_ONCE`` notices, the latest); then one
    whenever there is news, and at each heartbeat.
    """

    def __init__(self, news: News, owner: str, after: int | None) -> None:
        self._news, self._owner, self._after = news, owner, after
        self._awake = asyncio.Event()
        self._ended = False

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._news.forget(self._owner, self)

    def wake(self) -> None:
        """Look for news now."""
        self._awake.set()

    def end(self) -> None:
        """Let the stream end by itself, at once if it waits."""
        self._ended = True
        self._awake.set()

    async def __aiter__(self) -> AsyncIterator[Told]:
        last_id: int | None = None
        while not self._ended:
            self._awake.clear()  # before the look: what is told after it, wakes
            told = await (self._begin() if last_id is None else self._look(last_id))
            last_id = told.last_id
            yield told
            if not self._ended:
                await self._rest()

    async def _begin(self) -> Told:
        latest = await self._news.read(self._owner, 0, 1)
        latest_id = latest[-1].id if latest else 0
        # Beyond the latest lies who listened before a backup was put back: all that comes is new to them.
        return Told(latest_id) if self._after is None else await self._look(min(self._after, latest_id))

    async def _look(self, last_id: int) -> Told:
        notices = await self._news.read(self._owner, last_id, MOST_AT_ONCE)
        return Told(notices[-1].id if notices else last_id, notices)

    async def _rest(self) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._awake.wait(), self._news.heartbeat_seconds)


def notice_view(notice: Notice) -> models.Notice:
    """A notice as it crosses the wire."""
    return models.Notice(
        id=notice.id,
        at=views.at(notice.at_ms),
        kind=notice.kind,  # type: ignore[arg-type]
        explanation=views.explanation(notice.explanation),
        workload_id=notice.workload_id,
        ends_at=views.instant(notice.ends_ms),
    )
