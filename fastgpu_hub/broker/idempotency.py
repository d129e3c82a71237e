"""Idempotent POSTs: the key is claimed in the same transaction as the effect, and a repeat gets the first answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from fastgpu_hub.broker.ports.records import IdempotencyKey
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.pricing.explain import Refused

M = TypeVar("M", bound=BaseModel)
KEEP_MS = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class IdempotencyClaim:
    """A caller's key for one POST: the route it was sent to, the SHA-256 of its body, the status of a success."""

    key: str
    route: str
    body_sha256: str
    status: int = 200


class Refusal(Exception):
    """Carries a Refused out of a transaction, so that everything the use case wrote is rolled back."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused


def once(
    uow: UnitOfWork, actor: str, claim: IdempotencyClaim | None, now_ms: int, model: type[M], effect: Callable[[], M]
) -> M:
    """Run ``effect`` unless this key already did; then return the first answer.

    Raises Refusal (``idempotency_mismatch``) when the key was used for another route or body. A refused effect claims
    no key: the same request may succeed later.
    """
    if claim is None:
        return effect()
    known = uow.idempotency_key(actor, claim.key)
    if known is not None:
        if (known.route, known.body_sha256) != (claim.route, claim.body_sha256):
            raise Refusal(
                Refused(
                    "idempotency_mismatch",
                    f"The idempotency key {claim.key!r} was already used for a different request.",
                    instead="Send a fresh key with each new request.",
                )
            )
        return model.model_validate_json(known.answer)
    answer = effect()
    uow.add_idempotency_key(
        IdempotencyKey(actor, claim.key, claim.route, claim.body_sha256, now_ms, claim.status, answer.model_dump_json())
    )
    return answer
