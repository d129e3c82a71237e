"""Prices read off instead of worked out: a request's timeline of terms with prefix sums, and the rate card behind it.

A rate card knows, for every audience, which promotion is best from when on; a customer's timeline lays the few of their
audiences over each other. It equals :func:`fastgpu_hub.pricing.metering.price_interval` to the micro-unit.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate, chain, pairwise
from typing import NamedTuple

from fastgpu_hub.pricing import calendars, metering
from fastgpu_hub.pricing import promotions as promo
from fastgpu_hub.pricing.calendars import CHUNK_MS
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.pricebook import PriceBook
from fastgpu_hub.pricing.promotions import NEW, NOTHING, Customer, Promotion, Standing
from fastgpu_hub.pricing.quotas import Quota, applicable, window_edges
from fastgpu_hub.pricing.rankings import NONE, Choice, Ranking, Track, overlaid
from fastgpu_hub.pricing.terms import Allowances, Terms

EVERYONE = ""
_NO_STANDINGS: Mapping[int, Standing] = {}


class _Whose(NamedTuple):
    """Keys of tracks: groups by their audience, single promotions by their id. In the order of Choice."""

    plain: list[str | int]
    limited: list[int]
    tops: list[str | int]


class Timeline:
    """The terms of ``[from_ms, until_ms)`` for one customer, in segments; each is one line per unit.

    Reading a price takes two binary searches, however many segments there are. Where an allowance (a budget, free GPU
    time) was spent on the way, prices are only known from ``from_ms`` on.
    """

    def __init__(
        self,
        segments: Sequence[tuple[int, Terms]],
        until_ms: int,
        start: Terms | None,
        *,
        spends_allowance: bool = False,
    ) -> None:
        """``segments``: where each begins, and its terms. ``start`` prices a start at ``from_ms``; None: no start."""
        self.from_ms = segments[0][0]
        self.until_ms = until_ms
        self._begins = [begin_ms for begin_ms, _ in segments]
        self._terms = [terms for _, terms in segments]
        self._start = start
        self._spends_allowance = spends_allowance
        lengths = (end_ms - begin_ms for begin_ms, end_ms in pairwise((*self._begins, until_ms)))
        self._before = list(accumulate(map(Terms.amount_micros, self._terms, lengths), initial=0))

    @property
    def starts_anywhere(self) -> bool:
        """Whether prices are known of intervals that begin later, too."""
        return not self._spends_allowance

    @property
    def edges(self) -> list[int]:
        """Every instant at which a segment begins but the first: where terms change, or lines are cut."""
        return self._begins[1:]

    def cost_micros(self, from_ms: int, until_ms: int) -> int:
        """What the interval costs, to the micro-unit that the sum of its lines has.

        Raises ValueError for an interval that is reversed or not within the timeline's, and for one that begins later
        when an allowance was spent.
        """
        first, last = self._place(from_ms, until_ms)
        begins, terms = self._begins, self._terms
        start = self._start_terms(from_ms, first)
        cost = 0 if start is None or start.start is None else start.start.rate_micros
        if first >= last:
            return cost + terms[first].amount_micros(until_ms - from_ms)
        return (
            cost
            + terms[first].amount_micros(begins[first + 1] - from_ms)
            + self._before[last]
            - self._before[first + 1]
            + terms[last].amount_micros(until_ms - begins[last])
        )

    def lines(self, from_ms: int, until_ms: int) -> tuple[Line, ...]:
        """The interval's lines, as ``price_interval`` gives them. Raises ValueError as :meth:`cost_micros` does."""
        first, last = self._place(from_ms, until_ms)
        start = self._start_terms(from_ms, first)
        lines = [] if start is None else metering.start_lines(start, from_ms)
        begins = (from_ms, *self._begins[first + 1 : last + 1], until_ms)
        for terms, (begin_ms, end_ms) in zip(self._terms[first : last + 1], pairwise(begins), strict=False):
            lines += metering.time_lines(terms, begin_ms, end_ms)
        return tuple(lines)

    def _place(self, from_ms: int, until_ms: int) -> tuple[int, int]:
        if not self.from_ms <= from_ms <= until_ms <= self.until_ms:
            raise ValueError(f"the timeline covers {self.from_ms} to {self.until_ms}, not {from_ms} to {until_ms}")
        if self._spends_allowance and from_ms != self.from_ms:
            raise ValueError(f"with an allowance to spend, prices are known from {self.from_ms} on, not {from_ms}")
        return bisect_right(self._begins, from_ms) - 1, bisect_left(self._begins, until_ms) - 1

    def _start_terms(self, from_ms: int, segment: int) -> Terms | None:
        return self._start if self._start is None or from_ms == self.from_ms else self._terms[segment]


class RateCard:
    """All prices of one state of the rules, prepared so that each costs microseconds. Bounded in memory.

    ``promotions`` are the newest versions; of drafts and credit nobody gets a price. With ``time_zone`` every line is
    also cut at that zone's midnights and changes of clock. Safe to share between threads; make a new one when a price
    or promotion changes.
    """

    def __init__(self, book: PriceBook, promotions: Iterable[Promotion], *, time_zone: str | None = None) -> None:
        self.book = book
        self.time_zone = time_zone
        self._by_id = {p.id: p for p in promotions if p.published and p.credit_micros is None}
        self._groups: dict[str, list[Promotion]] = {}
        self._stacking: dict[str, str] = {}
        self._personal: dict[str, list[Promotion]] = {}
        self._coded: dict[int, list[Promotion]] = {}
        self._newcomers: list[Promotion] = []
        for promotion in self._by_id.values():
            if promotion.needs_code:
                self._coded.setdefault(promotion.family, []).append(promotion)
                continue
            depends = promotion.needs_redemption or promotion.has_allowance
            if NEW in promotion.audience and not depends:
                self._newcomers.append(promotion)
            for entry in set(promotion.audience) or {EVERYONE}:
                key = f"\0{entry}" if promotion.stacks and not depends else entry
                if key != entry:
                    self._stacking[entry] = key
                (self._personal if depends else self._groups).setdefault(key, []).append(promotion)
        self._ranking = lru_cache(maxsize=256)(self._new_ranking)
        self._track = lru_cache(maxsize=4096)(self._new_track)
        self._hours = lru_cache(maxsize=2048)(self._new_hours)

    def quote(
        self,
        customer: Customer,
        gpu_type: str,
        gpu_count: int,
        from_ms: int,
        until_ms: int,
        *,
        quotas: Iterable[Quota] = (),
        standings: Mapping[int, Standing] = _NO_STANDINGS,
        cuts: Iterable[int] = (),
        starts: bool = True,
    ) -> tuple[Line, ...]:
        """The lines that ``price_interval`` gives for the same arguments; raises as it does."""
        metering.check_interval(gpu_count, from_ms, until_ms)
        if from_ms == until_ms and not starts:
            return ()
        found = self._segments(customer, gpu_type, gpu_count, from_ms, until_ms, quotas, standings, cuts, starts)
        segments, start, _ = found
        lines = [] if start is None else metering.start_lines(start, from_ms)
        begin_ms, terms = segments[0]
        for next_ms, following in segments[1:]:
            lines += metering.time_lines(terms, begin_ms, next_ms)
            begin_ms, terms = next_ms, following
        lines += metering.time_lines(terms, begin_ms, until_ms)
        return tuple(lines)

    def cost_micros(
        self,
        customer: Customer,
        gpu_type: str,
        gpu_count: int,
        from_ms: int,
        until_ms: int,
        *,
        quotas: Iterable[Quota] = (),
        standings: Mapping[int, Standing] = _NO_STANDINGS,
        cuts: Iterable[int] = (),
        starts: bool = True,
    ) -> int:
        """What :meth:`quote` adds up to, without its lines; raises as ``price_interval`` does."""
        metering.check_interval(gpu_count, from_ms, until_ms)
        if from_ms == until_ms and not starts:
            return 0
        found = self._segments(customer, gpu_type, gpu_count, from_ms, until_ms, quotas, standings, cuts, starts)
        segments, start, _ = found
        cost = 0 if start is None or start.start is None else start.start.rate_micros
        begin_ms, terms = segments[0]
        for next_ms, following in segments[1:]:
            cost += terms.amount_micros(next_ms - begin_ms)
            begin_ms, terms = next_ms, following
        return cost + terms.amount_micros(until_ms - begin_ms)

    def timeline(
        self,
        customer: Customer,
        gpu_type: str,
        gpu_count: int,
        from_ms: int,
        until_ms: int,
        *,
        quotas: Iterable[Quota] = (),
        standings: Mapping[int, Standing] = _NO_STANDINGS,
        cuts: Iterable[int] = (),
        starts: bool = True,
    ) -> Timeline:
        """For asking many prices of one request, as when the time is sought at which money ends; raises as before."""
        metering.check_interval(gpu_count, from_ms, until_ms)
        segments, start, spends = self._segments(
            customer, gpu_type, gpu_count, from_ms, until_ms, quotas, standings, cuts, starts
        )
        return Timeline(segments, until_ms, start, spends_allowance=spends)

    def edges(
        self,
        customer: Customer,
        gpu_type: str,
        from_ms: int,
        until_ms: int,
        *,
        standings: Mapping[int, Standing] = _NO_STANDINGS,
    ) -> list[int]:
        """Instants strictly inside ``(from_ms, until_ms)`` at which the list price changes or any promotion that the
        customer may have opens or closes, ascending: all that can change prices, whatever is used up on the way."""
        whose = self._whose(customer, gpu_type, standings)
        members = [self._by_id[key] for key in chain(*whose) if isinstance(key, int)]
        members += chain.from_iterable(self._groups[key] for key in chain(*whose) if isinstance(key, str))
        found = set(self.book.edges(gpu_type, from_ms, until_ms))
        for promotion in members:
            for chunk in range(from_ms // CHUNK_MS, until_ms // CHUNK_MS + 1):
                found.update(self._hours(promotion.id, chunk)[1])
                # What opens exactly where a chunk begins is no change within it.
                found.add(chunk * CHUNK_MS)
        return sorted(at_ms for at_ms in found if from_ms < at_ms < until_ms)

    def _segments(
        self,
        customer: Customer,
        gpu_type: str,
        gpu_count: int,
        from_ms: int,
        until_ms: int,
        quotas: Iterable[Quota],
        standings: Mapping[int, Standing],
        cuts: Iterable[int],
        starts: bool,
    ) -> tuple[list[tuple[int, Terms]], Terms | None, bool]:
        """Where terms begin, the terms of a start, and whether an allowance is spent."""
        hard = {at_ms for at_ms in cuts if from_ms < at_ms < until_ms}
        for quota in applicable(quotas, customer, gpu_type):
            hard.update(window_edges(quota, from_ms, until_ms))
        if self.time_zone is not None:
            hard.update(calendars.site_cuts(self.time_zone, from_ms, until_ms))
        instants = sorted(hard)
        whose = self._whose(customer, gpu_type, standings)
        changes = self._changes(gpu_type, gpu_count, whose, from_ms, until_ms)
        start = changes[0][1] if starts else None
        if not any(terms.spends_allowance for _, terms in changes):
            return _cut(changes, instants), start, False
        limited = [self._by_id[promotion_id] for promotion_id in whose.limited]
        allowances = Allowances.left(limited, standings)
        if start is not None:
            listed = start.version.rate
            covered = whose._replace(limited=[p.id for p in limited if allowances.covers_start(p, listed)])
            start = self._changes(gpu_type, gpu_count, covered, from_ms, from_ms)[0][1]
            allowances.spend_start(start)
        segments: list[tuple[int, Terms]] = []
        at_ms: int | None = from_ms
        while at_ms is not None:
            usable = whose._replace(limited=[p.id for p in limited if not allowances.is_over(p)])
            changes = self._changes(gpu_type, gpu_count, usable, at_ms, until_ms)
            ahead = _cut(changes, instants[bisect_right(instants, at_ms) :])
            at_ms = _spent(segments, ahead, until_ms, allowances)
        return segments, start, True

    def _whose(self, customer: Customer, gpu_type: str, standings: Mapping[int, Standing]) -> _Whose:
        """The groups the customer is in, and one by one those promotions that depend on more than that."""
        audiences = [EVERYONE, *customer.audiences]
        if customer.first_used_ms is None:
            audiences.append(NEW)
        whose = _Whose([key for key in audiences if key in self._groups], [], [])
        if self._stacking:
            whose.tops.extend(self._stacking[entry] for entry in audiences if entry in self._stacking)
        offered = [self._personal[entry] for entry in {NEW, *audiences} if entry in self._personal]
        if customer.first_used_ms is not None:
            # Still new to a promotion that began before they first used a GPU.
            offered.append([p for p in self._newcomers if p.starts_ms <= customer.first_used_ms])
        if self._coded:
            offered += [
                self._coded[family]
                for family, standing in standings.items()
                if (standing.code_given or standing.redeemed) and family in self._coded
            ]
        for promotion in chain.from_iterable(offered):
            if promo.hindrance(promotion, customer, standings.get(promotion.family, NOTHING), gpu_type) is None:
                kind = whose.tops if promotion.stacks else whose.limited if promotion.has_allowance else whose.plain
                if promotion.id not in kind:
                    kind.append(promotion.id)
        return whose

    def _changes(
        self, gpu_type: str, gpu_count: int, whose: _Whose, from_ms: int, until_ms: int
    ) -> list[tuple[int, Terms]]:
        """From when on which terms apply, beginning with ``from_ms``."""
        found: list[tuple[int, Terms]] = []
        for begin_ms, end_ms in pairwise((from_ms, *self.book.edges(gpu_type, from_ms, until_ms), until_ms)):
            version = metering.version_at(self.book, gpu_type, begin_ms)
            # Without a price per task-hour the number of GPUs does not change which promotion is cheapest.
            count = gpu_count if version.rate.per_task_hour_micros else 1
            ranking = self._ranking(gpu_type, version.valid_from_ms, count)
            for chunk in range(begin_ms // CHUNK_MS, max(end_ms - 1, begin_ms) // CHUNK_MS + 1):
                lower_ms, upper_ms = max(begin_ms, chunk * CHUNK_MS), min(end_ms, (chunk + 1) * CHUNK_MS)
                for at_ms, choice in self._choices(ranking, whose, chunk, lower_ms, upper_ms):
                    terms = ranking.terms(choice, gpu_count)
                    if not found or not _same(terms, found[-1][1]):
                        found.append((at_ms, terms))
        return found

    def _choices(
        self, ranking: Ranking, whose: _Whose, chunk: int, from_ms: int, until_ms: int
    ) -> list[tuple[int, Choice]]:
        tracks = [[self._track(ranking, key, chunk) for key in keys] for keys in whose]
        best = [overlaid(of_kind, from_ms, until_ms, min) if of_kind else [(from_ms, NONE)] for of_kind in tracks]
        if len(best[1]) == len(best[2]) == 1:
            (_, limited), (_, top) = best[1][0], best[2][0]
            return [(at_ms, Choice(plain, limited, top)) for at_ms, plain in best[0]]
        kinds = [Track(*zip(*changes, strict=True)) for changes in best]
        return overlaid(kinds, from_ms, until_ms, Choice._make)

    def _new_ranking(self, gpu_type: str, valid_from_ms: int, gpu_count: int) -> Ranking:
        version = metering.version_at(self.book, gpu_type, valid_from_ms)
        return Ranking(self._by_id.values(), gpu_type, version, gpu_count)

    def _new_track(self, ranking: Ranking, key: str | int, chunk: int) -> Track:
        members = [self._by_id[key]] if isinstance(key, int) else self._groups[key]
        return ranking.track(members, lambda promotion: self._hours(promotion.id, chunk), chunk * CHUNK_MS)

    def _new_hours(self, promotion_id: int, chunk: int) -> tuple[bool, tuple[int, ...]]:
        promotion, begin_ms = self._by_id[promotion_id], chunk * CHUNK_MS
        edges = promo.edges(promotion, begin_ms, begin_ms + CHUNK_MS)
        return promo.active_at(promotion, begin_ms), tuple(edges)


def _same(terms: Terms, others: Terms) -> bool:
    return terms is others or (terms.version == others.version and terms.applied == others.applied)


def _cut(changes: Sequence[tuple[int, Terms]], instants: Sequence[int]) -> list[tuple[int, Terms]]:
    """The changes, and another beginning of what then applies at every one of the instants after the first."""
    segments: list[tuple[int, Terms]] = []
    index, last = 0, len(instants)
    for at_ms, terms in changes:
        while index < last and instants[index] < at_ms:
            segments.append((instants[index], segments[-1][1]))
            index += 1
        if index < last and instants[index] == at_ms:
            index += 1
        segments.append((at_ms, terms))
    segments += [(at_ms, segments[-1][1]) for at_ms in instants[index:]]
    return segments


def _spent(
    segments: list[tuple[int, Terms]], ahead: list[tuple[int, Terms]], until_ms: int, allowances: Allowances
) -> int | None:
    """Append what is ahead up to the instant at which an allowance is used up, which is returned; None: none is."""
    ends = [*(at_ms for at_ms, _ in ahead[1:]), until_ms]
    for (at_ms, terms), end_ms in zip(ahead, ends, strict=True):
        lasts_ms = allowances.spend(terms, end_ms - at_ms)
        if lasts_ms or at_ms == until_ms:
            segments.append((at_ms, terms))
        if at_ms + lasts_ms < until_ms and any(map(allowances.is_over, terms.applied)):
            return at_ms + lasts_ms
    return None
