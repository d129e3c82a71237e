"""The one structured explanation every decision carries."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Explained:
    """Why something is as it is: a stable code, one sentence with its numbers, when it changes, what to do instead.

    ``frees_at_ms`` is the instant at which the answer changes by itself, None when it does not.
    """

    code: str
    message: str
    numbers: dict[str, int | str] = field(default_factory=dict)
    frees_at_ms: int | None = None
    instead: str = ""


@dataclass(frozen=True, slots=True)
class Refused(Explained):
    """A refusal as a value: mapped once to a SpawnException, once to an HTTP answer, once to a UsageError."""
