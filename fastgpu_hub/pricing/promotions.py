"""Time-limited or conditional price changes, who may have them, and which one wins.

Promotions do not add up: at every instant the one that makes the request cheapest applies, or none.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from fastgpu_hub.pricing import windows
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.pricebook import Rate
from fastgpu_hub.pricing.windows import WeeklyWindow

MAX_WEEKLY_OPENINGS = 50


@dataclass(frozen=True, slots=True)
class Promotion:
    """A price change: window, audience, code. Exactly one of ``percent_off`` and ``fixed_per_gpu_hour_micros`` is set.

    An empty ``gpu_types`` means all types, an empty ``audience`` everyone; audience entries are account ids
    (``class:cs101``, ``person:alice``). Active in ``[starts_ms, ends_ms)`` and, if ``weekly`` is not empty, only
    within one of its windows in ``time_zone``. Raises ValueError for a price change that is neither or both, a
    percentage outside 1-100, a negative price, an unknown time zone, or more than 50 openings a week.
    """

    id: int
    name: str
    starts_ms: int
    ends_ms: int
    percent_off: int | None = None
    fixed_per_gpu_hour_micros: int | None = None
    gpu_types: tuple[str, ...] = ()
    audience: tuple[str, ...] = ()
    code: str | None = None
    weekly: tuple[WeeklyWindow, ...] = ()
    time_zone: str = "UTC"
    created_by: str = ""

    def __post_init__(self) -> None:
        if (self.percent_off is None) == (self.fixed_per_gpu_hour_micros is None):
            raise ValueError("a promotion gives either a percentage off or a fixed price per GPU-hour")
        if self.percent_off is not None and not 1 <= self.percent_off <= 100:
            raise ValueError("a promotion takes 1 to 100 percent off")
        if self.fixed_per_gpu_hour_micros is not None and self.fixed_per_gpu_hour_micros < 0:
            raise ValueError("a promotion's price must not be negative")
        # Every opening is two edges a week in every hold: a bound keeps pricing quick and receipts readable.
        if sum(len(window.days) for window in self.weekly) > MAX_WEEKLY_OPENINGS:
            raise ValueError(f"a promotion opens at most {MAX_WEEKLY_OPENINGS} times a week")
        windows.zone(self.time_zone)


@dataclass(frozen=True, slots=True)
class Customer:
    """Who asks and who pays: the person, the account charged, the person's classes."""

    owner: str
    account: str
    classes: tuple[str, ...] = ()

    @property
    def audiences(self) -> frozenset[str]:
        """Every audience entry that names this customer: the person, each class, the account that pays."""
        return frozenset((self.account, f"person:{self.owner}", *(f"class:{name}" for name in self.classes)))


def active_at(promotion: Promotion, at_ms: int) -> bool:
    """Whether the promotion's windows are open at ``at_ms``, whoever asks."""
    return windows.active(promotion.starts_ms, promotion.ends_ms, promotion.weekly, promotion.time_zone, at_ms)


def edges(promotion: Promotion, from_ms: int, until_ms: int) -> list[int]:
    """Instants strictly inside ``(from_ms, until_ms)`` at which the promotion begins or ceases to be active."""
    return windows.edges(
        promotion.starts_ms, promotion.ends_ms, promotion.weekly, promotion.time_zone, from_ms, until_ms
    )


def next_change(promotion: Promotion, at_ms: int) -> int | None:
    """The first instant after ``at_ms`` at which the promotion begins or ceases to be active; None if never again."""
    return windows.next_change(promotion.starts_ms, promotion.ends_ms, promotion.weekly, promotion.time_zone, at_ms)


def why_not(
    promotion: Promotion,
    customer: Customer,
    *,
    gpu_type: str | None = None,
    promo_code: str | None = None,
    at_ms: int | None = None,
) -> Refused | None:
    """Why this customer does not get the promotion; None when they do.

    Without a ``gpu_type`` or an ``at_ms`` that condition is not looked at. What can never change is said before what
    waiting or a code would change.
    """
    name = promotion.name
    if at_ms is not None and at_ms >= promotion.ends_ms:
        ended = windows.when(promotion.ends_ms, promotion.time_zone)
        return Refused("promo_ended", f"“{name}” ended on {ended}.", {"ended_ms": promotion.ends_ms})
    if gpu_type is not None and promotion.gpu_types and gpu_type not in promotion.gpu_types:
        types = ", ".join(promotion.gpu_types)
        return Refused(
            "promo_wrong_gpu",
            f"“{name}” is for {types}, not for {gpu_type}.",
            {"gpu_type": gpu_type, "gpu_types": types},
            instead=f"Ask for {' or '.join(promotion.gpu_types)}.",
        )
    if promotion.audience and customer.audiences.isdisjoint(promotion.audience):
        return Refused(
            "promo_audience",
            f"“{name}” is for certain classes and people; {customer.owner} charging {customer.account} is not one.",
            {"owner": customer.owner, "account": customer.account},
            instead="If you are in an eligible class, charge its account.",
        )
    return _why_code_fails(promotion, promo_code) or _why_not_now(promotion, at_ms)


def _why_code_fails(promotion: Promotion, promo_code: str | None) -> Refused | None:
    if promotion.code is None:
        return None
    if promo_code is None:
        return Refused(
            "promo_code_needed", f"“{promotion.name}” needs its code.", instead="Give the code with your request."
        )
    # In constant time: how long the answer takes must not tell how much of a guess was right.
    if hmac.compare_digest(_folded(promotion.code), _folded(promo_code)):
        return None
    return Refused(
        "promo_code_wrong",
        f"The code given is not the one of “{promotion.name}”.",
        instead="Check the code's spelling.",
    )


def _folded(code: str) -> bytes:
    return code.casefold().encode("utf-8", "surrogatepass")


def _why_not_now(promotion: Promotion, at_ms: int | None) -> Refused | None:
    if at_ms is None or active_at(promotion, at_ms):
        return None
    if at_ms < promotion.starts_ms:
        opens_ms = promotion.starts_ms
        if promotion.weekly and not active_at(promotion, opens_ms):
            opens_ms = next_change(promotion, opens_ms) or opens_ms
        code, sentence = "promo_not_started", f"“{promotion.name}” has not started; it starts on"
        numbers: dict[str, int | str] = {"starts_ms": promotion.starts_ms}
    else:
        found_ms = next_change(promotion, at_ms)
        if found_ms is None or found_ms >= promotion.ends_ms:
            ends = windows.when(promotion.ends_ms, promotion.time_zone)
            return Refused(
                "promo_outside_hours",
                f"“{promotion.name}” has no more hours before it ends on {ends}.",
                {"ends_ms": promotion.ends_ms},
            )
        opens_ms = found_ms
        code, sentence = "promo_outside_hours", f"“{promotion.name}” is outside its hours; it opens again on"
        numbers = {"opens_ms": opens_ms}
    opens = windows.when(opens_ms, promotion.time_zone)
    return Refused(code, f"{sentence} {opens}.", numbers, opens_ms, f"Start at {opens} or later.")


def discounted(promotion: Promotion, rate: Rate) -> Rate:
    """The rate with the promotion: a percentage off all three parts, each rounded down, or the fixed price.

    A fixed price replaces the price per GPU-hour only where it is lower.
    """
    if promotion.percent_off is None:
        assert promotion.fixed_per_gpu_hour_micros is not None
        per_gpu_hour = min(rate.per_gpu_hour_micros, promotion.fixed_per_gpu_hour_micros)
        return Rate(per_gpu_hour, rate.per_task_hour_micros, rate.per_start_micros)
    keep = 100 - promotion.percent_off
    return Rate(
        rate.per_gpu_hour_micros * keep // 100,
        rate.per_task_hour_micros * keep // 100,
        rate.per_start_micros * keep // 100,
    )


def best(promotions: Iterable[Promotion], rate: Rate, gpu_count: int) -> Promotion | None:
    """The promotion that makes ``gpu_count`` GPUs cheapest per hour, then per start; the oldest of equals, or None.

    None means that no promotion is cheaper than the list price. Which of the promotions apply (audience, code,
    windows) is for the caller to decide before.
    """
    winner: Promotion | None = None
    lowest = (rate.hourly_micros(gpu_count), rate.per_start_micros)
    for promotion in sorted(promotions, key=lambda promotion: promotion.id):
        reduced = discounted(promotion, rate)
        cost = (reduced.hourly_micros(gpu_count), reduced.per_start_micros)
        if cost < lowest:
            winner, lowest = promotion, cost
    return winner
