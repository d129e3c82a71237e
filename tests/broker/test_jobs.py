"""A job's life through the broker: admitted, held, queued, granted, billed while it runs, settled once."""

from __future__ import annotations

import asyncio

import pytest

from fastgpu import models
from fastgpu_hub.broker.idempotency import IdempotencyClaim
from fastgpu_hub.broker.views import at
from fastgpu_hub.pricing.explain import Refused

pytestmark = pytest.mark.asyncio
H100 = "h100-80gb"


async def test_a_job_is_billed_from_start_to_end_and_the_rest_of_its_hold_comes_back(world):
    job = world.ok(await world.submit(gpu_count=2))
    job = await world.broker.job(world.alice, job.id)
    assert job.state is models.JobState.running
    assert (job.held_micros, job.rate_per_hour_micros) == (1_000_000, 1_000_000)
    await world.pass_time(900)
    assert (await world.broker.job(world.alice, job.id)).cost_micros == 250_000
    world.engine.finish(job.id, 0)
    await world.settle_down()
    job = await world.broker.job(world.alice, job.id)
    assert (job.state, job.cost_micros, job.held_micros) == (models.JobState.succeeded, 250_000, 0)
    receipt = await world.broker.receipt(world.alice, job.id)
    assert receipt.total_micros == receipt.ledger_micros == 250_000
    status = await world.broker.status(world.alice)
    assert (status.accounts[0].spent_micros, status.accounts[0].held_micros) == (250_000, 0)


async def test_never_more_than_the_credit_is_promised(world):
    answers = await asyncio.gather(*[world.submit(time_limit_seconds=36_000, gpu_count=4) for _ in range(8)])
    refused = [a for a in answers if isinstance(a, Refused)]
    assert len(answers) - len(refused) == 5  # 5 x 20 credits
    assert {r.code for r in refused} == {"credit"}
    assert "20.00" in refused[0].message


async def test_a_refusal_writes_nothing(world):
    before = await world.store.read(lambda uow: (uow.workloads(), uow.open_holds(), uow.transfers()))
    answer = await world.submit(time_limit_seconds=36_000, gpu_count=4, account="person:alice")
    assert answer.code == "credit"
    assert before == await world.store.read(lambda uow: (uow.workloads(), uow.open_holds(), uow.transfers()))


@pytest.mark.slow
async def test_two_hundred_requests_never_hold_more_than_ten_gpus(world):
    world.probe.count = 16
    await world.broker.runtime.gpus.find()
    world.ok(
        await world.broker.add_quota(
            world.admin,
            models.QuotaSet(scope="class", name="cs101", metric="concurrent_gpus", limit=10),
        )
    )
    most = 0

    async def one(number: int) -> str:
        nonlocal most
        actor = world.alice if number % 2 else world.bob
        request = models.JobSubmit(kind="command", argv=("true",), gpu_type=H100, time_limit_seconds=60)
        job = world.ok(await world.broker.submit_job(actor, request))
        while job.state is models.JobState.queued or job.state is models.JobState.starting:
            await world.broker.wait_changed(job.id, 0.5)
            job = await world.broker.job(actor, job.id)
        holding = await world.store.read(lambda uow: uow.workloads(states=("granted", "running", "stopping")))
        most = max(most, sum(w.gpu_count for w in holding))
        assert len(world.broker.runtime.state.inventory.holder) <= 10
        world.engine.finish(job.id)
        return job.id

    ids = await asyncio.gather(*[one(number) for number in range(200)])
    await world.settle_down()
    assert len(set(ids)) == 200
    assert most == 10
    assert await world.store.read(lambda uow: uow.open_holds()) == []


async def test_a_hundred_posts_with_one_key_have_one_effect(world):
    request = models.JobSubmit(kind="command", argv=("true",), gpu_type=H100)
    claim = IdempotencyClaim("k1", "POST jobs", "a" * 64, 201)
    answers = await asyncio.gather(*[world.broker.submit_job(world.alice, request, key=claim) for _ in range(100)])
    assert len({a.id for a in answers}) == 1
    assert len(await world.store.read(lambda uow: uow.workloads())) == 1
    other = IdempotencyClaim("k1", "POST jobs", "b" * 64, 201)
    answer = await world.broker.submit_job(world.alice, request, key=other)
    assert answer.code == "idempotency_mismatch"


async def test_a_member_quota_in_gpu_hours_is_exhausted_and_says_when_it_comes_back(world):
    world.ok(
        await world.broker.add_quota(
            world.teacher,
            models.QuotaSet(scope="member", name="cs101", metric="gpu_seconds", limit=7200, window="week"),
        )
    )
    world.ok(await world.submit(time_limit_seconds=5400))
    refused = await world.submit(time_limit_seconds=3600)
    assert refused.code == "quota_gpu_hours"
    assert refused.frees_at_ms is not None
    assert not isinstance(await world.submit(world.bob, time_limit_seconds=3600), Refused)
    quota = (await world.broker.quotas(world.alice))[0]
    assert quota.used + quota.reserved + quota.left == quota.limit == 7200


async def test_a_queued_job_says_why_and_when(world):
    first = world.ok(await world.submit(gpu_count=4, time_limit_seconds=600))
    second = world.ok(await world.submit(world.bob))
    third = world.ok(await world.submit(world.bob, name="third"))
    assert second.state is models.JobState.queued
    assert (second.queue_place, second.explanation.code) == (1, "capacity")
    assert third.explanation.code == "turn"
    assert second.eta_start is not None
    why = await world.broker.why(world.bob, second.id)
    assert [step.kind for step in why.history] == ["requested"]
    world.engine.finish(first.id)
    await world.settle_down()
    assert (await world.broker.job(world.bob, second.id)).state is models.JobState.running


async def test_a_job_at_its_time_limit_is_never_charged_beyond_its_hold(world):
    job = world.ok(await world.submit(time_limit_seconds=60))
    world.clock.ms += 75_000  # it was killed late
    world.engine.tick()
    await world.settle_down()
    job = await world.broker.job(world.alice, job.id)
    assert (job.state, job.cost_micros) == (models.JobState.timed_out, 60 * 500_000 // 3600)


async def test_cancelling_a_waiting_job_gives_its_money_back_and_a_running_one_is_charged_until_it_is_gone(world):
    running = world.ok(await world.submit(gpu_count=4))
    waiting = world.ok(await world.submit())
    cancelled = world.ok(await world.broker.cancel_job(world.alice, waiting.id))
    assert (cancelled.state, cancelled.held_micros) == (models.JobState.cancelled, 0)
    await world.pass_time(36)
    world.ok(await world.broker.cancel_job(world.alice, running.id))
    await world.settle_down()
    job = await world.broker.job(world.alice, running.id)
    assert (job.state, job.cost_micros) == (models.JobState.cancelled, 20_000)
    assert "Cancelled by you" in job.explanation.message


async def test_a_foreign_job_is_indistinguishable_from_a_missing_one(world):
    job = world.ok(await world.submit())
    for call in (world.broker.job, world.broker.cancel_job, world.broker.receipt, world.broker.why):
        foreign, missing = await call(world.bob, job.id), await call(world.bob, "j-000000000000")
        assert foreign.code == missing.code == "not_found"
        assert foreign.message.replace(job.id, "X") == missing.message.replace("j-000000000000", "X")
    assert world.ok(await world.broker.job(world.teacher, job.id)).id == job.id


async def test_an_identical_active_job_is_refused_unless_again(world):
    first = world.ok(await world.submit(fingerprint="a" * 64))
    refused = await world.submit(fingerprint="a" * 64)
    assert (refused.code, refused.numbers["job_id"]) == ("duplicate", first.id)
    world.ok(await world.submit(fingerprint="a" * 64, again=True))


async def test_a_grant_that_money_forbids_waits_and_starts_when_money_comes(world):
    blocker = world.ok(await world.submit(gpu_count=4, time_limit_seconds=3600))
    waiting = world.ok(await world.submit(world.bob, time_limit_seconds=3600, max_cost_micros=600_000))
    world.ok(await world.broker.set_price(world.admin, models.PriceSet(gpu_type=H100, per_gpu_hour_micros=700_000)))
    world.engine.finish(blocker.id)
    await world.settle_down()
    job = await world.broker.job(world.bob, waiting.id)
    assert (job.state, job.explanation.code) == (models.JobState.queued, "max_cost")
    world.ok(await world.broker.set_price(world.admin, models.PriceSet(gpu_type=H100, per_gpu_hour_micros=550_000)))
    await world.settle_down()
    assert (await world.broker.job(world.bob, waiting.id)).state is models.JobState.running


async def test_a_promotion_that_ends_mid_run_is_in_the_hold_and_on_the_receipt(world):
    now = world.clock.ms
    world.ok(
        await world.broker.add_promotion(
            world.admin,
            models.PromotionSet(
                name="Half hour half price", percent_off=50, starts_at=at(now), ends_at=at(now + 1_800_000)
            ),
        )
    )
    job = world.ok(await world.submit())
    assert job.held_micros == 125_000 + 250_000
    await world.pass_time(1_800)
    await world.pass_time(1_800)
    await world.settle_down()
    receipt = await world.broker.receipt(world.alice, job.id)
    assert [(line.amount_micros, line.promotion_name) for line in receipt.lines] == [
        (125_000, "Half hour half price"),
        (250_000, ""),
    ]
    assert receipt.saved_micros == 125_000


@pytest.mark.parametrize("state", ["queued", "granted", "running"])
async def test_a_restart_takes_up_jobs_where_they_were(world, state):
    if state == "queued":
        blocker = world.ok(await world.submit(gpu_count=4))
    world.engine._auto_run = state == "running"
    job = world.ok(await world.submit())
    await world.restart()
    await world.settle_down()
    after = await world.broker.job(world.alice, job.id)
    expected = {"granted": models.JobState.starting}.get(state) or models.JobState(state)
    assert after.state is expected
    if state == "queued":
        world.engine._auto_run = True
        world.engine.finish(blocker.id)
        await world.settle_down()
    elif state == "granted":
        world.engine.run(job.id)
        await world.settle_down()
    await world.pass_time(360)
    world.engine.finish(job.id)
    await world.settle_down()
    assert (await world.broker.job(world.alice, job.id)).cost_micros == 50_000
    assert len(world.engine.launches) == (2 if state == "queued" else 1)


async def test_a_job_that_ended_while_the_service_was_down_is_charged_until_its_end_only(world):
    job = world.ok(await world.submit())
    await world.close()
    world.clock.ms += 36_000
    world.engine.finish(job.id, 3)
    world.clock.ms += 3_600_000
    await world.open()
    await world.settle_down()
    job = await world.broker.job(world.alice, job.id)
    assert (job.state, job.exit_code, job.cost_micros) == (models.JobState.failed, 3, 5_000)


async def test_bad_requests_are_refused_before_any_money_is_held(world):
    cases = {
        "unknown_gpu_type": {"gpu_type": "tpu"},
        "capacity_never": {"gpu_count": 5},
        "not_allowed": {"account": "class:cs999"},
    }
    for code, changes in cases.items():
        assert (await world.submit(**changes)).code == code
    answer = await world.submit(environment={"LD_PRELOAD": "x.so"})
    assert isinstance(answer, Refused)
    answer = await world.submit(inputs=(models.InputFile(path="../x", sha256="a" * 64, size_bytes=1),))
    assert isinstance(answer, Refused)
    assert await world.store.read(lambda uow: uow.open_holds()) == []
