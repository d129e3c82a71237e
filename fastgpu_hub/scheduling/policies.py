"""In which order the queue is served, and who may go ahead meanwhile. A policy is a score, and a few choices.

The lowest score is served first. Scores are made of the request's instant plus a length, so that everybody's turn comes
nearer by waiting: who was asked for long enough ago is before whatever is asked for now.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

HOUR_MS = 3_600_000
LENGTH_FACTOR = 30.0
SHARE_FACTOR = 3.0
PATIENCE_FACTOR = 30.0
LEAST_PATIENCE_MS = 12 * HOUR_MS
MOST_PATIENCE_MS = 48 * HOUR_MS
LONGEST_MS = 14 * 24 * HOUR_MS


@dataclass(frozen=True, slots=True)
class Want:
    """A request as the scheduler sees it.

    ``limits`` are the concurrent-GPU limits it falls under, as ``(key, limit)``: requests that share a key may together
    hold at most ``limit`` GPUs. ``duration_ms`` is the time limit, None for an open-ended server. ``account`` pays;
    ``similar`` names what is run, ``batch`` the sweep it is part of (both only to predict its run time).
    ``expected_ms`` is a run time that is known, which no prediction replaces. A ``spot`` request may be interrupted.
    """

    id: str
    owner: str
    gpu_type: str
    gpu_count: int
    requested_ms: int
    limits: tuple[tuple[str, int], ...] = ()
    duration_ms: int | None = None
    account: str = ""
    kind: Literal["job", "server"] = "job"
    similar: str = ""
    batch: str = ""
    priority: int = 0
    spot: bool = False
    expected_ms: int | None = None


Score = Any
Standing = Any


@dataclass(frozen=True, slots=True)
class Policy:
    """How the queue of a GPU type is served.

    ``score`` of a request, the time it will probably run, and its owner's standing: lower is earlier. ``standing`` says
    what of the owner that is: ``share``, their part (0–1) of recent use of the GPU type; ``use``, recent use of account
    and person; ``turn``, the number of their last grant. ``backfill``: what may start while a request ahead
    does not fit: ``none`` nothing, ``easy`` what does not delay it, ``conservative`` what delays nobody ahead. With
    ``patience`` a request is overtaken freely until it has waited so long, and only then has GPUs kept for it.
    ``times``: whether ends are expected as predicted, or as requested. ``spread``: take the emptiest node, not the
    fullest that fits.
    """

    name: str
    summary: str
    score: Callable[[Want, float, Standing], Score]
    backfill: Literal["none", "easy", "conservative"] = "easy"
    patience: Callable[[float], float] | None = None
    times: Literal["predicted", "requested"] = "predicted"
    standing: Literal["", "share", "use", "turn"] = ""
    spread: bool = False


def fifo(want: Want, likely_ms: float, standing: Standing) -> Score:
    """First come, first served; requests of the same millisecond keep the order in which they arrived."""
    return want.requested_ms


def by_priority(want: Want, likely_ms: float, standing: Standing) -> Score:
    """The highest priority first, then first come, first served."""
    return -want.priority, want.requested_ms


def round_robin(want: Want, likely_ms: float, standing: Standing) -> Score:
    """People take turns: whoever was served longest ago is next."""
    return standing, want.requested_ms


def fair_share(want: Want, likely_ms: float, standing: Standing) -> Score:
    """The account that has had least of its weight, in it the person who has had least."""
    return *standing, want.requested_ms


def shortest(want: Want, likely_ms: float, standing: Standing) -> Score:
    """Short ones first, with aging: a request is before all that come ``LENGTH_FACTOR`` times its length later.

    A predicted length counts up to ``LONGEST_MS``, which bounds how long anybody is overtaken.
    """
    return want.requested_ms + LENGTH_FACTOR * min(likely_ms, LONGEST_MS)


def balanced(want: Want, likely_ms: float, standing: Standing) -> Score:
    """As ``shortest``, but a request counts as longer, up to four times, the more its owner has had of late."""
    length_ms = likely_ms if likely_ms < LONGEST_MS else LONGEST_MS
    return want.requested_ms + LENGTH_FACTOR * length_ms * (1.0 + SHARE_FACTOR * standing)


def patience_ms(likely_ms: float) -> float:
    """How long a request is overtaken before GPUs are kept for it: by its length, between twelve hours and two days."""
    return min(MOST_PATIENCE_MS, max(LEAST_PATIENCE_MS, PATIENCE_FACTOR * likely_ms))


POLICIES = {
    policy.name: policy
    for policy in (
        Policy(
            "default",
            "Short requests of people who have had little go first; who has waited long gets GPUs kept.",
            balanced,
            patience=patience_ms,
            standing="share",
        ),
        Policy("fifo", "First come, first served; nobody overtakes.", fifo, backfill="none"),
        Policy("priority", "The highest priority first; nobody overtakes.", by_priority, backfill="none"),
        Policy("round-robin", "People take turns.", round_robin, standing="turn"),
        Policy("fair-share", "Who has had least, by class and by person, goes first.", fair_share, standing="use"),
        Policy("shortest", "The shortest by prediction first, with aging.", shortest, patience=patience_ms),
        Policy(
            "easy",
            "First come, first served; others go ahead if that does not delay the first, by requested times.",
            fifo,
            times="requested",
        ),
        Policy("easy-predicted", "As easy, by predicted times.", fifo),
        Policy(
            "conservative",
            "First come, first served; others go ahead if that delays nobody before them, by predicted times.",
            fifo,
            backfill="conservative",
        ),
        Policy(
            "load-balance",
            "As default, but requests are spread over nodes instead of packed.",
            balanced,
            patience=patience_ms,
            standing="share",
            spread=True,
        ),
    )
}


def policy_of(name: str) -> Policy:
    """A policy by its name. Raises ValueError naming those there are."""
    if name not in POLICIES:
        raise ValueError(f"there is no scheduling policy {name!r}; there are: {', '.join(POLICIES)}")
    return POLICIES[name]
