"""What would start a waiting workload sooner, or let it cost less: other counts, GPU types, accounts, times."""

from __future__ import annotations

from dataclasses import replace

from fastgpu_hub.broker import starts
from fastgpu_hub.broker.actors import accounts_of
from fastgpu_hub.broker.admission import Desired, Rules, concurrent_limits
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.lifecycle import customer_of, wish_of
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.queue import Queue
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.pricing.metering import total_micros
from fastgpu_hub.pricing.money import format_money
from fastgpu_hub.scheduling.sooner import Limits

ITS_TURN = ("turn", "capacity", "seats", "reserved")


def sooner(
    uow: UnitOfWork, workload: Workload, reason: Explained | None, queue: Queue, now_ms: int, settings: Settings
) -> tuple[Explained, ...]:
    """Suggestions for a workload that waits for ``reason`` (None: it has no place in the queue yet), with numbers."""
    if workload.state != "queued" or reason is None:
        return ()
    rules = Rules.load(uow)
    found = list(queue.sooner(workload.id, now_ms, _other_types(uow, rules, workload, queue, now_ms, settings)))
    if reason.code not in ITS_TURN:
        found += _other_accounts(uow, rules, workload, queue, now_ms, settings)
    if workload.not_before_ms is None and (later := _cheaper_later(uow, workload, now_ms, settings)) is not None:
        found.append(later)
    return tuple(found)


def _other_types(
    uow: UnitOfWork, rules: Rules, workload: Workload, queue: Queue, now_ms: int, settings: Settings
) -> dict[str, Limits]:
    """Other GPU types that could be paid for now, with the limits on how many may be held at once."""
    found = {}
    for gpu_type in queue.view.inventory.gpu_types():
        other = replace(workload, gpu_type=gpu_type)
        if gpu_type != workload.gpu_type and _cost_micros(uow, rules, other, now_ms, settings) is not None:
            found[gpu_type] = concurrent_limits(rules, customer_of(other), gpu_type, now_ms)
    return found


def _cost_micros(uow: UnitOfWork, rules: Rules, workload: Workload, now_ms: int, settings: Settings) -> int | None:
    """What it may cost from now on; None when it would be refused."""
    try:
        wanted = Desired(uow, rules, wish_of(workload), now_ms, settings)
        lines = wanted.lines(now_ms, now_ms + (workload.time_limit_ms or settings.server_horizon_ms))
        return None if wanted.refusal(lines) is not None else total_micros(lines)
    except Refusal:
        return None


def _other_accounts(
    uow: UnitOfWork, rules: Rules, workload: Workload, queue: Queue, now_ms: int, settings: Settings
) -> list[Explained]:
    """Accounts that could pay for it now and have room under their limits."""
    found = []
    held = queue.view.held_per_key
    for account in accounts_of(workload.owner, workload.classes):
        if account == workload.account:
            continue
        other = replace(workload, account=account)
        limits = concurrent_limits(rules, customer_of(other), workload.gpu_type, now_ms)
        if any(held.get(key, 0) + workload.gpu_count > limit for key, limit in limits):
            continue
        if (cost := _cost_micros(uow, rules, other, now_ms, settings)) is None:
            continue
        found.append(
            Explained(
                "other_account",
                f"Charged to {account} it would be allowed now, for up to {format_money(cost, settings.currency)}.",
                {"account": account, "cost_micros": cost},
                frees_at_ms=now_ms,
            )
        )
    return found


def _cheaper_later(uow: UnitOfWork, workload: Workload, now_ms: int, settings: Settings) -> Explained | None:
    """A start within a day at which it would cost less."""
    if workload.time_limit_ms is None:
        return None
    by_ms = starts.default_by_ms(now_ms, workload.time_limit_ms)
    try:
        plan = starts.make(uow, wish_of(workload), workload.time_limit_ms, by_ms, 0, now_ms, settings)
    except Refusal:
        return None
    if plan.chosen is None or not plan.deferred or plan.chosen.start.cost_micros >= plan.now.start.cost_micros:
        return None
    now, later = plan.now.start.cost_micros, plan.chosen.start
    when, currency = starts.moment(later.start_ms, settings), settings.currency
    return Explained(
        "other_time",
        f"Started {when} it would cost {format_money(later.cost_micros, currency)} instead of "
        f"{format_money(now, currency)}{f' ({plan.chosen.why})' if plan.chosen.why else ''}.",
        {"cost_micros": later.cost_micros, "now_micros": now},
        frees_at_ms=later.start_ms,
        instead="Submit it with --start cheapest.",
    )
