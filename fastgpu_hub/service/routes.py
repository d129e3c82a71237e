"""The one table of routes: what is served, documented and tested all comes from here.

A row names its operation; ``endpoints`` (API) and ``pages`` (HTML) hold a function of the same name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from fastgpu import models as m
from fastgpu_hub.service.wire import check_instant, invalid

Who = Literal["anyone", "user", "user or spawner", "spawner", "teacher or admin", "admin", "metrics"]

SCOPES: dict[Who, str] = {
    "anyone": "",
    "user": "custom:fastgpu:use",
    "user or spawner": "custom:fastgpu:use or custom:fastgpu:spawn",
    "spawner": "custom:fastgpu:spawn",
    "teacher or admin": "custom:fastgpu:use with custom:fastgpu:teach!group=CLASS or custom:fastgpu:admin",
    "admin": "custom:fastgpu:use with custom:fastgpu:admin",
    "metrics": "custom:fastgpu:metrics, or custom:fastgpu:use with custom:fastgpu:admin",
}

JSON, TEXT, BYTES, HTML, NOTHING = (
    "application/json",
    "text/plain; charset=utf-8",
    "application/octet-stream",
    "text/html; charset=utf-8",
    "",
)
MIB = 1024 * 1024
JSON_LIMIT_BYTES = MIB
BLOB_LIMIT_BYTES = 256 * MIB
FORM_LIMIT_BYTES = 64 * 1024
LONGEST_POLL_SECONDS = 30


class Health(m.Answer):
    """The service answers requests."""

    ok: bool


@dataclass(frozen=True, slots=True)
class Query:
    """One query parameter: its kind, bounds and default."""

    name: str
    help: str
    kind: Literal["text", "integer", "instant"] = "text"
    default: Any = None
    choices: tuple[str, ...] = ()
    minimum: int = 0
    maximum: int = 2**53
    pattern: str = r"^[^\x00-\x1f\x7f]{1,255}$"

    def parse(self, text: str) -> str | int | datetime:
        """Value of the written text. Raises Refusal naming parameter, value and what is wanted."""
        shown = text.encode("ascii", "backslashreplace").decode()[:60]
        if self.choices and text not in self.choices:
            raise invalid(f"{self.name} cannot be '{shown}'.", f"It is one of {', '.join(self.choices)}.")
        if self.kind == "integer":
            if not re.fullmatch(r"[0-9]{1,17}", text) or not self.minimum <= int(text) <= self.maximum:
                wanted = f"Send a whole number from {self.minimum} to {self.maximum}."
                raise invalid(f"{self.name} cannot be '{shown}'.", wanted)
            return int(text)
        if self.kind == "instant":
            return self._instant(text, shown)
        if not re.fullmatch(self.pattern, text):
            raise invalid(f"{self.name} cannot be '{shown}'.", self.help)
        return text

    def _instant(self, text: str, shown: str) -> datetime:
        # An unescaped "+" of a zone offset reaches us as a space.
        text = text.replace(" ", "+")
        try:
            value = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
        except ValueError:
            value = None
        if value is None or value.tzinfo is None:
            wanted = "Write an instant with its zone, for example 2030-01-31T12:00:00Z."
            raise invalid(f"{self.name} cannot be '{shown}'.", wanted)
        check_instant(self.name, value)
        return value


@dataclass(frozen=True, slots=True)
class Route:
    """One operation: where, for whom, what goes in and what comes out.

    ``path`` is relative to the service's root; ``{name}`` matches one segment, ``{path}`` the rest. ``many`` means that
    the answer is a list. ``effect`` routes take an ``Idempotency-Key``.
    """

    name: str
    method: str
    path: str
    who: Who
    summary: str
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    many: bool = False
    media: str = JSON
    status: int = 200
    query: tuple[Query, ...] = ()
    effect: bool = False
    limit_bytes: int = JSON_LIMIT_BYTES

    @property
    def is_page(self) -> bool:
        """True for what a browser shows, False for the API."""
        return not (self.path.startswith("api/") or self.path in ("health", "metrics"))

    @property
    def regex(self) -> str:
        """Pattern of the path with named groups."""
        pieces = re.split(r"(\{\w+\})", self.path)
        return "".join(_group(piece) if piece.startswith("{") else re.escape(piece) for piece in pieces)


_ARGUMENTS = {
    "id": r"[A-Za-z0-9_\-]{1,64}",
    "number": r"[0-9]{1,18}",
    "sha256": r"[0-9a-f]{64}",
    "path": r".+",
}


def _group(piece: str) -> str:
    name = piece.strip("{}")
    return f"(?P<{name}>{_ARGUMENTS.get(name, '[^/]+')})"


_LIMIT = Query("limit", "Most rows to return.", "integer", 100, minimum=1, maximum=1000)
_ACCOUNT = Query("account", "Write class:NAME or person:NAME.", pattern=r"^(class|person):[^\x00-\x1f\x7f]{1,200}$")
_PROMO = Query("promo_code", "Write letters, digits and hyphens, at most 64.", pattern=r"^[A-Za-z0-9\-]{1,64}$")
_WAIT = Query(
    "wait_seconds",
    "Answer once the state differs from `state`, or after this many seconds.",
    "integer",
    0,
    maximum=LONGEST_POLL_SECONDS,
)
_JOB_STATE = Query("state", "The state known so far.", choices=tuple(state.value for state in m.JobState))
_LEASE_STATE = Query("state", "The state known so far.", choices=tuple(state.value for state in m.LeaseState))
_OFFSET = Query("offset", "First byte to return.", "integer", 0)
_LOG_LIMIT = Query("limit_bytes", "Most bytes to return.", "integer", MIB, minimum=1, maximum=4 * MIB)

API: tuple[Route, ...] = (
    Route("me", "GET", "api/me", "user", "Who the caller is", answer=m.Me),
    Route("status", "GET", "api/status", "user", "Everything at a glance", answer=m.Status),
    Route(
        "options",
        "GET",
        "api/users/{owner}/options",
        "user or spawner",
        "What a person may choose from; `me` is the caller, others only for the spawner",
        answer=m.Options,
        query=(_ACCOUNT, _PROMO),
    ),
    Route("quote", "POST", "api/quotes", "user", "What a request would cost", body=m.QuoteRequest, answer=m.Quote),
    # jobs
    Route("submit_job", "POST", "api/jobs", "user", "Submit a job", m.JobSubmit, m.Job, status=201, effect=True),
    Route(
        "jobs",
        "GET",
        "api/jobs",
        "user",
        "Jobs, newest first; other people's only for teachers and administrators",
        answer=m.Job,
        many=True,
        query=(
            Query("state", "Only jobs that have not ended, or all.", default="all", choices=("active", "all")),
            _LIMIT,
            Query("owner", "Whose jobs."),
            _ACCOUNT,
        ),
    ),
    Route("job", "GET", "api/jobs/{id}", "user", "One job; may wait", answer=m.Job, query=(_WAIT, _JOB_STATE)),
    Route("cancel_job", "POST", "api/jobs/{id}/cancel", "user", "Stop a job", answer=m.Job, effect=True),
    Route(
        "job_log",
        "GET",
        "api/jobs/{id}/log",
        "user",
        "Output so far; headers X-Log-Size and X-Job-State",
        media=TEXT,
        query=(_OFFSET, _LOG_LIMIT),
    ),
    Route("job_files", "GET", "api/jobs/{id}/files", "user", "Files the job left", answer=m.JobFile, many=True),
    Route("job_file", "GET", "api/jobs/{id}/files/{path}", "user", "Bytes of one file", media=BYTES),
    Route(
        "put_blob",
        "PUT",
        "api/blobs/{sha256}",
        "user",
        "Put input bytes under their hash",
        media=NOTHING,
        status=204,
        limit_bytes=BLOB_LIMIT_BYTES,
    ),
    Route("has_blob", "HEAD", "api/blobs/{sha256}", "user", "204 if these bytes are there", media=NOTHING, status=204),
    # leases
    Route("leases", "GET", "api/leases", "user", "The caller's live leases", answer=m.Lease, many=True),
    Route(
        "lease",
        "GET",
        "api/leases/{id}",
        "user or spawner",
        "One lease; may wait, and wakes too when its queue place or explanation changes",
        answer=m.Lease,
        query=(_WAIT, _LEASE_STATE),
    ),
    Route(
        "request_lease",
        "POST",
        "api/users/{owner}/leases",
        "spawner",
        "Ask for a server's GPUs on its owner's behalf",
        m.LeaseRequest,
        m.Lease,
        status=201,
        effect=True,
    ),
    Route(
        "lease_started",
        "POST",
        "api/leases/{id}/started",
        "spawner",
        "Evidence that the server runs",
        m.LeaseStarted,
        m.Lease,
        effect=True,
    ),
    Route("release_lease", "POST", "api/leases/{id}/release", "spawner", "Give GPUs back", answer=m.Lease, effect=True),
    Route("receipt", "GET", "api/leases/{id}/receipt", "user", "All lines of a lease or job", answer=m.Receipt),
    Route("why", "GET", "api/leases/{id}/why", "user", "Why a lease or job is where it is", answer=m.Why),
    Route(
        "costs",
        "GET",
        "api/costs",
        "user",
        "Settled cost, grouped",
        answer=m.CostReport,
        query=(
            Query("since", "Only lines from this instant on.", "instant"),
            Query("by", "What to group by.", default="job", choices=("job", "gpu", "day", "person")),
        ),
    ),
    # rules
    Route(
        "promotions",
        "GET",
        "api/promotions",
        "user",
        "Promotions as the caller sees them",
        answer=m.Promotion,
        many=True,
        query=(_PROMO,),
    ),
    Route(
        "add_promotion",
        "POST",
        "api/promotions",
        "teacher or admin",
        "Add a promotion; teachers for their own class",
        m.PromotionSet,
        m.Promotion,
        status=201,
        effect=True,
    ),
    Route(
        "end_promotion",
        "POST",
        "api/promotions/{number}/end",
        "teacher or admin",
        "End a promotion now",
        answer=m.Promotion,
        effect=True,
    ),
    Route("quotas", "GET", "api/quotas", "user", "The caller's limits", answer=m.QuotaUse, many=True),
    Route(
        "add_quota",
        "POST",
        "api/quotas",
        "teacher or admin",
        "Add a limit; teachers for the members of their own class",
        m.QuotaSet,
        m.QuotaUse,
        status=201,
        effect=True,
    ),
    Route(
        "remove_quota",
        "DELETE",
        "api/quotas/{number}",
        "teacher or admin",
        "Remove a limit",
        media=NOTHING,
        status=204,
    ),
    Route("prices", "GET", "api/prices", "user", "The price book", answer=m.Price, many=True),
    Route(
        "set_price",
        "POST",
        "api/prices",
        "admin",
        "Set a GPU type's list price",
        m.PriceSet,
        m.Price,
        status=201,
        effect=True,
    ),
    Route(
        "grant",
        "POST",
        "api/grants",
        "admin",
        "Give credit to an account",
        m.GrantSet,
        m.Account,
        status=201,
        effect=True,
    ),
    Route("class_report", "GET", "api/classes/{name}", "teacher or admin", "A class", answer=m.ClassReport),
    Route("inventory", "GET", "api/inventory", "admin", "Every GPU and its holder", answer=m.InventoryGpu, many=True),
    Route("audit", "GET", "api/audit", "admin", "Who changed what", answer=m.AuditLine, many=True, query=(_LIMIT,)),
    # about the service
    Route("openapi", "GET", "api/openapi.json", "user", "This document"),
    Route("health", "GET", "health", "anyone", "The service answers", answer=Health),
    Route("metrics", "GET", "metrics", "metrics", "Figures for Prometheus", media="text/plain; version=0.0.4"),
)


def _page(name: str, path: str, who: Who, summary: str) -> Route:
    return Route(name, "GET", path, who, summary, media=HTML, limit_bytes=FORM_LIMIT_BYTES)


def _form(name: str, path: str, who: Who, summary: str) -> Route:
    return Route(name, "POST", path, who, summary, media=HTML, status=303, limit_bytes=FORM_LIMIT_BYTES)


PAGES: tuple[Route, ...] = (
    _page("home_page", "", "user", "My GPUs"),
    _form("cancel_own_job", "jobs/{id}/cancel", "user", "Stop one of my jobs"),
    _page("receipt_page", "receipts/{id}", "user", "A receipt"),
    Route("find_class", "GET", "classes", "teacher or admin", "Go to a class by name", media=HTML, status=303),
    _page("class_page", "classes/{name}", "teacher or admin", "A class"),
    _form("set_class_quota", "classes/{name}/quotas", "teacher or admin", "Limit a class or its members"),
    _form("remove_class_quota", "classes/{name}/quotas/{number}/remove", "teacher or admin", "Remove a limit"),
    _form("start_promotion", "classes/{name}/promotions", "teacher or admin", "Start a promotion for a class"),
    _form("stop_promotion", "classes/{name}/promotions/{number}/end", "teacher or admin", "End a promotion"),
    _form("stop_class_job", "classes/{name}/jobs/{id}/cancel", "teacher or admin", "Stop a member's job"),
    _page("admin_page", "admin", "admin", "Prices, GPUs, grants, limits, audit"),
    _form("set_list_price", "admin/prices", "admin", "Set a price"),
    _form("give_credit", "admin/grants", "admin", "Give credit"),
    _form("set_any_quota", "admin/quotas", "admin", "Set a limit"),
    _form("remove_any_quota", "admin/quotas/{number}/remove", "admin", "Remove a limit"),
    Route("stylesheet", "GET", "static/fastgpu.css", "anyone", "Looks", media="text/css; charset=utf-8"),
    Route("oauth_callback", "GET", "oauth_callback", "anyone", "End of signing in", media=HTML, status=302),
)

ROUTES: tuple[Route, ...] = (*API, *PAGES)
