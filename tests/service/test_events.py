"""News reaches the people it is for, on every stream they hold, once, through lost connections; and nobody else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from fastgpu.models import Notice as WireNotice
from fastgpu_hub.broker import news as news_module
from fastgpu_hub.broker.ports import records
from fastgpu_hub.broker.ports.store import StoreUnavailable
from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.service import events as events_module

EVENTS = "api/events"


@dataclass
class Listener:
    """A browser tab or program that holds a stream: what it heard, and whether the stream came to a clean end."""

    response: httpx.Response
    text: str = ""
    ended: bool = False
    broken: bool = False
    more: asyncio.Event = field(default_factory=asyncio.Event)

    async def read(self) -> None:
        try:
            async for piece in self.response.aiter_text():
                self.text += piece
                self.more.set()
            self.ended = True
        except httpx.TransportError:
            self.broken = True
        self.more.set()

    async def until(self, heard: Callable[[], bool]) -> None:
        while not heard():
            self.more.clear()
            await asyncio.wait_for(self.more.wait(), 5)

    @property
    def ids(self) -> list[int]:
        """Ids of the notices it heard, in order."""
        blocks = [block for block in self.text.split("\n\n") if "\ndata: " in f"\n{block}"]
        return [int(line[4:]) for block in blocks for line in block.split("\n") if line.startswith("id: ")]

    @property
    def notices(self) -> list[WireNotice]:
        lines = [line for line in self.text.split("\n") if line.startswith("data: ")]
        return [WireNotice.model_validate_json(line[6:]) for line in lines]


@pytest.fixture
async def write(service: Any) -> Callable[..., Any]:
    """Write a notice as a use case does: commit it, then tell."""

    async def write(owner: str = "alice", message: str = "Ends soon.", *, tell: bool = True) -> int:
        explained = Explained("credit", message, {"minutes": 10}, instead="Ask for more.")
        notice = records.Notice(0, owner, 1_900_000_000_123, "ending", explained, "s-1", 1_900_000_600_000)
        kept = await service.broker.store.write(lambda uow: uow.add_notice(notice))
        if tell:
            service.broker.runtime.news.told(owner)
        return kept.id

    return write


@pytest.fixture
def listen(service: Any) -> Callable[..., Any]:
    """Open a stream; it stands once its first bytes are there."""

    @asynccontextmanager
    async def listen(token: str = "t-alice", query: str = "", **headers: str) -> AsyncIterator[Listener]:
        sent = {"Authorization": f"token {token}", **headers}
        async with service.client.stream("GET", f"{service.url}{EVENTS}{query}", headers=sent) as response:
            assert response.status_code == 200, await response.aread()
            listener = Listener(response)
            reading = asyncio.create_task(listener.read())
            await listener.until(lambda: bool(listener.text))
            try:
                yield listener
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    return listen


def streams(service: Any) -> int:
    return sum(len(found) for found in service.broker.runtime.news._streams.values())


async def until_streams(service: Any, count: int) -> None:
    for _ in range(500):
        if streams(service) == count:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{streams(service)} streams, not {count}")


async def test_two_tabs_hear_the_same_news_at_once_and_another_person_nothing(listen: Any, write: Any) -> None:
    async with listen() as one, listen() as other, listen("t-bob") as bob:
        before = asyncio.get_running_loop().time()
        number = await write()
        for tab in (one, other):
            await tab.until(lambda tab=tab: bool(tab.ids))
        assert asyncio.get_running_loop().time() - before < 1  # the heartbeat would take 15 s
        assert one.ids == other.ids == [number]
        [notice] = one.notices
        assert notice.kind == "ending"
        assert notice.explanation.message == "Ends soon."
        assert notice.explanation.instead == "Ask for more."
        assert notice.at.isoformat() == "2030-03-17T17:46:40.123000+00:00"
        assert (notice.ends_at - notice.at).total_seconds() == pytest.approx(600, abs=0.2)
        assert bob.ids == []


@pytest.mark.slow
async def test_a_new_price_of_what_runs_is_told_to_its_owner_at_once(service: Any, listen: Any) -> None:
    job = await service.running("t-alice", time_limit_seconds=600)
    async with listen() as tab, listen("t-bob") as bob:
        price = {"gpu_type": "h100-80gb", "per_gpu_hour_micros": 600_000}
        assert (await service.call("t-root", "POST", "api/prices", json=price)).status_code == 201
        await tab.until(lambda: bool(tab.ids))
        [notice] = tab.notices
        assert (notice.kind, notice.workload_id) == ("price_changed", job["id"])
        assert bob.ids == []


@pytest.mark.slow
async def test_the_stream_is_meant_for_event_readers_and_no_proxy_keeps_it_back(listen: Any) -> None:
    async with listen() as tab:
        headers = tab.response.headers
        assert headers["Content-Type"] == "text/event-stream"
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Accel-Buffering"] == "no"
        assert "retry: 2000\n" in tab.text


async def test_a_reader_that_comes_back_hears_what_it_missed_once(listen: Any, write: Any) -> None:
    async with listen() as tab:
        first = await write()
        await tab.until(lambda: bool(tab.ids))
    missed = [await write(message=f"news {number}") for number in range(3)]
    async with listen(**{"Last-Event-ID": str(first)}) as tab:
        await tab.until(lambda: len(tab.ids) == 3)
        later = await write()
        await tab.until(lambda: len(tab.ids) == 4)
        assert tab.ids == [*missed, later]


@pytest.mark.slow
async def test_a_connection_lost_before_any_news_loses_none(listen: Any, write: Any) -> None:
    old = await write()
    async with listen() as tab:
        position = next(line[4:] for line in tab.text.split("\n") if line.startswith("id: "))
        assert tab.ids == []
    assert int(position) == old
    missed = await write()
    async with listen(**{"Last-Event-ID": position}) as tab:
        await tab.until(lambda: bool(tab.ids))
        assert tab.ids == [missed]


@pytest.mark.slow
async def test_after_says_where_to_begin_and_last_event_id_wins(listen: Any, write: Any, service: Any) -> None:
    numbers = [await write() for _ in range(3)]
    async with listen(query="?after=0") as tab:
        await tab.until(lambda: len(tab.ids) == 3)
        assert tab.ids == numbers
    async with listen(query="?after=0", **{"Last-Event-ID": str(numbers[1])}) as tab:
        await tab.until(lambda: bool(tab.ids))
        assert tab.ids == numbers[2:]
    for query, position in (("?after=-1", None), ("?after=x", None), ("", "x"), ("", "9" * 40), ("?before=1", None)):
        headers = {"Last-Event-ID": position} if position else {}
        answer = await service.call("t-alice", "GET", EVENTS + query, headers=headers)
        assert answer.status_code == 422, (query, position)
        assert answer.json()["error"]["code"] == "invalid_request"


@pytest.mark.slow
async def test_a_reader_from_before_a_restored_backup_hears_what_is_new(listen: Any, write: Any) -> None:
    old = await write()
    async with listen(**{"Last-Event-ID": str(old + 1000)}) as tab:
        number = await write()
        await tab.until(lambda: tab.ids == [number])


@pytest.mark.slow
async def test_a_silent_stream_shows_that_it_lives_and_brings_what_nobody_told(
    service: Any, listen: Any, write: Any
) -> None:
    assert service.broker.runtime.news.heartbeat_seconds == 15
    service.broker.runtime.news.heartbeat_seconds = 0.05
    async with listen() as tab:
        await tab.until(lambda: tab.text.count(": still here\n\n") >= 2)
        number = await write(tell=False)
        await tab.until(lambda: tab.ids == [number])


@pytest.mark.slow
async def test_a_person_holds_twenty_streams_and_gets_a_place_back(service: Any) -> None:
    async with httpx.AsyncClient(timeout=20) as client:
        request, of_bob = (
            client.build_request("GET", service.url + EVENTS, headers={"Authorization": f"token {token}"})
            for token in ("t-alice", "t-bob")
        )
        held = [await client.send(request, stream=True) for _ in range(20)]
        assert {answer.status_code for answer in held} == {200}
        refused = await service.call("t-alice", "GET", EVENTS)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "too_many_streams"
        assert refused.json()["error"]["numbers"] == {"streams": 20, "limit": 20}
        bob = await client.send(of_bob, stream=True)
        assert bob.status_code == 200
        await held.pop().aclose()
        await until_streams(service, 20)
        again = await client.send(request, stream=True)
        assert again.status_code == 200
        for answer in (*held, bob, again):
            await answer.aclose()
    await until_streams(service, 0)


@pytest.mark.slow
@pytest.mark.parametrize("change", ["revoked", "narrowed", "hub away"])
async def test_a_token_that_is_good_no_more_ends_its_stream(
    service: Any, listen: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    assert events_module.TOKEN_CHECK_SECONDS < 30  # the hub needs a moment to answer
    monkeypatch.setattr(events_module, "TOKEN_CHECK_SECONDS", 0.05)
    asked: list[bool] = []
    real = service.auth.user_for_token

    def ask(token: str, use_cache: bool = True, **kwargs: Any) -> Any:
        asked.append(use_cache)
        return real(token, use_cache, **kwargs)

    monkeypatch.setattr(service.auth, "user_for_token", ask)
    async with listen() as tab:
        await asyncio.sleep(0.15)
        assert not tab.ended
        if change == "revoked":
            del service.auth.people["t-alice"]
        elif change == "narrowed":
            service.auth.people["t-alice"]["scopes"] = ["self"]
        else:
            service.auth.down = True
        await tab.until(lambda: tab.ended or tab.broken)
        assert tab.ended
    assert asked
    assert not any(asked)  # an answer remembered for 30 s would let a revoked token in again


async def test_streams_end_cleanly_when_the_service_closes(service: Any, listen: Any) -> None:
    async with listen() as one, listen("t-bob") as other:
        before = asyncio.get_running_loop().time()
        await service.broker.end_streams()
        for tab in (one, other):
            await tab.until(lambda tab=tab: tab.ended or tab.broken)
            assert tab.ended
        assert asyncio.get_running_loop().time() - before < 1
    assert streams(service) == 0


@pytest.mark.slow
async def test_closing_does_not_wait_for_a_reader_that_stopped_reading(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news_module, "CLOSING_SECONDS", 0.05)
    stuck = service.broker.runtime.news.stream("alice", None)
    with stuck:
        await asyncio.wait_for(service.broker.end_streams(), 2)


@pytest.mark.slow
async def test_a_database_away_ends_a_stream_cleanly_and_its_reader_misses_nothing(
    service: Any, listen: Any, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(work: Any) -> Any:
        raise StoreUnavailable("away")

    async with listen() as tab:
        number = await write(tell=False)
        with monkeypatch.context() as patch:
            patch.setattr(service.broker.store, "read", away)
            service.broker.runtime.news.told("alice")
            await tab.until(lambda: tab.ended or tab.broken)
            assert tab.ended
            refused = await service.call("t-alice", "GET", EVENTS)
            assert refused.status_code == 503
            assert refused.headers["Retry-After"]
    async with listen(**{"Last-Event-ID": str(number - 1)}) as tab:
        await tab.until(lambda: tab.ids == [number])


async def test_notices_are_read_oldest_first_after_one_and_the_latest_of_many(service: Any, write: Any) -> None:
    numbers = [await write(message=f"news {place}") for place in range(5)]
    await write("bob", "for bob only")

    async def ids(query: str) -> list[int]:
        answer = await service.call("t-alice", "GET", f"api/notices{query}")
        assert answer.status_code == 200
        assert "for bob only" not in answer.text
        return [row["id"] for row in json.loads(answer.text)]

    assert await ids("") == numbers
    assert await ids(f"?after={numbers[2]}") == numbers[3:]
    assert await ids("?limit=2") == numbers[3:]
    assert await ids(f"?after={numbers[-1]}") == []


@pytest.mark.slow
async def test_long_streams_are_not_counted_as_slow_answers(service: Any, listen: Any) -> None:
    async with listen():
        await asyncio.sleep(0.2)
    await until_streams(service, 0)
    figures = (await service.call("t-metrics", "GET", "metrics")).text
    assert 'route="api/events"' in figures
    slow = [line for line in figures.splitlines() if "seconds" in line and 'route="api/events"' in line]
    assert slow == []
