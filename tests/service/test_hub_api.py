from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler

from fastgpu_hub.broker.ports.world import HubUnavailable, HubUser
from fastgpu_hub.service.hub import RestHub

ALICE = {"name": "alice", "groups": ["cs101", "a"], "admin": False, "servers": {"": {}, "lab": {"pending": "stop"}}}


class Hub(RequestHandler):
    """Answers with what ``answers`` holds for method and path."""

    answers: dict[str, tuple[int, Any]]

    def _answer(self) -> None:
        assert self.request.headers["Authorization"] == "token secret"
        code, body = self.answers.get(f"{self.request.method} {self.request.path}", (404, {}))
        self.set_status(code)
        if code != 204:
            self.write(body if isinstance(body, str) else json.dumps(body))

    get = delete = _answer


@pytest.fixture
async def hub() -> AsyncIterator[tuple[RestHub, dict[str, tuple[int, Any]], HTTPServer]]:
    Hub.answers = {
        "GET /hub/api/users/alice": (200, ALICE),
        "GET /hub/api/users/a%2Fb%40c": (200, {**ALICE, "name": "a/b@c"}),
        "GET /hub/api/groups/cs101": (200, {"users": ["bob", "alice"]}),
        "DELETE /hub/api/users/alice/server": (202, ""),
        "DELETE /hub/api/users/alice/servers/lab": (204, ""),
    }
    server = HTTPServer(Application([(".*", Hub)]))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    yield RestHub(f"http://127.0.0.1:{sockets[0].getsockname()[1]}/hub/api", "secret"), Hub.answers, server
    server.stop()
    await server.close_all_connections()


async def test_people_classes_and_servers_are_read(hub: Any) -> None:
    api, _, _ = hub
    assert await api.user("alice") == HubUser("alice", ("a", "cs101"))
    assert (await api.user("a/b@c")).name == "a/b@c"
    assert await api.user("nobody") is None
    assert await api.class_members("cs101") == ["alice", "bob"]
    assert await api.class_members("none") is None
    assert await api.server_active("alice", "")
    assert await api.server_active("alice", "lab")
    assert not await api.server_active("alice", "other")
    await api.stop_server("alice", "")
    await api.stop_server("alice", "lab")
    await api.stop_server("alice", "gone")


@pytest.mark.parametrize(
    "answer", [(500, {}), (503, {}), (403, {}), (200, "not json"), (200, []), (200, {"name": "alice"})]
)
async def test_an_unclear_answer_is_never_taken_for_stopped(hub: Any, answer: Any) -> None:
    api, answers, _ = hub
    answers["GET /hub/api/users/alice"] = answers["DELETE /hub/api/users/alice/server"] = answer
    with pytest.raises(HubUnavailable):
        await api.server_active("alice", "")
    if answer[0] != 200:
        with pytest.raises(HubUnavailable):
            await api.stop_server("alice", "")


async def test_a_hub_that_is_gone_is_unavailable(hub: Any) -> None:
    api, _, server = hub
    server.stop()
    await server.close_all_connections()
    with pytest.raises(HubUnavailable):
        await api.user("alice")
