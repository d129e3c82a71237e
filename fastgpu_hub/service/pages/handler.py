"""Tornado handler of the pages: sign in by OAuth, check forms, post-redirect-get, errors as pages."""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Any

from jupyterhub.services.auth import HubOAuthCallbackHandler
from tornado.httputil import parse_body_arguments

from fastgpu_hub.broker.idempotency import IdempotencyClaim
from fastgpu_hub.broker.views import at, explanation
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.service import auth as signing
from fastgpu_hub.service.handlers import BaseHandler, check_arguments
from fastgpu_hub.service.pages.typed import Typed
from fastgpu_hub.service.pages.views import PAGE_OF_FORM, VIEWS, Result
from fastgpu_hub.service.pages.visit import NOTICES, Done, Download, Page, Streamed, Visit
from fastgpu_hub.service.routing import HTML, Route
from fastgpu_hub.service.wire import Refusal, check_text, status_of

_STATIC_SECONDS = 3600


class HtmlHandler(BaseHandler):
    """Answers, errors too, are pages in the site's frame."""

    content_security_policy = (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    )

    def write_refused(self, refused: Refused) -> None:
        """An error page, written by hand from what cannot fail again."""
        self.write_page("error.html", {"problem": explanation(refused), "request_id": self.request_id})

    def write_page(self, template: str, context: dict[str, Any], typed: Typed | None = None) -> None:
        typed = typed or Typed()
        frame: dict[str, Any] = {
            "actor": self.actor,
            "notice": NOTICES.get(self.get_query_argument("done", "")),
            "problem": typed.problem,
            "form_of": typed.of,
            "now": at(self.site.broker.clock.now_ms()),
            "xsrf": "",
            "fresh_key": secrets.token_urlsafe(16),
        }
        self.set_header("Content-Type", HTML)
        self.finish(self.site.pages.get_template(template).render({**frame, **context}))


class PageHandler(HtmlHandler):
    """Serves the page and form rows of one path."""

    async def prepare(self) -> None:
        self.require_row()
        if not await self.sign_in():
            if self.request.method == "GET":
                self.redirect(self.get_login_url())
                return
            raise Refusal(
                Refused("not_signed_in", "You are not signed in any more.", instead="Open the page again to sign in.")
            )
        self.check_declared_size()
        if not self._token_authenticated:  # a token may carry less than its owner's rights
            await self.site.broker.signed_in(self.actor)

    async def get(self, **path: str) -> None:
        row = self.require_row()
        query = {name: self.get_query_argument(name) for name in self.request.query_arguments}
        await self._answer(row, await VIEWS[row.name](self._visit(path, query, None)), Typed())

    async def post(self, **path: str) -> None:
        row = self.require_row()
        form = self._form()
        signing.check_same_site(self)
        sent_to = self.request.path.removeprefix(self.site.prefix)
        try:
            result = await VIEWS[row.name](self._visit(path, form, self._key(row, path, form)))
        except Refusal as refusal:
            self.set_status(status_of(refusal.refused.code))
            page = await PAGE_OF_FORM[row.name](self._visit(path, form, None))
            await self._answer(row, page, Typed(sent_to, form, explanation(refusal.refused)))
        else:
            await self._answer(row, result, Typed(sent_to, form))

    async def _answer(self, row: Route, result: Result, typed: Typed) -> None:
        if isinstance(result, Done):
            self._leave(result)
        elif isinstance(result, Page):
            context = {"xsrf": self.xsrf_token.decode("ascii"), **result.context}
            self.write_page(result.template, context, typed)
        else:
            self.set_header("Content-Type", row.media)
            if isinstance(result, Download):
                self.set_header("Content-Disposition", f'attachment; filename="{result.name}"')
                self.finish(result.text)
            elif isinstance(result, Streamed):
                await self._stream(result)
            else:
                self.set_header("Cache-Control", f"public, max-age={_STATIC_SECONDS}")
                self.finish(result)

    async def _stream(self, result: Streamed) -> None:
        self.set_header("Content-Disposition", f'attachment; filename="{result.name}"')
        async for piece in result.pieces:
            self.write(piece)
            await self.flush()  # at the reader's pace, so that only a piece of it is ever in memory
        self.finish()

    def _leave(self, done: Done) -> None:
        notice = f"?done={done.done}" if done.done else ""
        self.redirect(f"{self.site.prefix}{done.path}{notice}", status=303)

    def _visit(self, path: dict[str, str], form: dict[str, str], key: IdempotencyClaim | None) -> Visit:
        check_arguments(path)
        return Visit(self.site.broker, self.actor, self.site.time_zone, path, form, key)

    def _form(self) -> dict[str, str]:
        """Fields of a url-encoded form. Also tells Tornado, whose XSRF check looks for ``_xsrf`` among them."""
        media = self.request.headers.get("Content-Type", "").split(";")[0].strip().lower()
        if media != "application/x-www-form-urlencoded":
            raise Refusal(Refused("media_type", "This is not a form.", instead="Use the form on the page."))
        arguments: dict[str, list[bytes]] = {}
        parse_body_arguments(media, b"".join(self.body_chunks()), arguments, {})
        self.request.body_arguments = arguments
        for name, values in arguments.items():
            self.request.arguments.setdefault(name, []).extend(values)
        form = {name: values[-1].decode("utf-8", "replace") for name, values in arguments.items()}
        for text in form.values():
            check_text(text)
        return form

    def _key(self, row: Route, path: dict[str, str], form: dict[str, str]) -> IdempotencyClaim | None:
        """Claim of the form's own key: a double click has one effect."""
        key = form.get("key", "")
        if not re.fullmatch(r"[A-Za-z0-9_\-]{16,64}", key):
            return None
        digest = hashlib.sha256(b"".join(self._chunks)).hexdigest()
        return IdempotencyClaim(f"form-{key}", f"{row.method} {row.path.format(**path)}", digest, row.status)


class CallbackHandler(HtmlHandler, HubOAuthCallbackHandler):
    """Ends the OAuth flow: the hub's own handler, with our headers and errors."""

    async def prepare(self) -> None:
        self.require_row()
        self.current_user = await signing.identify(self.hub_auth, self)

    def explain(self, status_code: int, error: BaseException | None) -> Refused:
        if status_code in (400, 403):
            message = "Signing in did not work: this attempt is too old or was begun in another window."
            return Refused("not_allowed", message, instead="Open the page again to sign in.")
        return super().explain(status_code, error)
