"""Now and then: store, scheduler, engine and hub are compared; evidence repairs, the rest is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from fastgpu_hub.broker import funds, lifecycle
from fastgpu_hub.broker.admission import Rules
from fastgpu_hub.broker.evidence import ran_until_ms, recorded_ms
from fastgpu_hub.broker.idempotency import KEEP_MS
from fastgpu_hub.broker.lifecycle import ACTIVE, LIVE
from fastgpu_hub.broker.orders import grace_ms, want_of, weights_of
from fastgpu_hub.broker.ports.records import Hold, Workload
from fastgpu_hub.broker.ports.store import StoreUnavailable, UnitOfWork
from fastgpu_hub.broker.ports.world import HubUnavailable
from fastgpu_hub.broker.verify import Fault, holding_faults
from fastgpu_hub.broker.waiting import Hindrance, hindrances
from fastgpu_hub.scheduling import scheduler

if TYPE_CHECKING:
    from fastgpu_hub.broker.runtime import Runtime

log = logging.getLogger("fastgpu.reconcile")
MISSES_BEFORE_GONE = 2
# A workload whose funding is over is to be gone after this long, or people are told.
OVERDUE_MS = 60_000


async def keep_reconciled(runtime: Runtime) -> None:
    """Rounds until cancelled. One that fails is logged, and the next one comes."""
    while not runtime.closing:
        try:
            await reconcile(runtime)
        except StoreUnavailable as error:
            log.error("the database does not answer, nothing was compared: %s", error)
        except Exception:
            log.exception("a round of comparing failed")
        await asyncio.sleep(runtime.settings.reconcile_interval_ms / 1000)


async def reconcile(runtime: Runtime) -> None:
    """One round. Raises StoreUnavailable only; an engine or hub that does not answer changes nothing."""
    await runtime.gpus.find()
    await runtime.gpus.sample()
    await _repair_scheduler(runtime)
    await runtime.follow_rules()
    await runtime.deferrals.follow_rules()
    active = await runtime.store.read(lambda uow: uow.workloads(states=ACTIVE))
    await runtime.deferrals.tell_late(active)
    # The hub has one server of a name, and counts the one of the latest request; active comes in that order.
    latest = {(w.owner, w.server_name): w.id for w in active if w.kind == "server"}
    hub_answers = True
    for workload in active:
        if workload.state == "running" and workload.id not in runtime.time.due:
            runtime.time.look_at(workload.id)
        try:
            if workload.kind == "job" and workload.state in LIVE:
                await _job(runtime, workload)
            elif workload.kind == "server" and hub_answers:
                await _server(runtime, workload, replaced=latest[workload.owner, workload.server_name] != workload.id)
        except HubUnavailable as error:
            hub_answers = False  # it is not asked again in this round: each question may take its whole timeout
            log.warning("the hub does not answer, nothing follows about servers: %s", error)
        except StoreUnavailable:
            raise
        except Exception:
            log.exception("%s could not be compared", workload.id)
    now_ms, seen_ms = runtime.clock.now_ms(), dict(runtime.seen_active_ms)

    def housekeeping(uow: UnitOfWork) -> None:
        uow.set_setting("heartbeat_ms", now_ms)
        uow.set_setting("heartbeat_ms_by_workload", seen_ms)
        funds.expire(uow, now_ms)
        uow.forget_idempotency_keys(now_ms - KEEP_MS)

    await runtime.store.write(housekeeping)
    await _watch(runtime, now_ms)
    runtime.reconsider()


async def _watch(runtime: Runtime, now_ms: int) -> None:
    """Look for what does not fit, and tell of it once."""
    audited = runtime.watch.chain.state
    new, changed = runtime.watch.seen(await find_problems(runtime), now_ms)
    for problem in new:
        log.error("inconsistent: %s", problem.fault)
    if changed:
        await runtime.store.write(runtime.watch.remember)
    # In the log it is out of the database's reach: who has it can prove what the audit was.
    if runtime.watch.chain.state != audited:
        head = runtime.watch.chain.state.head
        log.info("the audit holds up to entry %d, sha256 %s", head.id, head.sha256)


async def _repair_scheduler(runtime: Runtime) -> None:
    """Bring the scheduler in line with the store where an answer was lost between the two.

    A difference counts only when it is there twice: before and after a second look at the store, so that what is just
    on its way from one to the other is left alone.
    """

    def look(uow: UnitOfWork) -> tuple[list[Workload], Rules, dict[str, Hindrance]]:
        active = uow.workloads(states=ACTIVE)
        hindered = hindrances(uow, active, runtime.clock.now_ms())
        return [workload for workload in active if workload.id not in hindered], Rules.load(uow), hindered

    active, rules, hindered = await runtime.store.read(look)
    now_ms = runtime.clock.now_ms()
    if (weights := weights_of(rules)) != runtime.state.weights:
        runtime.feed(scheduler.Weighed(weights, now_ms))
    suspected = _differences(runtime.state, active, rules, now_ms)
    if not suspected and runtime.waiting.knows(hindered):
        return
    active, rules, hindered = await runtime.store.read(look)
    runtime.waiting.keep_only(hindered)
    workloads = {workload.id: workload for workload in active}
    for event in _differences(runtime.state, active, rules, now_ms):
        if event not in suspected:
            continue
        log.warning("the scheduler did not know: %s", event)
        match event:
            case scheduler.Arrived(want):
                runtime.arrived(workloads[want.id], rules)
            case scheduler.Resumed(want):
                runtime.resumed(workloads[want.id], rules, recorded_ms(workloads[want.id]))
            case scheduler.Gone(workload_id):
                runtime.gone(workload_id)
            case _:
                runtime.feed(event)


def _differences(
    state: scheduler.State, active: Sequence[Workload], rules: Rules, now_ms: int
) -> list[scheduler.Event]:
    """What the scheduler would have to hear to know what the store says: nothing, when no answer was lost."""
    holding = {who: running.want for who, running in state.holding.items()}
    waiting = {want.id: want for want in state.wants_waiting()}
    wants = {workload.id: want_of(workload, rules, now_ms) for workload in active}
    events: list[scheduler.Event] = [scheduler.Gone(who, now_ms) for who in (*waiting, *holding) if who not in wants]
    limits = {}
    for workload in active:
        want, known = wants[workload.id], holding.get(workload.id) or waiting.get(workload.id)
        if workload.state != "queued" and workload.id not in holding:
            if known is not None:
                events.append(scheduler.Gone(workload.id, now_ms))
            events.append(scheduler.Resumed(want, workload.gpu_uuids, now_ms, now_ms))
        elif known is None:
            events.append(scheduler.Arrived(want, now_ms))
        elif known.limits != want.limits:
            limits[workload.id] = want.limits
    return [*events, scheduler.LimitsChanged(limits, now_ms)] if limits else events


async def _job(runtime: Runtime, workload: Workload) -> None:
    asked_ms = runtime.clock.now_ms()
    observation = await runtime.engine.observe(workload.id)
    if observation.state == "absent" and runtime.launcher.is_at(workload.id):
        return
    if observation.state == "running":
        runtime.seen_active_ms[workload.id] = ran_until_ms(observation, workload.billed_from_ms, asked_ms)
    told = {"granted": "starting", "running": "running"}.get(workload.state)
    if workload.state == "stopping" and workload.billed_from_ms is not None:
        told = "running"
    if observation.state not in (told, "starting", "unknown"):
        await runtime.follow(observation)
    if workload.state == "stopping" and observation.state in ("starting", "running"):
        await runtime.carry_out_stop(workload)


async def _server(runtime: Runtime, workload: Workload, *, replaced: bool) -> None:
    """A server the hub denies twice in a row is gone; it was charged until it was last seen."""
    asked_ms = runtime.clock.now_ms()  # the answer may take its time, and tells of no later moment
    if not replaced and await runtime.hub.server_active(workload.owner, workload.server_name or ""):
        runtime.missed.pop(workload.id, None)
        if workload.id in runtime.state.holding:
            runtime.seen_active_ms[workload.id] = asked_ms
        if workload.state == "stopping":
            await runtime.carry_out_stop(workload)
        return
    misses = runtime.missed[workload.id] = runtime.missed.get(workload.id, 0) + 1
    if misses < MISSES_BEFORE_GONE:
        return
    last_ms = runtime.last_seen_ms(workload)
    outcome = "released" if workload.granted_ms is not None else "cancelled"
    ended = await runtime.store.write(
        lambda uow: lifecycle.finish(uow, workload.id, last_ms, outcome, runtime.settings)
    )
    log.warning("server %s of %s is gone from the hub; its lease was released", workload.server_name, workload.owner)
    runtime.gone(workload.id, ended)


async def find_problems(runtime: Runtime) -> list[Fault]:
    """What must always hold: the books fit, holds belong to live workloads, GPUs held = live leases."""

    def look(uow: UnitOfWork) -> tuple[list[Workload], list[Hold], list[Fault]]:
        active, holds, faults = uow.workloads(states=ACTIVE), uow.open_holds(), runtime.watch.check(uow)
        held = {hold.workload_id: hold for hold in holds}
        strays = uow.workloads_of(sorted(set(held) - {workload.id for workload in active}))
        for workload in (*active, *strays):
            faults += holding_faults(workload, held.get(workload.id))
        return active, holds, list(dict.fromkeys(faults))

    active, holds, problems = await runtime.store.read(look)
    held = {hold.workload_id: hold for hold in holds}
    overdue_ms = runtime.clock.now_ms() - OVERDUE_MS
    for workload in active:
        hold = held.get(workload.id) if workload.state in LIVE else None
        if hold is None or workload.billed_from_ms is None:
            continue
        if hold.until_ms + grace_ms(workload, runtime.settings) < overdue_ms:
            problems.append(Fault(workload.id, "it runs on though its funding is over"))
    if misplaced := _misplaced(runtime, active):
        # The scheduler moved on while the store was read: only what a second look finds too is told.
        again = _misplaced(runtime, await runtime.store.read(lambda uow: uow.workloads(states=ACTIVE)))
        problems += [problem for problem in misplaced if problem in again]
    return problems


def _misplaced(runtime: Runtime, active: Sequence[Workload]) -> list[Fault]:
    """GPUs that the store has with one workload, the scheduler with another or none."""
    holder = runtime.state.inventory.holder
    return [
        Fault(f"GPU {uuid}", f"leased to {workload.id}, the scheduler says to {holder.get(uuid)}")
        for workload in active
        if workload.state in LIVE
        for uuid in workload.gpu_uuids
        if holder.get(uuid) != workload.id
    ]
