"""Prices, promotions, quotas, grants: who may change them, each change audited. One transaction per function."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from fastgpu import models
from fastgpu_hub.broker import admission, views
from fastgpu_hub.broker.actors import Actor, not_allowed, not_found
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.ports.records import AuditEntry, Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.pricing import quotas, windows
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.ledger import grant_transfer
from fastgpu_hub.pricing.pricebook import Rate
from fastgpu_hub.pricing.promotions import Customer, Promotion
from fastgpu_hub.pricing.quotas import Quota


def _audit(
    uow: UnitOfWork, actor: Actor, now_ms: int, action: str, subject: str, before: Any, after: BaseModel | None
) -> None:
    plain = [None if value is None else value.model_dump(mode="json") for value in (before, after)]
    uow.add_audit(AuditEntry(now_ms, actor.name, action, subject, plain[0], plain[1]))


def _zone(name: str) -> None:
    try:
        windows.zone(name)
    except ValueError as error:
        raise Refusal(
            Refused("invalid_request", str(error), {"time_zone": name}, instead="Name one like Europe/Berlin or UTC.")
        ) from None


def set_price(uow: UnitOfWork, actor: Actor, wish: models.PriceSet, now_ms: int) -> models.Price:
    """A new price version. Running leases keep the price they were granted with. Administrators only."""
    if not actor.admin:
        raise Refusal(not_allowed("Only an administrator sets prices."))
    valid_from = now_ms if wish.valid_from is None else views.milliseconds(wish.valid_from)
    if valid_from < now_ms:
        raise Refusal(
            Refused(
                "invalid_request",
                f"A price cannot change the past: valid_from {wish.valid_from} is before now.",
                instead="Leave valid_from out (now) or name a later instant.",
            )
        )
    rate = Rate(wish.per_gpu_hour_micros, wish.per_task_hour_micros, wish.per_start_micros)
    before = admission.Rules.load(uow).book.version_at(wish.gpu_type, valid_from)
    price = views.price(uow.add_price(wish.gpu_type, rate, valid_from, actor.name))
    _audit(uow, actor, now_ms, "set_price", wish.gpu_type, None if before is None else views.price(before), price)
    return price


def add_promotion(uow: UnitOfWork, actor: Actor, wish: models.PromotionSet, now_ms: int) -> models.Promotion:
    """A new promotion. A teacher may make one whose whole audience is a class they run; administrators any."""
    if not actor.admin and not (wish.audience and all(actor.manages(account) for account in wish.audience)):
        raise Refusal(
            not_allowed(
                "A teacher's promotion must be for classes they run.",
                instead="Set its audience to your class, for example class:cs101.",
            )
        )
    starts_ms, ends_ms = views.milliseconds(wish.starts_at), views.milliseconds(wish.ends_at)
    if not max(starts_ms, now_ms) < ends_ms:
        raise Refusal(
            Refused(
                "invalid_request",
                f"The promotion would be over before it begins: it ends {wish.ends_at}, starts {wish.starts_at}.",
                instead="Choose an end after its start and after now.",
            )
        )
    try:
        promotion = Promotion(
            id=0,
            name=wish.name,
            starts_ms=max(starts_ms, 0),
            ends_ms=ends_ms,
            percent_off=wish.percent_off,
            fixed_per_gpu_hour_micros=wish.fixed_per_gpu_hour_micros,
            gpu_types=wish.gpu_types,
            audience=wish.audience,
            code=wish.code,
            weekly=tuple(windows.WeeklyWindow(w.days, w.from_minute, w.to_minute) for w in wish.weekly),
            time_zone=wish.time_zone,
            created_by=actor.name,
        )
    except ValueError as error:
        raise Refusal(Refused("invalid_request", f"This promotion is not possible: {error}.")) from None
    promotion = uow.add_promotion(promotion)
    answer = views.promotion(promotion, own_customer(actor), now_ms)
    _audit(uow, actor, now_ms, "add_promotion", str(promotion.id), None, answer)
    return answer


def end_promotion(uow: UnitOfWork, actor: Actor, promotion_id: int, now_ms: int) -> models.Promotion:
    """End a promotion now. Leases granted under it keep their price."""
    before = next((p for p in uow.promotions() if p.id == promotion_id), None)
    if before is None or not may_edit(actor, before):
        raise Refusal(not_found("promotion", str(promotion_id)))
    after = uow.end_promotion(promotion_id, now_ms) or before
    answers = [views.promotion(value, own_customer(actor), now_ms) for value in (before, after)]
    _audit(uow, actor, now_ms, "end_promotion", str(promotion_id), *answers)
    return answers[1]


def may_edit(actor: Actor, promotion: Promotion) -> bool:
    """Administrators, and the teacher of every class a promotion is for."""
    return actor.admin or (bool(promotion.audience) and all(actor.manages(a) for a in promotion.audience))


def add_quota(uow: UnitOfWork, actor: Actor, wish: models.QuotaSet, now_ms: int, currency: str) -> models.QuotaUse:
    """Set a limit; one that limits the same thing for the same subject and window is replaced.

    A teacher sets limits for members of a class they run; whole classes, people and the site are an administrator's.
    """
    named = wish.scope is not models.QuotaScope.site
    if named != bool(wish.name):
        raise Refusal(
            Refused(
                "invalid_request", f"A quota of scope {wish.scope.value!r} {'needs' if named else 'takes no'} name."
            )
        )
    if not actor.admin and not (wish.scope is models.QuotaScope.member and wish.name in actor.teaches):
        raise Refusal(not_allowed("You may set quotas for the members of classes you run, and no others."))
    _zone(wish.time_zone)
    quota = Quota(
        0, wish.scope.value, wish.name, wish.metric.value, wish.limit, wish.window, wish.gpu_type, wish.time_zone
    )
    same = [q for q in uow.quotas() if _subject(q) == _subject(quota)]
    before = None
    for old in same:
        before = quota_use(uow, old, own_customer(actor), now_ms, {}, currency)
        uow.remove_quota(old.id)
    answer = quota_use(uow, uow.add_quota(quota), own_customer(actor), now_ms, {}, currency)
    _audit(uow, actor, now_ms, "set_quota", answer.label, before, answer)
    return answer


def _subject(quota: Quota) -> tuple[object, ...]:
    return quota.scope, quota.name, quota.metric, quota.window, quota.gpu_type


def may_see(actor: Actor, quota: Quota) -> bool:
    """Administrators, and the teacher of the class a limit is for."""
    return actor.admin or (quota.scope in ("class", "member") and quota.name in actor.teaches)


def remove_quota(uow: UnitOfWork, actor: Actor, quota_id: int, now_ms: int, currency: str) -> None:
    """Lift a limit. Same rights as setting it."""
    quota = next((q for q in uow.quotas() if q.id == quota_id), None)
    if quota is None or not (actor.admin or (quota.scope == "member" and quota.name in actor.teaches)):
        raise Refusal(not_found("quota", str(quota_id)))
    before = quota_use(uow, quota, own_customer(actor), now_ms, {}, currency)
    uow.remove_quota(quota_id)
    _audit(uow, actor, now_ms, "remove_quota", before.label, before, None)


def grant(uow: UnitOfWork, actor: Actor, wish: models.GrantSet, now_ms: int) -> models.Account:
    """Give credit to an account. Administrators only."""
    if not actor.admin:
        raise Refusal(not_allowed("Only an administrator grants credit.", instead="Ask one to grant it to your class."))
    before = account(uow, wish.account)
    uow.append([grant_transfer(wish.account, wish.amount_micros, now_ms, actor.name, wish.note)])
    after = account(uow, wish.account)
    _audit(uow, actor, now_ms, "grant", wish.account, before, after)
    return after


def audit_stop(uow: UnitOfWork, actor: Actor, workload: Workload, now_ms: int) -> None:
    """Somebody stopped another person's workload."""
    before = {"owner": workload.owner, "name": workload.name, "state": workload.state}
    uow.add_audit(AuditEntry(now_ms, actor.name, "stop", workload.id, before, None))


def own_customer(actor: Actor, account_id: str | None = None) -> Customer:
    """The caller as a customer of one of their accounts (the default: their first)."""
    return Customer(actor.name, account_id or actor.accounts[0], actor.classes)


def account(uow: UnitOfWork, account_id: str) -> models.Account:
    """An account's credit."""
    money = admission.balance(uow, account_id)
    return views.account(account_id, money.granted_micros, money.spent_micros, money.held_micros)


def quota_use(
    uow: UnitOfWork, quota: Quota, customer: Customer, now_ms: int, held_per_key: Mapping[str, int], currency: str
) -> models.QuotaUse:
    """A quota as it stands now for a customer."""
    if quota.metric == admission.CONCURRENT:
        return views.quota_use(admission.concurrent_state(quota, customer, held_per_key), currency)
    window = windows.calendar_window(quota.window, quota.time_zone, now_ms)
    return views.quota_use(admission.window_state(uow, quota, customer, window), currency)


def applicable_quotas(
    uow: UnitOfWork, customer: Customer, now_ms: int, held_per_key: Mapping[str, int], currency: str
) -> tuple[models.QuotaUse, ...]:
    """Every limit a customer falls under, of all GPU types, as it stands now."""
    return tuple(
        quota_use(uow, quota, customer, now_ms, held_per_key, currency)
        for quota in quotas.applicable(uow.quotas(), customer, None)
    )
