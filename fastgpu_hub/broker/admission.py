"""May this be bought, and at what price? One place for all surfaces: quotes, spawn page, jobs, grants, renewals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.pricing import credits, metering, quotas
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.money import format_money
from fastgpu_hub.pricing.pricebook import PriceBook
from fastgpu_hub.pricing.promotions import Customer, Promotion
from fastgpu_hub.pricing.quotas import Quota, QuotaState

CONCURRENT = "concurrent_gpus"
MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Rules:
    """The price book, promotions and quotas as they stand in one transaction."""

    book: PriceBook
    promotions: tuple[Promotion, ...]
    quotas: tuple[Quota, ...]

    @classmethod
    def load(cls, uow: UnitOfWork) -> Rules:
        """Read all three from the store."""
        return cls(PriceBook(uow.prices()), tuple(uow.promotions()), tuple(uow.quotas()))


@dataclass(frozen=True, slots=True)
class Wish:
    """Who wants which GPUs, paid by whom, under which code, for at most how much."""

    customer: Customer
    gpu_type: str
    gpu_count: int
    promo_code: str | None = None
    max_cost_micros: int | None = None


def priced(rules: Rules, wish: Wish, from_ms: int, until_ms: int, *, starts: bool = True) -> tuple[Line, ...]:
    """Lines of the interval at the prices to come. Raises Refusal (``no_price``, ``invalid_request``)."""
    try:
        return metering.price_interval(
            rules.book,
            rules.promotions,
            quotas.applicable(rules.quotas, wish.customer, wish.gpu_type),
            wish.customer,
            wish.gpu_type,
            wish.gpu_count,
            from_ms,
            until_ms,
            promo_code=wish.promo_code,
            starts=starts,
        )
    except metering.NoPrice:
        known = ", ".join(rules.book.gpu_types()) or "none yet"
        raise Refusal(
            Refused(
                "no_price",
                f"There is no price for {wish.gpu_type!r}, so it cannot be leased.",
                {"gpu_type": wish.gpu_type},
                instead=f"Priced GPU types: {known}. An administrator sets prices.",
            )
        ) from None
    except ValueError as error:
        raise Refusal(Refused("invalid_request", f"It cannot be priced: {error}.")) from None


def window_state(
    uow: UnitOfWork, quota: Quota, customer: Customer, window: tuple[int | None, int | None]
) -> QuotaState:
    """A money or GPU-time quota as it stands in one of its windows."""
    scope = quotas.scope_of(quota, customer)
    return quotas.state_of(quota, uow.charged(scope, *window), uow.held(scope, *window), window[1])


def balance(uow: UnitOfWork, account: str) -> credits.Balance:
    """Credit of an account: granted, spent, held."""
    scope = quotas.Scope(account=account)
    return credits.Balance(uow.granted(account), uow.charged(scope).amount_micros, uow.held(scope).amount_micros)


def refusal(uow: UnitOfWork, rules: Rules, wish: Wish, lines: Sequence[Line], currency: str) -> Refused | None:
    """What forbids holding these lines now: a quota, lack of credit, the caller's own cap; None when nothing does."""
    for quota in quotas.applicable(rules.quotas, wish.customer, wish.gpu_type):
        if quota.metric == CONCURRENT:
            if wish.gpu_count > quota.limit:
                return quotas.check(QuotaState(quota, 0, 0, None), wish.gpu_count, currency=currency)
            continue
        for window, wanted in quotas.wanted_per_window(quota, lines).items():
            if refused := quotas.check(window_state(uow, quota, wish.customer, window), wanted, currency=currency):
                return refused
    total = metering.total_micros(lines)
    if wish.max_cost_micros is not None and total > wish.max_cost_micros:
        return Refused(
            "max_cost",
            f"It may cost up to {format_money(total, currency)}, more than your limit of "
            f"{format_money(wish.max_cost_micros, currency)}.",
            {"max_cost_micros": wish.max_cost_micros, "needed_micros": total},
            instead="Raise the limit, shorten the time, or take a cheaper GPU.",
        )
    return credits.check(wish.customer.account, balance(uow, wish.customer.account), total, currency=currency)


def affordable_until(
    uow: UnitOfWork, rules: Rules, wish: Wish, from_ms: int, until_ms: int, currency: str, *, starts: bool
) -> int | Refused:
    """The latest instant, in whole minutes after ``from_ms``, up to which the wish can be held, or why not one."""

    def refused_until(instant_ms: int) -> Refused | None:
        return refusal(uow, rules, wish, priced(rules, wish, from_ms, instant_ms, starts=starts), currency)

    if refused_until(until_ms) is None:
        return until_ms
    if refused := refused_until(from_ms + MINUTE_MS):
        return refused
    good, bad = 1, (until_ms - from_ms) // MINUTE_MS + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        if refused_until(from_ms + middle * MINUTE_MS) is None:
            good = middle
        else:
            bad = middle
    return from_ms + good * MINUTE_MS


def concurrent_limits(rules: Rules, customer: Customer, gpu_type: str) -> tuple[tuple[str, int], ...]:
    """The concurrent-GPU limits a request falls under, as the scheduler counts them."""
    return tuple(
        (quotas.limit_key(quota, customer), quota.limit)
        for quota in quotas.applicable(rules.quotas, customer, gpu_type)
        if quota.metric == CONCURRENT
    )


def concurrent_state(quota: Quota, customer: Customer, held_per_key: Mapping[str, int]) -> QuotaState:
    """A concurrent-GPU quota as it stands now."""
    return QuotaState(quota, held_per_key.get(quotas.limit_key(quota, customer), 0), 0, None)
