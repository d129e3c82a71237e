"""Promise 4, below the ports: a crash or an error between any two SQL statements of a life charges exactly once."""

from __future__ import annotations

import itertools

import pytest

from fastgpu import models
from fastgpu_hub.broker.idempotency import IdempotencyClaim

pytestmark = pytest.mark.slow  # every statement of a life

H100 = "h100-80gb"
BOTH = pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)


def key(name: str) -> IdempotencyClaim:
    return IdempotencyClaim(name, name, "a" * 64)


async def job_that_ends(world, run: str) -> str:
    """Admit, grant, start, settle at the end."""
    request = models.JobSubmit(kind="command", argv=("true",), gpu_type=H100, gpu_count=2, time_limit_seconds=3600)
    job = await world.insist(lambda: world.broker.submit_job(world.alice, request, key=key(f"ask-{run}")))
    await runs(world, job.id)
    world.clock.ms += 360_000
    world.engine.finish(job.id)
    await world.insist(world.look)
    return job.id


async def job_that_is_cancelled(world, run: str) -> str:
    """The same with an ordered stop."""
    request = models.JobSubmit(kind="command", argv=("true",), gpu_type=H100, gpu_count=2, time_limit_seconds=3600)
    job = await world.insist(lambda: world.broker.submit_job(world.alice, request, key=key(f"ask-{run}")))
    await runs(world, job.id)
    world.clock.ms += 360_000
    await world.insist(lambda: world.broker.cancel_job(world.alice, job.id, key=key(f"stop-{run}")))
    await world.insist(world.look)
    return job.id


async def runs(world, job_id: str) -> None:
    """Until its engine runs it: where the failure came in between, when the next round has made it good."""
    await world.insist(world.look)
    if job_id not in world.engine._jobs:
        await world.insist(world.reconcile)
    assert world.engine._jobs[job_id].seen.state == "running"


async def server_that_is_released(world, run: str) -> str:
    """Admit, grant, report, renew and settle at an edge, release."""
    request = models.LeaseRequest(gpu_type=H100, gpu_count=2)
    spawner = world.spawner
    world.hub.active.add(("alice", ""))
    lease = await world.insist(lambda: world.broker.request_lease(spawner, "alice", request, key=key(f"ask-{run}")))
    await world.insist(world.look)
    if (await world.broker.lease(spawner, lease.id)).state is models.LeaseState.queued:
        await world.insist(world.reconcile)
    report = models.LeaseStarted(pid=1)
    await world.insist(lambda: world.broker.lease_started(spawner, lease.id, report, key=key(f"up-{run}")))
    for step_ms in (1_080_000, 720_000):
        world.clock.ms += step_ms
        await world.insist(world.reconcile)
        await world.insist(world.look)
    world.hub.active.clear()
    await world.insist(lambda: world.broker.release_lease(spawner, lease.id, key=key(f"end-{run}")))
    await world.insist(world.look)
    return lease.id


LIVES = {job_that_ends: 360_000, job_that_is_cancelled: 360_000, server_that_is_released: 1_800_000}


async def check_converged(world, workload_id: str, billed_ms: int) -> None:
    """It has ended; nothing is held, by nobody; its time is in the ledger once, each step in its history once."""
    workload, holds, charges, events = await world.store.read(
        lambda uow: (
            uow.workload(workload_id),
            uow.open_holds(),
            uow.transfers(workload_id=workload_id),
            uow.events(workload_id),
        )
    )
    assert workload.state == "ended"
    assert holds == []
    assert world.broker.runtime.state.inventory.holder == {}
    assert not world.broker.runtime.state.waits
    spans = [(t.line.from_ms, t.line.until_ms) for t in charges]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans)), spans
    assert (spans[0][0], spans[-1][1]) == (workload.billed_from_ms, workload.ended_ms)
    assert workload.ended_ms - workload.billed_from_ms == billed_ms
    assert sum(t.amount_micros for t in charges) == 1_000_000 * billed_ms // 3_600_000
    steps = [event.kind for event in events if event.kind != "renewed"]
    assert len(steps) == len(set(steps)), steps


@BOTH
@pytest.mark.parametrize("mode", ["crash", "error", "deaf"])
@pytest.mark.parametrize("life", LIVES, ids=lambda life: life.__name__)
async def test_a_crash_between_any_two_statements_converges_and_charges_exactly_once(world, statements, life, mode):
    """On SQLite a crash before each statement and an error at every third, on PostgreSQL at every seventh.

    A job that is cancelled begins as the other one does, and is tried from its start on.
    """
    stride = {"crash": 1, "error": 3, "deaf": 1}[mode]
    if world.url.startswith("postgresql") and mode != "deaf":
        stride = 7
    at = 20 if life is job_that_is_cancelled and mode != "deaf" else 1
    fired = "first"
    while fired:
        statements.arm(at, mode)
        workload_id = await life(world, f"{mode}-{at}")
        fired, sent = statements.fired, statements.sent
        statements.arm(0, "")
        if at % 16 == 1:
            await world.restart()
        await world.reconcile()
        try:
            await check_converged(world, workload_id, LIVES[life])
        except AssertionError as error:
            raise AssertionError(f"{fired}: {error}") from error
        at += stride
    print(f"{sent} statements")
    assert sent > (3 if mode == "deaf" else 30)
