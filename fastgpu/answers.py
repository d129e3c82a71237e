"""Reading answers: the model a call asked for, the error it got instead, and whether to try once more.

Pure, like ``requests``: the same for the synchronous and the asynchronous sender.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from fastgpu.errors import (
    Conflict,
    FastGPUError,
    InvalidRequest,
    NotAllowed,
    NotFound,
    NotSignedIn,
    QuotaError,
    Removed,
    Unavailable,
)
from fastgpu.formatting import format_duration, format_instant, one_line
from fastgpu.models import ErrorAnswer, Explanation
from fastgpu.requests import Call, Received

T = TypeVar("T")

MAX_RETRIES = 4
FIRST_BACK_OFF_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 20.0
TEMPORARY = frozenset({502, 503, 504})


def read(call: Call[T], received: Received, url: str) -> T:
    """The answer of a call. Raises the matching FastGPUError when it was refused or cannot be understood."""
    if received.status not in call.accept:
        raise error_of(received, url)
    try:
        return call.parse(received)
    except (ValidationError, ValueError, KeyError) as error:
        raise _not_a_service(received, url) from error


def retry_delay(attempt: int, received: Received | None, jitter: float) -> float | None:
    """Seconds to wait before sending again, or None to give up.

    ``attempt`` counts from 0, ``received`` is None when the connection failed, ``jitter`` (0–1) spreads clients apart.
    A Retry-After is kept to; one longer than people wait for is reported instead of slept through.
    """
    if attempt >= MAX_RETRIES or (received is not None and received.status not in TEMPORARY):
        return None
    wait = FIRST_BACK_OFF_SECONDS * 2**attempt * (1 + jitter / 2)
    if received is not None and (asked := _retry_after(received)) is not None:
        wait = max(wait, asked)
    return wait if wait <= LONGEST_WAIT_SECONDS else None


def error_of(received: Received, url: str) -> FastGPUError:
    """The error that a non-2xx answer stands for, with the service's explanation and request id where it gave them."""
    answer = _error_answer(received)
    if answer is None:
        return _plain_error(received, url)
    explanation = answer.error
    return _kind(received.status, explanation.code)(
        one_line(explanation.message),
        code=explanation.code,
        hint=_hint(explanation),
        explanation=explanation,
        request_id=answer.request_id or received.headers.get("x-request-id", ""),
    )


def unreachable(url: str, reason: str) -> Unavailable:
    """No answer at all: wrong address, service down, network cut."""
    return Unavailable(
        f"The FastGPU service at {url} does not answer ({one_line(reason) or 'no connection'}).",
        hint="Nothing was charged. Check FASTGPU_URL and the network, then try again; if it persists, tell your admin.",
    )


def _error_answer(received: Received) -> ErrorAnswer | None:
    try:
        return ErrorAnswer.model_validate_json(received.content)
    except ValidationError:
        return None


def _hint(explanation: Explanation) -> str:
    frees = "" if explanation.frees_at is None else f"Frees up {format_instant(explanation.frees_at)}."
    return " ".join(part for part in (frees, one_line(explanation.instead)) if part)


def _kind(status: int, code: str) -> type[FastGPUError]:
    if status == 403:
        money_or_quota = code in ("credit", "max_cost") or code.startswith("quota")
        return QuotaError if money_or_quota else NotAllowed
    by_status: dict[int, type[FastGPUError]] = {
        400: InvalidRequest,
        401: NotSignedIn,
        404: NotFound,
        409: Conflict,
        410: Removed,
        413: InvalidRequest,
        422: InvalidRequest,
    }
    if status in by_status:
        return by_status[status]
    return Unavailable if status in TEMPORARY else FastGPUError


def _plain_error(received: Received, url: str) -> FastGPUError:
    """An answer that is not the service's own: a proxy's page, a redirect to a login, a HEAD without a body."""
    status, request_id = received.status, received.headers.get("x-request-id", "")
    if status == 401:
        return NotSignedIn(
            "FastGPU does not accept this token.",
            hint="Restart your server, or set FASTGPU_TOKEN to a token made on the hub's token page.",
            request_id=request_id,
        )
    if status == 403:
        return NotAllowed("This token may not do that.", request_id=request_id)
    if status in TEMPORARY:
        wait = _retry_after(received)
        when = f"in {format_duration(wait)}" if wait else "in a moment"
        return Unavailable(
            f"The FastGPU service at {url} is not available (HTTP {status}).",
            hint=f"Nothing was charged; try again {when}.",
            request_id=request_id,
        )
    if status >= 500:
        return FastGPUError(
            f"The FastGPU service failed on this call (HTTP {status}).",
            hint="Nothing was charged for it; tell your administrator.",
            request_id=request_id,
        )
    return _not_a_service(received, url)


def _not_a_service(received: Received, url: str) -> Unavailable:
    return Unavailable(
        f"{url} does not answer like a FastGPU service of this version (HTTP {received.status}).",
        hint="Check FASTGPU_URL; it ends in /services/fastgpu.",
        request_id=received.headers.get("x-request-id", ""),
    )


def _retry_after(received: Received) -> float | None:
    text = received.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else None
