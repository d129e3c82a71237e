"""An array is one submission: all of its jobs or none, each with its values, never more at once than its owner said."""

from __future__ import annotations

import asyncio

import pytest

from fastgpu import models
from fastgpu.models import JobState
from fastgpu_hub.broker.idempotency import IdempotencyClaim
from fastgpu_hub.pricing.explain import Refused

pytestmark = pytest.mark.asyncio
H100 = "h100-80gb"
GRID = {"lr": ("1e-3", "1e-4"), "seed": ("1", "2", "3")}


def request(**changes):
    job = models.JobSubmit(
        kind="command",
        argv=("train", "--lr={lr}", "{seed}", '{"a": {lr}}', "{x}"),
        gpu_type=H100,
        time_limit_seconds=3600,
        sweep=GRID,
    )
    return job.model_copy(update=changes)


async def submit(world, actor=None, **changes):
    answer = await world.broker.submit_array(actor or world.alice, request(**changes))
    await world.settle_down()
    return answer


async def rows(world):
    return await world.store.read(lambda uow: (uow.workloads(), uow.open_holds(), uow.redemption_counts("alice")))


async def test_each_combination_of_values_is_a_job_of_its_own_in_the_order_given(world):
    array = world.ok(await world.broker.array(world.alice, world.ok(await submit(world)).id))
    assert (array.size, array.counts) == (6, {JobState.running: 4, JobState.queued: 2})
    assert array.parameters == GRID
    assert [tuple(job.parameters.values()) for job in array.jobs] == [
        (lr, seed) for lr in GRID["lr"] for seed in GRID["seed"]
    ]
    assert [job.index for job in array.jobs] == list(range(6))
    assert (array.held_micros, {job.held_micros for job in array.jobs}) == (6 * 500_000, {500_000})
    job = world.ok(await world.broker.job(world.alice, array.jobs[4].id))
    assert (job.array_id, job.array_index, job.parameters) == (array.id, 4, {"lr": "1e-4", "seed": "2"})


async def test_a_job_gets_its_values_in_its_arguments_and_beside_them(world):
    array = world.ok(await submit(world))
    launch = next(each for each in world.engine.launches if each.lease_id == array.jobs[1].id)
    assert launch.argv == ("train", "--lr=1e-3", "2", '{"a": 1e-3}', "{x}")
    assert launch.parameters == {"lr": "1e-3", "seed": "2"}


async def test_never_more_of_them_run_at_once_than_its_owner_said(world):
    array = world.ok(await submit(world, max_running=2))
    other = world.ok(await world.submit(world.bob))
    assert (await world.broker.job(world.bob, other.id)).state is JobState.running
    seen = []
    for _ in range(6):
        array = world.ok(await world.broker.array(world.alice, array.id))
        running = [job.id for job in array.jobs if job.state is JobState.running]
        seen.append(len(running))
        world.engine.finish(running[0])
        await world.settle_down()
    assert seen == [2, 2, 2, 2, 2, 1]
    array = world.ok(await world.broker.array(world.alice, array.id))
    assert (array.counts, array.done, array.max_running) == ({JobState.succeeded: 6}, True, 2)


async def test_one_that_may_not_run_yet_for_the_arrays_own_limit_says_so(world):
    array = world.ok(await submit(world, max_running=1))
    why = world.ok(await world.broker.why(world.alice, array.jobs[3].id))
    assert (why.explanation.code, why.explanation.numbers) == ("array_limit", {"limit": 1, "array": array.id})
    assert why.explanation.message == "Waits for its array: 1 of its jobs run, and no more are to run at once."


@pytest.mark.parametrize("restart", [False, True])
async def test_the_limit_of_an_array_counts_gpus_of_jobs_with_several_of_them(world, restart):
    array = world.ok(await submit(world, max_running=1, gpu_count=2))
    if restart:
        await world.restart()
    assert len(world.broker.runtime.state.holding) == 1
    world.engine.finish(array.jobs[0].id)
    await world.settle_down()
    assert len(world.broker.runtime.state.holding) == 1


async def test_an_array_that_does_not_fit_is_refused_whole_and_says_how_many_of_it_would(world):
    before = await rows(world)
    refused = await submit(world, time_limit_seconds=36_000 * 5, gpu_count=1)  # 25 credits each, of 100
    assert (refused.code, refused.numbers["jobs"], refused.numbers["would_fit"]) == ("credit", 6, 4)
    assert refused.message.startswith("Only 4 of the 6 jobs of this array fit, so none was taken: ")
    assert refused.instead.startswith("Submit 4 of them.")
    assert await rows(world) == before
    limit = models.QuotaSet(scope="member", name="cs101", metric="gpu_seconds", limit=9000, window="day")
    world.ok(await world.broker.add_quota(world.teacher, limit))
    refused = await submit(world)
    assert (refused.code, refused.numbers["would_fit"]) == ("quota_gpu_hours", 2)
    assert await rows(world) == before


async def test_many_arrays_at_once_never_hold_more_than_there_is(world):
    answers = await asyncio.gather(*[submit(world, time_limit_seconds=36_000) for _ in range(8)])  # 30 credits each
    refused = [answer for answer in answers if isinstance(answer, Refused)]
    assert len(answers) - len(refused) == 3
    held = await world.store.read(lambda uow: sum(line.amount_micros for h in uow.open_holds() for line in h.lines))
    assert held == 90_000_000


async def test_the_limit_on_cost_is_for_all_of_its_jobs_together_whatever_prices_do(world):
    refused = await submit(world, max_cost_micros=2_999_999)
    assert refused.code == "max_cost"
    blocker = world.ok(await world.submit(world.bob, gpu_count=4))
    array = world.ok(await submit(world, max_cost_micros=3_000_000))
    world.ok(await world.broker.set_price(world.admin, models.PriceSet(gpu_type=H100, per_gpu_hour_micros=500_006)))
    world.engine.finish(blocker.id)
    await world.settle_down()
    array = world.ok(await world.broker.array(world.alice, array.id))
    assert array.counts == {JobState.queued: 6}
    assert array.held_micros <= 3_000_000


async def test_free_hours_are_given_once_not_once_for_each_job(world):
    free = models.PromotionSet(
        name="first hour", free_gpu_seconds=3600, starts_at="2020-01-01T00:00:00Z", ends_at="2090-01-01T00:00:00Z"
    )
    world.ok(await world.broker.add_promotion(world.admin, free))
    array = world.ok(await submit(world))
    assert array.held_micros == 5 * 500_000


async def test_the_same_key_twice_is_one_array(world):
    claim = IdempotencyClaim("k", "POST api/arrays", "a" * 64, 201)
    answers = await asyncio.gather(
        *[world.broker.submit_array(world.alice, request(), key=claim) for _ in range(20)], world.broker.me(world.alice)
    )
    assert len({answer.id for answer in answers[:-1]}) == 1
    assert len(await world.store.read(lambda uow: uow.workloads())) == 6
    other = IdempotencyClaim("k", "POST api/arrays", "b" * 64, 201)
    assert (await world.broker.submit_array(world.alice, request(), key=other)).code == "idempotency_mismatch"
    await world.settle_down()


CANNOT_BE = (
    ({"sweep": {}}, "needs a sweep"),
    ({"sweep": {"lr": ("1", "2", "1")}}, "'1' twice"),
    ({"sweep": {"a": tuple(map(str, range(11))), "b": tuple(map(str, range(91)))}}, "1001 jobs"),
    ({"sweep": {f"n{i}": ("1",) for i in range(21)}}, "21 names"),
    ({"sweep": {"lr": ("a\0b",)}}, "cannot be passed on"),
    ({"sweep": {"a": tuple(map(str, range(1000)))}, "environment": {"X": "x" * 34_000}}, "takes"),
    ({"kind": "script", "argv": ("{lr}",), "sweep": {"lr": ("-c",)}}, "is an option"),
    ({"grace_seconds": 600}, "more than the 120"),
)


async def test_a_sweep_that_cannot_be_is_refused_with_its_numbers(world):
    for changes, says in CANNOT_BE:
        refused = await world.broker.submit_array(world.alice, request(**changes))
        assert refused.code == "invalid_request"
        assert says in refused.message
    assert await world.store.read(lambda uow: uow.workloads()) == []


async def test_one_job_is_not_submitted_as_a_sweep(world):
    refused = await world.broker.submit_job(world.alice, request())
    assert (refused.code, "api/arrays" in refused.instead) == ("invalid_request", True)


async def test_cancelling_an_array_stops_what_runs_and_gives_back_what_waits(world):
    array = world.ok(await submit(world, max_running=2))
    await world.pass_time(36)
    array = world.ok(await world.broker.cancel_array(world.alice, array.id))
    await world.settle_down()
    array = world.ok(await world.broker.array(world.alice, array.id))
    assert (array.counts, array.held_micros, array.cost_micros) == ({JobState.cancelled: 6}, 0, 2 * 5_000)
    again = world.ok(await world.broker.cancel_array(world.alice, array.id))
    assert again == array


async def test_a_teacher_who_cancels_an_array_is_in_the_audit_and_its_owner_told(world):
    array = world.ok(await submit(world, max_running=1))
    world.ok(await world.broker.cancel_array(world.teacher, array.id))
    await world.settle_down()
    audit = world.ok(await world.broker.audit(world.admin))
    assert len([line for line in audit if line.actor == "tess"]) == 6
    assert {notice.explanation.message for notice in await world.broker.notices(world.alice)} == {"Cancelled by tess."}


async def test_a_foreign_array_is_indistinguishable_from_a_missing_one(world):
    array = world.ok(await submit(world))
    for call in (world.broker.array, world.broker.cancel_array):
        foreign, missing = await call(world.bob, array.id), await call(world.bob, "a-000000000000")
        assert foreign.code == missing.code == "not_found"
        assert foreign.message.replace(array.id, "X") == missing.message.replace("a-000000000000", "X")
    listed = await world.broker.jobs(world.bob, array=array.id)
    assert listed.code == "not_found"
    assert world.ok(await world.broker.array(world.teacher, array.id)).id == array.id
    assert len(world.ok(await world.broker.jobs(world.teacher, array=array.id))) == 6


async def test_a_list_of_jobs_can_show_one_of_each_array(world):
    first = world.ok(await world.submit())
    world.clock.ms += 1
    array = world.ok(await submit(world))
    world.clock.ms += 1
    last = world.ok(await world.submit())
    all_of_them = await world.broker.jobs(world.alice)
    assert len(all_of_them) == 8
    listed = await world.broker.jobs(world.alice, one_of_array=True, limit=3)
    assert [job.array_id or job.id for job in listed] == [last.id, array.id, first.id]
    for job in array.jobs:
        assert (await world.broker.job(world.alice, job.id)).array_id == array.id


async def test_an_identical_array_is_refused_while_one_of_its_jobs_is_active(world):
    array = world.ok(await submit(world, fingerprint="a" * 64))
    refused = await submit(world, fingerprint="a" * 64)
    assert refused.code == "duplicate"
    assert refused.numbers["job_id"] in {job.id for job in array.jobs}
    world.ok(await submit(world, fingerprint="a" * 64, again=True))


async def test_jobs_of_an_array_go_on_after_a_restart(world):
    array = world.ok(await submit(world, max_running=3))
    await world.restart()
    array = world.ok(await world.broker.array(world.alice, array.id))
    assert array.counts == {JobState.running: 3, JobState.queued: 3}
