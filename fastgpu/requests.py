"""The pure request/response layer: every call of the service's API as data, every answer as a model or an error.

A :class:`Call` says what to send and how to read the answer. The senders in ``client`` and ``aio`` add only the
transport. Nothing here reads a clock, the environment or the network.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Generic, Literal, TypeVar
from urllib.parse import quote as percent_encode
from urllib.parse import urlsplit

from pydantic import BaseModel, TypeAdapter

from fastgpu import models
from fastgpu.errors import Unavailable

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

GroupBy = Literal["job", "gpu", "day", "person"]
LONG_POLL_SECONDS = 30
ANSWER_SECONDS = 30.0
LOG_PART_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Received:
    """What came back: status, headers (names in lower case), body."""

    status: int
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request and how to read its answer.

    ``path`` is relative to the service's address. A body given as a Path is streamed from that file, anew on every
    attempt. ``accept`` are the statuses that ``parse`` understands; any other becomes an error. ``repeats`` says
    whether the sender tries again while the service is away; it does not where the caller does that itself.
    """

    method: str
    path: str
    parse: Callable[[Received], T]
    params: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | Path | None = None
    accept: frozenset[int] = frozenset({200, 201, 204})
    timeout_seconds: float = ANSWER_SECONDS
    repeats: bool = True


@dataclass(frozen=True, slots=True)
class LogPart:
    """A piece of a job's log from byte ``offset`` on; ``size`` is the whole log's, ``state`` the job's by then."""

    offset: int
    data: bytes
    size: int
    state: models.JobState

    @property
    def next_offset(self) -> int:
        """Where the following piece begins."""
        return self.offset + len(self.data)


def service_url(text: str) -> str:
    """A service address without its trailing slash. Raises Unavailable when it is not an http(s) address."""
    parts = urlsplit(text.strip())
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise Unavailable(
            f"{text!r} is not an address of a FastGPU service.",
            hint="Set FASTGPU_URL, or pass url=, for example https://hub.example.org/services/fastgpu.",
        )
    return text.strip().rstrip("/")


def new_key() -> str:
    """A fresh idempotency key."""
    return uuid.uuid4().hex


# ---------------------------------------------------------------- building blocks


def _one(model: type[M]) -> Callable[[Received], M]:
    return lambda received: model.model_validate_json(received.content)


def _many(model: type[M]) -> Callable[[Received], list[M]]:
    return lambda received: TypeAdapter(list[model]).validate_json(received.content)  # type: ignore[valid-type]


def _nothing(received: Received) -> None:
    return None


def _params(**given: str | int | None) -> tuple[tuple[str, str], ...]:
    return tuple((name, str(value)) for name, value in given.items() if value is not None)


def _segment(text: str | int) -> str:
    return percent_encode(str(text), safe="")


def _file_path(path: str) -> str:
    return "/".join(_segment(part) for part in path.split("/"))


def _post(path: str, body: BaseModel | None, answer: type[M], key: str | None) -> Call[M]:
    return Call(
        "POST",
        path,
        _one(answer),
        headers=(("Content-Type", "application/json"), ("Idempotency-Key", key or new_key())),
        body=b"{}" if body is None else body.model_dump_json().encode(),
    )


def _long_poll(path: str, answer: type[M], wait_seconds: int | None, state: str | None) -> Call[M]:
    wait = None if wait_seconds is None else min(LONG_POLL_SECONDS, max(0, wait_seconds))
    return Call(
        "GET",
        path,
        _one(answer),
        params=_params(wait_seconds=wait, state=state),
        timeout_seconds=ANSWER_SECONDS + (wait or 0),
    )


# ---------------------------------------------------------------- who I am, what there is


def me() -> Call[models.Me]:
    """Who the caller is to FastGPU."""
    return Call("GET", "api/me", _one(models.Me))


def status() -> Call[models.Status]:
    """Leases, GPUs in use, jobs, quotas, accounts of the caller."""
    return Call("GET", "api/status", _one(models.Status))


def options(owner: str = "me", account: str | None = None, promo_code: str | None = None) -> Call[models.Options]:
    """What ``owner`` may choose from, with prices as they are now."""
    params = _params(account=account, promo_code=promo_code)
    return Call("GET", f"api/users/{_segment(owner)}/options", _one(models.Options), params=params)


def quote(request: models.QuoteRequest, key: str | None = None) -> Call[models.Quote]:
    """What a request would cost."""
    return _post("api/quotes", request, models.Quote, key)


# ---------------------------------------------------------------- jobs


def submit(request: models.JobSubmit, key: str | None = None) -> Call[models.Job]:
    """Submit a job whose input files are already there."""
    return _post("api/jobs", request, models.Job, key)


def jobs(
    state: Literal["active", "all"] = "all",
    limit: int | None = None,
    owner: str | None = None,
    account: str | None = None,
) -> Call[list[models.Job]]:
    """Jobs, newest first; ``owner`` and ``account`` are for teachers and administrators."""
    params = _params(state=state, limit=limit, owner=owner, account=account)
    return Call("GET", "api/jobs", _many(models.Job), params=params)


def job(job_id: str, wait_seconds: int | None = None, state: str | None = None) -> Call[models.Job]:
    """A job; with ``wait_seconds`` and ``state`` answered once its state differs, or after that time."""
    return _long_poll(f"api/jobs/{_segment(job_id)}", models.Job, wait_seconds, state)


def cancel(job_id: str, key: str | None = None) -> Call[models.Job]:
    """Cancel a job."""
    return _post(f"api/jobs/{_segment(job_id)}/cancel", None, models.Job, key)


def log(job_id: str, offset: int = 0, limit_bytes: int = LOG_PART_BYTES) -> Call[LogPart]:
    """A piece of a job's log."""

    def parse(received: Received) -> LogPart:
        size = int(received.headers.get("x-log-size", offset + len(received.content)))
        return LogPart(offset, received.content, size, models.JobState(received.headers["x-job-state"]))

    params = _params(offset=offset, limit_bytes=limit_bytes)
    return Call("GET", f"api/jobs/{_segment(job_id)}/log", parse, params=params)


def files(job_id: str) -> Call[list[models.JobFile]]:
    """What a job left behind."""
    return Call("GET", f"api/jobs/{_segment(job_id)}/files", _many(models.JobFile))


def file(job_id: str, path: str) -> Call[bytes]:
    """The bytes of one file a job left behind."""
    return Call("GET", f"api/jobs/{_segment(job_id)}/files/{_file_path(path)}", lambda received: received.content)


def has_blob(sha256: str) -> Call[bool]:
    """Whether the service already holds these bytes."""
    accept = frozenset({200, 204, 404})
    return Call("HEAD", f"api/blobs/{_segment(sha256)}", lambda received: received.status != 404, accept=accept)


def put_blob(sha256: str, body: bytes | Path) -> Call[None]:
    """Upload an input's bytes under their hash."""
    headers = (("Content-Type", "application/octet-stream"),)
    return Call("PUT", f"api/blobs/{_segment(sha256)}", _nothing, headers=headers, body=body, timeout_seconds=600)


# ---------------------------------------------------------------- leases


def leases() -> Call[list[models.Lease]]:
    """The caller's live leases."""
    return Call("GET", "api/leases", _many(models.Lease))


def request_lease(owner: str, request: models.LeaseRequest, key: str | None = None) -> Call[models.Lease]:
    """Request GPUs for a server of ``owner`` (spawner's token only)."""
    return _post(f"api/users/{_segment(owner)}/leases", request, models.Lease, key)


def lease(lease_id: str, wait_seconds: int | None = None, state: str | None = None) -> Call[models.Lease]:
    """A lease; long-polls like :func:`job`, and also answers when queue place or explanation change."""
    return _long_poll(f"api/leases/{_segment(lease_id)}", models.Lease, wait_seconds, state)


def lease_started(lease_id: str, pid: int | None = None, key: str | None = None) -> Call[models.Lease]:
    """Evidence that a lease's workload runs (spawner's token only; the spawner repeats it until it is taken)."""
    call = _post(f"api/leases/{_segment(lease_id)}/started", models.LeaseStarted(pid=pid), models.Lease, key)
    return replace(call, repeats=False)


def release_lease(lease_id: str, key: str | None = None) -> Call[models.Lease]:
    """Give a lease back (spawner's token only; the spawner repeats it until it is taken)."""
    return replace(_post(f"api/leases/{_segment(lease_id)}/release", None, models.Lease, key), repeats=False)


def receipt(lease_id: str) -> Call[models.Receipt]:
    """All charge lines of a lease or job."""
    return Call("GET", f"api/leases/{_segment(lease_id)}/receipt", _one(models.Receipt))


def why(lease_id: str) -> Call[models.Why]:
    """Why a lease or job is where it is."""
    return Call("GET", f"api/leases/{_segment(lease_id)}/why", _one(models.Why))


# ---------------------------------------------------------------- money and rules


def costs(since: datetime | None = None, by: GroupBy = "job") -> Call[models.CostReport]:
    """Settled and running cost since an instant (with a zone), grouped."""
    params = _params(since=since.isoformat() if since else None, by=by)
    return Call("GET", "api/costs", _one(models.CostReport), params=params)


def promotions(promo_code: str | None = None) -> Call[list[models.Promotion]]:
    """Promotions the caller can see, and with a code the one it opens."""
    return Call("GET", "api/promotions", _many(models.Promotion), params=_params(promo_code=promo_code))


def add_promotion(request: models.PromotionSet, key: str | None = None) -> Call[models.Promotion]:
    """Set up a promotion (administrator; teacher for the own class)."""
    return _post("api/promotions", request, models.Promotion, key)


def end_promotion(promotion_id: int, key: str | None = None) -> Call[models.Promotion]:
    """End a promotion now."""
    return _post(f"api/promotions/{_segment(promotion_id)}/end", None, models.Promotion, key)


def quotas() -> Call[list[models.QuotaUse]]:
    """The limits that apply to the caller."""
    return Call("GET", "api/quotas", _many(models.QuotaUse))


def set_quota(request: models.QuotaSet, key: str | None = None) -> Call[models.QuotaUse]:
    """Set a limit (administrator; teacher for the own class)."""
    return _post("api/quotas", request, models.QuotaUse, key)


def remove_quota(quota_id: int) -> Call[None]:
    """Lift a limit."""
    return Call("DELETE", f"api/quotas/{_segment(quota_id)}", _nothing)


def prices() -> Call[list[models.Price]]:
    """The price book."""
    return Call("GET", "api/prices", _many(models.Price))


def set_price(request: models.PriceSet, key: str | None = None) -> Call[models.Price]:
    """New version of a list price (administrator)."""
    return _post("api/prices", request, models.Price, key)


def grant(request: models.GrantSet, key: str | None = None) -> Call[models.Account]:
    """Give credit to an account (administrator)."""
    return _post("api/grants", request, models.Account, key)


def class_report(name: str) -> Call[models.ClassReport]:
    """A class as its teacher sees it."""
    return Call("GET", f"api/classes/{_segment(name)}", _one(models.ClassReport))


def inventory() -> Call[list[models.InventoryGpu]]:
    """Every device and who holds it (administrator)."""
    return Call("GET", "api/inventory", _many(models.InventoryGpu))


def audit() -> Call[list[models.AuditLine]]:
    """Who changed which rule (administrator)."""
    return Call("GET", "api/audit", _many(models.AuditLine))
