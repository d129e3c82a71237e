"""A workload's life, one transaction per step: request, grant, start, settle, stop, finish. ``funding`` extends it.

A hold's lines are the charges to come. Admission prices the interval once; metering moves lines, cut at the present,
from the hold into the ledger. So spend plus holds never grows after admission, and a lease keeps its price.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastgpu_hub.broker import promotion_rules
from fastgpu_hub.broker.admission import Desired, Rules, Wish
from fastgpu_hub.broker.attempts import interrupted
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.ports.records import Hold, Notice, Workload, WorkloadEvent
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.pricing import metering
from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.pricing.ledger import charge_transfers
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.money import format_money
from fastgpu_hub.pricing.promotions import Customer
from fastgpu_hub.pricing.quote import no_dearer_than_quoted

LIVE = ("granted", "running", "stopping")
ACTIVE = ("queued", *LIVE)


class Stale(Exception):
    """The workload is no longer in the state this step starts from; whoever asked should look again."""


def customer_of(workload: Workload) -> Customer:
    """Who buys: the owner, with the account that pays and the classes known at the request."""
    return Customer(workload.owner, workload.account, workload.classes)


def wish_of(workload: Workload) -> Wish:
    """The workload's request as admission sees it."""
    return Wish(
        customer_of(workload),
        workload.gpu_type,
        workload.gpu_count,
        workload.promo_code,
        workload.max_cost_micros,
        workload.spot_percent_off,
    )


def note(uow: UnitOfWork, workload_id: str, at_ms: int, kind: str, **detail: Any) -> None:
    """Append one piece of evidence."""
    uow.add_event(WorkloadEvent(workload_id, at_ms, kind, detail))


def tell(
    uow: UnitOfWork, workload: Workload, now_ms: int, kind: str, explained: Explained, ends_ms: int | None = None
) -> None:
    """Leave its owner a notice."""
    uow.add_notice(Notice(0, workload.owner, now_ms, kind, explained, workload.id, ends_ms))


def desired(uow: UnitOfWork, workload: Workload, now_ms: int, settings: Settings) -> Desired:
    """What the workload asks for, under the rules and books of now."""
    return Desired(uow, Rules.load(uow), wish_of(workload), now_ms, settings)


def _span(
    wanted: Desired,
    workload: Workload,
    from_ms: int,
    settings: Settings,
    held: tuple[Line, ...] = (),
    *,
    granted: bool = False,
) -> tuple[Line, ...]:
    """Lines to hold from an instant on: the time limit, or what can be paid of the horizon. Raises Refusal.

    What was quoted for a planned start, and is ``held`` since, is never exceeded, whenever it runs. One that was
    ``granted`` what it holds needs no leave again for what is no more than that.
    """
    if workload.time_limit_ms is not None:
        until_ms = from_ms + workload.time_limit_ms
        # Who was interrupted does not pay for starting again.
        lines = wanted.lines(from_ms, until_ms, starts=not workload.interruptions)
        if workload.quoted_micros is not None and held:
            lines = no_dearer_than_quoted(lines, held, wanted.cuts(from_ms, until_ms))
        if not (granted and wanted.no_more_than(held, lines)) and (refused := wanted.refusal(lines)):
            raise Refusal(refused)
        return lines
    lines, refused = wanted.affordable(wanted.lines(from_ms, from_ms + settings.server_horizon_ms), from_ms)
    if refused and not lines:
        raise Refusal(refused)
    return lines


def until_of(lines: tuple[Line, ...], default_ms: int) -> int:
    """Up to when the lines reach; ``default_ms`` when there are none."""
    return max((line.until_ms for line in lines), default=default_ms)


def request(uow: UnitOfWork, workload: Workload, now_ms: int, settings: Settings) -> Workload:
    """Admit a request: price it, check every quota and the credit, hold the money, queue it.

    One that starts later is priced and held for the time in which it will run. Raises Refusal with the first thing that
    forbids it; then nothing is written.
    """
    wanted = desired(uow, workload, now_ms, settings)
    lines = _span(wanted, workload, max(now_ms, workload.not_before_ms or now_ms), settings)
    uow.add_workload(workload)
    uow.add_hold(_hold_of(workload, lines, now_ms))
    promotion_rules.take_places(uow, workload, lines, now_ms)
    for warning in wanted.warnings(lines):
        tell(uow, workload, now_ms, "soft_limit", warning)
    note(
        uow,
        workload.id,
        now_ms,
        "requested",
        gpu_type=workload.gpu_type,
        gpu_count=workload.gpu_count,
        account=workload.account,
        held_micros=metering.total_micros(lines),
    )
    if workload.quoted_micros is not None and workload.explanation is not None:
        note(uow, workload.id, now_ms, "deferred", message=workload.explanation.message)
    return workload


def _hold_of(workload: Workload, lines: tuple[Line, ...], now_ms: int) -> Hold:
    return Hold(
        id=0,
        workload_id=workload.id,
        owner=workload.owner,
        account=workload.account,
        gpu_type=workload.gpu_type,
        created_ms=now_ms,
        until_ms=until_of(lines, now_ms),
        lines=lines,
    )


def held_by(uow: UnitOfWork, workload_id: str) -> Hold:
    """The workload's open hold. Raises Stale when it has none."""
    hold = uow.open_hold(workload_id)
    if hold is None:
        raise Stale(f"{workload_id} has no open hold")
    return hold


def grant(
    uow: UnitOfWork,
    workload_id: str,
    uuids: tuple[str, ...],
    node: str,
    simulated: bool,
    now_ms: int,
    settings: Settings,
) -> Workload:
    """Give GPUs: price again from now on and exchange the hold for it.

    A repeat with the same devices changes nothing. Raises Refusal when the prices or quotas of now forbid it (the old
    hold stays), Stale when it no longer waits.
    """
    workload = uow.workload(workload_id)
    if workload is not None and workload.state in LIVE and workload.gpu_uuids == uuids:
        return workload
    if workload is None or workload.state != "queued":
        raise Stale(f"{workload_id} does not wait any more")
    hold = _exchange(uow, workload, now_ms, settings)
    if workload.quoted_micros is not None:
        held_micros = metering.total_micros(hold.lines)
        note(uow, workload_id, now_ms, "quote_kept", quoted_micros=workload.quoted_micros, held_micros=held_micros)
    granted = replace(
        workload, state="granted", granted_ms=now_ms, gpu_uuids=uuids, node=node, simulated=simulated, explanation=None
    )
    uow.save_workload(granted)
    note(uow, workload_id, now_ms, "granted", gpus=list(uuids))
    return granted


def _exchange(uow: UnitOfWork, workload: Workload, from_ms: int, settings: Settings, *, granted: bool = False) -> Hold:
    """Replace the open hold by one that starts at ``from_ms``. Raises Refusal, then the caller must roll back."""
    hold = held_by(uow, workload.id)
    uow.save_hold(replace(hold, lines=()))
    wanted = desired(uow, workload, from_ms, settings)
    lines = _span(wanted, workload, from_ms, settings, hold.lines, granted=granted)
    promotion_rules.take_places(uow, workload, lines, from_ms)
    renewed = replace(hold, lines=lines, until_ms=until_of(lines, from_ms))
    uow.save_hold(renewed)
    return renewed


def started(uow: UnitOfWork, workload_id: str, at_ms: int, pid: int | None, settings: Settings) -> Workload | None:
    """The engine confirmed the start: billing begins here, and the hold moves with it.

    When the later interval can no longer be held (a promotion ended meanwhile), the hold of the grant is kept and the
    tail it does not cover is not billed. One that was ordered to stop meanwhile is billed while it stops, unless it was
    interrupted. A repeat changes nothing.
    """
    workload = uow.workload(workload_id)
    if workload is None or workload.state not in ("granted", "stopping") or workload.billed_from_ms is not None:
        return workload
    at_ms = max(at_ms, workload.granted_ms or at_ms)  # an engine's clock may be behind ours
    hold = held_by(uow, workload_id)
    ending = None
    try:
        if not interrupted(workload):
            _exchange(uow, workload, at_ms, settings, granted=True)
    except Refusal:
        ending = workload.ending
        lines = metering.skip(hold.lines, at_ms)
        uow.save_hold(replace(hold, lines=lines))
    state = "running" if workload.state == "granted" else workload.state
    running = replace(workload, state=state, billed_from_ms=at_ms, charged_until_ms=at_ms, pid=pid, ending=ending)
    uow.save_workload(running)
    note(uow, workload_id, at_ms, "started")
    return settle(uow, running, at_ms)


def settle(uow: UnitOfWork, workload: Workload, until_ms: int, *, final: bool = False) -> Workload:
    """Move what lies before ``until_ms`` from the hold into the ledger: whole lines only, unless this is the end."""
    hold = uow.open_hold(workload.id)
    if hold is None or workload.billed_from_ms is None:
        return workload
    if final:
        due, rest = metering.charge(hold.lines, until_ms)
    else:
        due = tuple(line for line in hold.lines if line.until_ms <= until_ms)
        rest = tuple(line for line in hold.lines if line.until_ms > until_ms)
    if not due:
        return workload
    uow.append(charge_transfers(workload.id, workload.owner, workload.account, workload.gpu_type, due, until_ms))
    uow.save_hold(replace(hold, lines=rest))
    settled = replace(workload, charged_until_ms=max(line.until_ms for line in due))
    uow.save_workload(settled)
    return settled


def order_stop(
    uow: UnitOfWork, workload_id: str, now_ms: int, reason: Explained, *, own_wish: bool = False
) -> Workload | None:
    """Record that a granted or running workload is to stop; billing goes on until its end is known.

    One that is interrupted for another is not billed from here on. Its owner is told, unless it is their ``own_wish``.
    """
    workload = uow.workload(workload_id)
    if workload is None or workload.state not in ("granted", "running"):
        return workload
    stopping = replace(workload, state="stopping", stop_reason=reason)
    uow.save_workload(stopping)
    note(uow, workload_id, now_ms, "stopping", code=reason.code, message=reason.message)
    if interrupted(stopping):
        hold = held_by(uow, workload_id)
        lines = () if workload.billed_from_ms is None else metering.charge(hold.lines, now_ms)[0]
        uow.save_hold(replace(hold, lines=lines, until_ms=min(hold.until_ms, now_ms)))
    if not own_wish:
        tell(uow, workload, now_ms, "stopped", reason)
    return stopping


def stop_for_good(
    uow: UnitOfWork, workload: Workload, now_ms: int, reason: Explained, *, own_wish: bool = False
) -> Workload:
    """One that is being stopped ends for another reason than the one that it was stopped for."""
    stopping = replace(workload, stop_reason=reason)
    uow.save_workload(stopping)
    note(uow, workload.id, now_ms, "stopping", code=reason.code, message=reason.message)
    if not own_wish:
        tell(uow, workload, now_ms, "stopped", reason)
    return stopping


def finish(
    uow: UnitOfWork,
    workload_id: str,
    at_ms: int,
    outcome: str,
    settings: Settings,
    *,
    reason: Explained | None = None,
    exit_code: int | None = None,
) -> Workload | None:
    """The end, on evidence: charge up to the last instant it is known to have run, give back the rest of the hold.

    Idempotent. ``at_ms`` is the evidence's instant; nothing beyond the hold is ever charged. ``reason`` says why it
    ended when that is not plain from the outcome.
    """
    workload = uow.workload(workload_id)
    if workload is None or workload.state == "ended":
        return workload
    return end(uow, workload, at_ms, outcome, settings, reason=reason, exit_code=exit_code)


def end(
    uow: UnitOfWork,
    workload: Workload,
    at_ms: int,
    outcome: str,
    settings: Settings,
    *,
    reason: Explained | None = None,
    exit_code: int | None = None,
) -> Workload:
    """As ``finish``, of a workload as it was just read, which has not ended."""
    workload_id = workload.id
    end_ms = max(at_ms, workload.billed_from_ms or 0, workload.charged_until_ms or 0)
    workload = settle(uow, workload, end_ms, final=True)
    hold = uow.open_hold(workload_id)
    if hold is not None:
        resolved = "voided" if workload.billed_from_ms is None else "settled"
        uow.save_hold(replace(hold, lines=(), state=resolved, resolved_ms=at_ms))
    cost = sum(transfer.amount_micros for transfer in uow.transfers(workload_id=workload.id, kind="charge"))
    ended = replace(
        workload,
        state="ended",
        outcome=outcome,
        ended_ms=end_ms,
        exit_code=exit_code,
        artifacts="keeping" if _leaves_outputs(workload) else None,
        explanation=_ending(cost, outcome, workload.stop_reason or reason, exit_code, settings),
    )
    uow.save_workload(ended)
    reached_ms = max(workload.billed_from_ms or 0, workload.charged_until_ms or 0)
    if workload.billed_from_ms is not None and reached_ms < end_ms:
        note(uow, workload_id, at_ms, "not_billed", from_ms=reached_ms, until_ms=end_ms)
    note(uow, workload_id, at_ms, "ended", outcome=outcome, exit_code=exit_code, charged_micros=cost)
    return ended


def _leaves_outputs(workload: Workload) -> bool:
    """Whether a job may have left files that are to be kept."""
    return workload.kind == "job" and workload.billed_from_ms is not None and bool(workload.spec.get("outputs"))


ENDINGS = {
    "succeeded": "Finished successfully.",
    "failed": "Failed.",
    "cancelled": "Cancelled.",
    "timed_out": "Stopped at its time limit.",
    "lost": "Lost: its processes ended without telling how.",
    "released": "Stopped.",
}


def _ending(cost: int, outcome: str, reason: Explained | None, exit_code: int | None, settings: Settings) -> Explained:
    how = ENDINGS[outcome]
    if reason is not None:
        how = reason.message
    elif outcome == "failed" and exit_code is not None:
        how = f"Failed with exit code {exit_code}."
    numbers: dict[str, int | str] = {"cost_micros": cost}
    if exit_code is not None:
        numbers["exit_code"] = exit_code
    return Explained(
        outcome,
        f"{how} Charged {format_money(cost, settings.currency)}.",
        numbers,
        instead=reason.instead if reason else "",
    )
