"""What goes wrong around one step is repaired by evidence: no GPU leaks, none is leased twice, nobody overpays."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fastgpu import models
from fastgpu_hub.broker import lifecycle
from fastgpu_hub.broker.idempotency import IdempotencyClaim
from fastgpu_hub.broker.ports.store import StoreUnavailable
from fastgpu_hub.broker.reconcile import find_problems, reconcile

pytestmark = pytest.mark.asyncio
H100 = "h100-80gb"


async def started(world, **changes):
    lease = world.ok(await world.lease(**changes))
    world.ok(await world.broker.lease_started(world.spawner, lease.id, models.LeaseStarted(pid=1)))
    await world.settle_down()
    return lease


def delayed(call, before):
    """The call, before which whatever was put into a list is done first."""

    async def first(*args):
        while before:
            await before.pop()()
        return await call(*args)

    return first


# ---------------------------------------------------------------- grants and starts


async def test_a_gpu_that_vanishes_while_it_is_granted_does_not_leak(world):
    while await world.store.read(lambda uow: uow.setting("heartbeat_ms")) is None:
        await asyncio.sleep(0.001)  # the first round of comparing would find the GPU again
    del world.broker.runtime.gpus.devices["GPU-0"]
    job = world.ok(await world.submit())
    assert (await world.broker.job(world.alice, job.id)).explanation.code == "capacity"
    assert world.broker.runtime.state.inventory.holder == {}
    await world.reconcile()
    assert (await world.broker.job(world.alice, job.id)).state is models.JobState.running


async def test_a_start_that_failed_is_not_made_again_while_that_is_written_down(world, monkeypatch):
    monkeypatch.setattr(world.broker.runtime, "persist", delayed(world.broker.runtime.persist, comparing := []))
    start, starts = world.engine.start, []

    async def fails_once(launch):
        starts.append(launch.lease_id)
        if len(starts) == 1:
            comparing.append(lambda: reconcile(world.broker.runtime))
            raise RuntimeError("no")
        await start(launch)

    monkeypatch.setattr(world.engine, "start", fails_once)
    job = world.ok(await world.submit())
    assert starts == [job.id]
    assert (await world.broker.job(world.alice, job.id)).state is models.JobState.failed
    assert (await world.engine.observe(job.id)).state == "absent"


async def test_what_runs_after_its_end_is_stopped(world):
    job = world.ok(await world.submit())
    await world.broker.cancel_job(world.alice, job.id)
    await world.settle_down()
    ended = world.engine._jobs[job.id]
    ended.seen = replace(ended.seen, state="running", ended_ms=None, ending=None, exit_code=None)
    await world.broker.runtime.follow(ended.seen)
    assert (await world.engine.observe(job.id)).state == "exited"


async def test_a_held_gpu_that_vanishes_and_returns_is_given_out_again(world):
    job = world.ok(await world.submit(gpu_count=4))
    world.probe.count = 2
    await world.broker.runtime.gpus.find()
    assert set(world.broker.runtime.state.inventory.fenced) == {"GPU-2", "GPU-3"}
    world.probe.count = 4
    await world.broker.runtime.gpus.find()
    world.engine.finish(job.id)
    await world.settle_down()
    again = world.ok(await world.submit(gpu_count=4))
    assert (await world.broker.job(world.alice, again.id)).state is models.JobState.running


async def test_a_probe_that_fails_takes_no_gpu_away(world):
    def fail(*_):
        raise OSError("no driver")

    world.probe.devices = world.probe.sample = fail
    await world.reconcile()
    assert len(world.broker.runtime.state.inventory.devices) == 4
    assert (await world.broker.status(world.alice)).user == "alice"
    del world.probe.devices, world.probe.sample


async def test_a_job_that_the_engine_refuses_fails_at_no_cost_and_gives_its_gpus_back(world):
    async def refuse(launch):
        raise ValueError("called wrongly")

    world.engine.start = refuse
    job = world.ok(await world.submit(gpu_count=4))
    job = await world.broker.job(world.alice, job.id)
    assert (job.state, job.cost_micros, job.held_micros) == (models.JobState.failed, 0, 0)
    assert "fault of the service" in job.explanation.message
    assert world.broker.runtime.state.inventory.holder == {}


async def test_a_grant_that_fails_by_a_fault_of_ours_waits_and_is_tried_again(world, monkeypatch):
    real = lifecycle.grant
    monkeypatch.setattr(lifecycle, "grant", lambda *_: {}["no such key"])
    job = world.ok(await world.submit())
    assert (await world.broker.job(world.alice, job.id)).explanation.code == "internal"
    assert world.broker.runtime.state.inventory.holder == {}
    monkeypatch.setattr(lifecycle, "grant", real)
    await world.reconcile(1)
    assert (await world.broker.job(world.alice, job.id)).state is models.JobState.running


async def test_an_unanswered_grant_is_never_given_to_somebody_else(world):
    real = world.broker.runtime.store.write
    lost = 3

    async def write(work):
        nonlocal lost
        answer = await real(work)
        if isinstance(answer, lifecycle.Workload) and answer.state == "granted" and lost:
            lost -= 1
            raise StoreUnavailable("the answer to COMMIT was lost")
        return answer

    world.broker.runtime.store.write = write
    jobs = [world.ok(await world.submit(actor)) for actor in (world.alice, world.bob) * 3]
    await world.reconcile()
    held = await world.store.read(lambda uow: uow.workloads(states=("granted", "running")))
    gpus = [uuid for workload in held for uuid in workload.gpu_uuids]
    assert len(gpus) == len(set(gpus)) == 4
    assert await find_problems(world.broker.runtime) == []
    assert len({launch.lease_id for launch in world.engine.launches}) == 4
    assert len(jobs) == 6


async def test_a_request_whose_answer_was_lost_is_queued_all_the_same(world):
    claim = IdempotencyClaim("k", "jobs", "a" * 64)
    world.points.arm(1, "after")
    request = models.JobSubmit(kind="command", argv=("true",), gpu_type=H100)
    with pytest.raises(StoreUnavailable):
        await world.broker.submit_job(world.alice, request, key=claim)
    job = world.ok(await world.broker.submit_job(world.alice, request, key=claim))
    await world.reconcile(1)
    assert (await world.broker.job(world.alice, job.id)).state is models.JobState.running


async def test_a_gpu_leased_twice_in_the_store_is_told_and_does_not_stop_the_service(world):
    job = world.ok(await world.submit())
    lease = await started(world)

    def corrupt(uow):
        uow.save_workload(replace(uow.workload(lease.id), gpu_uuids=uow.workload(job.id).gpu_uuids))

    await world.store.write(corrupt)
    await world.restart()
    assert len(await find_problems(world.broker.runtime)) == 1
    world.ok(await world.broker.release_lease(world.spawner, lease.id))


# ---------------------------------------------------------------- cancel, start, release in any order


async def test_a_job_cancelled_while_it_starts_is_billed_while_it_stops(world):
    world.engine._auto_run = False
    job = world.ok(await world.submit())
    real, calls = world.engine.stop, []

    async def slow(lease_id, grace):
        calls.append(lease_id)

    world.engine.stop = slow
    world.ok(await world.broker.cancel_job(world.alice, job.id))
    await world.settle_down()
    world.engine.run(job.id)  # it ignores the signal
    await world.pass_time(7.2)
    await real(job.id, 0)
    await world.settle_down()
    job = await world.broker.job(world.alice, job.id)
    assert (job.state, job.cost_micros) == (models.JobState.cancelled, 1_000)
    assert calls


async def test_a_job_that_ended_while_it_was_being_started_is_stopped(world):
    job_id = None
    real = world.engine.start

    async def start(launch):
        nonlocal job_id
        job_id = launch.lease_id
        now = world.clock.ms
        await world.store.write(lambda uow: lifecycle.finish(uow, job_id, now, "cancelled", world.settings))
        world.broker.runtime.gone(job_id)
        await real(launch)

    world.engine.start = start
    await world.submit()
    assert world.engine._jobs[job_id].seen.ending == "stopped"


async def test_news_out_of_order_change_nothing(world):
    job = world.ok(await world.submit())
    running = await world.engine.observe(job.id)
    await world.pass_time(36)
    world.engine.finish(job.id)
    await world.settle_down()
    for late in (running, await world.engine.observe(job.id), replace(running, state="absent")):
        await world.broker.runtime.follow(late)
    job = await world.broker.job(world.alice, job.id)
    assert (job.state, job.cost_micros) == (models.JobState.succeeded, 5_000)
    assert world.broker.runtime.seen_active_ms == {}


async def test_a_start_reported_after_the_release_starts_nothing(world):
    lease = world.ok(await world.lease())
    await asyncio.gather(*[world.broker.release_lease(world.spawner, lease.id) for _ in range(3)])
    late = world.ok(await world.broker.lease_started(world.spawner, lease.id, models.LeaseStarted()))
    assert (late.state, late.cost_micros) == (models.LeaseState.released, 0)
    assert world.broker.runtime.state.inventory.holder == {}
