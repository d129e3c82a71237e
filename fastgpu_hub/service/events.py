"""``GET api/events``: the caller's notices as server-sent events, for as long as caller and token last."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import TYPE_CHECKING

from tornado.iostream import StreamClosedError

from fastgpu_hub.broker.ports.store import StoreUnavailable
from fastgpu_hub.broker.ports.world import HubUnavailable
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.service.handlers import ApiHandler
from fastgpu_hub.service.wire import Refusal, invalid

if TYPE_CHECKING:
    from fastgpu_hub.broker.news import Stream, Told
    from fastgpu_hub.service.app import Site
    from fastgpu_hub.service.routing import Route

log = logging.getLogger("fastgpu.service")

# A revoked token ends its stream within 30 s; the hub needs some of them to answer.
TOKEN_CHECK_SECONDS = 25.0
RECONNECT_MS = 2000


def event_text(told: Told, *, first: bool) -> str:
    """One step of a stream on the wire.

    The first says where the stream stands (an id without data moves the reader's position and tells nothing), so that
    who loses the connection before any news still misses none.
    """
    begin = f"retry: {RECONNECT_MS}\n" if first else ""
    if first and not told.notices:
        return f"{begin}id: {told.last_id}\n\n"
    events = "".join(f"id: {n.id}\nevent: notice\ndata: {n.model_dump_json()}\n\n" for n in told.notices)
    return begin + events or ": still here\n\n"


class EventsHandler(ApiHandler):
    """Writes one stream of notices; ends it cleanly when the token is revoked or the service closes."""

    # Another 30 s of trust in a cached answer would double the time a revoked token lasts.
    trusts_token_cache = False

    def initialize(self, site: Site, rows: dict[str, Route] | None = None) -> None:
        super().initialize(site, rows)
        self._stream: Stream | None = None

    async def get(self, **_path: str) -> None:
        """Serve the stream until either side ends it."""
        after = self._query(self.require_row())["after"]
        stream = self.site.broker.events(self.actor, self._position(after))
        if isinstance(stream, Refused):
            raise Refusal(stream)
        with stream:
            self._stream = stream
            guard = asyncio.ensure_future(self._end_with_token(stream))
            try:
                await self._tell(stream)
            finally:
                guard.cancel()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._stream is not None:
            self._stream.end()

    async def _tell(self, stream: Stream) -> None:
        first = True
        try:
            async for told in stream:
                if first:
                    self.set_header("Content-Type", self.require_row().media)
                    self.set_header("X-Accel-Buffering", "no")  # nginx would keep news back until a buffer is full
                self.write(event_text(told, first=first))
                await self.flush()
                first = False
            self.finish()
        except StreamClosedError:
            return
        except StoreUnavailable as error:
            if first:
                raise
            log.warning("%s a stream ends, its reader comes back: %s", self.request_id, error)
            self.finish()

    def _position(self, after: int | None) -> int | None:
        """After which notice to begin: where a reader that lost its connection was, else what the address says."""
        text = self.request.headers.get("Last-Event-ID")
        if text is None:
            return after
        if not re.fullmatch(r"[0-9]{1,15}", text):
            raise invalid("The Last-Event-ID is not the id of a notice.", "Send the last id that was received.")
        return int(text)

    async def _end_with_token(self, stream: Stream) -> None:
        while True:
            await asyncio.sleep(TOKEN_CHECK_SECONDS)
            try:
                if await self.sign_in():
                    continue
                log.info("%s a stream ends with its token", self.request_id)
            except (Refusal, HubUnavailable) as error:  # the hub may be back when the reader is
                log.info("%s a stream ends, the token could not be confirmed: %s", self.request_id, error)
            stream.end()
            return
