"""Prices and limits: who may change them, each change audited. One transaction per function."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import BaseModel

from fastgpu import models
from fastgpu_hub.broker import price_views, rule_views, views
from fastgpu_hub.broker.actors import Actor, not_allowed, not_found
from fastgpu_hub.broker.admission import Rules
from fastgpu_hub.broker.held import GpusHeld
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.ports.records import AuditEntry, Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.pricebook import Rate
from fastgpu_hub.pricing.promotions import Customer
from fastgpu_hub.pricing.quotas import Quota


def audit(
    uow: UnitOfWork,
    actor: Actor,
    now_ms: int,
    action: str,
    subject: str,
    before: BaseModel | None,
    after: BaseModel | None,
) -> None:
    """Record who changed what."""
    plain: list[Any] = [None if value is None else value.model_dump(mode="json") for value in (before, after)]
    uow.add_audit(AuditEntry(now_ms, actor.name, action, subject, plain[0], plain[1]))


def audit_stop(uow: UnitOfWork, actor: Actor, workload: Workload, now_ms: int) -> None:
    """Somebody stopped another person's workload."""
    before = {"owner": workload.owner, "name": workload.name, "state": workload.state}
    uow.add_audit(AuditEntry(now_ms, actor.name, "stop", workload.id, before, None))


def own_customer(actor: Actor, account_id: str | None = None) -> Customer:
    """The caller as a customer of one of their accounts (the default: their first)."""
    return Customer(actor.name, account_id or actor.accounts[0], actor.classes)


def impossible(what: str, error: ValueError) -> Refusal:
    """A rule that the core refuses to take, in its words."""
    return Refusal(Refused("invalid_request", f"This {what} is not possible: {error}."))


def set_price(uow: UnitOfWork, actor: Actor, wish: models.PriceSet, now_ms: int) -> models.Price:
    """A new price version. Administrators only."""
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
    before = Rules.load(uow).book.version_at(wish.gpu_type, valid_from)
    price = price_views.price(uow.add_price(wish.gpu_type, rate, valid_from, actor.name))
    audit(uow, actor, now_ms, "set_price", wish.gpu_type, None if before is None else price_views.price(before), price)
    return price


# ---------------------------------------------------------------- limits


def add_quota(uow: UnitOfWork, actor: Actor, wish: models.QuotaSet, now_ms: int, currency: str) -> models.QuotaUse:
    """Set a limit; one that limits the same thing for the same subject and window is replaced.

    What was given beyond the replaced limit, and who asks for more of it, passes on to the new one. A teacher sets
    limits for members of a class they run; whole classes, people and the site are an administrator's.
    """
    quota = _quota_of(wish)
    if not actor.admin and not (quota.scope == "member" and quota.name in actor.teaches):
        raise Refusal(not_allowed("You may set quotas for the members of classes you run, and no others."))
    same = [q for q in uow.quotas() if _subject(q) == _subject(quota)]
    before = None
    for old in same:
        before = _use(uow, old, actor, now_ms, currency)
        uow.remove_quota(old.id)
    stored = uow.add_quota(quota)
    for old in same:
        _pass_on(uow, old.id, stored.id, now_ms)
    answer = _use(uow, stored, actor, now_ms, currency)
    audit(uow, actor, now_ms, "set_quota", answer.label, before, answer)
    return answer


def _quota_of(wish: models.QuotaSet) -> Quota:
    """The limit of a request. Raises Refusal with what does not fit together."""
    if wish.scope is models.QuotaScope.site and wish.name:
        raise Refusal(
            Refused(
                "invalid_request",
                f"A limit for the site is for everyone, so it takes no name; this one has {wish.name!r}.",
                instead="Leave name out, or choose the scope class, member or person.",
            )
        )
    starts_ms, ends_ms = (
        None if moment is None else views.milliseconds(moment) for moment in (wish.starts_at, wish.ends_at)
    )
    try:
        return Quota(
            0,
            wish.scope.value,
            wish.name,
            wish.metric.value,
            wish.limit,
            wish.window,
            wish.gpu_type,
            wish.time_zone,
            soft=wish.soft,
            starts_ms=starts_ms,
            ends_ms=ends_ms,
            rolling_ms=None if wish.rolling_seconds is None else wish.rolling_seconds * 1000,
        )
    except ValueError as error:
        raise impossible("limit", error) from None


def _subject(quota: Quota) -> tuple[object, ...]:
    """What makes two limits the same: a hard one and a soft one stand beside each other, two terms too."""
    what = (quota.scope, quota.name, quota.metric, quota.window, quota.gpu_type, quota.soft)
    return *what, quota.rolling_ms, quota.starts_ms, quota.ends_ms


def _pass_on(uow: UnitOfWork, old_id: int, new_id: int, now_ms: int) -> None:
    for extra in uow.extras():
        if extra.quota_id == old_id and (extra.until_ms is None or extra.until_ms > now_ms):
            uow.add_extra(replace(extra, quota_id=new_id))
    for ask in uow.asks(state="open"):
        if ask.quota_id == old_id:
            uow.save_ask(replace(ask, quota_id=new_id))


def remove_quota(uow: UnitOfWork, actor: Actor, quota_id: int, now_ms: int, currency: str) -> None:
    """Lift a limit. Same rights as setting it."""
    quota = next((q for q in uow.quotas() if q.id == quota_id), None)
    if quota is None or not (actor.admin or (quota.scope == "member" and quota.name in actor.teaches)):
        raise Refusal(not_found("quota", str(quota_id)))
    before = _use(uow, quota, actor, now_ms, currency)
    uow.remove_quota(quota_id)
    audit(uow, actor, now_ms, "remove_quota", before.label, before, None)


def _use(uow: UnitOfWork, quota: Quota, actor: Actor, now_ms: int, currency: str) -> models.QuotaUse:
    """A limit as an administrator's or teacher's change leaves it."""
    return rule_views.quota_use(uow, Rules.load(uow), quota, own_customer(actor), now_ms, GpusHeld(), currency)
