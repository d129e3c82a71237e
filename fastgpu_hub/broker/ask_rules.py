"""Asking for more of a limit or of credit, and the answer. One transaction per function, each audited.

Who answers: for a limit on a class's members, its teacher, also for credit of a member's own account, which then comes
out of the class's credit; for everything else an administrator, who is needed too for what one asks for oneself.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from fastgpu import models
from fastgpu_hub.broker import rule_views, views
from fastgpu_hub.broker.actors import Actor, not_allowed, not_found
from fastgpu_hub.broker.admission import Rules
from fastgpu_hub.broker.credit_rules import give
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.ports.records import Ask, Notice
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.rules import audit, impossible
from fastgpu_hub.pricing import quotas
from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.explain import Explained, Refused
from fastgpu_hub.pricing.money import format_money
from fastgpu_hub.pricing.promotions import Customer
from fastgpu_hub.pricing.quota_words import format_bytes
from fastgpu_hub.pricing.quotas import Extra, Quota

# By class that the caller runs: its members.
Members = Mapping[str, Collection[str]]
MOST_SHOWN = 200


def asks(uow: UnitOfWork, actor: Actor, members: Members, state: str | None, currency: str) -> list[models.Ask]:
    """The caller's own requests for more and those they may answer, newest first."""
    limits = {quota.id: quota for quota in Rules.load(uow).quotas}
    found = []
    for ask in uow.asks(state=state):
        decides = _decides(actor, ask, limits.get(ask.quota_id or 0), members)
        if decides or _is_own(actor, ask):
            found.append(_seen(ask, limits.get(ask.quota_id or 0), currency, decidable=decides))
    return found[:MOST_SHOWN]


def of_class(uow: UnitOfWork, actor: Actor, name: str, members: Collection[str], currency: str) -> list[models.Ask]:
    """Requests about a class that the caller runs: its limits, its credit, its members' own credit; newest first."""
    limits = {quota.id: quota for quota in Rules.load(uow).quotas}
    found = []
    for ask in uow.asks():
        if ask.account == f"class:{name}" or (ask.account == f"person:{ask.owner}" and ask.owner in members):
            quota = limits.get(ask.quota_id or 0)
            decidable = _decides(actor, ask, quota, {name: members})
            found.append(_seen(ask, quota, currency, decidable=decidable))
    return found[:MOST_SHOWN]


def ask(uow: UnitOfWork, actor: Actor, wish: models.AskSet, now_ms: int, currency: str) -> models.Ask:
    """Ask for more of a limit that one falls under, or of the credit of an account that one may charge.

    Raises Refusal (``ask_open``) while the same is asked for already.
    """
    if (wish.quota_id is None) == (wish.account is None):
        raise Refusal(
            Refused("invalid_request", "A request is for more of a limit (quota_id) or of credit (account): give one.")
        )
    quota = None
    if wish.quota_id is not None:
        quota = _limit_of(uow, actor, wish.quota_id)
        account = _account_of(actor, quota)
    else:
        account = wish.account or ""
        if account not in actor.accounts:
            raise Refusal(not_found("account", account))
    for open_ask in uow.asks(owner=actor.name, state="open"):
        if (open_ask.quota_id, open_ask.account) == (wish.quota_id, account):
            message = f"You asked for this already (request {open_ask.id}); it is not answered yet."
            raise Refusal(
                Refused("ask_open", message, {"ask_id": open_ask.id}, instead="Withdraw it to ask differently.")
            )
    stored = uow.add_ask(Ask(0, actor.name, account, wish.quota_id, wish.amount, wish.reason, "open", now_ms))
    answer = _seen(stored, quota, currency, decidable=False)
    audit(uow, actor, now_ms, "ask", f"ask:{stored.id}", None, answer)
    return answer


def _limit_of(uow: UnitOfWork, actor: Actor, quota_id: int) -> Quota:
    quota = next((q for q in Rules.load(uow).quotas if q.id == quota_id), None)
    mine = [Customer(actor.name, account, actor.classes) for account in actor.accounts]
    if quota is None or not any(quotas.applicable([quota], customer) for customer in mine):
        raise Refusal(not_found("quota", str(quota_id)))
    if quota.metric == quotas.CREDIT_SHARE:
        message = "A share of a class's credit cannot be raised for one member."
        raise Refusal(Refused("invalid_request", message, instead="Ask for credit of your own account."))
    return quota


def _account_of(actor: Actor, quota: Quota) -> str:
    return f"class:{quota.name}" if quota.scope in ("class", "member") else f"person:{actor.name}"


def withdraw(uow: UnitOfWork, actor: Actor, ask_id: int, now_ms: int, currency: str) -> models.Ask:
    """Take one's own request back."""
    found = _find(uow, ask_id)
    if found is None or not _is_own(actor, found):
        raise Refusal(not_found("request", str(ask_id)))
    _refuse_answered(found)
    return _answered(uow, actor, found, "withdrawn", "", now_ms, currency)


def approve(
    uow: UnitOfWork,
    actor: Actor,
    ask_id: int,
    decision: models.AskDecision,
    members: Members,
    now_ms: int,
    currency: str,
) -> models.Ask:
    """Give what was asked for, or another amount, at once and until an instant; tells who asked.

    Raises Refusal when the class's credit is not enough, and nothing is decided then.
    """
    found, quota = _decidable(uow, actor, ask_id, members)
    amount = decision.amount or found.amount
    until_ms = None if decision.until is None else views.milliseconds(decision.until)
    if until_ms is not None and until_ms <= now_ms:
        message = f"This would have ended before it begins: until {decision.until} is not after now."
        raise Refusal(Refused("invalid_request", message, instead="Name a later instant, or leave until out."))
    try:
        if found.quota_id is not None:
            if quota is None:
                message = "The limit that this request is about was lifted meanwhile."
                raise Refusal(Refused("ask_gone", message, instead="Decline it."))
            _raise_limit(uow, quota, found, amount, until_ms, now_ms)
        else:
            _give_credit(uow, actor, found, amount, until_ms, members, now_ms, currency)
    except ValueError as error:
        raise impossible("answer", error) from None
    given = replace(found, amount=amount)
    return _answered(uow, actor, given, "approved", decision.answer, now_ms, currency, asked=found)


def decline(
    uow: UnitOfWork,
    actor: Actor,
    ask_id: int,
    decision: models.AskDecision,
    members: Members,
    now_ms: int,
    currency: str,
) -> models.Ask:
    """Say no, and tell who asked."""
    found, _ = _decidable(uow, actor, ask_id, members)
    if decision.amount is not None or decision.until is not None:
        message = "Nothing is given when a request is declined, so there is no amount or until."
        raise Refusal(Refused("invalid_request", message, instead="Leave both out, or approve the request."))
    return _answered(uow, actor, found, "declined", decision.answer, now_ms, currency)


# ---------------------------------------------------------------- who


def _find(uow: UnitOfWork, ask_id: int) -> Ask | None:
    return next((ask for ask in uow.asks() if ask.id == ask_id), None)


def _is_own(actor: Actor, ask: Ask) -> bool:
    return actor.kind == "user" and ask.owner == actor.name


def _decides(actor: Actor, ask: Ask, quota: Quota | None, members: Members) -> bool:
    if actor.admin:
        return True
    if _is_own(actor, ask):
        return False
    if ask.quota_id is not None:
        return quota is not None and quota.scope == "member" and quota.name in actor.teaches
    return _paying_class(ask, members) is not None


def _paying_class(ask: Ask, members: Members) -> str | None:
    """The class of the caller whose credit an approval passes on: the first that the person is in."""
    if ask.account != f"person:{ask.owner}":
        return None
    return next((name for name in sorted(members) if ask.owner in members[name]), None)


def _decidable(uow: UnitOfWork, actor: Actor, ask_id: int, members: Members) -> tuple[Ask, Quota | None]:
    found = _find(uow, ask_id)
    quota = None
    if found is not None:
        quota = next((q for q in Rules.load(uow).quotas if q.id == found.quota_id), None)
    if found is not None and _decides(actor, found, quota, members):
        _refuse_answered(found)
        return found, quota
    if found is not None and _is_own(actor, found):
        raise Refusal(not_allowed("Your own request is answered by an administrator."))
    raise Refusal(not_found("request", str(ask_id)))


# ---------------------------------------------------------------- effects


def _raise_limit(uow: UnitOfWork, quota: Quota, found: Ask, amount: int, until_ms: int | None, now_ms: int) -> None:
    """More of a limit: for the person where it is each member's or their own, else for all that it limits."""
    if until_ms is None and quota.window == "term":
        until_ms = quota.ends_ms  # also when the term has not begun
    elif until_ms is None and (window := quotas.window_at(quota, now_ms)) is not None:
        until_ms = now_ms + quota.rolling_ms if quota.rolling_ms is not None else window[1]
    owner = found.owner if quota.scope == "member" else ""
    uow.add_extra(Extra(0, quota.id, owner, amount, now_ms, until_ms))


def _give_credit(
    uow: UnitOfWork,
    actor: Actor,
    found: Ask,
    amount: int,
    until_ms: int | None,
    members: Members,
    now_ms: int,
    currency: str,
) -> None:
    """Credit: of the site from an administrator, of their class from a teacher."""
    klass = None if actor.admin else _paying_class(found, members)
    grant = Grant(
        0,
        found.account,
        amount,
        now_ms,
        expires_ms=until_ms,
        source=f"ask:{found.id}",
        note=found.reason,
        by=actor.name,
    )
    give(uow, actor, grant, now_ms, None if klass is None else f"class:{klass}", currency)


def _refuse_answered(found: Ask) -> None:
    if found.state != "open":
        message = f"Request {found.id} was {found.state} already."
        raise Refusal(Refused("ask_answered", message, {"ask_id": found.id, "state": found.state}))


def _answered(
    uow: UnitOfWork,
    actor: Actor,
    given: Ask,
    state: str,
    answer: str,
    now_ms: int,
    currency: str,
    *,
    asked: Ask | None = None,
) -> models.Ask:
    """Write the answer down, and tell who asked unless they did it themselves."""
    asked = asked or given
    after = replace(given, state=state, decided_ms=now_ms, decided_by=actor.name, answer=answer)
    uow.save_ask(after)
    quota = next((q for q in Rules.load(uow).quotas if q.id == asked.quota_id), None)
    before_seen = _seen(asked, quota, currency, decidable=False)
    after_seen = _seen(after, quota, currency, decidable=False)
    audit(uow, actor, now_ms, f"ask_{state}", f"ask:{asked.id}", before_seen, after_seen)
    if not _is_own(actor, asked):
        uow.add_notice(Notice(0, asked.owner, now_ms, "answered", _news(asked, after, after_seen, currency)))
    return after_seen


def _news(asked: Ask, after: Ask, seen: models.Ask, currency: str) -> Explained:
    wanted, given = (_amount(seen, value.amount, currency) for value in (asked, after))
    said = f" {after.decided_by}: “{after.answer}”" if after.answer else ""
    if after.state == "approved":
        instead_of = "" if after.amount == asked.amount else f", of {wanted} that you asked for"
        message = f"You were given {given} more ({seen.label}){instead_of}.{said}"
    else:
        message = f"{after.decided_by} declined your request for {wanted} more ({seen.label}).{said}"
    numbers: dict[str, int | str] = {"ask_id": after.id, "asked": asked.amount}
    if after.state == "approved":
        numbers["given"] = after.amount
    return Explained(f"ask_{after.state}", message, numbers)


def _amount(seen: models.Ask, amount: int, currency: str) -> str:
    if seen.metric is models.QuotaMetric.spend_micros:
        return format_money(amount, currency)
    if seen.metric is models.QuotaMetric.gpu_seconds:
        return f"{amount // 3600}.{amount % 3600 // 36:02d} GPU-hours"
    if seen.metric is models.QuotaMetric.artifact_bytes:
        return format_bytes(amount)
    return f"{amount} GPU{'s' * (amount != 1)}"


def _seen(value: Ask, quota: Quota | None, currency: str, *, decidable: bool) -> models.Ask:
    return rule_views.ask(value, quota, currency, decidable=decidable)
