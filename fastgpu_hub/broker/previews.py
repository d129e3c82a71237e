"""What a past period would have cost under a promotion: settled lines priced again, in order of time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

from fastgpu import models
from fastgpu_hub.broker import promotion_rules, views
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.pricing import metering, windows
from fastgpu_hub.pricing import promotions as promo
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.ledger import Transfer
from fastgpu_hub.pricing.metering import GPU_HOUR, START, TASK_HOUR, Line
from fastgpu_hub.pricing.money import MAX_MICROS
from fastgpu_hub.pricing.pricebook import PriceBook, PriceVersion, Rate
from fastgpu_hub.pricing.promotions import MAX_FREE_GPU_MS, NEW, Customer, Promotion, Standing

MOST_LINES = 100_000
_PAGE_LINES = 5_000
# Later than every stored version, so that of two equally cheap promotions the one that did apply still does.
_CANDIDATE = 2**62


@dataclass(slots=True)
class _Person:
    charged_micros: int = 0
    would_be_micros: int = 0
    gpu_ms: int = 0
    free_gpu_ms: int = 0
    first_used_ms: int | None = None


@dataclass(slots=True)
class _Tally:
    """What the promotion would have used up so far."""

    people: dict[str, _Person] = field(default_factory=dict)
    redeemed: set[str] = field(default_factory=set)
    classes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    saved_micros: int = 0


def preview(uow: UnitOfWork, actor: Actor, wish: models.PreviewSet, currency: str) -> models.Preview:
    """What the lines that began in ``[since, until)`` would have cost, had the promotion run all that time.

    Its weekly hours, GPU types, audience, places, budget and free time count; everybody is taken to have a code. Each
    line costs what is cheapest of what it did cost and the promotion, by the rules of pricing. Lines that were refunded
    are left out. A teacher sees what their classes paid for, administrators all. Raises Refusal.
    """
    promotion_rules.check_audience(actor, wish.promotion)
    since_ms, until_ms = views.milliseconds(wish.since), views.milliseconds(wish.until)
    candidate = _candidate(promotion_rules.promotion_of(wish.promotion, actor), since_ms, until_ms)
    accounts = None if actor.admin else sorted(set(candidate.audience))
    charges = sorted(_charges(uow, accounts, since_ms, until_ms), key=_order)
    versions = {promotion.id: promotion for promotion in uow.promotion_versions()}
    tally = _Tally()
    for _, group in groupby(charges, key=_order):
        _add(uow, tally, list(group), candidate, versions)
    people = tally.people
    charged = sum(person.charged_micros for person in people.values())
    would_be = sum(person.would_be_micros for person in people.values())
    return models.Preview(
        since=wish.since,
        until=wish.until,
        charged_micros=charged,
        would_be_micros=would_be,
        saved_micros=charged - would_be,
        rows=tuple(
            models.PreviewRow(
                owner=owner,
                charged_micros=person.charged_micros,
                would_be_micros=person.would_be_micros,
                gpu_seconds=person.gpu_ms // 1000,
            )
            for owner, person in sorted(people.items())
        ),
        currency=currency,
    )


def _candidate(promotion: Promotion, since_ms: int, until_ms: int) -> Promotion:
    if not since_ms < until_ms <= since_ms + windows.MAX_SPAN_MS:
        days = (until_ms - since_ms) // windows.MS_PER_DAY
        message = f"A preview covers a period of up to 400 days; this one has {days}."
        raise Refusal(Refused("invalid_request", message, {"days": days}, instead="Choose since and until anew."))
    if promotion.credit_micros is not None:
        message = "A promotion that gives credit changes no price, so there is nothing to preview."
        raise Refusal(Refused("invalid_request", message))
    return replace(
        promotion,
        id=_CANDIDATE,
        family=_CANDIDATE,
        starts_ms=since_ms,
        ends_ms=windows.LATEST_MS,
        published=True,
        needs_code=False,
    )


def _charges(uow: UnitOfWork, accounts: Sequence[str] | None, since_ms: int, until_ms: int) -> Iterator[Transfer]:
    refunded = {t.reverses for t in uow.transfers(kind="refund", since_ms=since_ms)}
    count = 0
    for account in [None] if accounts is None else accounts:
        after_id = 0
        while page := uow.transfers(
            kind="charge", account=account, since_ms=since_ms, after_id=after_id, limit=_PAGE_LINES
        ):
            after_id = page[-1].id
            # Nothing is booked before it happened, so what began in the period was booked since its beginning.
            for charge in page:
                if charge.line is None or not since_ms <= charge.line.from_ms < until_ms or charge.id in refunded:
                    continue
                count += 1
                if count > MOST_LINES:
                    message = f"More than {MOST_LINES} lines were charged in this period."
                    raise Refusal(
                        Refused("invalid_request", message, {"most": MOST_LINES}, instead="Choose a shorter period.")
                    )
                yield charge


def _order(charge: Transfer) -> tuple[int, str]:
    """Lines of a workload that begin together are priced together."""
    assert charge.line is not None
    return charge.line.from_ms, charge.workload_id or ""


def _add(
    uow: UnitOfWork,
    tally: _Tally,
    charges: Sequence[Transfer],
    candidate: Promotion,
    versions: Mapping[int, Promotion],
) -> None:
    first = charges[0]
    owner = first.owner or ""
    person = tally.people.get(owner)
    if person is None:
        person = tally.people[owner] = _Person(first_used_ms=_first_use(uow, owner, candidate))
    lines = [charge.line for charge in charges if charge.line is not None]
    charged = metering.total_micros(lines)
    person.charged_micros += charged
    person.gpu_ms += metering.gpu_ms(lines)
    priced = _priced(uow, tally, first, person, lines, candidate, versions)
    under = [line for line in priced if _CANDIDATE in (line.promotion_id, line.stacked_promotion_id)]
    if not under:
        person.would_be_micros += charged
        return
    person.would_be_micros += min(charged, metering.total_micros(priced))
    person.free_gpu_ms += metering.gpu_ms(under)
    tally.saved_micros += sum(line.saved_micros for line in under)
    tally.redeemed.add(owner)


def _first_use(uow: UnitOfWork, owner: str, candidate: Promotion) -> int | None:
    return uow.first_used_ms(owner) if NEW in candidate.audience else None


def _priced(
    uow: UnitOfWork,
    tally: _Tally,
    charge: Transfer,
    person: _Person,
    lines: Sequence[Line],
    candidate: Promotion,
    versions: Mapping[int, Promotion],
) -> tuple[Line, ...]:
    """The lines as pricing would have made them with the candidate beside what did apply; none if it is full."""
    owner, gpu_type = charge.owner or "", charge.gpu_type or ""
    full = candidate.max_redemptions is not None and len(tally.redeemed) >= candidate.max_redemptions
    if full and owner not in tally.redeemed:
        return ()
    classes = _classes(uow, tally, charge.workload_id or "") if candidate.audience else ()
    customer = Customer(owner, charge.debit, classes, person.first_used_ms)
    standing = Standing(saved_micros=tally.saved_micros, free_gpu_ms=person.free_gpu_ms)
    candidate = replace(candidate, max_redemptions=None)
    if promo.hindrance(candidate, customer, standing, gpu_type) is not None:
        return ()
    listed = {line.unit: line.list_rate_micros for line in lines}
    rate = Rate(listed.get(GPU_HOUR, 0), listed.get(TASK_HOUR, 0), listed.get(START, 0))
    return metering.price_interval(
        PriceBook([PriceVersion(lines[0].price_id, gpu_type, rate, 0)]),
        [*_applied(lines, versions), candidate],
        (),
        customer,
        gpu_type,
        lines[0].gpu_count,
        lines[0].from_ms,
        max(line.until_ms for line in lines),
        standings={_CANDIDATE: standing},
        starts=START in listed,
    )


def _classes(uow: UnitOfWork, tally: _Tally, workload_id: str) -> tuple[str, ...]:
    """The owner's classes when the workload was requested."""
    if workload_id not in tally.classes:
        workload = uow.workload(workload_id)
        tally.classes[workload_id] = () if workload is None else workload.classes
    return tally.classes[workload_id]


def _applied(lines: Iterable[Line], versions: Mapping[int, Promotion]) -> list[Promotion]:
    """The promotions that did apply, as they applied: to this line, whatever their conditions were."""
    named = {line.promotion_id for line in lines} | {line.stacked_promotion_id for line in lines}
    ids = sorted(version for version in named if version is not None and version in versions)
    return [
        replace(
            versions[version],
            starts_ms=0,
            ends_ms=windows.LATEST_MS,
            weekly=(),
            gpu_types=(),
            audience=(),
            needs_code=False,
            max_redemptions=None,
            published=True,
            budget_micros=None if versions[version].budget_micros is None else MAX_MICROS,
            free_gpu_ms=None if versions[version].free_gpu_ms is None else MAX_FREE_GPU_MS,
        )
        for version in ids
    ]
