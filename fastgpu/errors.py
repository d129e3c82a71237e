"""One error tree for SDK, CLI and magics: every error carries a code, a message and a hint.

The service answers a refusal with an :class:`~fastgpu.models.Explanation`; the client turns it into the
matching class below, so callers catch by kind (``except QuotaError``) and people read one sentence.
"""

from __future__ import annotations

from fastgpu.models import Explanation


class FastGPUError(Exception):
    """Base of every error this package raises.

    Attributes: ``code`` (stable, machine-readable), ``message`` (one sentence), ``hint`` (what to do instead, may be
    empty), ``explanation`` (the service's whole answer, if it gave one), ``request_id`` (for the administrator's log).
    """

    code = "error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        hint: str = "",
        explanation: Explanation | None = None,
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.hint = hint
        self.explanation = explanation
        self.request_id = request_id

    def __str__(self) -> str:
        """One line: what is wrong, what to do instead, the code, the request id."""
        parts = [self.message]
        if self.hint:
            parts.append(self.hint)
        tail = f"[{self.code}]" if not self.request_id else f"[{self.code}, request {self.request_id}]"
        return " ".join([*parts, tail])


class InvalidRequest(FastGPUError):
    """The request itself is wrong: a bad number, an unknown GPU type, a malformed time."""

    code = "invalid_request"


class NotSignedIn(FastGPUError):
    """No token, or one the service does not accept (expired, revoked)."""

    code = "not_signed_in"


class NotAllowed(FastGPUError):
    """The token is good but may not do this."""

    code = "not_allowed"


class NotFound(FastGPUError):
    """There is no such thing, or it belongs to somebody else (both look the same on purpose)."""

    code = "not_found"


class Removed(FastGPUError):
    """It was there and is not any more: files go some time after their job, or when somebody deletes them."""

    code = "removed"


class QuotaError(FastGPUError):
    """Refused by a quota or for lack of credit; ``explanation`` says used, reserved, left and when it frees up."""

    code = "quota"


class Conflict(FastGPUError):
    """The request contradicts what already is: same idempotency key with another body, a job already ended."""

    code = "conflict"


class Unavailable(FastGPUError):
    """The service cannot answer right now; nothing was charged, the same call may be repeated."""

    code = "unavailable"


class JobFailed(FastGPUError):
    """Raised by ``job.result()`` and ``%%fastgpu run`` when the job did not succeed."""

    code = "job_failed"
