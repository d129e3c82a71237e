"""Priced intervals: cut at every edge, held before they happen, charged as they happen.

The rounding rule, applied once per line: an amount is rounded *down* to a whole micro-unit, the doubt in the
customer's favour. A line that is charged in parts charges each part rounded down and leaves the rest of its amount
with the remainder, so parts always add up to exactly the line, and a line to at most n·p·t.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from fastgpu_hub.pricing import promotions as promo
from fastgpu_hub.pricing import windows
from fastgpu_hub.pricing.money import hourly_amount_micros
from fastgpu_hub.pricing.pricebook import PriceBook, PriceVersion
from fastgpu_hub.pricing.promotions import NOTHING, Customer, Promotion, Standing
from fastgpu_hub.pricing.quotas import Quota, applicable, window_edges
from fastgpu_hub.pricing.terms import Allowances, Part, Terms, terms_of

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
    stacked_promotion_id: int | None = None

    @property
    def quantity(self) -> int:
        """GPU-milliseconds, milliseconds, or 1 for a start."""
        if self.unit == START:
            return 1
        return (self.until_ms - self.from_ms) * (self.gpu_count if self.unit == GPU_HOUR else 1)

    @property
    def saved_micros(self) -> int:
        """What promotions take off, in micro-units: the difference of the rates over the time, rounded down.

        Counted from the rates rather than from the amount, so that the parts of a line, however it is split and
        whatever of it is given up, never save more than the whole line; budgets rely on it.
        """
        return self.priced_at(max(0, self.list_rate_micros - self.rate_micros))

    def priced_at(self, rate_micros: int) -> int:
        """What the whole line costs at that rate per unit, in micro-units, rounded down."""
        return rate_micros if self.unit == START else hourly_amount_micros(1, rate_micros, self.quantity)


def check_interval(gpu_count: int, from_ms: int, until_ms: int) -> None:
    """Raises ValueError for what cannot be priced; see :func:`price_interval`."""
    if gpu_count < 1:
        raise ValueError("a price is for at least one GPU")
    if not 0 <= from_ms <= until_ms <= _LATEST_MS:
        raise ValueError("an interval lies between the years 1970 and 9000 and ends no sooner than it begins")
    if until_ms - from_ms > windows.MAX_SPAN_MS:
        raise ValueError("an interval must not be longer than 400 days")


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
    standings: Mapping[int, Standing] | None = None,
    cuts: Iterable[int] = (),
    starts: bool = True,
) -> tuple[Line, ...]:
    """Price ``[from_ms, until_ms)``: lines cut at every price and quota-window edge, at ``cuts``, and where promotions
    change what applies; ascending.

    ``standings`` tells, by family, how promotions stand for the customer. A promotion with a budget or free GPU time
    ends at the exact millisecond at which that is used up, and the next best applies from there. There is always a
    ``gpu_hour`` line (quotas count its time even where it is free), a ``task_hour`` line wherever that has a list
    price, and one ``start`` line if ``starts`` and starting has one. Raises NoPrice when the type has no price
    somewhere in the interval; ValueError for a count below 1, an interval that is reversed, longer than 400 days, or
    outside the years 1970 to 8999.
    """
    check_interval(gpu_count, from_ms, until_ms)
    standings = standings or {}
    eligible = [
        promotion
        for promotion in promotions
        if promo.hindrance(promotion, customer, standings.get(promotion.family, NOTHING), gpu_type) is None
    ]
    allowances = Allowances.left(eligible, standings)

    def terms_at(at_ms: int, *, start: bool = False) -> Terms:
        version = version_at(book, gpu_type, at_ms)
        usable = [
            promotion
            for promotion in eligible
            if promo.active_at(promotion, at_ms)
            and not allowances.is_over(promotion)
            and not (start and not allowances.covers_start(promotion, version.rate))
        ]
        return terms_of(version, promo.stacked(usable, version.rate, gpu_count), gpu_count)

    lines: list[Line] = []
    if starts:
        terms = terms_at(from_ms, start=True)
        allowances.spend_start(terms)
        lines += start_lines(terms, from_ms)
    hard = {from_ms, until_ms, *book.edges(gpu_type, from_ms, until_ms)}
    hard.update(at_ms for at_ms in cuts if from_ms < at_ms < until_ms)
    for quota in applicable(quotas, customer, gpu_type):
        hard.update(window_edges(quota, from_ms, until_ms))
    edges = sorted({at_ms for promotion in eligible for at_ms in promo.edges(promotion, from_ms, until_ms)})
    for at_ms, end_ms in pairwise(sorted(hard)):
        while at_ms < end_ms:
            terms = terms_at(at_ms)
            inside = edges[bisect_right(edges, at_ms) : bisect_left(edges, end_ms)]
            stop_ms = next((edge for edge in inside if terms_at(edge).applied != terms.applied), end_ms)
            lasts_ms = allowances.spend(terms, stop_ms - at_ms)
            lines += time_lines(terms, at_ms, at_ms + lasts_ms)
            at_ms += lasts_ms
    return tuple(lines)


def version_at(book: PriceBook, gpu_type: str, at_ms: int) -> PriceVersion:
    """The price version valid at an instant. Raises NoPrice when there is none."""
    version = book.version_at(gpu_type, at_ms)
    if version is None:
        raise NoPrice(f"{gpu_type} has no price at {windows.when(at_ms, 'UTC')}")
    return version


def time_lines(terms: Terms, from_ms: int, until_ms: int) -> list[Line]:
    """The lines of time under one set of terms; none for no time."""
    if from_ms >= until_ms:
        return []
    lines = [_line(GPU_HOUR, terms, terms.gpu, from_ms, until_ms)]
    if terms.task is not None:
        lines.append(_line(TASK_HOUR, terms, terms.task, from_ms, until_ms))
    return lines


def start_lines(terms: Terms, at_ms: int) -> list[Line]:
    """The line of a start; none where starting has no list price."""
    return [] if terms.start is None else [_line(START, terms, terms.start, at_ms, at_ms)]


def _line(unit: str, terms: Terms, part: Part, from_ms: int, until_ms: int) -> Line:
    count = terms.gpu_count if unit == GPU_HOUR else 1
    return Line(
        unit,
        from_ms,
        until_ms,
        terms.gpu_count,
        part.rate_micros,
        part.list_rate_micros,
        part.rate_micros if unit == START else hourly_amount_micros(count, part.rate_micros, until_ms - from_ms),
        terms.version.id,
        part.promotion_id,
        part.stacked_promotion_id,
    )


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


def follow(
    lines: Iterable[Line], book: PriceBook, promotions_by_id: Mapping[int, Promotion], gpu_type: str, from_ms: int
) -> tuple[Line, ...]:
    """The lines with what lies at or after ``from_ms`` at the list prices of the book; the promotions stay.

    What lies before is unchanged, a crossing line is cut where its price version changes, and lines of the same
    version stay as they are: following twice changes nothing. Promotions apply to the new list price as they do to any;
    one with a budget takes off no more than it did before, and where that is used up the list price applies. Raises
    NoPrice, and KeyError for a promotion that is not in ``promotions_by_id``.
    """
    whole = list(lines)
    tasks = {(line.from_ms, line.until_ms): line for line in whole if line.unit == TASK_HOUR}
    plan: dict[int, tuple[int, list[Line]]] = {}
    money: dict[int, int] = {}
    for position, line in enumerate(whole):
        changes_ms = None if line.unit == TASK_HOUR else _version_changes_ms(line, book, gpu_type, from_ms)
        if changes_ms is None:
            continue
        task = tasks.get((line.from_ms, line.until_ms)) if line.unit == GPU_HOUR else None
        together = [line] if task is None else [line, task]
        plan[position] = (changes_ms, together)
        for part in together:
            promotion = promotions_by_id[part.promotion_id] if part.promotion_id is not None else None
            if promotion is not None and promotion.budget_micros is not None:
                kept = () if part.unit == START else charge([part], changes_ms)[0]
                freed = part.saved_micros - sum(line.saved_micros for line in kept)
                money[promotion.id] = money.get(promotion.id, 0) + freed
    allowances = Allowances(money, {})
    replaced = {id(line) for _, together in plan.values() for line in together}
    result: list[Line] = []
    for position, line in enumerate(whole):
        if position in plan:
            result += _followed(*plan[position], book, promotions_by_id, gpu_type, allowances)
        elif id(line) not in replaced:
            result.append(line)
    return tuple(result)


def _version_changes_ms(line: Line, book: PriceBook, gpu_type: str, from_ms: int) -> int | None:
    begin_ms = max(from_ms, line.from_ms)
    if line.until_ms < begin_ms or (line.until_ms == begin_ms and line.unit != START):
        return None
    instants = [begin_ms, *book.edges(gpu_type, begin_ms, line.until_ms)]
    return next((at_ms for at_ms in instants if version_at(book, gpu_type, at_ms).id != line.price_id), None)


def _followed(
    changes_ms: int,
    together: list[Line],
    book: PriceBook,
    promotions_by_id: Mapping[int, Promotion],
    gpu_type: str,
    allowances: Allowances,
) -> list[Line]:
    ids = {number for line in together for number in (line.promotion_id, line.stacked_promotion_id)} - {None}
    # What stacks comes second, whichever line names it.
    promotions = sorted((promotions_by_id[number] for number in ids if number), key=lambda p: p.stacks)

    def terms_at(at_ms: int) -> Terms:
        usable = tuple(promotion for promotion in promotions if not allowances.is_over(promotion))
        return terms_of(version_at(book, gpu_type, at_ms), usable, line.gpu_count, granted=True)

    line = together[0]
    if line.unit == START:
        listed = version_at(book, gpu_type, changes_ms).rate
        promotions = [promotion for promotion in promotions if allowances.covers_start(promotion, listed)]
        terms = terms_at(changes_ms)
        allowances.spend_start(terms)
        return start_lines(terms, changes_ms)
    result, _ = charge(together, changes_ms)
    lines = list(result)
    edges = [changes_ms, *book.edges(gpu_type, changes_ms, line.until_ms), line.until_ms]
    for at_ms, end_ms in pairwise(edges):
        while at_ms < end_ms:
            terms = terms_at(at_ms)
            lasts_ms = allowances.spend(terms, end_ms - at_ms)
            lines += time_lines(terms, at_ms, at_ms + lasts_ms)
            at_ms += lasts_ms
    return lines


def total_micros(lines: Iterable[Line]) -> int:
    """What the lines cost together, in micro-units."""
    return sum(line.amount_micros for line in lines)


def list_micros(lines: Iterable[Line]) -> int:
    """What the lines would cost without promotions, in micro-units: what they cost and what promotions take off."""
    return sum(line.amount_micros + line.saved_micros for line in lines)


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
