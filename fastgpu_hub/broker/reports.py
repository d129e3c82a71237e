"""What people look at: offers, quotes, costs, status, class reports. Reads only."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from fastgpu import models
from fastgpu_hub.broker import ask_rules, price_views, rule_views, views
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.admission import Desired, Rules, Wish
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.lifecycle import ACTIVE, LIVE
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.ports.world import GpuDevice
from fastgpu_hub.broker.settings import MINUTE_MS, Settings
from fastgpu_hub.broker.views import Live
from fastgpu_hub.pricing import fractions, metering, promotions, quotas, windows
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.pricebook import Rate
from fastgpu_hub.pricing.promotions import Customer
from fastgpu_hub.pricing.quote import Itemised
from fastgpu_hub.scheduling.inventory import Inventory

WEEK_MS = 7 * windows.MS_PER_DAY


def capacity_refusal(inventory: Inventory, gpu_type: str, gpu_count: int) -> Refused | None:
    """Why a request could never be placed: an unknown GPU type, or more GPUs than any node has."""
    largest = inventory.largest_node(gpu_type)
    if gpu_type not in inventory.pools:
        known = ", ".join(inventory.gpu_types()) or "none were found"
        return Refused(
            "unknown_gpu_type",
            f"There is no GPU type {gpu_type!r} here.",
            {"gpu_type": gpu_type},
            instead=f"GPU types here: {known}.",
        )
    if gpu_count > largest:
        return Refused(
            "capacity_never",
            f"{gpu_count} x {gpu_type} can never be placed: a node has at most {largest} working.",
            {"wanted": gpu_count, "largest_node": largest},
            instead=f"Ask for up to {largest}." if largest else "Take another GPU type, or tell the administrator.",
        )
    return None


@dataclass(frozen=True, slots=True)
class TypeInfo:
    """What is known of a GPU type from its devices."""

    label: str
    memory_bytes: int | None
    simulated: bool
    suited_for: str


def type_info(devices: Iterable[GpuDevice], gpu_type: str) -> TypeInfo:
    """Label, memory and kind of use of a GPU type."""
    device = next((d for d in devices if d.gpu_type == gpu_type), None)
    if device is None:
        return TypeInfo(gpu_type, None, False, "")
    suited, shares = suited_for(device.memory_bytes), fractions.shares_of(gpu_type)
    if shares is not None:
        shared = f"up to {shares} at once on one GPU: neither memory nor speed is kept apart"
        suited = f"{suited}; {shared}" if suited else shared
    return TypeInfo(device.name, device.memory_bytes, device.simulated, suited)


def suited_for(memory_bytes: int | None) -> str:
    """What people usually do with that much memory."""
    if memory_bytes is None:
        return ""
    gib = memory_bytes >> 30
    if gib < 12:
        return "exercises, inference with small models"
    if gib < 30:
        return "training vision models, fine-tuning small language models"
    if gib < 60:
        return "fine-tuning language models, large batches"
    return "large language models, long training"


def offer(
    uow: UnitOfWork,
    book: Rules,
    wish: Wish,
    inventory: Inventory,
    info: TypeInfo,
    wait_ms: int | None,
    live: Live,
    settings: Settings,
) -> models.Offer:
    """A GPU type as a customer may take it now."""
    now_ms = live.now_ms
    usable, free = inventory.count(wish.gpu_type)
    version = book.book.version_at(wish.gpu_type, now_ms)
    list_rate = version.rate if version else Rate()
    wanted = Desired(uow, book, wish, now_ms, settings)
    applied = promotions.stacked(wanted.eligible(now_ms), list_rate, wish.gpu_count)
    rate = list_rate
    edges = book.book.edges(wish.gpu_type, now_ms, now_ms + 7 * 24 * 60 * MINUTE_MS)
    for promotion in applied:
        rate = promotions.discounted(promotion, rate)
        if (change := promotions.next_change(promotion, now_ms)) is not None:
            edges = [*edges, change]
    why_not = capacity_refusal(inventory, wish.gpu_type, 1)
    if why_not is None:
        try:
            why_not = wanted.refusal(wanted.lines(now_ms, now_ms + MINUTE_MS))
        except Refusal as error:
            why_not = error.refused
    return models.Offer(
        gpu_type=wish.gpu_type,
        label=info.label,
        memory_bytes=info.memory_bytes,
        suited_for=info.suited_for,
        simulated=info.simulated,
        total=usable,
        free=free,
        rate=price_views.rate(rate),
        list_rate=price_views.rate(list_rate),
        rate_until=views.instant(min(edges, default=None)),
        promotion_name=" + ".join(promotion.name for promotion in applied),
        wait_seconds=None if wait_ms is None else wait_ms // 1000,
        allowed=why_not is None,
        why_not=None if why_not is None else views.explanation(why_not),
    )


def quote(
    uow: UnitOfWork,
    wish: Wish,
    from_ms: int,
    duration_ms: int,
    inventory: Inventory,
    simulated: bool,
    wait_ms: int | None,
    live: Live,
    settings: Settings,
) -> models.Quote:
    """What a request would cost, and whether it would be admitted."""
    book = Rules.load(uow)
    wanted = Desired(uow, book, wish, live.now_ms, settings)
    lines = wanted.lines(from_ms, from_ms + duration_ms)
    refused = capacity_refusal(inventory, wish.gpu_type, wish.gpu_count) or wanted.refusal(lines)
    names = uow.promotion_names()
    sums = Itemised(lines)

    def note(line: Line) -> str:
        return price_views.price_note(line, wish.spot_percent_off, book.book.spot_price_ids)

    return models.Quote(
        gpu_type=wish.gpu_type,
        gpu_count=wish.gpu_count,
        account=wish.customer.account,
        starts_at=views.at(from_ms),
        duration_seconds=duration_ms // 1000,
        lines=tuple(price_views.charge_line(line, names, note=note(line)) for line in lines),
        min_micros=sums.min_micros,
        likely_micros=sums.max_micros,
        max_micros=sums.max_micros,
        list_micros=sums.list_micros,
        currency=live.currency,
        allowed=refused is None,
        refusal=None if refused is None else views.explanation(refused),
        wait_seconds=None if wait_ms is None else wait_ms // 1000,
        quotas=tuple(
            rule_views.quota_use(uow, book, quota, wish.customer, live.now_ms, live.held, live.currency)
            for quota in quotas.applicable(book.quotas, wish.customer, wish.gpu_type)
        ),
        warnings=tuple(views.explanation(warning) for warning in wanted.warnings(lines)),
        simulated=simulated,
        spot=wish.spot_percent_off is not None,
        spot_saves_micros=_spot_saves(uow, book, wish, from_ms, duration_ms, sums.max_micros, live, settings),
    )


def _spot_saves(
    uow: UnitOfWork,
    book: Rules,
    wish: Wish,
    from_ms: int,
    duration_ms: int,
    micros: int,
    live: Live,
    settings: Settings,
) -> int:
    """What a spot job costs less than the same one at the full price, with the promotions that it would have then."""
    if wish.spot_percent_off is None:
        return 0
    full = Desired(uow, book, replace(wish, spot_percent_off=None), live.now_ms, settings)
    return metering.total_micros(full.lines(from_ms, from_ms + duration_ms)) - micros


_COLUMNS: dict[str, Literal["owner", "gpu_type", "workload_id", "from_ms"]] = {
    "job": "workload_id",
    "gpu": "gpu_type",
    "day": "from_ms",
    "person": "owner",
}


def costs(
    uow: UnitOfWork,
    actor: Actor,
    since: datetime | None,
    by: Literal["job", "gpu", "day", "person"],
    live: Live,
    settings: Settings,
) -> models.CostReport:
    """What the caller was charged, less refunds, grouped, plus what runs; ``person`` covers who they teach or manage.

    ``since`` counts lines that start then or later.
    """
    wide = by == "person" and (actor.admin or bool(actor.teaches))
    found = uow.usage(
        _COLUMNS[by],
        owner=None if wide else actor.name,
        accounts=[f"class:{name}" for name in sorted(actor.teaches)] if wide and not actor.admin else None,
        from_ms=None if since is None else views.milliseconds(since),
    )
    zone = windows.zone(settings.time_zone)
    amounts: dict[str, tuple[int, int]] = {}
    for value, amount_micros, gpu_ms, _, lines in found:
        if lines:
            key = views.at(value).astimezone(zone).date().isoformat() if by == "day" else value
            amount, time = amounts.get(key, (0, 0))
            amounts[key] = (amount + amount_micros, time + gpu_ms)
    running = [w for w in uow.workloads(states=LIVE) if (actor.manages(w.account) if wide else w.owner == actor.name)]
    return models.CostReport(
        by=by,
        rows=tuple(
            models.CostRow(key=key, amount_micros=amount, gpu_seconds=gpu_ms // 1000)
            for key, (amount, gpu_ms) in sorted(amounts.items())
        ),
        settled_micros=sum(amount for amount, _ in amounts.values()),
        running_micros=sum(views.bill(uow, workload, live.now_ms).running_micros for workload in running),
        currency=live.currency,
    )


def class_report(
    uow: UnitOfWork, actor: Actor, name: str, member_names: Collection[str], live: Live
) -> models.ClassReport:
    """A class as its teacher sees it: credit, members with use and spend, limits, promotions, grants, requests."""
    book = Rules.load(uow)
    account_id = f"class:{name}"
    active = uow.workloads(account=account_id, states=ACTIVE)
    people = sorted({*member_names, *(workload.owner for workload in active)})
    customer = Customer("", account_id, (name,))

    def member(person: str) -> models.Member:
        own = [w for w in active if w.owner == person]
        scope = quotas.Scope(account=account_id, owner=person)
        return models.Member(
            name=person,
            gpus=sum(w.gpu_count for w in own if w.state in LIVE),
            running_jobs=sum(1 for w in own if w.kind == "job" and w.state in LIVE),
            queued_jobs=sum(1 for w in own if w.kind == "job" and w.state == "queued"),
            spent_micros=uow.charged(scope).amount_micros,
            held_micros=uow.held(scope).amount_micros,
        )

    return models.ClassReport(
        name=name,
        account=rule_views.account(uow, account_id, live.now_ms),
        week_micros=uow.charged(quotas.Scope(account=account_id), live.now_ms - WEEK_MS, live.now_ms).amount_micros,
        members=tuple(member(person) for person in people),
        quotas=tuple(
            rule_views.quota_use(uow, book, quota, customer, live.now_ms, live.held, live.currency)
            for quota in book.quotas
            if quota.name == name and quota.scope in ("class", "member")
        ),
        promotions=tuple(
            promotion
            for promotion in rule_views.own_promotions(uow, actor, customer, None, live.now_ms, drafts=True)
            if not promotion.audience or account_id in promotion.audience
        ),
        grants=tuple(rule_views.grants(uow, account_id, live.now_ms)),
        asks=tuple(ask_rules.of_class(uow, actor, name, member_names, live.currency)),
        currency=live.currency,
    )
