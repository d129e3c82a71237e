"""The pure request/response layer: every call of the service's API as data, every answer as a model or an error.

A :class:`Call` says what to send and how to read the answer. The senders in ``client`` and ``aio`` add only the
transport. Nothing here reads a clock, the environment or the network.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
Written = Literal["text", "html", "csv"]
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


def one_of(model: type[M]) -> Callable[[Received], M]:
    """Reads an answer that is one of a model."""
    return lambda received: model.model_validate_json(received.content)


def many_of(model: type[M]) -> Callable[[Received], list[M]]:
    """Reads an answer that is a list of a model."""
    return lambda received: TypeAdapter(list[model]).validate_json(received.content)  # type: ignore[valid-type]


def nothing(received: Received) -> None:
    """Reads an answer without content."""
    return None


def query(**given: str | int | None) -> tuple[tuple[str, str], ...]:
    """Query parameters of those values that are given."""
    return tuple((name, str(value)) for name, value in given.items() if value is not None)


def segment(text: str | int) -> str:
    """One segment of a path."""
    return percent_encode(str(text), safe="")


def file_path(path: str) -> str:
    """A file's path as the rest of an address."""
    return "/".join(segment(part) for part in path.split("/"))


def post_call(path: str, body: BaseModel | None, answer: type[M], key: str | None) -> Call[M]:
    """A POST with a body and an idempotency key."""
    return Call(
        "POST",
        path,
        one_of(answer),
        headers=(("Content-Type", "application/json"), ("Idempotency-Key", key or new_key())),
        body=b"{}" if body is None else body.model_dump_json().encode(),
    )


def _long_poll(path: str, answer: type[M], wait_seconds: int | None, state: str | None) -> Call[M]:
    wait = None if wait_seconds is None else min(LONG_POLL_SECONDS, max(0, wait_seconds))
    return Call(
        "GET",
        path,
        one_of(answer),
        params=query(wait_seconds=wait, state=state),
        timeout_seconds=ANSWER_SECONDS + (wait or 0),
    )


# ---------------------------------------------------------------- who I am, what there is


def me() -> Call[models.Me]:
    """Who the caller is to FastGPU."""
    return Call("GET", "api/me", one_of(models.Me))


def status() -> Call[models.Status]:
    """Leases, GPUs in use, jobs, quotas, accounts of the caller."""
    return Call("GET", "api/status", one_of(models.Status))


def options(owner: str = "me", account: str | None = None, promo_code: str | None = None) -> Call[models.Options]:
    """What ``owner`` may choose from, with prices as they are now."""
    params = query(account=account, promo_code=promo_code)
    return Call("GET", f"api/users/{segment(owner)}/options", one_of(models.Options), params=params)


def quote(request: models.QuoteRequest, key: str | None = None) -> Call[models.Quote]:
    """What a request would cost."""
    return post_call("api/quotes", request, models.Quote, key)


def start_plan(request: models.StartPlanRequest, key: str | None = None) -> Call[models.StartPlan]:
    """When a request costs least."""
    return post_call("api/start-plans", request, models.StartPlan, key)


# ---------------------------------------------------------------- jobs


def submit(request: models.JobSubmit, key: str | None = None) -> Call[models.Job]:
    """Submit a job whose input files are already there."""
    return post_call("api/jobs", request, models.Job, key)


def jobs(
    state: Literal["active", "all"] = "all",
    limit: int | None = None,
    owner: str | None = None,
    account: str | None = None,
    *,
    array: str | None = None,
    of_arrays: Literal["all", "one"] | None = None,
) -> Call[list[models.Job]]:
    """Jobs, newest first; ``owner`` and ``account`` are for teachers and administrators.

    Only those of one ``array``, or only the newest ``of_arrays``.
    """
    params = query(state=state, limit=limit, owner=owner, account=account, array=array, of_arrays=of_arrays)
    return Call("GET", "api/jobs", many_of(models.Job), params=params)


def job(job_id: str, wait_seconds: int | None = None, state: str | None = None) -> Call[models.Job]:
    """A job; with ``wait_seconds`` and ``state`` answered once its state differs, or after that time."""
    return _long_poll(f"api/jobs/{segment(job_id)}", models.Job, wait_seconds, state)


def cancel(job_id: str, key: str | None = None) -> Call[models.Job]:
    """Cancel a job."""
    return post_call(f"api/jobs/{segment(job_id)}/cancel", None, models.Job, key)


def log(
    job_id: str, offset: int = 0, limit_bytes: int = LOG_PART_BYTES, wait_seconds: int | None = None
) -> Call[LogPart]:
    """A piece of a job's log; with ``wait_seconds`` answered once there is one, the job has ended, or after that."""
    wait = None if wait_seconds is None else min(LONG_POLL_SECONDS, max(0, wait_seconds))

    def parse(received: Received) -> LogPart:
        size = int(received.headers.get("x-log-size", offset + len(received.content)))
        return LogPart(offset, received.content, size, models.JobState(received.headers["x-job-state"]))

    params = query(offset=offset, limit_bytes=limit_bytes, wait_seconds=wait)
    path, seconds = f"api/jobs/{segment(job_id)}/log", ANSWER_SECONDS + (wait or 0)
    return Call("GET", path, parse, params=params, timeout_seconds=seconds)


def metrics(job_id: str) -> Call[list[models.Metric]]:
    """The figures a job reports."""
    return Call("GET", f"api/jobs/{segment(job_id)}/metrics", many_of(models.Metric))


def run(job_id: str) -> Call[models.Run]:
    """A job with the use of its GPUs, its figures and attempts."""
    return Call("GET", f"api/jobs/{segment(job_id)}/run", one_of(models.Run))


def files(job_id: str) -> Call[list[models.JobFile]]:
    """What a job left behind."""
    return Call("GET", f"api/jobs/{segment(job_id)}/files", many_of(models.JobFile))


def file(job_id: str, path: str) -> Call[bytes]:
    """The bytes of one file a job left behind."""
    return Call("GET", f"api/jobs/{segment(job_id)}/files/{file_path(path)}", lambda received: received.content)


def has_blob(sha256: str) -> Call[bool]:
    """Whether the service already holds these bytes."""
    accept = frozenset({200, 204, 404})
    return Call("HEAD", f"api/blobs/{segment(sha256)}", lambda received: received.status != 404, accept=accept)


def put_blob(sha256: str, body: bytes | Path) -> Call[None]:
    """Upload an input's bytes under their hash."""
    headers = (("Content-Type", "application/octet-stream"),)
    return Call("PUT", f"api/blobs/{segment(sha256)}", nothing, headers=headers, body=body, timeout_seconds=600)


# ---------------------------------------------------------------- leases


def leases() -> Call[list[models.Lease]]:
    """The caller's live leases."""
    return Call("GET", "api/leases", many_of(models.Lease))


def request_lease(owner: str, request: models.LeaseRequest, key: str | None = None) -> Call[models.Lease]:
    """Request GPUs for a server of ``owner`` (spawner's token only)."""
    return post_call(f"api/users/{segment(owner)}/leases", request, models.Lease, key)


def lease(lease_id: str, wait_seconds: int | None = None, state: str | None = None) -> Call[models.Lease]:
    """A lease; long-polls like :func:`job`, and also answers when queue place or explanation change."""
    return _long_poll(f"api/leases/{segment(lease_id)}", models.Lease, wait_seconds, state)


def lease_started(lease_id: str, pid: int | None = None, key: str | None = None) -> Call[models.Lease]:
    """Evidence that a lease's workload runs (spawner's token only; the spawner repeats it until it is taken)."""
    call = post_call(f"api/leases/{segment(lease_id)}/started", models.LeaseStarted(pid=pid), models.Lease, key)
    return replace(call, repeats=False)


def release_lease(lease_id: str, key: str | None = None) -> Call[models.Lease]:
    """Give a lease back (spawner's token only; the spawner repeats it until it is taken)."""
    return replace(post_call(f"api/leases/{segment(lease_id)}/release", None, models.Lease, key), repeats=False)


def receipt(lease_id: str) -> Call[models.Receipt]:
    """All charge lines of a lease or job."""
    return Call("GET", f"api/leases/{segment(lease_id)}/receipt", one_of(models.Receipt))


def written_receipt(lease_id: str, format: Written) -> Call[str]:
    """A receipt as text, as a page, or as a table for a spreadsheet."""
    path = f"api/leases/{segment(lease_id)}/receipt"
    return Call("GET", path, lambda received: received.content.decode(), params=query(format=format))


def why(lease_id: str) -> Call[models.Why]:
    """Why a lease or job is where it is."""
    return Call("GET", f"api/leases/{segment(lease_id)}/why", one_of(models.Why))


def notices(after: int | None = None, limit: int | None = None) -> Call[list[models.Notice]]:
    """News for the caller after the notice with that id, oldest first; the latest ``limit`` of them."""
    return Call("GET", "api/notices", many_of(models.Notice), params=query(after=after, limit=limit))
