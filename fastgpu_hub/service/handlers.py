"""Tornado handlers: read a request strictly, let one function answer it, write the answer. The only place with HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import secrets
from typing import TYPE_CHECKING, Any

from jupyterhub.services.auth import HubOAuth, HubOAuthenticated
from tornado.httputil import HTTPServerRequest
from tornado.web import HTTPError, OutputTransform, RequestHandler, stream_request_body

from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.archive import Content
from fastgpu_hub.broker.idempotency import IdempotencyClaim
from fastgpu_hub.broker.ports.store import StoreUnavailable
from fastgpu_hub.broker.ports.world import HubUnavailable
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.service import auth as signing
from fastgpu_hub.service.endpoints import ENDPOINTS, Call, Raw, Result
from fastgpu_hub.service.routing import EVENTS, JSON, Route
from fastgpu_hub.service.wire import (
    Refusal,
    error_answer,
    invalid,
    json_bytes,
    parse_json,
    parse_model,
    single_values,
    status_of,
)

if TYPE_CHECKING:
    from fastgpu_hub.service.app import Site

log = logging.getLogger("fastgpu.service")
RETRY_AFTER_SECONDS = 2
_HTTP_CODES = {400: "invalid_request", 401: "not_signed_in", 403: "not_allowed", 404: "not_found"}
_API_POLICY = "default-src 'none'; frame-ancestors 'none'; sandbox"


@stream_request_body
class BaseHandler(HubOAuthenticated, RequestHandler):
    """What all answers share: request id, security headers, a bounded body, one shape of error.

    A body is collected up to the row's limit; what lies beyond is dropped as it comes and then refused.
    """

    content_security_policy = _API_POLICY
    trusts_token_cache = True
    _token_authenticated = False  # JupyterHub's name for "by the Authorization header, not by a cookie"

    def initialize(self, site: Site, rows: dict[str, Route] | None = None) -> None:
        self.site = site
        self.rows = rows or {}
        self.row: Route | None = self.rows.get(self.request.method or "")
        self.actor = Actor("")
        self._chunks: list[bytes] = []
        self._size = 0

    @property
    def hub_auth(self) -> HubOAuth:
        return self.site.auth

    def set_default_headers(self) -> None:
        if not hasattr(self, "request_id"):
            self.request_id = secrets.token_hex(8)
        self.clear_header("Server")
        self.set_header("X-Request-Id", self.request_id)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("X-Frame-Options", "DENY")
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Security-Policy", self.content_security_policy)

    def require_row(self) -> Route:
        """The row of this path and method. Raises HTTPError 405 when the path has others only."""
        if self.row is None:
            raise HTTPError(405)
        return self.row

    async def sign_in(self) -> bool:
        """Find out who calls; False when nobody is signed in. Raises Refusal when the row is not for them."""
        row = self.require_row()
        model = None if row.who == "anyone" else await signing.identify(self.hub_auth, self)
        # Set here: Tornado's own look-up would ask the hub again and block the event loop for it.
        self.current_user = model
        if model is None:
            return row.who == "anyone"
        self.actor, use = signing.actor_of(model)
        signing.check_permitted(row.who, self.actor, use)
        return True

    # errors

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        refused = self.explain(status_code, error)
        self.set_status(status_of(refused.code))
        if refused.code == "unavailable":
            self.set_header("Retry-After", str(RETRY_AFTER_SECONDS))
        if "wait_seconds" in refused.numbers:
            self.set_header("Retry-After", str(refused.numbers["wait_seconds"]))
        if refused.code == "method_not_allowed":
            self.set_header("Allow", ", ".join(sorted(self.rows)))
        if refused.code == "not_signed_in":
            self.set_header("WWW-Authenticate", "token")
        self.write_refused(refused)

    def write_refused(self, refused: Refused) -> None:
        """Body of a refusal; its status is set already."""
        self.set_header("Content-Type", JSON)
        self.finish(json_bytes(error_answer(refused, self.request_id)))

    def explain(self, status_code: int, error: BaseException | None) -> Refused:
        """The refusal that an exception stands for."""
        if isinstance(error, Refusal):
            return error.refused
        if isinstance(error, (StoreUnavailable, HubUnavailable)) or (
            isinstance(error, HTTPError) and status_code >= 500
        ):
            what = "database" if isinstance(error, StoreUnavailable) else "hub"
            message = f"The {what} does not answer right now; nothing was changed."
            return Refused("unavailable", message, instead="Repeat the same call in a moment.")
        if status_code == 405:
            allowed = ", ".join(sorted(self.rows))
            return Refused(
                "method_not_allowed", f"{self.request.method} is not possible here.", instead=f"Use {allowed}."
            )
        if status_code in _HTTP_CODES:
            sentence = {404: "There is nothing at this address.", 400: "The request cannot be read."}.get(status_code)
            return Refused(_HTTP_CODES[status_code], sentence or "This is not allowed.")
        message = f"Something went wrong on our side; the administrator finds it in the log under {self.request_id}."
        return Refused("internal", message)

    def log_exception(self, typ: Any, value: BaseException | None, tb: Any) -> None:
        """Refusals are no news; what nobody foresaw is logged with its request id."""
        if isinstance(value, (StoreUnavailable, HubUnavailable)) or (
            isinstance(value, HTTPError) and value.status_code >= 500
        ):
            log.warning("%s %s: %s", self.request_id, self.request.method, value)
        elif not isinstance(value, (Refusal, HTTPError)):
            log.error("%s %s %s failed", self.request_id, self.request.method, self.route_label, exc_info=value)

    @property
    def route_label(self) -> str:
        """The row's path pattern: bounded in number, free of people's input."""
        return next(iter(self.rows.values())).path if self.rows else "unknown"

    # bodies

    @property
    def limit_bytes(self) -> int:
        return self.row.limit_bytes if self.row else 0

    def check_declared_size(self) -> None:
        """Raises Refusal (413) when the Content-Length is over the limit."""
        declared = self.request.headers.get("Content-Length", "0")
        if declared.isdigit() and int(declared) > self.limit_bytes:
            raise self._too_large()

    def data_received(self, chunk: bytes) -> None:
        self._size += len(chunk)
        if self._size <= self.limit_bytes:
            self._chunks.append(chunk)
        else:
            self._chunks.clear()

    def body_chunks(self) -> list[bytes]:
        """The body as it came. Raises Refusal (413) when it was over the limit."""
        if self._size > self.limit_bytes:
            raise self._too_large()
        return self._chunks

    def _too_large(self) -> Refusal:
        message = f"The body is larger than {self.limit_bytes} bytes."
        return Refusal(Refused("too_large", message, numbers={"limit_bytes": self.limit_bytes}, instead="Send less."))

    def compute_etag(self) -> None:
        """None: answers are never cached."""


def check_arguments(path: dict[str, str]) -> None:
    """Raises HTTPError 404 for names that nothing can have: with control characters or longer than 500."""
    if any(len(text) > 500 or any(ord(c) < 32 or ord(c) == 127 for c in text) for text in path.values()):
        raise HTTPError(404)


class ApiHandler(BaseHandler):
    """Serves the API rows of one path."""

    def initialize(self, site: Site, rows: dict[str, Route] | None = None) -> None:
        super().initialize(site, rows)
        self._uploading = False
        self._poll: asyncio.Future[Result] | None = None

    async def prepare(self) -> None:
        row = self.require_row()
        signed_in = await self.sign_in()
        if not signed_in:
            raise Refusal(
                Refused(
                    "not_signed_in",
                    "There is no valid token with this request.",
                    instead="Send the header 'Authorization: token …' with a JupyterHub token.",
                )
            )
        if row.who != "anyone":
            signing.check_same_site(self)
        self.check_declared_size()
        if row.method == "PUT":
            await self.site.uploads.acquire()
            self._uploading = True

    async def _execute(self, transforms: list[OutputTransform], *args: bytes, **kwargs: bytes) -> None:
        # Neither on_finish nor on_connection_close comes when a caller hangs up within the body.
        try:
            await super()._execute(transforms, *args, **kwargs)
        finally:
            if self._uploading:
                self.site.uploads.release()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        # Only a poll is given up with its caller; an effect that has begun is completed.
        if self._poll is not None:
            self._poll.cancel()

    async def _serve(self, **path: str) -> None:
        row = self.require_row()
        check_arguments(path)
        if row.name == "openapi":
            self.write_result(row, Raw(self.site.openapi))
            return
        if row.name == "metrics":
            self.write_result(row, Raw(self.site.metrics.text(await self.site.broker.metrics_snapshot())))
            return
        call = Call(self.site.broker, self.actor, path, self._query(row), self._body(row), self._key(row, path))
        if call.query.get("wait_seconds"):
            self._poll = asyncio.ensure_future(ENDPOINTS[row.name](call))
            try:
                result = await self._poll
            except asyncio.CancelledError:
                return
        else:
            result = await ENDPOINTS[row.name](call)
        if isinstance(result, Content):
            await self._send_content(row, result)
        else:
            self.write_result(row, result)

    async def _send_content(self, row: Route, content: Content) -> None:
        """Write a file as it is read, however large."""
        self.set_status(row.status)
        self.set_header("Content-Type", row.media)
        self.set_header("Content-Length", content.size_bytes)
        # Another person's file on the hub's own origin must never run as a page.
        self.set_header("Content-Disposition", "attachment")
        try:
            while (part := await asyncio.to_thread(next, content.parts, None)) is not None:
                self.write(part)
                await self.flush()
        finally:
            await asyncio.to_thread(content.parts.close)
        self.finish()

    get = post = put = delete = head = _serve

    def write_result(self, row: Route, result: Result) -> None:
        """Write what an endpoint returned, with the row's status; raises Refusal for a refusal."""
        if isinstance(result, Refused):
            raise Refusal(result)
        assert not isinstance(result, Content)  # those are streamed
        self.set_status(row.status)
        if row.media:
            self.set_header("Content-Type", row.media)
        if isinstance(result, Raw):
            for name, value in result.headers.items():
                self.set_header(name, value)
            self.finish(result.data)
        elif result is None:
            self.clear_header("Content-Type")
            self.finish()
        else:
            self.finish(json_bytes(result))

    def _query(self, row: Route) -> dict[str, Any]:
        known = {query.name: query for query in row.query}
        given = single_values(self.request.query_arguments, [*known, "_xsrf"])
        return {name: query.parse(given[name]) if name in given else query.default for name, query in known.items()}

    def _body(self, row: Route) -> Any:
        chunks = self.body_chunks()
        if row.method == "PUT":
            return chunks
        body = b"".join(chunks)
        if row.method != "POST" or (row.body is None and not body):
            return None
        media = self.request.headers.get("Content-Type", "").lower()
        if not re.fullmatch(r'application/json(\s*;\s*charset="?utf-8"?)?', media.strip()):
            message = f"The content type is {media[:60]!a}." if media else "The request names no content type."
            raise Refusal(Refused("media_type", message, instead="Send Content-Type: application/json."))
        data = parse_json(body)
        if row.body is None:
            if data != {}:
                raise invalid("This request takes no fields.", "Send {} or nothing.")
            return None
        return parse_model(row.body, data)

    def _key(self, row: Route, path: dict[str, str]) -> IdempotencyClaim | None:
        """The caller's claim; its route is the filled-in path, so one key serves one lease or job only."""
        key = self.request.headers.get("Idempotency-Key")
        if not row.effect or key is None:
            return None
        if not re.fullmatch(r"[!-~]{1,200}", key):
            raise invalid("The Idempotency-Key is not 1 to 200 printable ASCII characters.", "Send a fresh UUID.")
        digest = hashlib.sha256(b"".join(self._chunks)).hexdigest()
        return IdempotencyClaim(key, f"{row.method} {row.path.format(**path)}", digest, row.status)


class NotFoundHandler(BaseHandler):
    """Any address without a row."""

    def prepare(self) -> None:
        raise HTTPError(404)


def log_request(handler: RequestHandler) -> None:
    """Access log and metrics. The query is left out: an address may hold what is nobody's business."""
    request: HTTPServerRequest = handler.request
    seconds = request.request_time()
    status = handler.get_status()
    if not isinstance(handler, BaseHandler):
        return
    waited = "wait_seconds" in request.query_arguments or (handler.row is not None and handler.row.media == EVENTS)
    handler.site.metrics.answered(
        handler.route_label,
        (request.method or "?")[:16] if handler.row else "other",
        status,
        None if waited else seconds,
    )
    level = logging.WARNING if status >= 500 else logging.INFO
    path = json.dumps(request.path[:300])
    log.log(
        level,
        "%s %d %s %s %.0f ms by %a",
        handler.request_id,
        status,
        request.method,
        path,
        seconds * 1000,
        handler.actor.name,
    )
