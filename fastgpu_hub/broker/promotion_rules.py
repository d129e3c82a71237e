"""Promotions: who may make and change them, their codes, and who takes a place. One transaction per function.

A promotion is never changed in place: editing, publishing and ending make a new version, so every charge line goes on
naming exactly what it was priced by. Places are counted and taken in the same transaction, and all transactions pass
one writer, so a cap holds whatever happens at the same time.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace

from fastgpu import models
from fastgpu_hub.broker import admission, rule_views, views
from fastgpu_hub.broker.actors import Actor, not_allowed, not_found
from fastgpu_hub.broker.admission import Rules, folded
from fastgpu_hub.broker.credit_rules import give
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.ports.records import PromotionCode, Redemption, Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.rule_views import may_edit
from fastgpu_hub.broker.rules import audit, impossible, own_customer
from fastgpu_hub.pricing import promotions as promo
from fastgpu_hub.pricing import windows
from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.promotions import NEW, NOTHING, Customer, Promotion, Standing

# Without 0 O 1 I L, which are taken for each other: 31 signs, so 16 of them hold 79 bits.
ALPHABET = "23456789ABCDEFGHJKMNPQRSTUVWXYZ"
GROUPS, GROUP_SIGNS = 4, 4
MOST_CODES = 100_000


# ---------------------------------------------------------------- making and changing


def check_audience(actor: Actor, wish: models.PromotionSet) -> None:
    """Raises Refusal unless the caller may make a promotion for this audience."""
    if not actor.admin and not (wish.audience and all(actor.manages(entry) for entry in wish.audience)):
        raise Refusal(
            not_allowed(
                "A teacher's promotion must be for classes they run.",
                instead="Set its audience to your class, for example class:cs101.",
            )
        )


def promotion_of(wish: models.PromotionSet, actor: Actor) -> Promotion:
    """The promotion of a request, its first version. Raises Refusal with what does not fit together."""
    try:
        return Promotion(
            id=0,
            name=wish.name,
            starts_ms=max(views.milliseconds(wish.starts_at), 0),
            ends_ms=views.milliseconds(wish.ends_at),
            percent_off=wish.percent_off,
            fixed_per_gpu_hour_micros=wish.fixed_per_gpu_hour_micros,
            free_gpu_ms=None if wish.free_gpu_seconds is None else wish.free_gpu_seconds * 1000,
            credit_micros=wish.credit_micros,
            credit_days=wish.credit_days,
            gpu_types=wish.gpu_types,
            audience=wish.audience,
            weekly=tuple(windows.WeeklyWindow(w.days, w.from_minute, w.to_minute) for w in wish.weekly),
            time_zone=wish.time_zone,
            created_by=actor.name,
            needs_code=wish.needs_code or wish.code is not None,
            published=not wish.draft,
            stacks=wish.stacks,
            max_redemptions=wish.max_redemptions,
            max_per_person=wish.max_per_person,
            budget_micros=wish.budget_micros,
        )
    except ValueError as error:
        raise impossible("promotion", error) from None


def _check_times(promotion: Promotion, now_ms: int) -> None:
    if not max(promotion.starts_ms, now_ms) < promotion.ends_ms:
        starts, ends = (windows.when(ms, promotion.time_zone) for ms in (promotion.starts_ms, promotion.ends_ms))
        raise Refusal(
            Refused(
                "invalid_request",
                f"The promotion would be over before it begins: it starts on {starts} and ends on {ends}.",
                {"starts_ms": promotion.starts_ms, "ends_ms": promotion.ends_ms},
                instead="Choose an end after its start and after now.",
            )
        )


def add(uow: UnitOfWork, actor: Actor, wish: models.PromotionSet, now_ms: int) -> models.Promotion:
    """A new promotion. A teacher may make one whose whole audience is classes they run; administrators any."""
    check_audience(actor, wish)
    promotion = promotion_of(wish, actor)
    _check_times(promotion, now_ms)
    promotion = uow.add_promotion(promotion)
    if wish.code is not None:
        _share_code(uow, actor, promotion, wish.code, now_ms)
    answer = _seen(uow, actor, promotion, now_ms)
    audit(uow, actor, now_ms, "add_promotion", str(promotion.family), None, answer)
    return answer


def edit(uow: UnitOfWork, actor: Actor, family: int, wish: models.PromotionSet, now_ms: int) -> models.Promotion:
    """A new version of a promotion. Who holds a lease keeps what it was granted with.

    Places taken, codes, budget and free time used count on. What it gives (a percentage, a fixed price, free time,
    credit) stays what it is once it was published, for places were taken for that.
    """
    before = _editable(uow, actor, family)
    check_audience(actor, wish)
    after = promotion_of(wish, actor)
    _check_times(after, now_ms)
    if before.published:
        _refuse_ended(before, now_ms)
        if wish.draft:
            raise _conflict("promo_published", f"“{before.name}” is published and cannot become a draft again.")
        if _kind(before) != _kind(after):
            raise _conflict(
                "promo_published", f"“{before.name}” gives {_kind(before)}; published, it cannot give {_kind(after)}."
            )
    if wish.code is not None:
        _share_code(uow, actor, before, wish.code, now_ms)
    return _new_version(uow, actor, before, after, now_ms, "edit_promotion")


def publish(uow: UnitOfWork, actor: Actor, family: int, now_ms: int) -> models.Promotion:
    """Make a draft count."""
    draft = _editable(uow, actor, family)
    if draft.published:
        raise _conflict("promo_published", f"“{draft.name}” is published already.")
    _check_times(draft, now_ms)
    return _new_version(uow, actor, draft, replace(draft, published=True), now_ms, "publish_promotion")


def end(uow: UnitOfWork, actor: Actor, family: int, now_ms: int) -> models.Promotion:
    """End a promotion now, or drop a draft. Leases granted under it keep their price."""
    before = _editable(uow, actor, family)
    if before.ends_ms <= now_ms:
        return _seen(uow, actor, before, now_ms)
    return _new_version(uow, actor, before, replace(before, ends_ms=now_ms), now_ms, "end_promotion")


def restore(uow: UnitOfWork, actor: Actor, family: int, version: int, now_ms: int) -> models.Promotion:
    """Make an earlier version count again, as a new one: it takes back an edit, or an end by hand."""
    newest_one = _editable(uow, actor, family)
    old = next((p for p in uow.promotion_versions() if (p.family, p.version) == (family, version)), None)
    if old is None or not may_edit(actor, old):
        raise Refusal(not_found("version of this promotion", str(version)))
    if newest_one.published and not old.published:
        raise _conflict("promo_published", f"Version {version} of “{old.name}” was a draft; it is published since.")
    _check_times(old, now_ms)
    return _new_version(uow, actor, newest_one, old, now_ms, "restore_promotion")


def versions(uow: UnitOfWork, actor: Actor, family: int, now_ms: int) -> list[models.Promotion]:
    """Every version of a promotion, newest first, for those who may edit it."""
    _editable(uow, actor, family)
    return [_seen(uow, actor, p, now_ms) for p in reversed(uow.promotion_versions()) if p.family == family]


def _new_version(
    uow: UnitOfWork, actor: Actor, before: Promotion, after: Promotion, now_ms: int, action: str
) -> models.Promotion:
    old = _seen(uow, actor, before, now_ms)
    after = replace(after, id=0, family=before.family, version=before.version + 1, created_by=actor.name)
    answer = _seen(uow, actor, uow.add_promotion(after), now_ms)
    audit(uow, actor, now_ms, action, str(before.family), old, answer)
    return answer


def _seen(uow: UnitOfWork, actor: Actor, promotion: Promotion, now_ms: int) -> models.Promotion:
    rules = Rules.load(uow)
    customer = admission.with_first_use(uow, rules, own_customer(actor))
    standing = admission.standings(uow, rules, actor.name, None).get(promotion.family, NOTHING)
    return rule_views.promotion(promotion, customer, now_ms, standing, editable=True)


def newest(uow: UnitOfWork, family: int) -> Promotion | None:
    """The newest version of a promotion."""
    return next((p for p in Rules.load(uow).promotions if p.family == family), None)


def _editable(uow: UnitOfWork, actor: Actor, family: int) -> Promotion:
    found = newest(uow, family)
    if found is None or not may_edit(actor, found):
        raise Refusal(not_found("promotion", str(family)))
    return found


def _kind(promotion: Promotion) -> str:
    if promotion.percent_off is not None:
        return "a percentage off"
    if promotion.fixed_per_gpu_hour_micros is not None:
        return "a fixed price"
    return "free GPU time" if promotion.free_gpu_ms is not None else "credit"


def _refuse_ended(promotion: Promotion, now_ms: int) -> None:
    if promo.state_at(promotion, now_ms) == "ended":
        message = f"“{promotion.name}” ended on {windows.when(promotion.ends_ms, promotion.time_zone)}."
        raise Refusal(Refused("promo_ended", message, {"ended_ms": promotion.ends_ms}, instead="Make a new one."))


def _conflict(code: str, message: str) -> Refusal:
    return Refusal(Refused(code, message, instead="End it and make a new one."))


# ---------------------------------------------------------------- codes


def random_code() -> str:
    """A code that cannot be guessed, like ``K7QF-9M2X-4TRW-8HJP``."""
    return "-".join("".join(secrets.choice(ALPHABET) for _ in range(GROUP_SIGNS)) for _ in range(GROUPS))


def codes(uow: UnitOfWork, actor: Actor, family: int) -> list[models.PromotionCode]:
    """A promotion's codes with their uses, for those who may edit it."""
    _editable(uow, actor, family)
    return [rule_views.code(code) for code in uow.codes(family)]


def make_codes(
    uow: UnitOfWork, actor: Actor, family: int, wish: models.CodesSet, now_ms: int
) -> list[models.PromotionCode]:
    """New random codes for a promotion that needs one."""
    promotion = _editable(uow, actor, family)
    _refuse_ended(promotion, now_ms)
    if not promotion.needs_code:
        message = f"“{promotion.name}” needs no code, so codes for it would be of no use."
        raise Refusal(Refused("invalid_request", message, instead="Set needs_code in an edit first."))
    there = len(uow.codes(family))
    if there + wish.count > MOST_CODES:
        message = f"“{promotion.name}” has {there} codes; with {wish.count} more it would have over {MOST_CODES}."
        raise Refusal(Refused("invalid_request", message, {"codes": there, "most": MOST_CODES}))
    new = [PromotionCode(random_code(), family, wish.max_uses, now_ms, actor.name) for _ in range(wish.count)]
    uow.add_codes(new)
    made = models.CodesSet(count=wish.count, max_uses=wish.max_uses)
    audit(uow, actor, now_ms, "make_codes", str(family), None, made)
    return [rule_views.code(code) for code in new]


def _share_code(uow: UnitOfWork, actor: Actor, promotion: Promotion, text: str, now_ms: int) -> None:
    """A code that the teacher chose, for all; giving a promotion its own code again changes nothing."""
    known = uow.code(folded(text))
    if known is None:
        uow.add_codes([PromotionCode(folded(text), promotion.family, None, now_ms, actor.name)])
    elif known.family != promotion.family:
        raise Refusal(
            Refused("promo_code_taken", f"The code {folded(text)} cannot be used here.", instead="Choose another one.")
        )


def knows_code(uow: UnitOfWork, customer: Customer, text: str) -> bool:
    """Whether a code is one that this customer may have been given; all others look alike to them."""
    return _code_for(uow, customer, text) is not None


def _code_for(uow: UnitOfWork, customer: Customer, text: str) -> tuple[PromotionCode, Promotion] | None:
    code = uow.code(folded(text))
    promotion = None if code is None else newest(uow, code.family)
    if code is None or promotion is None or not promotion.published or _foreign(promotion, customer):
        return None
    return code, promotion


def _foreign(promotion: Promotion, customer: Customer) -> bool:
    """Whether a promotion is for others, whatever this customer does; anybody may have been new once."""
    audience = promotion.audience
    return bool(audience) and NEW not in audience and customer.audiences.isdisjoint(audience)


def wrong_code(text: str) -> Refused:
    """The one answer for a code that does not exist and for one of somebody else's promotion."""
    return Refused(
        "promo_code_wrong",
        f"The code {folded(text)} is not valid for you.",
        instead="Check its spelling, or leave the code out.",
    )


# ---------------------------------------------------------------- taking a place


def redeem(uow: UnitOfWork, actor: Actor, wish: models.Redeem, account: str | None, now_ms: int) -> models.Redeemed:
    """Take a place, by code or by id, for good; one that gives credit gives it to ``account`` (default: their own).

    Raises Refusal, and then nothing is written, when a cap is reached or it is not for them.
    """
    rules = Rules.load(uow)
    customer = admission.with_first_use(uow, rules, own_customer(actor, account))
    code, promotion = _asked_for(uow, actor, customer, wish)
    standing = admission.standings(uow, rules, actor.name, wish.code).get(promotion.family, NOTHING)
    if refused := _no_place(promotion, code, customer, standing, now_ms):
        raise Refusal(refused)
    payer = account or f"person:{actor.name}"
    uow.add_redemption(Redemption(0, promotion.family, actor.name, payer, code.code if code else None, now_ms))
    if promotion.credit_micros is not None:
        expires_ms = None if promotion.credit_days is None else now_ms + promotion.credit_days * windows.MS_PER_DAY
        source = f"promotion:{promotion.family}"
        give(
            uow,
            actor,
            Grant(
                0,
                payer,
                promotion.credit_micros,
                now_ms,
                expires_ms=expires_ms,
                source=source,
                note=promotion.name,
                by=actor.name,
            ),
            now_ms,
        )
    after = admission.standings(uow, rules, actor.name, wish.code).get(promotion.family, NOTHING)
    seen = rule_views.promotion(promotion, customer, now_ms, after, editable=may_edit(actor, promotion))
    return models.Redeemed(promotion=seen, granted_micros=promotion.credit_micros or 0, account=payer)


def _asked_for(
    uow: UnitOfWork, actor: Actor, customer: Customer, wish: models.Redeem
) -> tuple[PromotionCode | None, Promotion]:
    if (wish.code is None) == (wish.promotion_id is None):
        raise Refusal(
            Refused("invalid_request", "A promotion is redeemed either by a code or by its promotion_id: give one.")
        )
    if wish.code is not None:
        known = _code_for(uow, customer, wish.code)
        if known is None:
            raise Refusal(wrong_code(wish.code))
        return known
    promotion = newest(uow, wish.promotion_id or 0)
    if promotion is None or not (promotion.published or may_edit(actor, promotion)):
        raise Refusal(not_found("promotion", str(wish.promotion_id)))
    return None, promotion


def _no_place(
    promotion: Promotion, code: PromotionCode | None, customer: Customer, standing: Standing, at_ms: int | None
) -> Refused | None:
    """Why no place can be taken at an instant (None: whenever); None when one can."""
    name, gives_credit = promotion.name, promotion.credit_micros is not None
    if not promotion.needs_redemption:
        return Refused("promo_no_redemption", f"“{name}” needs not be redeemed: it applies by itself.")
    if standing.redeemed and not gives_credit:
        return Refused("promo_redeemed", f"You have redeemed “{name}” already. It applies by itself from now on.")
    # A place in a cheaper price may be taken outside of its hours; credit is given within them only.
    timed = promotion if gives_credit else replace(promotion, weekly=())
    used_up = code is not None and code.max_uses is not None and code.uses >= code.max_uses
    refused = promo.why_not(timed, customer, replace(standing, code_given=code is not None), at_ms=at_ms)
    if refused is None and used_up and code is not None:
        return Refused(
            "promo_code_used",
            f"The code {code.code} of “{name}” has been used.",
            {"uses": code.uses, "max_uses": code.max_uses or 0},
            instead="Ask whoever gave it to you for another one.",
        )
    return refused


def take_places(uow: UnitOfWork, workload: Workload, lines: Sequence[Line], now_ms: int) -> None:
    """Redeem, for the workload's owner, the promotions that its lines were priced by; once per person and promotion.

    Raises Refusal when one is full meanwhile or its code is used up; then the caller rolls back.
    """
    versions = {line.promotion_id for line in lines} | {line.stacked_promotion_id for line in lines}
    needed = [p for p in Rules.load(uow).promotions if p.id in versions and p.needs_redemption]
    if not needed:
        return
    counts = uow.redemption_counts(workload.owner)
    code = uow.code(folded(workload.promo_code)) if workload.promo_code else None
    for promotion in needed:
        mine, everybody = counts.get(promotion.family, (0, 0))
        if mine:
            continue
        own = code if code is not None and code.family == promotion.family else None
        customer = Customer(workload.owner, workload.account, workload.classes)
        standing = Standing(code_given=own is not None, redemptions=everybody)
        if refused := _no_place(replace(promotion, audience=()), own, customer, standing, None):
            raise Refusal(refused)
        taken = own.code if own is not None else None
        uow.add_redemption(Redemption(0, promotion.family, workload.owner, workload.account, taken, now_ms))
