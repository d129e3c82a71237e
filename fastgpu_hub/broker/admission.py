"""May this be bought, and at what price? One place for all surfaces: quotes, spawn page, jobs, grants, renewals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from fastgpu_hub.broker import funds
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.pricing import calendars, metering, promotions, quotas, starts
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.money import format_money
from fastgpu_hub.pricing.pricebook import PriceBook
from fastgpu_hub.pricing.promotions import NEW, NOTHING, Customer, Promotion, Standing
from fastgpu_hub.pricing.quotas import Extra, Quota, QuotaState
from fastgpu_hub.pricing.starts import Start
from fastgpu_hub.pricing.timeline import RateCard

CONCURRENT = "concurrent_gpus"
SECOND_MS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Rules:
    """The price book, the newest version of every promotion, limits and what was given beyond them."""

    book: PriceBook
    promotions: tuple[Promotion, ...]
    quotas: tuple[Quota, ...]
    extras: tuple[Extra, ...] = ()
    version: str = ""

    def prices(self, spot_percent_off: int | None) -> PriceBook:
        """The list prices; of spot jobs that are so many percent cheaper, theirs."""
        return self.book if spot_percent_off is None else self.book.spot(spot_percent_off)

    @classmethod
    def load(cls, uow: UnitOfWork) -> Rules:
        """As they stand in this transaction. Read again only after a change."""
        global _latest
        version = uow.rules_version()
        known = _latest
        if known is None or known.version != version or not version:
            known = cls(
                PriceBook(uow.prices()), tuple(uow.promotions()), tuple(uow.quotas()), tuple(uow.extras()), version
            )
            _latest = known
        return known

    def limits(self, customer: Customer, gpu_type: str | None, at_ms: int) -> list[Quota]:
        """The limits a customer falls under, with what was given beyond them."""
        return [
            quotas.raised(quota, self.extras, customer, at_ms)
            for quota in quotas.applicable(self.quotas, customer, gpu_type)
        ]


@lru_cache(maxsize=8)
def rate_card(rules: Rules, time_zone: str, spot_percent_off: int | None = None) -> RateCard:
    """All prices of these rules, prepared; lines are cut at the zone's midnights and changes of clock.

    The spot price takes the place of the list price: promotions apply to it as to that.
    """
    return RateCard(rules.prices(spot_percent_off), rules.promotions, time_zone=time_zone)


# Each change has a version of its own, drawn at random, so that no two stores or attempts share one.
_latest: Rules | None = None


@dataclass(frozen=True, slots=True)
class Wish:
    """Who wants which GPUs, paid by whom, under which code, for at most how much; so many percent off as a spot job."""

    customer: Customer
    gpu_type: str
    gpu_count: int
    promo_code: str | None = None
    max_cost_micros: int | None = None
    spot_percent_off: int | None = None


def folded(code: str) -> str:
    """A code as it is kept: capitals."""
    return code.upper()


def with_first_use(uow: UnitOfWork, rules: Rules, customer: Customer) -> Customer:
    """The customer with their first use of a GPU, where a promotion for new people makes that matter."""
    if not any(NEW in promotion.audience for promotion in rules.promotions):
        return customer
    return replace(customer, first_used_ms=uow.first_used_ms(customer.owner))


def standings(uow: UnitOfWork, rules: Rules, owner: str, promo_code: str | None) -> dict[int, Standing]:
    """How codes, places, budgets and free hours stand for a person, by promotion; those without any lack."""
    capped = [p for p in rules.promotions if p.needs_redemption or p.has_allowance]
    if not capped:
        return {}
    counts = uow.redemption_counts(owner) if any(p.needs_redemption for p in capped) else {}
    code = uow.code(folded(promo_code)) if promo_code else None
    usable = code is not None and (code.max_uses is None or code.uses < code.max_uses)
    saved = uow.promotion_use([p.family for p in capped if p.budget_micros is not None])
    freed = uow.promotion_use([p.family for p in capped if p.free_gpu_ms is not None], owner)
    found = {}
    for promotion in capped:
        mine, everybody = counts.get(promotion.family, (0, 0))
        found[promotion.family] = Standing(
            code_given=usable and code is not None and code.family == promotion.family,
            redeemed=mine,
            redemptions=everybody,
            saved_micros=saved[promotion.family].saved_micros if promotion.family in saved else 0,
            free_gpu_ms=freed[promotion.family].gpu_ms if promotion.family in freed else 0,
        )
    return found


class Desired:
    """A wish under the rules and the books of one transaction: what it costs, and what stands in its way.

    What is read of the books is read once, so ask again in a new object after writing.
    """

    def __init__(self, uow: UnitOfWork, rules: Rules, wish: Wish, now_ms: int, settings: Settings) -> None:
        self._uow, self._rules, self._now_ms, self._settings = uow, rules, now_ms, settings
        self.wish = replace(wish, customer=with_first_use(uow, rules, wish.customer))
        self.standings = standings(uow, rules, wish.customer.owner, wish.promo_code)
        self._limits = quotas.applicable(rules.quotas, wish.customer, wish.gpu_type)
        self._funds = funds.Funds(uow, wish.customer.account, now_ms, settings.time_zone)
        self._states: dict[tuple[int, tuple[int | None, int | None]], QuotaState] = {}

    def _card(self) -> RateCard:
        return rate_card(self._rules, self._settings.time_zone, self.wish.spot_percent_off)

    def lines(self, from_ms: int, until_ms: int, *, starts: bool = True) -> tuple[Line, ...]:
        """Lines of the interval at the prices to come. Raises Refusal (``no_price``, ``invalid_request``)."""
        try:
            return self._card().quote(
                self.wish.customer,
                self.wish.gpu_type,
                self.wish.gpu_count,
                from_ms,
                until_ms,
                quotas=self._limits,
                standings=self.standings,
                cuts=self._funds.edges,
                starts=starts,
            )
        except metering.NoPrice:
            known = ", ".join(self._rules.book.gpu_types()) or "none yet"
            raise Refusal(
                Refused(
                    "no_price",
                    f"There is no price for {self.wish.gpu_type!r}, so it cannot be leased.",
                    {"gpu_type": self.wish.gpu_type},
                    instead=f"Priced GPU types: {known}. An administrator sets prices.",
                )
            ) from None
        except ValueError as error:
            raise Refusal(Refused("invalid_request", f"It cannot be priced: {error}.")) from None

    def cuts(self, from_ms: int, until_ms: int) -> list[int]:
        """Where lines within ``(from_ms, until_ms)`` are cut whatever their price: limits' windows, grants, days."""
        found = {at_ms for at_ms in self._funds.edges if from_ms < at_ms < until_ms}
        for quota in self._limits:
            found.update(quotas.window_edges(quota, from_ms, until_ms))
        return sorted(found.union(calendars.site_cuts(self._settings.time_zone, from_ms, until_ms)))

    def starts(self, duration_ms: int, earliest_ms: int, latest_ms: int, also: Iterable[int] = ()) -> list[Start]:
        """Starts from the earliest to the latest, ascending, among them the cheapest and those of ``also``.

        Raises Refusal as :meth:`lines` does.
        """
        until_ms = latest_ms + duration_ms
        self.lines(earliest_ms, until_ms)  # refuses what has no price somewhere
        card, wish = self._card(), self.wish
        timeline = card.timeline(
            *(wish.customer, wish.gpu_type, wish.gpu_count, earliest_ms, until_ms),
            quotas=self._limits,
            standings=self.standings,
            cuts=self._funds.edges,
        )
        if timeline.starts_anywhere:
            edges, price = timeline.edges, timeline.lines
        else:
            known = card.edges(wish.customer, wish.gpu_type, earliest_ms, until_ms, standings=self.standings)
            edges, price = [*known, *self.cuts(earliest_ms, until_ms)], self.lines
        edges = [*edges, *also, *self._comes_back(earliest_ms, latest_ms)]
        return starts.priced(edges, duration_ms, earliest_ms, latest_ms, price)

    def _comes_back(self, from_ms: int, until_ms: int) -> list[int]:
        """When rolling limits give something back."""
        states = (
            self._state(quota, (from_ms - (quota.rolling_ms or 0), None))
            for quota in self._limits
            if quota.window == "rolling"
        )
        return [at_ms for state in states for at_ms, _ in state.comes_back if from_ms < at_ms < until_ms]

    def eligible(self, at_ms: int) -> list[Promotion]:
        """The promotions whose prices the customer gets at an instant."""
        return [
            promotion
            for promotion in self._rules.promotions
            if promotions.why_not(
                promotion,
                self.wish.customer,
                self.standings.get(promotion.family, NOTHING),
                gpu_type=self.wish.gpu_type,
                at_ms=at_ms,
            )
            is None
        ]

    def refusal(self, lines: Sequence[Line]) -> Refused | None:
        """What forbids holding these lines now: a limit, the caller's own cap, lack of credit; None when nothing."""
        for quota, refused in self._over(lines):
            if not quota.soft:
                return refused
        total = metering.total_micros(lines)
        currency, most = self._settings.currency, self.wish.max_cost_micros
        if most is not None and total > most:
            return Refused(
                "max_cost",
                f"It may cost up to {format_money(total, currency)}, more than your limit of "
                f"{format_money(most, currency)}.",
                {"max_cost_micros": most, "needed_micros": total},
                instead="Raise the limit, shorten the time, or take a cheaper GPU.",
            )
        return self._funds.refusal(lines, currency)

    def no_more_than(self, held: Sequence[Line], lines: Sequence[Line]) -> bool:
        """Whether lines take of no limit, in none of its windows, and of no time's credit more than those held do."""
        for limit in self._limits:
            before = quotas.wanted_per_window(limit, held)
            after = quotas.wanted_per_window(limit, lines)
            if any(amount > before.get(window, 0) for window, amount in after.items()):
                return False
        both = zip(self._funds.wanted(lines), self._funds.wanted(held), strict=True)
        return all(after_micros <= before_micros for after_micros, before_micros in both)

    def warnings(self, lines: Sequence[Line]) -> list[Refused]:
        """Which soft limits these lines would pass."""
        return [refused for quota, refused in self._over(lines) if quota.soft]

    def _over(self, lines: Sequence[Line]) -> Iterator[tuple[Quota, Refused]]:
        currency = self._settings.currency
        begins_ms = min((line.from_ms for line in lines), default=self._now_ms)
        for limit in self._limits:
            for window, amount in quotas.wanted_per_window(limit, lines).items():
                # What was given beyond a limit counts in the windows that begin while it holds.
                at_ms = max(self._now_ms, begins_ms, window[0] or 0)
                quota = quotas.raised(limit, self._rules.extras, self.wish.customer, at_ms)
                state = self._state(quota, window)
                if amount > state.left and (refused := quotas.check(state, amount, currency=currency)):
                    yield quota, refused

    def _state(self, quota: Quota, window: tuple[int | None, int | None]) -> QuotaState:
        key = quota.id, window
        if key not in self._states:
            if quota.metric == CONCURRENT:  # how many run at once the scheduler counts; what never fits need not wait
                self._states[key] = QuotaState(quota, 0, 0)
            else:
                # What runs later asks what a rolling limit has given back by then; all that is held counts in any case.
                begins_ms = (window[0] or 0) + (quota.rolling_ms or 0)
                at_ms = max(self._now_ms, begins_ms) if quota.window == "rolling" else self._now_ms
                self._states[key] = window_state(self._uow, quota, self.wish.customer, window, at_ms)
        return self._states[key]

    def affordable(self, lines: tuple[Line, ...], from_ms: int) -> tuple[tuple[Line, ...], Refused | None]:
        """As much of the lines as can be held, to the second after ``from_ms``, and what forbids more."""
        until_ms = max((line.until_ms for line in lines), default=from_ms)

        def refused_until(instant_ms: int) -> Refused | None:
            return self.refusal(metering.charge(lines, instant_ms)[0])

        if (refused := self.refusal(lines)) is None:
            return lines, None
        if (least := refused_until(from_ms + SECOND_MS)) is not None:
            return (), least
        good, bad = 1, -(-(until_ms - from_ms) // SECOND_MS)
        while bad - good > 1:
            middle = (good + bad) // 2
            if (found := refused_until(from_ms + middle * SECOND_MS)) is None:
                good = middle
            else:
                bad, refused = middle, found
        return metering.charge(lines, from_ms + good * SECOND_MS)[0], refused


def window_state(
    uow: UnitOfWork, quota: Quota, customer: Customer, window: tuple[int | None, int | None], now_ms: int
) -> QuotaState:
    """A limit on money, GPU time or a share as it stands in one of its windows."""
    scope = quotas.scope_of(quota, customer)
    if quota.metric == quotas.CREDIT_SHARE:
        left_micros = funds.balance(uow, f"class:{quota.name}", now_ms).left_micros
        return quotas.share_state(quota, left_micros, uow.held(scope).amount_micros)
    if quota.window == "rolling":
        lines = uow.lines_ending_after(scope, now_ms - (quota.rolling_ms or 0))
        return quotas.rolling_state(quota, lines, uow.held(scope), now_ms)
    return quotas.state_of(quota, uow.charged(scope, *window), uow.held(scope, *window), window[1])


def state_now(
    uow: UnitOfWork, quota: Quota, customer: Customer, now_ms: int, held_per_key: Mapping[str, int]
) -> QuotaState:
    """Any limit as it stands now."""
    if quota.metric == CONCURRENT:
        return QuotaState(quota, held_per_key.get(quotas.limit_key(quota, customer), 0), 0)
    if quota.metric == quotas.ARTIFACT_BYTES:
        return QuotaState(quota, uow.artifact_bytes(quotas.scope_of(quota, customer)), 0)
    window = quotas.window_at(quota, now_ms)
    return QuotaState(quota, 0, 0) if window is None else window_state(uow, quota, customer, window, now_ms)


def concurrent_limits(rules: Rules, customer: Customer, gpu_type: str, now_ms: int) -> tuple[tuple[str, int], ...]:
    """The concurrent-GPU limits a request falls under, as the scheduler counts them.

    One that refuses nothing now, for it is soft or its term does not apply, is counted and never reached.
    """
    return tuple(
        (
            quotas.limit_key(quota, customer),
            quotas.MAX_LIMIT if quota.soft or quotas.window_at(quota, now_ms) is None else quota.limit,
        )
        for quota in rules.limits(customer, gpu_type, now_ms)
        if quota.metric == CONCURRENT
    )
