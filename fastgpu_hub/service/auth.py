"""Who calls: a token or the service's own cookie, checked with the hub, becomes an Actor."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from jupyterhub._xsrf_utils import _needs_check_xsrf
from jupyterhub.services.auth import HubOAuth
from tornado.web import HTTPError, RequestHandler
from traitlets import default

from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.ports.world import HubUnavailable
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.service.routing import SCOPES, Who
from fastgpu_hub.service.wire import Refusal

if TYPE_CHECKING:
    from fastgpu_hub.service.handlers import BaseHandler

TOKEN_CACHE_SECONDS = 30
_PREFIX = "custom:fastgpu:"
_TOKEN = re.compile(r"[\x21-\x7e]{1,2048}")


class FastGPUAuth(HubOAuth):
    """HubOAuth that remembers a token's owner for at most 30 s and never reads a token from an address."""

    @default("cache_max_age")
    def _default_cache_max_age(self) -> int:
        return TOKEN_CACHE_SECONDS

    def _get_token_url(self, handler: RequestHandler) -> str:
        return ""

    def _persist_url_token_if_set(self, handler: RequestHandler) -> None:
        """Never: a token in an address is not one."""


def own_scopes(scopes: Iterable[str], name: str) -> set[str]:
    """Our scopes among a token's, without prefix: ``use``, ``admin``, ``teach!group=cs101`` …

    A filter must name the token's owner (``!user=NAME``, ``!server=NAME/…``) to count as the scope itself.
    """
    found: set[str] = set()
    for scope in scopes:
        if not scope.startswith(_PREFIX):
            continue
        base, _, narrowed = scope[len(_PREFIX) :].partition("!")
        if base == "teach" and narrowed.startswith("group="):
            found.add(f"teach!{narrowed}")
        elif not narrowed or narrowed == f"user={name}" or narrowed.startswith(f"server={name}/"):
            found.add(base)
    return found


def actor_of(model: dict[str, Any]) -> tuple[Actor, bool]:
    """The Actor of a hub user model, and whether it may use FastGPU at all.

    ``teach`` and ``admin`` count only together with ``use``. A service is called ``service:NAME``, so that it is never
    taken for a person of the same name. A single-user server's token identifies its owner, so it acts for them.
    """
    name, kind = str(model["name"]), str(model.get("kind", "user"))
    scopes = own_scopes(model.get("scopes", ()), name)
    use = "use" in scopes
    teaches = sorted(scope.removeprefix("teach!group=") for scope in scopes if scope.startswith("teach!group="))
    actor = Actor(
        name=name if kind == "user" else f"service:{name}",
        classes=tuple(sorted(model.get("groups") or ())) if kind == "user" else (),
        teaches=tuple(teaches) if use else (),
        admin=use and "admin" in scopes,
        spawner="spawn" in scopes,
        metrics="metrics" in scopes,
        kind=kind,
    )
    return actor, use


def permitted(who: Who, actor: Actor, use: bool) -> bool:
    """Whether a caller passes the first gate; the broker decides about the single lease, job, class."""
    return {
        "anyone": True,
        "user": use,
        "user or spawner": use or actor.spawner,
        "spawner": actor.spawner,
        "teacher or admin": bool(actor.teaches) or actor.admin,
        "admin": actor.admin,
        "metrics": actor.metrics or actor.admin,
    }[who]


def check_permitted(who: Who, actor: Actor, use: bool) -> None:
    """Raise Refusal (``not_allowed``) unless permitted."""
    if not permitted(who, actor, use):
        raise Refusal(
            Refused(
                "not_allowed",
                f"This is not for {actor.name}: it takes the scope {SCOPES[who]}.",
                instead="Ask the administrator for it.",
            )
        )


def bearer(handler: RequestHandler) -> str | None:
    """Token of the Authorization header; None when there is none."""
    match = re.fullmatch(r"(?:token|bearer)\s+(.+)", handler.request.headers.get("Authorization", ""), re.IGNORECASE)
    return match.group(1).strip() if match else None


async def identify(auth: HubOAuth, handler: BaseHandler) -> dict[str, Any] | None:
    """The hub's model of who sends this request, None when nobody is signed in.

    A header wins over the cookie and is never replaced by it. A handler that does not trust the cache of tokens asks
    the hub each time. Raises HubUnavailable when the hub cannot tell.
    """
    token = bearer(handler)
    if token is None:
        token = auth._get_token_cookie(handler)
    else:
        handler._token_authenticated = True
    if not token or not _TOKEN.fullmatch(token):
        return None
    try:
        session = auth.get_session_id(handler)
        return await auth.user_for_token(token, handler.trusts_token_cache, session_id=session, sync=False)
    except HTTPError as error:
        raise HubUnavailable(f"The hub could not check the token: {error.log_message or error.status_code}") from error


def check_same_site(handler: BaseHandler) -> None:
    """Refuse a request that another site made the browser send.

    Only for cookies, which browsers attach by themselves; what changes something must carry the hub's ``_xsrf`` value
    (argument or ``X-XSRFToken``) and, where the browser tells, come from our own origin.
    """
    if handler._token_authenticated:
        return
    if handler.request.method not in ("GET", "HEAD"):
        origin = handler.request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() != handler.request.host.lower():
            raise _cross_site("Its Origin is another site.")
        if handler.request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise _cross_site("The browser says that another site sent it.")
    if _needs_check_xsrf(handler):
        try:
            handler.check_xsrf_cookie()
        except HTTPError as error:
            raise _cross_site(f"{error.log_message}.") from None


def _cross_site(sentence: str) -> Refusal:
    return Refusal(
        Refused(
            "not_allowed",
            f"This request is not accepted with a cookie. {sentence}",
            instead="Reload the page and try again; programs send a token in the Authorization header.",
        )
    )
