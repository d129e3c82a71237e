"""A job that waits for others starts when all of them have succeeded, and never when one of them has not."""

from __future__ import annotations

import pytest

from fastgpu import models
from fastgpu.models import JobState

pytestmark = pytest.mark.asyncio
H100 = "h100-80gb"


async def state(world, job_id):
    return (await world.broker.job(world.admin, job_id)).state


async def states(world, *ids):
    return [await state(world, job_id) for job_id in ids]


async def submit(world, *after, **changes):
    return world.ok(await world.submit(after=tuple(after), **changes))


async def finish(world, job_id, exit_code=0):
    world.engine.finish(job_id, exit_code)
    await world.settle_down()


@pytest.mark.parametrize("restarts", [False, True])
async def test_it_starts_when_all_that_it_needs_has_succeeded(world, restarts):
    async def perhaps():
        if restarts:
            await world.restart()

    first, second = (await submit(world)).id, (await submit(world)).id
    last = await submit(world, first, second)
    assert (last.state, last.after, last.held_micros) == (JobState.queued, (first, second), 500_000)
    await perhaps()
    why = (await world.broker.why(world.alice, last.id)).explanation
    assert why.code == "dependency"
    assert why.message.startswith(f"Waits for {min(first, second)}, which is running, and for 1 more of 2 jobs.")
    assert "money for it stays reserved" in why.message
    await finish(world, first)
    await perhaps()
    assert await state(world, last.id) is JobState.queued
    why = (await world.broker.why(world.alice, last.id)).explanation
    assert why.message.startswith(f"Waits for {second}, which is running.")
    await finish(world, second)
    assert await state(world, last.id) is JobState.running


async def test_one_that_needs_only_what_has_succeeded_starts_at_once(world):
    first = (await submit(world)).id
    await finish(world, first)
    assert await state(world, (await submit(world, first)).id) is JobState.running


async def test_it_takes_no_place_in_the_queue_while_it_waits(world):
    first = (await submit(world, gpu_count=4)).id
    waits = (await submit(world, first)).id
    behind = world.ok(await world.submit(world.bob))
    assert behind.queue_place == 1
    assert (await world.broker.job(world.alice, waits)).queue_place is None


@pytest.mark.parametrize(
    "how",
    [
        "exit_code",
        "cancelled_while_waiting",
        *(pytest.param(how, marks=pytest.mark.slow) for how in ("timed_out", "cancelled", "lost")),
    ],
)
async def test_when_one_does_not_succeed_all_that_waited_for_it_is_cancelled_and_told(world, how):
    blocker = (await submit(world, gpu_count=4)).id if how == "cancelled_while_waiting" else None
    first, other = (await submit(world)).id, (await submit(world)).id
    second = (await submit(world, first, other)).id
    third = (await submit(world, second)).id
    untouched = (await submit(world, other)).id
    if how == "exit_code":
        await finish(world, first, 3)
    elif how == "timed_out":
        world.clock.ms += 3_600_000
        world.engine.tick()
    elif how == "lost":
        world.engine.kill(first)
    else:
        world.ok(await world.broker.cancel_job(world.alice, first))
    await world.settle_down()
    assert await states(world, second, third) == [JobState.cancelled, JobState.cancelled]
    job = await world.broker.job(world.alice, second)
    assert (job.explanation.code, job.explanation.numbers["needs"]) == ("dependency_failed", first)
    assert f"It waited for {first}, which " in job.explanation.message
    assert (job.held_micros, job.cost_micros) == (0, 0)
    assert (await world.broker.job(world.alice, third)).explanation.numbers["needs"] == second
    told = [n for n in await world.broker.notices(world.alice) if n.explanation.code == "dependency_failed"]
    assert {notice.workload_id for notice in told} >= {second, third}
    if how != "timed_out":
        assert await state(world, untouched) is JobState.queued
    holds = await world.store.read(lambda uow: {hold.workload_id for hold in uow.open_holds()})
    assert not holds & {second, third, first}
    assert blocker is None or blocker in holds


async def test_a_job_that_has_failed_cannot_be_waited_for(world):
    first = (await submit(world)).id
    await finish(world, first, 1)
    refused = await world.submit(after=(first,))
    assert (refused.code, refused.numbers["needs"]) == ("dependency_failed", first)
    assert refused.message == f"It is to start after {first}, which failed: it would never start."


async def test_a_foreign_job_is_as_unknown_as_a_missing_one(world):
    foreign = world.ok(await world.submit(world.bob)).id
    server = world.ok(await world.lease()).id
    messages = set()
    for name in (foreign, "j-000000000000", "a-000000000000", server):
        refused = await world.submit(after=(name,))
        assert refused.code == "not_found"
        messages.add(refused.message.replace(name, "X").replace("array", "job"))
    assert len(messages) == 1
    assert len(await world.store.read(lambda uow: uow.workloads(kind="job"))) == 1


async def test_whoever_waits_for_an_array_waits_for_all_of_its_jobs(world):
    sweep = models.JobSubmit(kind="command", argv=("t",), gpu_type=H100, sweep={"i": ("1", "2", "3")}, max_running=2)
    array = world.ok(await world.broker.submit_array(world.alice, sweep))
    await world.settle_down()
    last = (await submit(world, array.id)).id
    for number, job in enumerate(array.jobs):
        assert await state(world, last) is JobState.queued, number
        await finish(world, job.id)
    assert await state(world, last) is JobState.running


async def test_an_array_waits_as_one_and_is_cancelled_with_one_notice(world):
    first = (await submit(world)).id
    sweep = models.JobSubmit(kind="command", argv=("t",), gpu_type=H100, sweep={"i": ("1", "2", "3")}, after=(first,))
    array = world.ok(await world.broker.submit_array(world.alice, sweep))
    assert array.counts == {JobState.queued: 3}
    await finish(world, first, 1)
    array = world.ok(await world.broker.array(world.alice, array.id))
    assert (array.counts, array.held_micros) == ({JobState.cancelled: 3}, 0)
    assert len(await world.broker.notices(world.alice)) == 1


async def test_more_dependencies_than_can_be_kept_are_refused(world):
    def sweep(count, **more):
        values = tuple(map(str, range(count)))
        return models.JobSubmit(
            kind="command", argv=("t",), gpu_type=H100, time_limit_seconds=60, sweep={"i": values}, **more
        )

    array = world.ok(await world.broker.submit_array(world.alice, sweep(101, max_running=1)))
    refused = await world.broker.submit_array(world.alice, sweep(100, after=(array.id,)))
    assert (refused.numbers["dependencies"], refused.numbers["limit"]) == (10_100, 10_000)
    await world.settle_down()


async def test_cancelling_one_that_waits_for_others_gives_its_money_back(world):
    first = (await submit(world)).id
    waits = (await submit(world, first)).id
    job = world.ok(await world.broker.cancel_job(world.alice, waits))
    assert (job.state, job.held_micros) == (JobState.cancelled, 0)
    await finish(world, first)
    assert await state(world, waits) is JobState.cancelled


async def test_what_the_service_missed_while_it_was_down_is_made_good(world):
    """The needed job ended, and was seen to end, with nobody there to hand its dependant on."""
    first = (await submit(world)).id
    waits = (await submit(world, first)).id
    runtime = world.broker.runtime
    look, runtime.waiting.look = runtime.waiting.look, None
    runtime.ended, ended = lambda ended: runtime.gone(ended.job.id), runtime.ended
    await finish(world, first)
    assert await state(world, waits) is JobState.queued
    runtime.waiting.look, runtime.ended = look, ended
    await world.reconcile()
    assert await state(world, waits) is JobState.running
