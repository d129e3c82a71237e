"""Rules as people see them: promotions, limits, accounts, grants, requests for more."""

from __future__ import annotations

from collections.abc import Iterable

from fastgpu import models
from fastgpu_hub.broker import admission, funds
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.admission import Rules
from fastgpu_hub.broker.held import GpusHeld
from fastgpu_hub.broker.ports.records import Ask, PromotionCode
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.views import at, explanation, instant
from fastgpu_hub.pricing import promotions as promo
from fastgpu_hub.pricing import quotas
from fastgpu_hub.pricing.credits import Balance, Grant
from fastgpu_hub.pricing.promotions import NEW, NOTHING, Customer, Promotion, Standing
from fastgpu_hub.pricing.quotas import Quota, QuotaState

# ---------------------------------------------------------------- promotions


def may_edit(actor: Actor, promotion: Promotion) -> bool:
    """Administrators, and the teacher of every class a promotion is for."""
    return actor.admin or (bool(promotion.audience) and all(actor.manages(entry) for entry in promotion.audience))


def own_promotions(
    uow: UnitOfWork, actor: Actor, customer: Customer, promo_code: str | None, now_ms: int, *, drafts: bool = False
) -> tuple[models.Promotion, ...]:
    """Promotions that are not over, as a customer may use them; with ``drafts`` also those the caller may edit."""
    rules = Rules.load(uow)
    customer = admission.with_first_use(uow, rules, customer)
    standings = admission.standings(uow, rules, customer.owner, promo_code)
    return tuple(
        promotion(p, customer, now_ms, standings.get(p.family, NOTHING), editable=may_edit(actor, p))
        for p in rules.promotions
        if p.ends_ms > now_ms and (p.published or (drafts and may_edit(actor, p)))
    )


def managed_promotions(uow: UnitOfWork, actor: Actor, now_ms: int) -> list[models.Promotion]:
    """Every promotion that the caller may edit, drafts and ended ones too, newest first."""
    rules = Rules.load(uow)
    customer = admission.with_first_use(uow, rules, Customer(actor.name, actor.accounts[0], actor.classes))
    standings = admission.standings(uow, rules, actor.name, None)
    return [
        promotion(p, customer, now_ms, standings.get(p.family, NOTHING), editable=True)
        for p in reversed(rules.promotions)
        if may_edit(actor, p)
    ]


def promotion(
    value: Promotion,
    customer: Customer,
    now_ms: int,
    standing: Standing = NOTHING,
    *,
    gpu_type: str | None = None,
    editable: bool = False,
) -> models.Promotion:
    """A promotion as this customer sees it now. Of its audience they see what names them, its codes stay secret."""
    refused = promo.why_not(value, customer, standing, gpu_type=gpu_type, at_ms=now_ms)
    named = customer.audiences | {NEW}
    return models.Promotion(
        id=value.family,
        version=value.version,
        version_id=value.id,
        name=value.name,
        state=promo.state_at(value, now_ms),  # type: ignore[arg-type]
        percent_off=value.percent_off,
        fixed_per_gpu_hour_micros=value.fixed_per_gpu_hour_micros,
        free_gpu_seconds=None if value.free_gpu_ms is None else value.free_gpu_ms // 1000,
        credit_micros=value.credit_micros,
        credit_days=value.credit_days,
        gpu_types=value.gpu_types,
        audience=value.audience if editable else tuple(entry for entry in value.audience if entry in named),
        needs_code=value.needs_code,
        starts_at=at(value.starts_ms),
        ends_at=at(value.ends_ms),
        weekly=tuple(
            models.WeeklyWindow(days=w.days, from_minute=w.from_minute, to_minute=w.to_minute) for w in value.weekly
        ),
        time_zone=value.time_zone,
        stacks=value.stacks,
        max_redemptions=value.max_redemptions,
        max_per_person=value.max_per_person,
        places_left=_left(value.max_redemptions, standing.redemptions),
        budget_micros=value.budget_micros,
        budget_left_micros=_left(value.budget_micros, standing.saved_micros),
        free_left_seconds=_left(value.free_gpu_ms, standing.free_gpu_ms, unit=1000),
        active=value.published and promo.active_at(value, now_ms),
        changes_at=instant(promo.next_change(value, now_ms)),
        redeemed=standing.redeemed > 0,
        eligible=refused is None,
        why_not=None if refused is None else explanation(refused),
        editable=editable,
    )


def _left(most: int | None, taken: int, unit: int = 1) -> int | None:
    return None if most is None else max(0, most - taken) // unit


def code(value: PromotionCode) -> models.PromotionCode:
    """A code, for those who may edit its promotion."""
    return models.PromotionCode(
        code=value.code, max_uses=value.max_uses, uses=value.uses, created_at=at(value.created_ms)
    )


# ---------------------------------------------------------------- limits


def may_see_limit(actor: Actor, quota: Quota) -> bool:
    """Administrators, and the teacher of the class a limit is for."""
    return actor.admin or (quota.scope in ("class", "member") and quota.name in actor.teaches)


def quota_use(
    uow: UnitOfWork, rules: Rules, quota: Quota, customer: Customer, now_ms: int, held: GpusHeld, currency: str
) -> models.QuotaUse:
    """A limit as it stands now for a customer, with what was given beyond it."""
    raised = quotas.raised(quota, rules.extras, customer, now_ms)
    state = admission.state_now(uow, raised, customer, now_ms, held.per_key)
    steps = state.comes_back
    if quota.metric == quotas.CONCURRENT_GPUS:
        steps = held.comes_back.get(quotas.limit_key(quota, customer), ())
    return _quota_use(state, quota, steps, currency)


def _quota_use(
    state: QuotaState, quota: Quota, comes_back: Iterable[tuple[int, int]], currency: str
) -> models.QuotaUse:
    """What is over the limit (after a cut) shows as used, with nothing left."""
    return models.QuotaUse(
        quota_id=quota.id,
        label=quotas.label(quota, currency),
        scope=models.QuotaScope(quota.scope),
        name=quota.name,
        metric=models.QuotaMetric(quota.metric),
        window=quota.window,  # type: ignore[arg-type]
        gpu_type=quota.gpu_type,
        soft=quota.soft,
        starts_at=instant(quota.starts_ms),
        ends_at=instant(quota.ends_ms),
        rolling_seconds=None if quota.rolling_ms is None else quota.rolling_ms // 1000,
        limit=state.limit,
        extra=state.quota.limit - quota.limit,
        used=state.used,
        reserved=state.reserved,
        left=state.left,
        resets_at=instant(state.resets_ms),
        comes_back=tuple(models.ComesBack(at=at(at_ms), amount=amount) for at_ms, amount in comes_back),
    )


def own_quotas(
    uow: UnitOfWork, customers: Iterable[Customer], now_ms: int, held: GpusHeld, currency: str
) -> tuple[models.QuotaUse, ...]:
    """Every limit that one of these customers falls under, of all GPU types, each once, as it stands now."""
    rules = Rules.load(uow)
    found: dict[int, models.QuotaUse] = {}
    for customer in customers:
        for quota in quotas.applicable(rules.quotas, customer, None):
            if quota.id not in found:
                found[quota.id] = quota_use(uow, rules, quota, customer, now_ms, held, currency)
    return tuple(found.values())


# ---------------------------------------------------------------- credit


def account(uow: UnitOfWork, account_id: str, now_ms: int) -> models.Account:
    """An account's credit."""
    return account_of(account_id, funds.balance(uow, account_id, now_ms))


def account_of(account_id: str, balance: Balance) -> models.Account:
    """A balance; what is over it after a cut shows as nothing left."""
    expires_ms, expires_micros = balance.expiring[0] if balance.expiring else (None, 0)
    return models.Account(
        id=account_id,
        granted_micros=balance.granted_micros,
        spent_micros=balance.spent_micros,
        held_micros=balance.held_micros,
        expired_micros=balance.expired_micros,
        given_micros=balance.given_micros,
        left_micros=max(0, balance.left_micros),
        expires_at=instant(expires_ms),
        expires_micros=expires_micros,
    )


def grants(uow: UnitOfWork, account_id: str, now_ms: int) -> list[models.Grant]:
    """Every grant of an account, newest first, with what may still be spent of it."""
    of_account = funds.Funds(uow, account_id, now_ms)
    left = of_account.burn().left
    return [grant(value, left[value.id], now_ms) for value in reversed(of_account.grants)]


def latest_grants(uow: UnitOfWork, limit: int, now_ms: int, *, refunds: bool) -> list[models.Grant]:
    """The latest grants to any account, newest first: those that are refunds, or all others."""
    wanted = [value for value in reversed(uow.grants()) if value.source.startswith(funds.REFUND) is refunds][:limit]
    known = {each.id: each for account in {value.account for value in wanted} for each in grants(uow, account, now_ms)}
    return [known[value.id] for value in wanted]


def grant(value: Grant, left_micros: int, now_ms: int) -> models.Grant:
    """A grant of which so much was not spent; nothing of an expired one can be."""
    over = value.expires_ms is not None and value.expires_ms <= now_ms
    return models.Grant(
        id=value.id,
        account=value.account,
        amount_micros=value.amount_micros,
        left_micros=0 if over else left_micros,
        priority=value.priority,
        granted_at=at(value.granted_ms),
        expires_at=instant(value.expires_ms),
        rollover_percent=value.rollover_percent,
        source=value.source,
        note=value.note,
        by=value.by,
    )


# ---------------------------------------------------------------- requests for more


def ask(value: Ask, quota: Quota | None, currency: str, *, decidable: bool) -> models.Ask:
    """A request for more; ``quota`` is the limit it is about, None for credit or when the limit is gone."""
    metric = models.QuotaMetric.spend_micros if quota is None else models.QuotaMetric(quota.metric)
    label = f"credit of {value.account}"
    if value.quota_id is not None:
        label = "a limit that was lifted" if quota is None else quotas.label(quota, currency)
    return models.Ask(
        id=value.id,
        owner=value.owner,
        account=value.account,
        quota_id=value.quota_id,
        metric=metric,
        label=label,
        amount=value.amount,
        reason=value.reason,
        state=value.state,  # type: ignore[arg-type]
        asked_at=at(value.asked_ms),
        decided_at=instant(value.decided_ms),
        decided_by=value.decided_by,
        answer=value.answer,
        decidable=decidable and value.state == "open",
        currency=currency,
    )
