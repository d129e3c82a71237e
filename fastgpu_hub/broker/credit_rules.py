"""Credit: who gives it to whom, and charges that are given back. One transaction per function, each audited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fastgpu import models
from fastgpu_hub.broker import funds, rule_views, views
from fastgpu_hub.broker.actors import Actor, not_allowed, not_found
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.ports.records import AuditEntry, Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.rules import audit, impossible
from fastgpu_hub.pricing import credits
from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.ledger import Transfer, grant_transfer, refund_transfers


def check_giver(actor: Actor, wish: models.GrantSet, members: Sequence[str] | None) -> None:
    """Raises Refusal unless the caller may give this.

    From the site: administrators. From a class's credit: its teacher, to the own account of one of its ``members``
    (None: there is no such class).
    """
    source = wish.from_account
    if source is None:
        if not actor.admin:
            raise Refusal(
                not_allowed(
                    "Only an administrator gives credit of the site.",
                    instead="Name your class as from_account to give of its credit to a member.",
                )
            )
        return
    if not source.startswith("class:") or not wish.account.startswith("person:"):
        raise Refusal(
            Refused(
                "invalid_request",
                f"Credit passes from a class to a person, not from {source} to {wish.account}.",
                instead="Write from_account as class:NAME and account as person:NAME.",
            )
        )
    if not actor.manages(source):
        raise Refusal(not_allowed(f"You do not run {source}.", instead="Give of the credit of a class that you run."))
    if members is None or wish.account.removeprefix("person:") not in members:
        raise Refusal(not_found("member of your class", wish.account))


def grant(uow: UnitOfWork, actor: Actor, wish: models.GrantSet, now_ms: int, currency: str) -> models.Account:
    """Give credit to an account; :func:`check_giver` comes before. Answers the account as it is then."""
    expires_ms = None if wish.expires_at is None else views.milliseconds(wish.expires_at)
    if expires_ms is not None and expires_ms <= now_ms:
        raise Refusal(
            Refused(
                "invalid_request",
                f"This credit would have expired before it is given: expires_at {wish.expires_at} is not after now.",
                {"expires_ms": expires_ms, "now_ms": now_ms},
                instead="Name a later instant, or leave expires_at out for credit that stays.",
            )
        )
    try:
        wanted = Grant(
            0,
            wish.account,
            wish.amount_micros,
            now_ms,
            wish.priority,
            expires_ms,
            wish.rollover_percent,
            source=wish.from_account or "",
            note=wish.note,
            by=actor.name,
        )
    except ValueError as error:
        raise impossible("grant", error) from None
    return give(uow, actor, wanted, now_ms, wish.from_account, currency)


def give(
    uow: UnitOfWork, actor: Actor, grant: Grant, now_ms: int, from_account: str | None = None, currency: str = ""
) -> models.Account:
    """Book a grant, out of ``from_account``'s credit (None: the site's). Raises Refusal when that has not enough."""
    before = rule_views.account(uow, grant.account, now_ms)
    if from_account is None:
        uow.append([grant_transfer(uow.add_grant(grant))])
    else:
        _pass_on(uow, grant, from_account, now_ms, currency)
    after = rule_views.account(uow, grant.account, now_ms)
    audit(uow, actor, now_ms, "grant", grant.account, before, after)
    return after


def _pass_on(uow: UnitOfWork, grant: Grant, giver: str, now_ms: int, currency: str) -> None:
    """A gift is paid by grants that are valid now, and must leave enough of them for what is held already."""
    before = funds.Funds(uow, giver, now_ms)
    balance, short_micros = before.balance(), before.burn().short_micros
    refused = credits.check(giver, balance, grant.amount_micros, currency=currency)
    if refused is None:
        uow.append([grant_transfer(uow.add_grant(grant), giver)])
        burned = funds.Funds(uow, giver, now_ms).burn()
        refused = credits.too_late(
            giver, balance, burned, grant.amount_micros, short_before_micros=short_micros, currency=currency
        )
    if refused:
        raise Refusal(refused)


def may_see_account(actor: Actor, account: str) -> bool:
    """Whoever may charge it, its class's teacher, administrators."""
    return account in actor.accounts or actor.manages(account)


def accounts_seen(uow: UnitOfWork, actor: Actor) -> list[str]:
    """The accounts whose grants the caller sees: for administrators all there are."""
    if actor.admin:
        return sorted({grant.account for grant in uow.grants()})
    return list(dict.fromkeys((*actor.accounts, *(f"class:{name}" for name in actor.teaches))))


# ---------------------------------------------------------------- refunds


def refund(uow: UnitOfWork, actor: Actor, workload: Workload, wish: models.RefundSet, now_ms: int) -> list[Transfer]:
    """Give back charges of a workload, each at most once: all of them, or those with the given ids.

    The money becomes a grant without expiry to the account that paid; the GPU time no longer counts in any limit, nor
    what was saved in any promotion's budget. Raises Refusal (``already_refunded``, ``nothing_to_refund``,
    ``not_found``).
    """
    if not actor.admin:
        raise Refusal(not_allowed("Only an administrator refunds charges."))
    booked = uow.transfers(workload_id=workload.id)
    due = _charges_due(booked, wish.charge_ids, workload)
    total = sum(charge.amount_micros for charge in due)
    before = rule_views.account(uow, workload.account, now_ms)
    for back in refund_transfers(due, now_ms, actor.name, wish.reason):
        uow.append([replace(back, grant_id=_given_back(uow, actor, workload, back, wish.reason))])
    after = rule_views.account(uow, workload.account, now_ms)
    uow.add_audit(
        AuditEntry(
            now_ms,
            actor.name,
            "refund",
            workload.id,
            {"account": before.model_dump(mode="json")},
            {
                "account": after.model_dump(mode="json"),
                "charge_ids": [charge.id for charge in due],
                "amount_micros": total,
                "reason": wish.reason,
            },
        )
    )
    return uow.transfers(workload_id=workload.id)


def _given_back(uow: UnitOfWork, actor: Actor, workload: Workload, back: Transfer, reason: str) -> int | None:
    """The grant that a refunded charge becomes; none where it cost nothing."""
    if not back.amount_micros:
        return None
    source = f"{funds.REFUND}{workload.id}"
    grant = Grant(0, back.credit, back.amount_micros, back.at_ms, source=source, note=reason, by=actor.name)
    return uow.add_grant(grant).id


def _charges_due(booked: Sequence[Transfer], wanted: Sequence[int], workload: Workload) -> list[Transfer]:
    charges = {t.id: t for t in booked if t.kind == "charge"}
    refunded = {t.reverses for t in booked if t.reverses is not None}
    for charge_id in wanted:
        if charge_id not in charges:
            raise Refusal(not_found("charge of this lease", str(charge_id)))
        if charge_id in refunded:
            raise Refusal(
                Refused(
                    "already_refunded",
                    f"Charge {charge_id} of {workload.id} was refunded already; each is given back at most once.",
                    {"charge_id": charge_id},
                    instead="The receipt shows which charges are refunded.",
                )
            )
    due = [charge for charge_id, charge in charges.items() if charge_id not in refunded]
    if wanted:
        due = [charge for charge in due if charge.id in set(wanted)]
    if not due:
        message = f"Nothing that was charged for {workload.id} is left to refund."
        raise Refusal(Refused("nothing_to_refund", message, {"charges": len(charges), "refunded": len(refunded)}))
    return due
