"""A job is tried again when what made it fail was no doing of its own: never more often, never less, never for free."""

from __future__ import annotations

import pytest

from fastgpu import models
from fastgpu.models import JobState
from fastgpu_hub.broker.attempts import pause_ms
from fastgpu_hub.pricing.explain import Refused

pytestmark = pytest.mark.asyncio
H100 = "h100-80gb"


async def job(world, job_id):
    return world.ok(await world.broker.job(world.alice, job_id))


async def lose(world, job_id):
    world.engine.kill(job_id)
    await world.settle_down()


async def attempts(world, first_id):
    return await world.store.read(lambda uow: uow.attempts([first_id]))


async def test_a_lost_job_is_tried_again_after_a_pause_under_a_receipt_of_its_own(world):
    first = world.ok(await world.submit(retries=2))
    await world.pass_time(36)
    await lose(world, first.id)
    lost = await job(world, first.id)
    assert (lost.state, lost.attempt, lost.cost_micros) == (JobState.lost, 1, 5_000)
    second = await job(world, lost.next_attempt)
    assert f"Attempt 2 of 3, {second.id}, starts in 30 seconds at the earliest." in lost.explanation.message
    assert (second.state, second.attempt, second.retry_of) == (JobState.queued, 2, first.id)
    assert (second.held_micros, second.explanation.code) == (500_000, "back_off")
    assert second.explanation.frees_at == second.not_before
    await world.pass_time(29)
    assert (await job(world, second.id)).state is JobState.queued
    await world.pass_time(1)
    assert (await job(world, second.id)).state is JobState.running
    await world.pass_time(36)
    world.engine.finish(second.id)
    await world.settle_down()
    receipts = [await world.broker.receipt(world.alice, each) for each in (first.id, second.id)]
    assert [receipt.total_micros for receipt in receipts] == [5_000, 5_000]


async def test_all_attempts_share_one_folder_for_save_points(world):
    first = world.ok(await world.submit(retries=1))
    world.engine.put_checkpoint(first.id, "epoch-3.pt", b"weights")
    await lose(world, first.id)
    await world.pass_time(30)
    second = (await job(world, first.id)).next_attempt
    launches = world.engine.launches
    assert [(each.checkpoint_id, each.attempt) for each in launches] == [(first.id, 1), (first.id, 2)]
    for each in (first.id, second):
        files = world.ok(await world.broker.job_files(world.alice, each))
        assert "@checkpoints/epoch-3.pt" in [file.path for file in files]


async def test_the_pauses_double_to_ten_minutes():
    assert [pause_ms(number) // 1000 for number in range(2, 12)] == [30, 60, 120, 240, 480, 600, 600, 600, 600, 600]


async def test_attempts_come_to_an_end(world):
    first = world.ok(await world.submit(retries=2))
    current, tried = first.id, []
    while current:
        tried.append(current)
        await world.pass_time(600)
        await lose(world, current)
        current = (await job(world, current)).next_attempt
    assert len(tried) == 3
    assert [each.attempt for each in await attempts(world, first.id)] == [1, 2, 3]
    assert "Attempt" not in (await job(world, tried[-1])).explanation.message


async def test_what_is_the_jobs_own_doing_or_its_owners_is_not_tried_again(world):
    async def cancelled(job_id):
        world.ok(await world.broker.cancel_job(world.alice, job_id))

    async def cancelled_and_then_lost(job_id):
        stop, world.engine.stop = world.engine.stop, no_stop
        await cancelled(job_id)
        await lose(world, job_id)
        world.engine.stop = stop

    async def out_of_time(job_id):
        world.clock.ms += 3_600_000
        world.engine.tick()

    async def own_fault(job_id):
        world.engine.fail_to_start(job_id, "No such file or directory: train")

    async def exit_code(job_id, code=137):
        world.engine.finish(job_id, code)

    async def success(job_id):
        await exit_code(job_id, 0)

    for happens in (cancelled, cancelled_and_then_lost, out_of_time, own_fault, exit_code, success):
        first = world.ok(await world.submit(retries=3))
        await happens(first.id)
        await world.settle_down()
        ended = await job(world, first.id)
        assert (ended.state.final, ended.next_attempt) == (True, None), happens.__name__
        assert len(await attempts(world, first.id)) == 1


async def no_stop(*_):
    return None


async def test_money_that_ends_is_no_reason_to_try_again(world):
    first = world.ok(await world.submit(retries=3))
    await world.broker.runtime.stop(first.id, Refused("credit", "Its funding ended."))
    await world.settle_down()
    assert (await job(world, first.id)).next_attempt is None


async def test_a_start_that_the_engine_could_not_make_is_tried_again(world):
    world.engine._auto_run = False
    first = world.ok(await world.submit(retries=1))
    world.engine.fail_to_start(first.id, "The job's folder: No space left on device.", engine_fault=True)
    await world.settle_down()
    failed = await job(world, first.id)
    assert (failed.state, failed.cost_micros) == (JobState.failed, 0)
    assert (await job(world, failed.next_attempt)).state is JobState.queued


async def test_a_job_that_failed_because_its_gpu_was_lost_is_tried_again_elsewhere(world):
    first = world.ok(await world.submit(retries=1))
    held = world.broker.runtime.state.inventory.holder
    gpu = next(uuid for uuid, who in held.items() if who == first.id)
    world.probe.lost.add(gpu)
    world.engine.finish(first.id, 1)
    await world.settle_down()
    lost = await job(world, first.id)
    assert (lost.state, lost.exit_code) == (JobState.lost, 1)
    assert f"Its GPU {gpu} was lost while it ran." in lost.explanation.message
    await world.pass_time(30)
    assert (await job(world, lost.next_attempt)).state is JobState.running
    assert gpu not in [g.uuid for g in (await world.broker.lease(world.alice, lost.next_attempt)).gpus]


async def test_another_jobs_lost_gpu_is_no_excuse(world):
    first = world.ok(await world.submit(retries=1))
    world.probe.lost.add("GPU-3")
    world.engine.finish(first.id, 1)
    await world.settle_down()
    assert (await job(world, first.id)).state is JobState.failed


async def test_money_that_cannot_be_held_again_is_said_where_it_failed(world):
    first = world.ok(await world.submit(retries=1, time_limit_seconds=36_000, gpu_count=4))  # 20 credits
    world.ok(await world.submit(world.bob, time_limit_seconds=36_000 * 4, gpu_count=4))  # 80: all that is left
    await world.pass_time(3600)
    await lose(world, first.id)
    lost = await job(world, first.id)
    assert lost.next_attempt is None
    assert "It is not tried again: " in lost.explanation.message
    assert "credit" in lost.explanation.message
    assert lost.held_micros == 0


async def test_all_attempts_together_stay_within_the_limit_on_cost(world):
    first = world.ok(await world.submit(retries=2, max_cost_micros=950_000))
    await world.pass_time(1800)
    await lose(world, first.id)
    lost = await job(world, first.id)
    second = await world.store.read(lambda uow: uow.workload(lost.next_attempt))
    assert second.max_cost_micros == 700_000
    await world.pass_time(30)
    await world.pass_time(1800)
    await lose(world, second.id)
    last = await job(world, second.id)
    assert last.next_attempt is None
    assert "more than your limit of 0.45" in last.explanation.message


async def test_whoever_waits_for_a_job_waits_for_its_next_attempt(world):
    first = world.ok(await world.submit(retries=1))
    waits = world.ok(await world.submit(after=(first.id,)))
    await lose(world, first.id)
    second = (await job(world, first.id)).next_attempt
    assert (await job(world, waits.id)).explanation.message.startswith(f"Waits for {second}, which is queued.")
    late = world.ok(await world.submit(after=(second,)))
    await world.pass_time(30)
    world.engine.finish(second)
    await world.settle_down()
    assert [(await job(world, each.id)).state for each in (waits, late)] == [JobState.running] * 2


async def test_when_the_last_attempt_fails_too_what_waited_for_it_is_cancelled(world):
    first = world.ok(await world.submit(retries=1))
    waits = world.ok(await world.submit(after=(first.id,)))
    await lose(world, first.id)
    second = (await job(world, first.id)).next_attempt
    await world.pass_time(30)
    await lose(world, second)
    ended = await job(world, waits.id)
    assert (ended.state, ended.explanation.numbers["needs"]) == (JobState.cancelled, second)


async def test_cancelling_a_job_cancels_its_latest_attempt(world):
    first = world.ok(await world.submit(retries=3))
    await lose(world, first.id)
    second = (await job(world, first.id)).next_attempt
    cancelled = world.ok(await world.broker.cancel_job(world.alice, first.id))
    assert (cancelled.id, cancelled.state, cancelled.held_micros) == (second, JobState.cancelled, 0)
    await world.pass_time(600)
    assert len(await attempts(world, first.id)) == 2


async def test_an_attempt_of_an_arrays_job_counts_within_the_array(world):
    request = models.JobSubmit(
        kind="command", argv=("t",), gpu_type=H100, sweep={"i": ("1", "2", "3")}, max_running=1, retries=1
    )
    array = world.ok(await world.broker.submit_array(world.alice, request))
    await world.settle_down()
    await lose(world, array.jobs[0].id)
    array = world.ok(await world.broker.array(world.alice, array.id))
    assert (array.size, array.counts) == (3, {JobState.queued: 2, JobState.running: 1})
    assert (array.jobs[0].attempt, array.jobs[0].parameters) == (2, {"i": "1"})
    await world.pass_time(30)
    assert len(world.broker.runtime.state.holding) == 1
    for _ in range(3):
        world.engine.finish(next(iter(world.broker.runtime.state.holding)))
        await world.settle_down()
    array = world.ok(await world.broker.array(world.alice, array.id))
    assert array.counts == {JobState.succeeded: 3}


@pytest.mark.parametrize("passed", [10, 40])
async def test_an_attempt_in_its_pause_survives_a_restart(world, passed):
    first = world.ok(await world.submit(retries=1))
    await lose(world, first.id)
    world.clock.ms += passed * 1000
    await world.restart()
    await world.settle_down()
    second = (await job(world, first.id)).next_attempt
    assert (await job(world, second)).state is (JobState.running if passed > 30 else JobState.queued)
    await world.pass_time(30)
    assert (await job(world, second)).state is JobState.running


async def test_a_job_whose_folder_is_gone_is_lost_and_tried_again(world):
    first = world.ok(await world.submit(retries=1))
    await world.pass_time(36)
    del world.engine._jobs[first.id]
    await world.reconcile()
    lost = await job(world, first.id)
    assert lost.state is JobState.lost
    assert lost.next_attempt is not None
