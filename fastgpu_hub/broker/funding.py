"""Money for what runs: extend a server's hold, follow prices, announce the end of the funding, order the stop."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastgpu_hub.broker import promotion_rules
from fastgpu_hub.broker.admission import Desired, Rules, Wish
from fastgpu_hub.broker.endings import ending_of, used_up
from fastgpu_hub.broker.lifecycle import LIVE, desired, held_by, note, settle, tell, until_of, wish_of
from fastgpu_hub.broker.orders import grace_ms
from fastgpu_hub.broker.ports.records import Hold, Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.settings import MINUTE_MS, Settings
from fastgpu_hub.pricing import metering
from fastgpu_hub.pricing.explain import Explained, Refused
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.money import format_money
from fastgpu_hub.pricing.quote import never_dearer

WARN_MINUTES = (30, 10, 2)


def renew(uow: UnitOfWork, workload: Workload, now_ms: int, settings: Settings) -> Workload:
    """Extend a hold as far as it should reach, and note what forbids more (``ending``).

    An open-ended server's reaches a horizon from now; one with a time limit, that limit, where a dearer price shortened
    its hold. Time that has passed without a hold (the service was down for long, the clock jumped) is noted, not
    billed.
    """
    hold = held_by(uow, workload.id)
    from_ms = max(hold.until_ms, now_ms)
    target_ms = max(from_ms, _reach_ms(workload, now_ms, settings))
    wanted = Desired(uow, Rules.load(uow), _within_max_cost(uow, workload, hold), now_ms, settings)
    more, refused = wanted.affordable(wanted.lines(from_ms, target_ms, starts=False), from_ms)
    until_ms = until_of(more, hold.until_ms)
    if more:
        if from_ms > hold.until_ms:
            note(uow, workload.id, now_ms, "not_billed", from_ms=hold.until_ms, until_ms=from_ms)
        promotion_rules.take_places(uow, workload, more, now_ms)
        uow.save_hold(replace(hold, lines=hold.lines + more, until_ms=until_ms))
        note(uow, workload.id, now_ms, "renewed", until_ms=until_ms)
    if refused is None:
        for warning in wanted.warnings(more):
            if workload.ending is None and not _warned(uow, workload, warning):
                tell(uow, workload, now_ms, "soft_limit", warning)
        changed = replace(workload, ending=None, announced_minutes=None)
    else:
        announced = _still_announced(workload.announced_minutes, hold.until_ms, until_ms, now_ms)
        changed = replace(workload, ending=used_up(refused), announced_minutes=announced)
    if changed != workload:
        uow.save_workload(changed)
    return changed


def _reach_ms(workload: Workload, now_ms: int, settings: Settings) -> int:
    """How far its hold should reach now."""
    if workload.time_limit_ms is None:
        return now_ms + settings.server_horizon_ms
    return (workload.billed_from_ms or workload.granted_ms or now_ms) + workload.time_limit_ms


def _within_max_cost(uow: UnitOfWork, workload: Workload, hold: Hold) -> Wish:
    """The wish for more than is charged and held, whose limit on cost is what is left of it."""
    wish = wish_of(workload)
    if wish.max_cost_micros is None:
        return wish
    charged = sum(t.amount_micros for t in uow.transfers(workload_id=workload.id, kind="charge"))
    left_micros = wish.max_cost_micros - charged - metering.total_micros(hold.lines)
    return replace(wish, max_cost_micros=max(0, left_micros))


def _still_announced(minutes: int | None, ended_ms: int, ends_ms: int, now_ms: int) -> int | None:
    """The warning that stands when an end moves later: those that are due again by a minute or more are given again."""
    if minutes is None or ends_ms - ended_ms < MINUTE_MS:
        return minutes
    return min((m for m in WARN_MINUTES if m >= minutes and ends_ms - m * MINUTE_MS <= now_ms), default=None)


def _warned(uow: UnitOfWork, workload: Workload, warning: Refused) -> bool:
    """Whether this limit's warning was given for this workload before: once is enough."""
    return any(
        notice.kind == "soft_limit"
        and notice.workload_id == workload.id
        and notice.explanation.numbers.get("quota_id") == warning.numbers.get("quota_id")
        for notice in uow.notices(workload.owner)
    )


@dataclass(frozen=True, slots=True)
class Look:
    """What came of looking at a workload.

    ``due_ms`` is when to look again, ``stop`` why it must stop now, ``ending`` whether its funding cannot be extended
    as things stand, ``owner_told`` the person who has news.
    """

    due_ms: int | None = None
    stop: Refused | None = None
    ending: bool = False
    owner_told: str = ""


def edge(uow: UnitOfWork, workload_id: str, now_ms: int, seen_ms: int, settings: Settings) -> Look:
    """A live workload at an edge: settle whole lines, extend its funding, announce its end, or find that it is over.

    Only what lies before ``seen_ms``, when it was last known to run, is settled: a charge is never taken back.
    """
    workload = uow.workload(workload_id)
    if workload is None or workload.state not in LIVE:
        return Look()
    workload = settle(uow, workload, min(now_ms, seen_ms))
    hold = uow.open_hold(workload_id)
    if hold is None:
        return Look()
    edge_ms = metering.next_edge_ms(hold.lines) if workload.billed_from_ms is not None else None
    if edge_ms is not None and edge_ms <= now_ms:  # over, but whether it ran until then will turn out
        edge_ms = now_ms + settings.reconcile_interval_ms
    if workload.state != "running":
        return Look(edge_ms)
    renew_ms = None
    if workload.time_limit_ms is None:
        renew_ms = hold.until_ms - settings.server_horizon_ms // 2
        if now_ms >= renew_ms or workload.ending is not None:
            workload = renew(uow, workload, now_ms, settings)
            hold = held_by(uow, workload_id)
            edge_ms = metering.next_edge_ms(hold.lines) if edge_ms is None else edge_ms
            renew_ms = None if workload.ending else hold.until_ms - settings.server_horizon_ms // 2
    elif workload.ending is not None:
        workload = renew(uow, workload, now_ms, settings)
        hold = held_by(uow, workload_id)
    return _approach_end(uow, workload, hold, now_ms, [edge_ms, renew_ms], settings)


def _approach_end(
    uow: UnitOfWork, workload: Workload, hold: Hold, now_ms: int, due: list[int | None], settings: Settings
) -> Look:
    """Announce a known end 30, 10 and 2 minutes before; order the stop when only the grace is left.

    The engine ends a job at its time limit by itself, and its owner chose that limit: neither is announced.
    """
    ends, told = ending_of(workload, hold), False
    if ends is not None and (workload.kind == "server" or workload.ending is not None):
        ends_ms, reason = ends
        stop_ms = ends_ms - grace_ms(workload, settings)
        if now_ms >= stop_ms:
            stop = Refused(reason.code, reason.message, reason.numbers, reason.frees_at_ms, reason.instead)
            return Look(None, stop)
        told = _announce(uow, workload, ends_ms, now_ms, reason)
        warnings = (ends_ms - minutes * MINUTE_MS for minutes in WARN_MINUTES)
        due = [*due, stop_ms, *(warn_ms for warn_ms in warnings if warn_ms > now_ms)]
    next_ms = min((at_ms for at_ms in due if at_ms is not None), default=None)
    return Look(next_ms, None, workload.ending is not None, workload.owner if told else "")


def _announce(uow: UnitOfWork, workload: Workload, ends_ms: int, now_ms: int, reason: Explained) -> bool:
    """Give the warning that is due, once each; one that was due before it began is left out."""
    since_ms = workload.billed_from_ms or now_ms
    reached = [m for m in WARN_MINUTES if since_ms < ends_ms - m * MINUTE_MS <= now_ms]
    if not reached or (workload.announced_minutes is not None and workload.announced_minutes <= min(reached)):
        return False
    minutes = -(-(ends_ms - now_ms) // MINUTE_MS)
    explained = Explained(
        reason.code,
        f"“{workload.name}” will be stopped in {minutes} minute{'s' * (minutes != 1)}. {reason.message}",
        {**reason.numbers, "minutes": minutes},
        reason.frees_at_ms,
        reason.instead,
    )
    tell(uow, workload, now_ms, "ending", explained, ends_ms)
    note(uow, workload.id, now_ms, "announced", ends_ms=ends_ms, code=reason.code)
    uow.save_workload(replace(workload, announced_minutes=min(reached)))
    return True


def follow(uow: UnitOfWork, workload_id: str, now_ms: int, settings: Settings) -> bool:
    """Bring a live workload's hold in line with changed prices, where the site wants that; whether anything changed.

    What was charged stays as it is. When the new price cannot be held for as long as the old one, the hold ends
    sooner, and the workload with it: announced, then stopped in order. When it cannot be held at all, the terms that it
    was granted with stay. What is not dearer than what is held already needs no leave. What runs at a quoted price
    follows to lower prices only.
    """
    workload = uow.workload(workload_id)
    hold = uow.open_hold(workload_id)
    if workload is None or workload.state not in LIVE or hold is None:
        return False
    rules = Rules.load(uow)
    renamed = settings.follow_promotions and _outdated(rules, hold.lines)
    lines = hold.lines
    if renamed:
        lines = _under_new_promotions(uow, rules, workload, hold, now_ms, settings)
    if settings.follow_list_prices:
        known = {promotion.id: promotion for promotion in uow.promotion_versions()}
        lines = metering.follow(lines, rules.prices(workload.spot_percent_off), known, workload.gpu_type, 0)
    kept_quote = workload.quoted_micros is not None and not never_dearer(lines, hold.lines)
    if lines == hold.lines or kept_quote:
        if renamed:
            uow.save_hold(hold)
        return False
    uow.save_hold(replace(hold, lines=()))
    kept, refused = lines, None
    if not never_dearer(lines, hold.lines):
        nothing = replace(hold, lines=())
        wanted = Desired(uow, rules, _within_max_cost(uow, workload, nothing), now_ms, settings)
        kept, refused = wanted.affordable(lines, min(line.from_ms for line in lines))
        if until_of(kept, now_ms) <= now_ms:
            kept, refused = hold.lines, None
    changed = replace(hold, lines=kept, until_ms=until_of(kept, hold.until_ms))
    uow.save_hold(changed)
    promotion_rules.take_places(uow, workload, kept, now_ms)
    if refused is not None:
        workload = replace(workload, ending=used_up(refused))
        uow.save_workload(workload)
    if kept != hold.lines:
        _tell_price(uow, workload, hold, changed, now_ms, settings)
    return kept != hold.lines


def _tell_price(
    uow: UnitOfWork, workload: Workload, before: Hold, after: Hold, now_ms: int, settings: Settings
) -> None:
    numbers = {
        "held_micros": metering.total_micros(after.lines),
        "before_micros": metering.total_micros(before.lines),
    }
    note(uow, workload.id, now_ms, "repriced", **numbers)
    rate = format_money(metering.hourly_rate_micros(after.lines, now_ms), settings.currency)
    held = format_money(numbers["held_micros"], settings.currency)
    message = f"The price of “{workload.name}” changed: {rate} per hour now, {held} held."
    ends = ending_of(workload, after)
    tell(
        uow,
        workload,
        now_ms,
        "price_changed",
        Explained("price_changed", message, {**numbers}),
        None if ends is None else ends[0],
    )


def _under_new_promotions(
    uow: UnitOfWork, rules: Rules, workload: Workload, hold: Hold, now_ms: int, settings: Settings
) -> tuple[Line, ...]:
    """The hold's lines with what lies ahead under the promotions of now. Leaves only what has run in the hold."""
    before, after = metering.charge(hold.lines, now_ms)
    if not after:
        return hold.lines
    uow.save_hold(replace(hold, lines=before))  # what lies ahead shall not count against itself
    from_ms = max(now_ms, after[0].from_ms)
    starts = tuple(line for line in after if line.unit == metering.START)
    ahead = desired(uow, workload, now_ms, settings).lines(from_ms, until_of(after, now_ms), starts=False)
    return before + starts + ahead


def _outdated(rules: Rules, lines: tuple[Line, ...]) -> bool:
    """Whether a line has a promotion that was changed or ended since."""
    newest = {promotion.id for promotion in rules.promotions}
    named = {line.promotion_id for line in lines} | {line.stacked_promotion_id for line in lines}
    return not named - {None} <= newest
