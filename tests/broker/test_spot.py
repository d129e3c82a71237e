"""Spot jobs: cheaper, interrupted for who pays in full, put back with their save points; nothing lost is charged."""

from __future__ import annotations

import asyncio

import pytest

from fastgpu import models
from fastgpu.models import JobState
from fastgpu_hub.broker.attempts import MOST_INTERRUPTIONS
from fastgpu_hub.broker.verify import Terms
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.pricebook import PriceVersion, Rate
from fastgpu_hub.scheduling.prediction import Predictor

pytestmark = pytest.mark.asyncio
H100 = "h100-80gb"
MODES = ("before", "after", "crash-before", "crash-after")


async def job(world, job_id):
    return world.ok(await world.broker.job(world.alice, job_id))


async def spot(world, **changes):
    return world.ok(await world.submit(spot=True, **{"gpu_count": 4} | changes))


async def full(world, **changes):
    return world.ok(await world.submit(world.bob, **{"gpu_count": 4} | changes))


async def latest(world, job_id):
    attempts = await world.store.read(lambda uow: uow.attempts([job_id]))
    return await job(world, attempts[-1].id)


def stops_slowly(world, monkeypatch):
    """The engine is told to stop jobs, and they take their grace."""
    told = []

    async def stop(job_id, grace_seconds):
        told.append(job_id)

    monkeypatch.setattr(world.engine, "stop", stop)
    return told


# ---------------------------------------------------------------- the price


async def test_a_spot_job_costs_half_and_its_receipt_says_why(world):
    cheap = await spot(world, gpu_count=2)
    assert (cheap.spot, cheap.held_micros) == (True, 500_000)
    await world.pass_time(1800)
    world.engine.finish(cheap.id)
    await world.settle_down()
    receipt = world.ok(await world.broker.receipt(world.alice, cheap.id))
    (line,) = receipt.lines
    assert (line.rate_micros, line.price_note, line.amount_micros) == (250_000, "spot, 50 % off", 250_000)
    assert (receipt.total_micros, receipt.ledger_micros, receipt.saved_micros) == (250_000, 250_000, 0)


async def test_a_quote_says_what_spot_saves_with_the_promotions_of_both(world):
    world.ok(
        await world.broker.add_promotion(
            world.admin,
            models.PromotionSet(
                name="Tenth", percent_off=10, starts_at="2025-01-01T00:00:00Z", ends_at="2026-01-01T00:00:00Z"
            ),
        )
    )
    request = models.QuoteRequest(gpu_type=H100, gpu_count=2, spot=True)
    cheap = world.ok(await world.broker.quote(world.alice, request))
    dear = world.ok(await world.broker.quote(world.alice, request.model_copy(update={"spot": False})))
    assert (dear.max_micros, dear.spot, dear.spot_saves_micros) == (900_000, False, 0)
    assert (cheap.max_micros, cheap.spot, cheap.spot_saves_micros) == (450_000, True, 450_000)
    assert {line.price_note for line in cheap.lines} == {"spot, 50 % off"}


async def test_an_administrators_own_spot_price_takes_the_place_of_the_percentage(world):
    price = models.PriceSet(gpu_type=f"{H100}.spot", per_gpu_hour_micros=100_000)
    set_price = world.ok(await world.broker.set_price(world.admin, price))
    cheap = await spot(world, gpu_count=1)
    await world.pass_time(36)
    world.engine.finish(cheap.id)
    await world.settle_down()
    (line,) = world.ok(await world.broker.receipt(world.alice, cheap.id)).lines
    assert (line.rate_micros, line.price_id, line.price_note) == (100_000, set_price.id, "spot price")


async def test_a_job_keeps_the_percentage_that_it_was_sold_with(world):
    cheap = await spot(world, gpu_count=1)
    world.settings = type(world.settings)(spot_percent_off=10)
    await world.restart()
    world.ok(await world.broker.set_price(world.admin, models.PriceSet(gpu_type=H100, per_gpu_hour_micros=1_000_000)))
    await world.settle_down()
    assert (await job(world, cheap.id)).rate_per_hour_micros == 500_000
    assert (await spot(world, gpu_count=1)).held_micros == 900_000


async def test_the_check_of_the_books_finds_a_spot_rate_that_follows_from_no_price():
    terms = Terms([PriceVersion(1, H100, Rate(500_000), 0)], [])
    line = Line("gpu_hour", 0, 36_000, 1, 250_000, 250_000, 2_500, 1)
    assert terms.fault(H100, line, 50) == ""
    assert "list price is 250000, that of price 1 is 300000" in terms.fault(H100, line, 40)
    assert "list price is 250000, that of price 1 is 500000" in terms.fault(H100, line, None)


async def test_a_limit_on_a_gpu_type_counts_spot_use_too(world):
    limit = models.QuotaSet(
        scope="person", name="alice", metric="gpu_seconds", limit=3600, window="day", gpu_type=H100, time_zone="UTC"
    )
    world.ok(await world.broker.add_quota(world.admin, limit))
    await spot(world, gpu_count=1)
    refused = await world.submit(spot=True)
    assert refused.code == "quota_gpu_hours"


# ---------------------------------------------------------------- giving way


async def test_a_spot_job_gives_way_to_one_that_pays_in_full_and_goes_back_into_the_queue(world):
    cheap = await spot(world, name="cheap")
    world.engine.put_checkpoint(cheap.id, "epoch-3.pt", b"weights")
    await world.pass_time(360)
    dear = await full(world)
    assert (await world.store.read(lambda uow: uow.workload(dear.id))).state == "running"
    ended = await job(world, cheap.id)
    assert ended.state is JobState.cancelled
    assert "Interrupted to make room for a job that pays the full price" in ended.explanation.message
    again = await job(world, ended.next_attempt)
    assert again.id in ended.explanation.message
    assert (again.state, again.spot, again.interruptions, again.attempt) == (JobState.queued, True, 1, 2)
    assert (again.queue_place, again.not_before, again.explanation.code) == (1, None, "capacity")
    notices = await world.store.read(lambda uow: uow.notices("alice"))
    assert [(n.kind, n.explanation.code, n.workload_id) for n in notices] == [("stopped", "preempted", cheap.id)]
    world.engine.finish(dear.id)
    await world.settle_down()
    assert (await job(world, again.id)).state is JobState.running
    files = world.ok(await world.broker.job_files(world.alice, again.id))
    assert "@checkpoints/epoch-3.pt" in [file.path for file in files]


async def test_nothing_is_charged_from_the_order_to_stop_on(world, monkeypatch):
    cheap = await spot(world)
    await world.pass_time(360)
    told = stops_slowly(world, monkeypatch)
    dear = await full(world)
    assert told == [cheap.id]
    stopping = await job(world, cheap.id)
    assert (stopping.state, stopping.explanation.code) == (JobState.stopping, "preempted")
    waiting = world.ok(await world.broker.why(world.bob, dear.id))
    assert waiting.explanation.code == "preempting"
    for _ in range(4):
        await world.pass_time(2)
        await world.reconcile()
    world.engine._end(cheap.id, "stopped", 143)
    await world.settle_down()
    ended = await job(world, cheap.id)
    assert (ended.cost_micros, ended.held_micros) == (100_000, 0)
    assert world.ok(await world.broker.why(world.alice, cheap.id)).history[-2].kind == "ended"
    assert (await world.store.read(lambda uow: uow.workload(dear.id))).state == "running"


async def test_starting_again_is_not_charged_again(world):
    world.ok(
        await world.broker.set_price(
            world.admin, models.PriceSet(gpu_type=H100, per_gpu_hour_micros=500_000, per_start_micros=200_000)
        )
    )
    cheap = await spot(world)
    await world.pass_time(36)
    dear = await full(world)
    world.engine.finish(dear.id)
    await world.settle_down()
    again = (await job(world, cheap.id)).next_attempt
    await world.pass_time(36)
    world.engine.finish(again)
    await world.settle_down()
    units = [
        [line.unit for line in world.ok(await world.broker.receipt(world.alice, each)).lines]
        for each in (cheap.id, again)
    ]
    assert units == [["start", "gpu_hour"], ["gpu_hour"]]


async def test_interruptions_take_no_attempt_and_no_pause_away(world):
    cheap = await spot(world, retries=1)
    dear = await full(world)
    world.engine.finish(dear.id)
    await world.settle_down()
    second = await latest(world, cheap.id)
    world.engine.kill(second.id)
    await world.settle_down()
    lost = await job(world, second.id)
    assert "Attempt 3 of 3" in lost.explanation.message
    assert "in 30 seconds" in lost.explanation.message
    await world.pass_time(30)
    third = await latest(world, cheap.id)
    assert third.state is JobState.running
    world.engine.kill(third.id)
    await world.settle_down()
    assert (await job(world, third.id)).next_attempt is None


async def test_who_was_interrupted_often_enough_runs_to_the_end(world):
    cheap = await spot(world)
    for number in range(1, MOST_INTERRUPTIONS + 1):
        dear = await full(world)
        world.engine.finish(dear.id)
        await world.settle_down()
        assert (await latest(world, cheap.id)).interruptions == number
    dear = await full(world)
    kept = await latest(world, cheap.id)
    assert (kept.state, kept.rate_per_hour_micros) == (JobState.running, 1_000_000)
    assert (await world.store.read(lambda uow: uow.workload(dear.id))).state == "queued"


async def test_a_job_that_is_cancelled_while_it_gives_way_does_not_come_back(world, monkeypatch):
    cheap = await spot(world)
    stops_slowly(world, monkeypatch)
    await full(world)
    world.ok(await world.broker.cancel_job(world.alice, cheap.id))
    world.engine._end(cheap.id, "stopped", 143)
    await world.settle_down()
    ended = await job(world, cheap.id)
    assert (ended.state, ended.next_attempt) == (JobState.cancelled, None)
    assert "Cancelled by you." in ended.explanation.message


async def test_a_job_that_was_done_before_it_heard_of_it_has_succeeded(world, monkeypatch):
    cheap = await spot(world)
    stops_slowly(world, monkeypatch)
    await full(world)
    world.engine.finish(cheap.id)
    await world.settle_down()
    ended = await job(world, cheap.id)
    assert (ended.state, ended.next_attempt) == (JobState.succeeded, None)


async def test_a_job_without_money_to_go_on_says_so_and_what_waited_for_it_is_cancelled(world):
    cheap = await spot(world, time_limit_seconds=36_000)  # 10 of 100 credits
    waits = world.ok(await world.submit(after=(cheap.id,), gpu_count=1, time_limit_seconds=3600))
    await world.pass_time(1800)
    await full(world, time_limit_seconds=3600 * 44 + 2000)  # 89: what is left is less than the 10, of which 0.5 is used
    ended = await job(world, cheap.id)
    assert ended.next_attempt is None
    assert "It cannot be put back: " in ended.explanation.message
    assert (await job(world, waits.id)).state is JobState.cancelled


async def test_whoever_waits_for_it_goes_on_waiting(world):
    cheap = await spot(world)
    waits = world.ok(await world.submit(after=(cheap.id,), gpu_count=1))
    await full(world)
    again = (await job(world, cheap.id)).next_attempt
    assert (await job(world, waits.id)).explanation.message.startswith(f"Waits for {again}, which is queued.")


async def test_one_that_is_to_give_way_before_it_was_started_never_starts(world, monkeypatch):
    world.engine._auto_run = False
    granting, write = asyncio.Event(), world.broker.runtime._granted

    async def late(grant):
        if grant.id != dear_id:
            await granting.wait()
        return await write(grant)

    dear_id = ""
    monkeypatch.setattr(world.broker.runtime, "_granted", late)
    ask = models.JobSubmit(kind="command", argv=("true",), gpu_type=H100, gpu_count=4)
    cheap = world.ok(await world.broker.submit_job(world.alice, ask.model_copy(update={"spot": True})))
    dear = world.ok(await world.broker.submit_job(world.bob, ask))
    dear_id = dear.id
    await asyncio.sleep(0.05)  # the order to interrupt is carried out, and finds the job still in the queue
    granting.set()
    await world.settle_down()
    ended = await job(world, cheap.id)
    assert (ended.state, ended.cost_micros) == (JobState.cancelled, 0)
    assert (await latest(world, cheap.id)).interruptions == 1
    assert [launch.lease_id for launch in world.engine.launches] == [dear.id]


async def test_an_interrupted_run_teaches_nothing_about_run_times(world, monkeypatch):
    ended, learned = Predictor.ended, []

    def noted(predictor, batch, want_id, *rest):
        learned.append(want_id)
        ended(predictor, batch, want_id, *rest)

    monkeypatch.setattr(Predictor, "ended", noted)
    cheap = await spot(world)
    await world.pass_time(360)
    dear = await full(world)
    await world.pass_time(360)
    world.engine.finish(dear.id)
    await world.settle_down()
    again = await latest(world, cheap.id)
    world.engine.finish(again.id)
    await world.settle_down()
    assert learned == [dear.id, again.id]


async def test_progress_that_a_job_reports_moves_its_expected_end(world):
    one = world.ok(await world.submit())
    await world.pass_time(600)
    running = world.broker.runtime.state.holding[one.id]
    world.engine.set_progress(one.id, 0.25)
    await world.broker.runtime.runs._hear_progress()
    assert running.ends_ms == world.clock.ms + 3 * 600_000
    version = world.broker.runtime.state.version
    await world.pass_time(600)
    await world.broker.runtime.runs._hear_progress()  # nothing new
    assert (running.ends_ms, world.broker.runtime.state.version) == (world.clock.ms + 1_200_000, version)


async def test_jobs_leave_the_seats_of_notebook_servers(world):
    world.settings = type(world.settings)(seats={H100: 2}, policy="fifo")
    await world.restart()
    assert world.broker.runtime.state.policy.name == "fifo"
    wide = world.ok(await world.submit(gpu_count=3))
    narrow = world.ok(await world.submit(gpu_count=2))
    assert [(await job(world, each.id)).state for each in (wide, narrow)] == [JobState.queued, JobState.running]
    assert (await job(world, wide.id)).explanation.code == "seats"
    server = world.ok(await world.lease())
    assert (await world.store.read(lambda uow: uow.workload(server.id))).state == "granted"


# ---------------------------------------------------------------- crashes


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
async def test_a_failure_at_any_step_of_giving_way_converges_and_charges_once(world, mode):
    world.settings = type(world.settings)(reconcile_interval_ms=10**9)
    await world.restart()
    at, fired = 0, "first"
    while fired:
        at += 1
        cheap = await spot(world)
        await world.pass_time(360)
        ask = models.JobSubmit(kind="command", argv=("true",), gpu_type=H100, gpu_count=4)
        world.points.arm(at, mode)
        dear = await world.insist(lambda ask=ask: world.broker.submit_job(world.bob, ask))
        await world.insist(world.look)
        fired = world.points.fired
        world.points.arm(0, "")
        await world.reconcile()
        for _ in range(20):
            first = await job(world, cheap.id)
            left = await world.store.read(lambda uow: uow.workloads(states=("queued", "granted", "running")))
            if not left:
                break
            for each in left:
                if each.state == "running":
                    world.engine.finish(each.id)
            await world.settle_down()
            await world.reconcile()
        assert first.cost_micros == 100_000, f"step {at}, {fired}"
        attempts = await world.store.read(lambda uow, of=cheap.id: uow.attempts([of]))
        *gave_way, last = [each.outcome for each in attempts]
        assert (set(gave_way), last) == ({"cancelled"}, "succeeded"), f"step {at}, {fired}"
        assert sum([(await job(world, each.id)).cost_micros for each in attempts]) == 100_000
        other = await world.store.read(lambda uow, of=dear.id: uow.workload(of))
        assert other.outcome == "succeeded" or fired == "before start", f"step {at}, {fired}"
    assert at > 5
