"""HTTP routes for JupyterLab under ``<base_url>fastgpu/api/``. The service's token stays on this side."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from jupyter_server.auth.decorator import authorized, ws_authenticated
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from tornado import web
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from fastgpu.models import Notice, Status, json_of
from fastgpu_magics.server.relay import NoticeRelay
from fastgpu_magics.server.sampler import Problem, StatusSampler
from fastgpu_magics.server.settings import ServerSettings


def status_answer(settings: ServerSettings, sample: Status | Problem) -> dict[str, Any]:
    """The body of ``GET fastgpu/api/status``; exactly one of ``status`` and ``problem`` is null."""
    problem = None
    if isinstance(sample, Problem):
        since = sample.since.isoformat()
        problem = {"code": sample.code, "message": sample.message, "hint": sample.hint, "since": since}
    return {
        "lease_id": settings.lease_id,
        "service_url": settings.public_url,
        "status": None if isinstance(sample, Problem) else json_of(sample),
        "problem": problem,
    }


class StatusHandler(APIHandler):
    """``GET fastgpu/api/status``: the service's status of this server's owner, at most a second old.

    A service in trouble is still an answer (200 with ``problem``): this server works, and can say since when the
    service has not. Other codes mean that this server itself refused (403) or broke.
    """

    auth_resource = "fastgpu"
    # A page that polls is not a person at work: it must not keep an idle server alive.
    _track_activity = False

    def initialize(self, settings: ServerSettings, sampler: StatusSampler) -> None:
        """Take what all requests share."""
        self._fastgpu_settings = settings
        self._sampler = sampler

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with the shared sample."""
        answer = status_answer(self._fastgpu_settings, await self._sampler.sample())
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(answer))


def news_message(settings: ServerSettings, notices: Sequence[Notice]) -> dict[str, Any]:
    """One message of the socket ``fastgpu/api/events``; ``now`` is this server's clock, a browser's may be wrong."""
    now = datetime.now(timezone.utc).isoformat()
    return {"service_url": settings.public_url, "now": now, "notices": [json_of(notice) for notice in notices]}


class EventsHandler(WebSocketMixin, WebSocketHandler, JupyterHandler):
    """``fastgpu/api/events``: news for this server's owner as it comes; the latest that there was comes first.

    A socket, not a response without end: browsers open six connections to a host for all tabs together, and a tab
    must not keep one of them from the notebook.
    """

    auth_resource = "fastgpu"

    def initialize(self, settings: ServerSettings, relay: NoticeRelay) -> None:
        """Take what all sockets share."""
        self._fastgpu_settings = settings
        self._relay = relay
        self._telling: asyncio.Task[None] | None = None

    @ws_authenticated
    @authorized
    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Become a socket."""
        await super().get(*args, **kwargs)

    def open(self, *args: Any, **kwargs: Any) -> None:
        """Begin to tell."""
        super().open(*args, **kwargs)
        self._telling = asyncio.ensure_future(self._tell())

    def on_message(self, message: str | bytes) -> None:
        """Nothing is asked over this socket."""

    def on_close(self) -> None:
        """The tab is gone."""
        if self._telling is not None:
            self._telling.cancel()

    async def _tell(self) -> None:
        with self._relay.listen() as listener:
            try:
                async for notices in listener:
                    await self.write_message(json.dumps(news_message(self._fastgpu_settings, notices)))
            except WebSocketClosedError:
                return
        self.close()
