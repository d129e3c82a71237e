"""A stream of notices reads whole wherever its bytes are cut, goes on where it was lost, ends only for a reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timezone
from itertools import islice, pairwise
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgpu import cli, views
from fastgpu.aio import AsyncGPUClient
from fastgpu.client import GPUClient
from fastgpu.errors import NotSignedIn, Unavailable
from fastgpu.events import LONGEST_PAUSE_SECONDS, Following
from fastgpu.models import Lease, Status
from fastgpu.view import Lens
from tests.sdk.fake_answers import LEASE, NOW, at
from tests.sdk.fake_service import URL


def notice(number: int, message: str = "Ends soon.") -> dict[str, Any]:
    explanation = {"code": "credit", "message": message, "instead": "Ask for more."}
    return {"id": number, "at": at(0), "kind": "ending", "explanation": explanation, "ends_at": at(10)}


def event(number: int, message: str = "Ends soon.") -> bytes:
    return f"id: {number}\nevent: notice\ndata: {json.dumps(notice(number, message))}\n\n".encode()


class Cut(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that comes in pieces; one that is an exception breaks the connection there."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        for piece in self.pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def __aiter__(self) -> Any:
        for piece in self:
            yield piece


BROKEN = httpx.ReadError("connection reset")


class Streams:
    """A service that gives one answer after the other, and remembers where each reader wanted to begin."""

    def __init__(self, *answers: Cut | httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.positions: list[str | None] = []
        self.kept: list[dict[str, Any]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("api/notices"):
            return httpx.Response(200, json=self.kept)
        assert request.url.path == "/services/fastgpu/api/events"
        assert request.headers["Accept"] == "text/event-stream"
        self.positions.append(request.headers.get("Last-Event-ID"))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, httpx.Response) else httpx.Response(200, stream=answer)


@pytest.fixture
def reading(slept: list[float]) -> Callable[[Streams], GPUClient]:
    def client(service: Streams) -> GPUClient:
        return GPUClient(URL, "secret-token", transport=httpx.MockTransport(service), sleep=slept.append)

    return client


def read(following: Following, *pieces: bytes) -> list[int]:
    return [found.id for piece in pieces for found in following.feed(piece)]


@given(st.lists(st.integers(0, 2000), max_size=20), st.sampled_from(["\n", "\r\n"]))
def test_a_stream_reads_the_same_wherever_its_bytes_are_cut(cuts: list[int], newline: str) -> None:
    whole = b"retry: 2000\nid: 3\n\n: still here\n\n" + event(4, "Zeit für Æ — 30 %") + b": still here\n\n" + event(7)
    whole = whole.replace(b"\n", newline.encode())
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    following = Following()
    found = [n for a, b in pairwise(places) for n in following.feed(whole[a:b])]
    assert [(n.id, n.explanation.message) for n in found] == [(4, "Zeit für Æ — 30 %"), (7, "Ends soon.")]
    assert following.last_id == 7


def test_an_event_that_was_not_finished_is_not_told_and_asked_for_again() -> None:
    following = Following()
    assert read(following, event(4), event(5)[:-1]) == [4]
    assert dict(following.call().headers)["Last-Event-ID"] == "4"
    assert read(following, event(5)) == [5]


def test_what_is_no_notice_is_passed_over_and_what_cannot_be_read_is_reported() -> None:
    following = Following()
    assert read(following, b"event: later-version\nid: 9\ndata: {}\n\nstrange\nid: x\n\n" + event(10)) == [10]
    with pytest.raises(Unavailable, match="another version"):
        following.feed(b"event: notice\ndata: {}\n\n")
    with pytest.raises(Unavailable, match="no end"):
        Following().feed(b"x" * 2_000_000)


def test_a_lost_connection_goes_on_where_it_was(reading: Callable[[Streams], GPUClient], slept: list[float]) -> None:
    service = Streams(
        Cut(b"retry: 2000\nid: 3\n\n", BROKEN),
        Cut(event(4), event(5)[:30], BROKEN),
        httpx.ConnectError("refused"),
        httpx.Response(503),
        Cut(event(5), event(6)),
        Cut(event(7)),
    )
    with reading(service) as client:
        assert [found.id for found in islice(client.events(), 4)] == [4, 5, 6, 7]
    assert service.positions == [None, "3", "4", "4", "4", "6"]
    assert all(1 <= seconds <= 12 for seconds in slept)
    assert slept[0] < 3.1  # as the service asked for
    assert slept[3] > slept[2] * 1.3  # and more and more while it is away


def test_waiting_grows_no_longer_than_half_a_minute_and_starts_anew_with_each_connection() -> None:
    following = Following()
    following.connected()
    waits = [following.pause(None, "", URL, lambda: 0.0) for _ in range(100)]
    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == LONGEST_PAUSE_SECONDS
    following.connected()
    assert following.pause(None, "", URL, lambda: 0.0) == 1


def test_where_to_begin_can_be_said(reading: Callable[[Streams], GPUClient]) -> None:
    service = Streams(Cut(event(18)))
    with reading(service) as client:
        assert next(client.events(after=17)).id == 18
    assert service.positions == ["17"]


def test_a_service_away_at_the_beginning_is_reported_and_a_refusal_at_once(
    reading: Callable[[Streams], GPUClient], slept: list[float]
) -> None:
    with reading(Streams(*[httpx.ConnectError("refused")] * 9)) as client, pytest.raises(Unavailable, match="answer"):
        next(client.events())
    assert len(slept) == 4
    slept.clear()
    error = {"error": {"code": "not_signed_in", "message": "The token is not known."}}
    later = Streams(Cut(event(4), BROKEN), httpx.Response(401, json=error))
    with reading(later) as client:
        events = client.events()
        assert next(events).id == 4
        with pytest.raises(NotSignedIn, match="token is not known"):
            next(events)
    assert len(slept) == 1


async def test_the_async_twin_reconnects_too(slept: list[float]) -> None:
    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    service = Streams(Cut(event(4), BROKEN), httpx.Response(502), Cut(event(5)))
    async with AsyncGPUClient(URL, "t", transport=httpx.MockTransport(service), sleep=sleep) as client:
        found = []
        async for news in client.events():
            found.append(news.id)
            if len(found) == 2:
                break
        assert found == [4, 5]
        service.kept = [notice(4)]
        assert (await client.notices(3))[0].explanation.instead == "Ask for more."
    assert service.positions == [None, "4", "4"]


def run(client: GPUClient, monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(cli, "make_client", lambda: client)
    with pytest.raises(SystemExit) as ended:
        cli.main(list(words))
    return int(ended.value.code or 0)


def test_the_command_shows_news_as_a_table_or_json(
    reading: Callable[[Streams], GPUClient], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    service = Streams()
    with reading(service) as client:
        assert run(client, monkeypatch, "notices") == 0
        assert "No news." in capsys.readouterr().out
        service.kept = [notice(4, "“train” will be stopped in 10 minutes.\x1b[2J")]
        assert run(client, monkeypatch, "notices") == 0
        shown = capsys.readouterr().out
        assert "ends soon" in shown
        assert "“train” will be stopped in 10 minutes. Ask for more." in shown
        assert "\x1b[2J" not in shown
        assert run(client, monkeypatch, "notices", "--json") == 0
        assert json.loads(capsys.readouterr().out)[0]["id"] == 4


def test_following_shows_what_there_was_then_what_comes(
    reading: Callable[[Streams], GPUClient], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refusal = httpx.Response(401, json={"error": {"code": "not_signed_in", "message": "Gone."}})
    service = Streams(Cut(event(5), BROKEN), Cut(event(6)), refusal)
    service.kept = [notice(4)]
    with reading(service) as client:
        assert run(client, monkeypatch, "notices", "--follow", "--json") == cli.REFUSED
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == [4, 5, 6]
    assert service.positions == ["4", "5", "6"]


def lease(**fields: Any) -> Lease:
    return Lease.model_validate({**LEASE, **fields})


@pytest.mark.parametrize(
    ("leases", "says"),
    [
        ([], None),
        ([lease()], None),
        ([lease(ends_at=at(65))], "Job job-1 ends today 18:05 UTC: its time limit."),
        (
            [
                lease(ends_at=at(90)),
                lease(
                    job_id=None,
                    server_name="lab",
                    ends_at=at(65),
                    ending={"code": "credit", "message": "Credit is used up.", "instead": "Ask your teacher for more."},
                ),
            ],
            "Server lab ends today 18:05 UTC: Credit is used up. Ask your teacher for more.",
        ),
    ],
)
def test_the_status_names_the_nearest_end_and_what_helps(leases: list[Lease], says: str | None) -> None:
    answer = Status(user="alice", currency="credits", now=NOW, leases=tuple(leases))
    notes = [note for note in views.status(answer, Lens(NOW, timezone.utc)).notes if " ends " in note]
    assert notes == ([] if says is None else [says])
