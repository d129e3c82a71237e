"""Priced intervals: cut at every edge, held before they happen, charged as they happen.

The rounding rule, applied once per line: an amount is rounded *down* to a whole micro-unit, the doubt in the
customer's favour. A line that is charged in parts charges each part rounded down and leaves the rest of its amount
with the remainder, so parts always add up to exactly the line, and a line to at most n·p·t.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from fastgpu_hub.pricing import promotions as promo
from fastgpu_hub.pricing import windows
from fastgpu_hub.pricing.money import hourly_amount_micros
from fastgpu_hub.pricing.pricebook import PriceBook, PriceVersion
from fastgpu_hub.pricing.promotions import Customer, Promotion
from fastgpu_hub.pricing.quotas import Quota, applicable

GPU_HOUR = "gpu_hour"
TASK_HOUR = "task_hour"
START = "start"

# 9000-01-01: calendars and offsets are only computed well within the years that datetime knows.
_LATEST_MS = 221_845_392_000_000


class NoPrice(LookupError):
    """The GPU type has no list price at some instant of the interval."""


@dataclass(frozen=True, slots=True)
class Line:
    """One priced interval ``[from_ms, until_ms)`` of one unit: of a quote, of a hold, or charged.

    ``unit`` is ``gpu_hour`` (quantity = GPU-seconds x 1000, i.e. GPU-milliseconds), ``task_hour`` (milliseconds) or
    ``start`` (1, with ``from_ms == until_ms``). ``rate_micros`` is what is charged per unit (promotion applied),
    ``list_rate_micros`` the list price. ``amount_micros`` is rounded down once per line; the remainder of a line
    charged in parts keeps exactly what is left of it. ``gpu_count`` multiplies ``gpu_hour`` only.
    """

    unit: str
    from_ms: int
    until_ms: int
    gpu_count: int
    rate_micros: int
    list_rate_micros: int
    amount_micros: int
    price_id: int
    promotion_id: int | None = None

    @property
    def quantity(self) -> int:
        """GPU-milliseconds, milliseconds, or 1 for a start."""
        if self.unit == START:
            return 1
        return (self.until_ms - self.from_ms) * (self.gpu_count if self.unit == GPU_HOUR else 1)

    def priced_at(self, rate_micros: int) -> int:
        """What the whole line costs at that rate per unit, in micro-units, rounded down."""
        return rate_micros if self.unit == START else hourly_amount_micros(1, rate_micros, self.quantity)


def price_interval(
    book: PriceBook,
    promotions: Iterable[Promotion],
    quotas: Iterable[Quota],
    customer: Customer,
    gpu_type: str,
    gpu_count: int,
    from_ms: int,
    until_ms: int,
    *,
    promo_code: str | None = None,
    starts: bool = True,
) -> tuple[Line, ...]:
    """Price ``[from_ms, until_ms)``: lines cut at every price, promotion and quota-window edge, ascending.

    There is always a ``gpu_hour`` line (quotas count its time even where it is free), a ``task_hour`` line wherever
    that has a list price, and one ``start`` line if ``starts`` and starting has one. Raises NoPrice when the type has
    no price somewhere in the interval; ValueError for a count below 1, an interval that is reversed, longer than 400
    days, or outside the years 1970 to 8999.
    """
    if gpu_count < 1:
        raise ValueError("a price is for at least one GPU")
    if not 0 <= from_ms <= until_ms <= _LATEST_MS:
        raise ValueError("an interval lies between the years 1970 and 9000 and ends no sooner than it begins")
    if until_ms - from_ms > windows.MAX_SPAN_MS:
        raise ValueError("an interval must not be longer than 400 days")
    eligible = [
        promotion
        for promotion in promotions
        if promo.why_not(promotion, customer, gpu_type=gpu_type, promo_code=promo_code) is None
    ]
    lines: list[Line] = []
    if starts:
        version, winner = _terms(book, eligible, gpu_type, gpu_count, from_ms)
        lines += _lines(version, winner, (START,), gpu_count, from_ms, from_ms)
    cuts = {from_ms, until_ms, *book.edges(gpu_type, from_ms, until_ms)}
    for promotion in eligible:
        cuts.update(promo.edges(promotion, from_ms, until_ms))
    for quota in applicable(quotas, customer, gpu_type):
        cuts.update(windows.calendar_edges(quota.window, quota.time_zone, from_ms, until_ms))
    for begin_ms, end_ms in pairwise(sorted(cuts)):
        version, winner = _terms(book, eligible, gpu_type, gpu_count, begin_ms)
        lines += _lines(version, winner, (GPU_HOUR, TASK_HOUR), gpu_count, begin_ms, end_ms)
    return tuple(lines)


def _terms(
    book: PriceBook, eligible: Sequence[Promotion], gpu_type: str, gpu_count: int, at_ms: int
) -> tuple[PriceVersion, Promotion | None]:
    version = book.version_at(gpu_type, at_ms)
    if version is None:
        raise NoPrice(f"{gpu_type} has no price at {windows.when(at_ms, 'UTC')}")
    open_now = (promotion for promotion in eligible if promo.active_at(promotion, at_ms))
    return version, promo.best(open_now, version.rate, gpu_count)


def _lines(
    version: PriceVersion, winner: Promotion | None, units: tuple[str, ...], gpu_count: int, from_ms: int, until_ms: int
) -> list[Line]:
    listed = version.rate
    rate = listed if winner is None else promo.discounted(winner, listed)
    rates = {
        GPU_HOUR: (rate.per_gpu_hour_micros, listed.per_gpu_hour_micros),
        TASK_HOUR: (rate.per_task_hour_micros, listed.per_task_hour_micros),
        START: (rate.per_start_micros, listed.per_start_micros),
    }
    lines = []
    for unit in units:
        charged, list_rate = rates[unit]
        if unit != GPU_HOUR and list_rate == 0:
            continue
        promotion_id = winner.id if winner is not None and charged < list_rate else None
        line = Line(unit, from_ms, until_ms, gpu_count, charged, list_rate, 0, version.id, promotion_id)
        lines.append(replace(line, amount_micros=line.priced_at(charged)))
    return lines


def charge(lines: Iterable[Line], until_ms: int) -> tuple[tuple[Line, ...], tuple[Line, ...]]:
    """Split lines at ``until_ms`` into what is charged and what remains; their amounts add up exactly to the whole.

    A start is charged from its instant on. The charged part of a crossing line is rounded down.
    """
    charged: list[Line] = []
    remaining: list[Line] = []
    for line in lines:
        if line.until_ms <= until_ms:
            charged.append(line)
        elif line.from_ms >= until_ms:
            remaining.append(line)
        else:
            part = replace(line, until_ms=until_ms)
            part = replace(part, amount_micros=part.priced_at(part.rate_micros))
            charged.append(part)
            remaining.append(replace(line, from_ms=until_ms, amount_micros=line.amount_micros - part.amount_micros))
    return tuple(charged), tuple(remaining)


def skip(lines: Iterable[Line], before_ms: int) -> tuple[Line, ...]:
    """What lies at or after ``before_ms``; the rest is dropped and never charged.

    A start stays as it is, for it is due when the workload starts, however long that takes. The remainder of a
    crossing line is priced anew and rounded down.
    """
    kept: list[Line] = []
    for line in lines:
        if line.unit == START or line.from_ms >= before_ms:
            kept.append(line)
        elif line.until_ms > before_ms:
            rest = replace(line, from_ms=before_ms)
            kept.append(replace(rest, amount_micros=rest.priced_at(rest.rate_micros)))
    return tuple(kept)


def total_micros(lines: Iterable[Line]) -> int:
    """What the lines cost together, in micro-units."""
    return sum(line.amount_micros for line in lines)


def list_micros(lines: Iterable[Line]) -> int:
    """What the lines would cost at list price, in micro-units; never less than what they cost."""
    return sum(max(line.amount_micros, line.priced_at(line.list_rate_micros)) for line in lines)


def gpu_ms(lines: Iterable[Line]) -> int:
    """GPU time of the lines, in GPU-milliseconds."""
    return sum(line.quantity for line in lines if line.unit == GPU_HOUR)


def next_edge_ms(lines: Iterable[Line]) -> int | None:
    """The instant at which the first line is complete and due; None when there are no lines."""
    return min((line.until_ms for line in lines), default=None)


def hourly_rate_micros(lines: Iterable[Line], at_ms: int) -> int:
    """What an hour costs at the rates that run at ``at_ms``, in micro-units, without starts."""
    return sum(
        line.rate_micros * (line.gpu_count if line.unit == GPU_HOUR else 1)
        for line in lines
        if line.from_ms <= at_ms < line.until_ms
    )


def utilisation_permille(used_ms: int, available_ms: int) -> int:
    """Use U = time used / time available in thousandths, rounded down: 15 h of 24 h are 625 (62.5 %).

    Both are GPU-milliseconds (or both milliseconds). Raises ValueError when ``available_ms`` is not positive, or
    ``used_ms`` is negative or more than that.
    """
    if available_ms <= 0 or not 0 <= used_ms <= available_ms:
        raise ValueError("time used lies between 0 and the time available, which is more than 0")
    return used_ms * 1000 // available_ms
