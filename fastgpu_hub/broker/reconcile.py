"""Now and then: store, scheduler, engine and hub are compared; evidence repairs, the rest is told."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastgpu_hub.broker import lifecycle
from fastgpu_hub.broker.idempotency import KEEP_MS
from fastgpu_hub.broker.lifecycle import ACTIVE, LIVE
from fastgpu_hub.broker.ports.records import Hold, Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.ports.world import HubUnavailable
from fastgpu_hub.pricing.ledger import LedgerError, check_balanced

if TYPE_CHECKING:
    from fastgpu_hub.broker.runtime import Runtime

log = logging.getLogger("fastgpu.reconcile")
MISSES_BEFORE_GONE = 2


async def reconcile(runtime: Runtime) -> None:
    """One round. Raises StoreUnavailable only; an engine or hub that does not answer changes nothing."""
    await runtime.find_devices()
    await runtime.sample()
    active = await runtime.store.read(lambda uow: uow.workloads(states=ACTIVE))
    for workload in active:
        if workload.kind == "server":
            await _server(runtime, workload)
        elif workload.state in LIVE:
            await _job(runtime, workload)
    now_ms = runtime.clock.now_ms()

    def housekeeping(uow: UnitOfWork) -> None:
        uow.set_setting("heartbeat_ms", now_ms)
        uow.forget_idempotency_keys(now_ms - KEEP_MS)

    await runtime.store.write(housekeeping)
    runtime.problems = await _problems(runtime)
    for problem in runtime.problems:
        log.error("inconsistent: %s", problem)
    runtime.reconsider()


async def _job(runtime: Runtime, workload: Workload) -> None:
    observation = await runtime.engine.observe(workload.id)
    if observation.state == "running":
        runtime.seen_active_ms[workload.id] = runtime.clock.now_ms()
    told = {"granted": "starting", "running": "running"}.get(workload.state)
    if observation.state not in (told, "unknown", "running" if workload.state == "stopping" else ""):
        await runtime.follow(observation)
    if workload.state == "stopping" and observation.state in ("starting", "running"):
        await runtime.carry_out_stop(workload)


async def _server(runtime: Runtime, workload: Workload) -> None:
    """A server the hub denies twice in a row is gone; it was charged until it was last seen."""
    try:
        active = await runtime.hub.server_active(workload.owner, workload.server_name or "")
    except HubUnavailable as error:
        log.warning("the hub does not answer, nothing follows about servers: %s", error)
        return
    if active:
        runtime.missed.pop(workload.id, None)
        runtime.seen_active_ms[workload.id] = runtime.clock.now_ms()
        if workload.state == "stopping":
            await runtime.carry_out_stop(workload)
        return
    misses = runtime.missed[workload.id] = runtime.missed.get(workload.id, 0) + 1
    if misses < MISSES_BEFORE_GONE:
        return
    last_ms = runtime.seen_active_ms.get(workload.id, workload.charged_until_ms or workload.requested_ms)
    outcome = "released" if workload.granted_ms is not None else "cancelled"
    await runtime.store.write(lambda uow: lifecycle.finish(uow, workload.id, last_ms, outcome, runtime.settings))
    log.warning("server %s of %s is gone from the hub; its lease was released", workload.server_name, workload.owner)
    runtime.gone(workload.id)


async def _problems(runtime: Runtime) -> list[str]:
    """What must always hold: the ledger balances, holds belong to live workloads, GPUs held = live leases."""

    def look(uow: UnitOfWork) -> tuple[list[Workload], list[Hold], str]:
        try:
            check_balanced(uow.transfers())
            ledger = ""
        except LedgerError as error:
            ledger = str(error)
        return uow.workloads(states=ACTIVE), uow.open_holds(), ledger

    active, holds, ledger = await runtime.store.read(look)
    problems = [ledger] if ledger else []
    held = {hold.workload_id for hold in holds}
    ids = {workload.id for workload in active}
    problems += [f"hold of {workload_id}, which is not active" for workload_id in sorted(held - ids)]
    problems += [f"{workload_id} is active without a hold" for workload_id in sorted(ids - held)]
    in_store = {uuid: w.id for w in active if w.state in LIVE for uuid in w.gpu_uuids}
    in_scheduler = runtime.state.inventory.holder
    for uuid in sorted(in_store):
        if in_scheduler.get(uuid) != in_store[uuid]:
            problems.append(f"GPU {uuid} is leased to {in_store[uuid]} but the scheduler says {in_scheduler.get(uuid)}")
    return problems
