"""Promise 4: a failure or crash between any two steps of a life converges within two rounds, charged exactly once."""

from __future__ import annotations

import itertools
from random import Random

import pytest

from fastgpu import models
from fastgpu_hub.broker.idempotency import IdempotencyClaim

pytestmark = pytest.mark.slow  # many processes, or every step of a life: too long for the quick run

H100 = "h100-80gb"
MODES = ("before", "after", "crash-before", "crash-after")
BOTH = pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgres", marks=[pytest.mark.postgres, pytest.mark.slow])], indirect=True
)


def key(name: str) -> IdempotencyClaim:
    return IdempotencyClaim(name, name, "a" * 64)


async def job_that_ends(world, run: str):
    return await job_life(world, run, cancel=False)


async def job_that_is_cancelled(world, run: str):
    return await job_life(world, run, cancel=True)


async def job_life(world, run: str, cancel: bool):
    request = models.JobSubmit(kind="command", argv=("true",), gpu_type=H100, gpu_count=2, time_limit_seconds=3600)
    job = await world.insist(lambda: world.broker.submit_job(world.alice, request, key=key(f"submit-{run}")))
    await world.insist(world.look)
    started = job.id in world.engine._jobs
    world.clock.ms += 360_000
    await world.insist(world.look)
    if cancel:
        await world.insist(lambda: world.broker.cancel_job(world.alice, job.id, key=key(f"cancel-{run}")))
    elif started:
        world.engine.finish(job.id)
    await world.insist(world.look)
    return job.id, started


async def server_life(world, run: str):
    request = models.LeaseRequest(gpu_type=H100, gpu_count=2)
    world.hub.active.add(("alice", ""))
    spawner = world.spawner
    lease = await world.insist(lambda: world.broker.request_lease(spawner, "alice", request, key=key(f"ask-{run}")))
    await world.insist(world.look)
    lease = await world.insist(lambda: world.broker.lease(spawner, lease.id))
    granted = lease.state is models.LeaseState.granted
    if granted:
        report = models.LeaseStarted(pid=1)
        await world.insist(lambda: world.broker.lease_started(spawner, lease.id, report, key=key(f"up-{run}")))
        for _ in range(4):
            world.clock.ms += 900_000
            await world.insist(world.look)
    world.hub.active.clear()
    await world.insist(lambda: world.broker.release_lease(spawner, lease.id, key=key(f"end-{run}")))
    await world.insist(world.look)
    return lease.id, granted


async def check_converged(world, workload_id: str, billed_ms: int | None) -> None:
    """Nothing is held, by nobody; the ledger has the workload's time once, without a gap."""
    workload, holds, charges = await world.store.read(
        lambda uow: (uow.workload(workload_id), uow.open_holds(), uow.transfers(workload_id=workload_id))
    )
    assert workload.state == "ended"
    assert holds == []
    assert world.broker.runtime.state.inventory.holder == {}
    assert not world.broker.runtime.state.waits
    edges = [(t.line.from_ms, t.line.until_ms) for t in charges]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(edges))
    if edges:
        assert (edges[0][0], edges[-1][1]) == (workload.billed_from_ms, workload.ended_ms)
    if billed_ms is not None:
        assert sum(t.line.until_ms - t.line.from_ms for t in charges) == billed_ms
        assert sum(t.amount_micros for t in charges) == 1_000_000 * billed_ms // 3_600_000
    assert len({launch.lease_id for launch in world.engine.launches}) == len(world.engine.launches)


@BOTH
@pytest.mark.asyncio
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("life", [job_that_ends, job_that_is_cancelled, server_life], ids=lambda life: life.__name__)
async def test_a_failure_at_any_step_converges_and_charges_exactly_once(world, life, mode):
    world.settings = type(world.settings)(reconcile_interval_ms=10**9)
    await world.restart()
    at, fired = 0, "first"
    while fired:
        at += 1
        world.points.arm(at, mode)
        workload_id, ran = await life(world, f"{mode}-{at}")
        fired = world.points.fired
        world.points.arm(0, "")
        if at % 8 == 0:
            await world.restart()
        await world.reconcile()
        if not ran:  # it only began when the failure was repaired
            if life is server_life:
                continue
            world.clock.ms += 360_000
            if workload_id in world.engine._jobs and world.engine._jobs[workload_id].seen.state == "running":
                world.engine.finish(workload_id)
            await world.reconcile()
        expected = 3_600_000 if life is server_life else 360_000
        try:
            await check_converged(world, workload_id, expected if ran else None)
        except AssertionError as error:
            raise AssertionError(f"step {at}, {fired}: {error}") from error
    assert at > 5


@pytest.mark.asyncio
@pytest.mark.parametrize("seed", [1, *[pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 21)]])
async def test_many_lives_with_failures_and_restarts_at_random_leave_nothing_behind(world, seed):
    chance = Random(seed)
    world.settings = type(world.settings)(reconcile_interval_ms=50)
    await world.restart()
    world.ok(await world.broker.grant(world.admin, models.GrantSet(account="class:cs101", amount_micros=10**10)))
    world.points.chance = chance
    limit = models.QuotaSet(scope="class", name="cs101", metric="concurrent_gpus", limit=3)
    await world.insist(lambda: world.broker.add_quota(world.admin, limit))
    world.hub.active |= {("alice", ""), ("bob", "")}
    jobs, servers = [], []

    async def submit(name):
        count = chance.choice((1, 1, 2))
        request = models.JobSubmit(
            kind="command", argv=("true",), gpu_type=H100, gpu_count=count, time_limit_seconds=36_000
        )
        actor = chance.choice((world.alice, world.bob))
        job = await world.insist(lambda: world.broker.submit_job(actor, request, key=key(name)))
        jobs.append((actor, job.id))

    async def serve(name):
        owner = chance.choice(("alice", "bob"))
        request = models.LeaseRequest(gpu_type=H100)
        lease = await world.insist(lambda: world.broker.request_lease(world.spawner, owner, request, key=key(name)))
        servers.append(lease.id)

    async def report(name):
        for lease_id in servers:
            lease = await world.insist(lambda lease_id=lease_id: world.broker.lease(world.spawner, lease_id))
            if lease.state is models.LeaseState.granted:
                claim = key(f"{name}-{lease_id}")
                await world.insist(
                    lambda lease_id=lease_id, claim=claim: world.broker.lease_started(
                        world.spawner, lease_id, models.LeaseStarted(), key=claim
                    )
                )

    async def release(name):
        if servers:
            lease_id = chance.choice(servers)
            await world.insist(lambda: world.broker.release_lease(world.spawner, lease_id, key=key(name)))

    async def cancel(name):
        if jobs:
            actor, job_id = chance.choice(jobs)
            await world.insist(lambda: world.broker.cancel_job(actor, job_id, key=key(name)))

    async def finish(name):
        running = [j for j, job in world.engine._jobs.items() if job.seen.state == "running"]
        if running:
            world.engine.finish(chance.choice(running))

    async def pass_time(name):
        world.clock.ms += chance.choice((1_000, 60_000, 300_000))
        await world.insist(world.look)

    async def crash(name):
        await world.insist(world.restart)

    steps = (submit, submit, submit, serve, report, release, cancel, finish, pass_time, crash)
    for number in range(60):
        await chance.choice(steps)(f"{seed}-{number}")
        held = await world.store.read(lambda uow: uow.workloads(states=("granted", "running", "stopping")))
        gpus = [uuid for workload in held for uuid in workload.gpu_uuids]
        assert len(gpus) == len(set(gpus)) <= 3
    world.points.chance = None
    world.hub.active.clear()
    for _ in range(20):
        for job_id, job in world.engine._jobs.items():
            if job.seen.state == "running":
                world.engine.finish(job_id)
        await world.reconcile(1)
    workloads = await world.store.read(lambda uow: uow.workloads())
    for workload in workloads:
        await check_converged(world, workload.id, None)
    for job_id, job in world.engine._jobs.items():
        charged = await world.store.read(lambda uow, job_id=job_id: uow.transfers(workload_id=job_id))
        assert sum(t.line.until_ms - t.line.from_ms for t in charged) == job.seen.ended_ms - (
            job.seen.started_ms or job.seen.ended_ms
        )
