"""Jobs that belong together, and a crash or an error between any two SQL statements: all of an array or none, one
attempt more and never two, dependants that start or are cancelled once."""

from __future__ import annotations

import pytest

from fastgpu import models
from fastgpu_hub.broker.idempotency import IdempotencyClaim

pytestmark = pytest.mark.slow  # every statement of a step

H100 = "h100-80gb"
JOB = models.JobSubmit(kind="command", argv=("true",), gpu_type=H100, time_limit_seconds=3600)
MODES = pytest.mark.parametrize("mode", ["crash", "error", "deaf"])
BOTH = pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)


def key(name: str) -> IdempotencyClaim:
    return IdempotencyClaim(name, name, "a" * 64)


async def at_every_statement(world, statements, mode, prepare, step, check) -> None:
    """``step`` again and again, what it needs prepared anew: on SQLite it dies before each statement, once."""
    stride = {"crash": 1, "error": 4, "deaf": 1}[mode]
    if world.url.startswith("postgresql") and mode != "deaf":
        stride = 8
    at, fired, sent = 1, "first", 0
    while fired:
        run = f"{mode}-{at}"
        prepared = await prepare(run)
        statements.arm(at, mode)
        done = await world.insist(lambda run=run, prepared=prepared: step(run, prepared))
        await world.insist(world.look)
        fired, sent = statements.fired, statements.sent
        statements.arm(0, "")
        if at % 5 == 1:
            await world.restart()
        await world.reconcile()
        try:
            await check(prepared, done)
            await clear_away(world)
        except AssertionError as error:
            raise AssertionError(f"{fired}: {error}") from error
        at += stride
    assert sent > (0 if mode == "deaf" else 8)


async def clear_away(world) -> None:
    """Cancel everything; then nothing is held, by nobody."""
    for workload in await world.store.read(lambda uow: uow.workloads(states=("queued", "granted", "running"))):
        world.ok(await world.broker.cancel_job(world.admin, workload.id))
    await world.settle_down()
    await world.reconcile()
    assert await world.store.read(lambda uow: uow.open_holds()) == []
    assert world.broker.runtime.state.inventory.holder == {}


async def submitted(world, run, **changes):
    request = JOB.model_copy(update=changes)
    job = world.ok(await world.broker.submit_job(world.alice, request, key=key(f"{run}-{len(changes)}-{changes}")))
    await world.look()
    return job


async def workload(world, job_id):
    return await world.store.read(lambda uow: uow.workload(job_id))


async def nothing(run):
    return None


@BOTH
@MODES
async def test_an_array_is_taken_whole_and_once(world, statements, mode):
    request = JOB.model_copy(update={"sweep": {"i": ("1", "2")}, "max_running": 1})
    before = 0

    async def step(run, _):
        return await world.broker.submit_array(world.alice, request, key=key(run))

    async def check(_, array):
        nonlocal before
        found, holds = await world.store.read(lambda uow: (uow.workloads(), uow.open_holds()))
        mine = [each for each in found if each.array_id == array.id]
        assert [each.array_index for each in sorted(mine, key=lambda w: w.array_index)] == [0, 1]
        assert len(found) == before + 2
        assert {hold.workload_id for hold in holds} == {each.id for each in mine}
        assert sorted(each.state for each in mine) == ["queued", "running"]
        before = len(found)

    await at_every_statement(world, statements, mode, nothing, step, check)


@BOTH
@MODES
async def test_a_lost_job_gets_one_more_attempt_and_no_second_one(world, statements, mode):
    async def prepare(run):
        return await submitted(world, run, retries=2)

    async def step(run, job):
        if world.engine._jobs[job.id].seen.state == "running":
            world.engine.kill(job.id)
        await world.look()
        return await world.broker.job(world.alice, job.id)

    async def check(job, _):
        lost, following = await world.store.read(lambda uow: uow.attempts([job.id]))
        assert (lost.state, lost.outcome, following.state, following.attempt) == ("ended", "lost", "queued", 2)
        assert following.id in lost.explanation.message
        hold = await world.store.read(lambda uow: uow.open_hold(following.id))
        assert sum(line.amount_micros for line in hold.lines) == 500_000
        world.clock.ms += 30_000
        await world.look()
        assert (await workload(world, following.id)).state == "running"

    await at_every_statement(world, statements, mode, prepare, step, check)


@BOTH
@MODES
@pytest.mark.parametrize("exit_code", [0, 1])
async def test_what_waits_for_a_job_starts_or_is_cancelled_once(world, statements, mode, exit_code):
    async def prepare(run):
        first = await submitted(world, run)
        second = await submitted(world, run, after=(first.id,))
        third = await submitted(world, run, after=(second.id,))
        return [each.id for each in (first, second, third)]

    async def step(run, ids):
        if world.engine._jobs[ids[0]].seen.state == "running":
            world.engine.finish(ids[0], exit_code)
        await world.look()
        return await world.broker.job(world.alice, ids[0])

    async def check(ids, _):
        first, second, third = [await workload(world, job_id) for job_id in ids]
        notices = await world.store.read(lambda uow: uow.notices("alice", 0, 1000))
        told = [notice.workload_id for notice in notices if notice.workload_id in ids]
        if exit_code == 0:
            assert (first.outcome, second.state, third.state, told) == ("succeeded", "running", "queued", [])
        else:
            assert (first.outcome, second.outcome, third.outcome) == ("failed", "cancelled", "cancelled")
            assert sorted(told) == sorted([second.id, third.id])

    await at_every_statement(world, statements, mode, prepare, step, check)
