"""Jobs that wait for their price: planned, held for, kept to their quote, started when planned, told when late."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fastgpu import models
from fastgpu_hub.broker.views import at
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.quotas import Scope

pytestmark = pytest.mark.asyncio
H100 = "h100-80gb"
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
EVENING_MS = 9 * HOUR_MS  # the night rate begins at 20:00 in Berlin, 18:00 UTC; the world begins at 09:00 UTC
STOPPED = models.JobState.cancelled


async def promotion(world, name="Night rate", percent=40, hours=(20, 6), **changes):
    wish = {
        "name": name,
        "percent_off": percent,
        "starts_at": at(world.start_ms - DAY_MS),
        "ends_at": at(world.start_ms + 60 * DAY_MS),
        "weekly": (models.WeeklyWindow(days=tuple(range(7)), from_minute=hours[0] * 60, to_minute=hours[1] * 60),),
        "time_zone": "Europe/Berlin",
        **changes,
    }
    return world.ok(await world.broker.add_promotion(world.admin, models.PromotionSet(**wish)))


async def price(world, micros):
    world.ok(await world.broker.set_price(world.admin, models.PriceSet(gpu_type=H100, per_gpu_hour_micros=micros)))


async def deferred(world, **changes):
    wish = {"start": "cheapest", "by": at(world.start_ms + 20 * HOUR_MS), "time_limit_seconds": 7200, **changes}
    return await world.submit(**wish)


async def look(world, job):
    return world.ok(await world.broker.job(world.alice, job.id))


async def receipt(world, job):
    return world.ok(await world.broker.receipt(world.alice, job.id))


async def hours(world, count, job=None, finish_after=None):
    """The clock moves hour by hour; the job's engine ends it after so many hours of it."""
    for hour in range(count):
        if job is not None and hour == finish_after:
            world.engine.finish(job.id)
        await world.pass_time(3600)


async def plan(world, **changes):
    wish = {"gpu_type": H100, "duration_seconds": 7200, "by": at(world.clock.ms + 20 * HOUR_MS), **changes}
    return world.ok(await world.broker.start_plan(world.alice, models.StartPlanRequest(**wish)))


async def occupy(world, **changes):
    """Jobs on all of the GPUs; the queue is looked at afresh then, which a busy machine does less often."""
    jobs = [world.ok(await world.submit(world.bob, **changes)) for _ in range(4)]
    world.broker.runtime.queue._took_seconds = 0.0
    return jobs


async def test_it_waits_for_the_night_rate_holds_that_much_and_starts_when_it_begins(world):
    await promotion(world)
    job = world.ok(await deferred(world))
    assert job.state is models.JobState.queued
    assert job.explanation.code == "deferred"
    assert job.explanation.message == (
        "Deferred to Thu 2025-10-09 18:00 UTC because of “Night rate”, 20:00–06:00 Europe/Berlin (0.30 credits per "
        "GPU-hour): 0.60 instead of 1.00 credits, 40 % less; starting now would cost 1.00 and end by Thu 2025-10-09 "
        "11:00 UTC."
    )
    assert (job.held_micros, job.eta_start) == (600_000, at(world.start_ms + EVENING_MS))
    await hours(world, 8)
    assert (await look(world, job)).state is models.JobState.queued
    await world.pass_time(3600)
    started = await look(world, job)
    assert (started.state, started.started_at) == (models.JobState.running, at(world.start_ms + EVENING_MS))
    assert started.explanation.message.startswith("Started Thu 2025-10-09 18:00 UTC as planned.")
    await hours(world, 2, job, 1)
    assert (await look(world, job)).cost_micros == 300_000
    why = world.ok(await world.broker.why(world.alice, job.id))
    assert [step.kind for step in why.history][:4] == ["requested", "deferred", "quote_kept", "granted"]


async def test_what_it_holds_counts_where_it_will_run_not_where_it_waits(world):
    await promotion(world, hours=(2, 6))
    day = models.QuotaSet(scope="person", name="alice", metric="spend_micros", limit=1_000_000, window="day")
    world.ok(await world.broker.add_quota(world.admin, day))
    job = world.ok(await deferred(world))
    assert job.eta_start == at(world.start_ms + 15 * HOUR_MS)  # tomorrow
    scope, midnight_ms = Scope(owner="alice"), world.start_ms + 15 * HOUR_MS
    held = await world.store.read(lambda uow: (uow.held(scope, None, midnight_ms), uow.held(scope, midnight_ms, None)))
    assert [each.amount_micros for each in held] == [0, 600_000]
    tomorrow = at(midnight_ms + 3 * HOUR_MS)
    assert (await world.submit(start_at=tomorrow, time_limit_seconds=7200)).code == "quota_spend"
    world.ok(await world.submit(time_limit_seconds=7200))  # today's is not


@pytest.mark.parametrize("when", ["while it waits", "while it runs"])
@pytest.mark.parametrize("restart", [False, pytest.param(True, marks=pytest.mark.slow)])
async def test_a_price_that_rises_and_a_promotion_that_ends_do_not_reach_it(world, when, restart):
    night = await promotion(world)
    job = world.ok(await deferred(world))
    await hours(world, 3 if when == "while it waits" else 10)
    await price(world, 5_000_000)
    world.ok(await world.broker.end_promotion(world.admin, night.id))
    if restart:
        await world.restart()
    await hours(world, 9 if when == "while it waits" else 2)
    assert (await look(world, job)).cost_micros == 600_000
    paid = await receipt(world, job)
    assert {(line.promotion_name, line.price_id, line.rate_micros) for line in paid.lines} == {
        ("Night rate", 1, 300_000)
    }


async def test_a_price_that_falls_is_what_it_pays(world):
    await promotion(world)
    job = world.ok(await deferred(world))
    await hours(world, 3)
    await price(world, 400_000)
    await hours(world, 7)
    assert (await look(world, job)).held_micros == 480_000
    await price(world, 100_000)
    await hours(world, 1, job, 1)
    await world.pass_time(3600)
    assert (await look(world, job)).cost_micros == 240_000 + 60_000
    why = world.ok(await world.broker.why(world.alice, job.id))
    kept = next(step for step in why.history if step.kind == "quote_kept")
    assert kept.detail == {"quoted_micros": 600_000, "held_micros": 480_000}


@pytest.mark.slow
async def test_one_that_gets_its_gpus_late_keeps_the_quoted_rates_for_all_of_its_time(world):
    await promotion(world)
    job = world.ok(await deferred(world, by=at(world.start_ms + 30 * HOUR_MS)))
    await hours(world, 8)
    others = await occupy(world, time_limit_seconds=12 * 3600)
    await hours(world, 11)
    assert (await look(world, job)).explanation.code in ("turn", "capacity")
    for other in others:
        world.engine.finish(other.id)
    await world.settle_down()  # 04:00 UTC is 06:00 in Berlin: the night rate is over
    running = await look(world, job)
    assert (running.state, running.held_micros) == (models.JobState.running, 600_000)
    assert "600 min after" in running.explanation.message
    await hours(world, 2)
    paid = await receipt(world, job)
    assert paid.total_micros == 600_000
    assert {line.promotion_name for line in paid.lines} == {"Night rate"}


@pytest.mark.slow
async def test_a_promotion_published_meanwhile_lets_it_start_sooner_or_cheaper(world):
    await promotion(world)
    job = world.ok(await deferred(world))
    await hours(world, 1)
    await promotion(world, "Afternoon", 50, (16, 18))
    moved = await look(world, job)
    assert (moved.eta_start, moved.held_micros) == (at(world.start_ms + 5 * HOUR_MS), 500_000)
    assert "“Afternoon”" in moved.explanation.message
    await promotion(world, "Now", 60, (0, 0))
    await world.settle_down()
    assert (await look(world, job)).state is models.JobState.running
    await hours(world, 2)
    assert (await receipt(world, job)).total_micros == 400_000


async def test_it_does_not_move_where_a_run_that_ends_soon_would_pay_more_than_it_was_quoted(world):
    """Two hours from 15:00 cost as little as two from 16:00, but the first of them is the dear one."""
    await promotion(world)
    job = world.ok(await deferred(world))
    await promotion(world, "Four to five", 90, (18, 19))
    moved = await look(world, job)
    assert (moved.eta_start, moved.held_micros) == (at(world.start_ms + 7 * HOUR_MS), 550_000)
    await hours(world, 8, job, 8)
    world.engine.finish(job.id)
    await world.settle_down()
    assert (await look(world, job)).cost_micros == 50_000


async def test_rules_that_changed_while_nobody_listened_are_found_by_the_next_round(world):
    await promotion(world)
    job = world.ok(await deferred(world))

    def quietly(uow):
        night = next(p for p in uow.promotions() if p.name == "Night rate")
        uow.add_promotion(replace(night, id=0, family=0, name="Quiet", percent_off=70, weekly=()))

    await world.store.write(quietly)
    await world.reconcile(1)
    await world.settle_down()
    assert (await look(world, job)).state is models.JobState.running
    await hours(world, 2)
    assert (await receipt(world, job)).total_micros == 300_000


async def test_it_waits_on_through_restarts_and_starts_at_once_when_its_time_came_meanwhile(world):
    await promotion(world)
    job = world.ok(await deferred(world))
    await world.restart()
    assert (await look(world, job)).explanation.code == "deferred"
    assert not world.broker.runtime.state.waits
    world.clock.ms += EVENING_MS + HOUR_MS
    await world.restart()
    await world.look()
    assert (await look(world, job)).state is models.JobState.running
    await hours(world, 2)
    assert (await receipt(world, job)).total_micros == 600_000


async def test_cancelling_it_gives_everything_back(world):
    await promotion(world, max_redemptions=5)
    before = (await world.broker.status(world.alice)).accounts
    job = world.ok(await deferred(world))
    assert (await world.broker.status(world.alice)).accounts != before
    assert world.ok(await world.broker.cancel_job(world.alice, job.id)).state is STOPPED
    assert (await world.broker.status(world.alice)).accounts == before
    await hours(world, 11)
    assert (await look(world, job)).cost_micros == 0


async def test_it_may_start_when_its_owner_says_and_keeps_the_price_of_then(world):
    await promotion(world)
    start = at(world.start_ms + EVENING_MS + HOUR_MS)
    job = world.ok(await world.submit(start_at=start, time_limit_seconds=7200))
    assert (job.eta_start, job.held_micros) == (start, 600_000)
    assert "as asked. It costs up to 0.60 credits then; starting now would cost up to 1.00" in job.explanation.message
    await price(world, 5_000_000)
    await hours(world, 11)
    running = await look(world, job)
    assert (running.state, running.started_at, running.held_micros) == (models.JobState.running, start, 600_000)
    await hours(world, 2)


@pytest.mark.slow
async def test_its_owner_is_told_once_when_it_may_miss_its_deadline_and_why(world):
    await promotion(world)
    job = world.ok(await deferred(world, by=at(world.start_ms + 12 * HOUR_MS)))
    await hours(world, 8)
    await occupy(world, time_limit_seconds=12 * 3600)
    await world.pass_time(3600)
    for _ in range(3):
        world.broker.runtime.queue._took_seconds = 0.0
        await world.reconcile(1)
    await world.restart()
    await world.reconcile(1)
    told = [n for n in await world.broker.notices(world.alice) if n.kind == "late"]
    assert [notice.workload_id for notice in told] == [job.id]
    assert told[0].explanation.message.startswith("“job” may not end by Thu 2025-10-09 21:00 UTC: it may only start")
    assert "Waiting for 1 x h100-80gb" in told[0].explanation.message
    world.ok(await world.broker.cancel_job(world.alice, job.id))


async def test_a_cap_on_cost_is_kept_or_it_is_refused_with_the_cheapest_there_is(world):
    await promotion(world)
    assert world.ok(await deferred(world, max_cost_micros=600_000)).held_micros == 600_000
    refused = await deferred(world, max_cost_micros=599_999)
    assert isinstance(refused, Refused)
    assert refused.code == "max_cost"
    assert "The cheapest, at Thu 2025-10-09 18:00 UTC: It may cost up to 0.60 credits" in refused.message


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"by": HOUR_MS}, "deadline", "by Thu 2025-10-09 10:00 UTC: with its time limit of 2 h it may run until"),
        ({"by": HOUR_MS, "start": "now"}, "deadline", "cannot be sure to end"),
        ({"by": 60 * DAY_MS}, "invalid_request", "at most 35 days ahead"),
        ({"start_at": HOUR_MS}, "invalid_request", "not both"),
        ({"start": "now", "start_at": 50 * DAY_MS}, "deadline", "cannot be sure to end"),
        ({"start": "now", "by": None, "start_at": 50 * DAY_MS}, "invalid_request", "at most 35 days ahead"),
    ],
)
async def test_a_start_or_deadline_that_makes_no_sense_is_refused(world, changes, code, says):
    changes = {name: at(world.start_ms + value) if isinstance(value, int) else value for name, value in changes.items()}
    refused = await deferred(world, **changes)
    assert isinstance(refused, Refused)
    assert refused.code == code
    assert says in refused.message
    assert await world.store.read(lambda uow: uow.open_holds()) == []


async def test_where_now_is_cheapest_it_starts_now(world):
    await promotion(world, hours=(9, 13))  # until 11:00 UTC
    answer = await plan(world)
    assert answer.chosen.now
    assert answer.explanation.code == "start_now"
    assert [option.saving_micros < 0 for option in answer.options] == [False, True]  # the next is dearer
    job = world.ok(await deferred(world))
    await world.settle_down()
    assert (await look(world, job)).state is models.JobState.running


async def test_when_only_starting_now_is_sure_to_be_in_time_that_is_said(world):
    await promotion(world)
    await occupy(world, time_limit_seconds=3 * 3600)
    by = at(world.start_ms + 12 * HOUR_MS)  # at 18:00 with a wait of 3 h it would end at 23:00, too late
    answer = await plan(world, by=by)
    assert answer.wait_seconds == 3 * 3600
    assert answer.chosen.now
    assert answer.explanation.message.startswith("Only starting now is sure to end by Thu 2025-10-09 21:00 UTC")
    assert "With a wait like the one expected now, up to 3 h" in answer.options[-1].risk
    job = world.ok(await deferred(world, by=by))
    assert job.explanation.code in ("turn", "capacity", "admitting")


@pytest.mark.slow
async def test_a_start_that_is_refused_says_why_and_the_cheapest_allowed_one_is_chosen(world):
    await promotion(world)
    share = models.QuotaSet(
        scope="person", name="alice", metric="gpu_seconds", limit=7200, window="rolling", rolling_seconds=6 * 3600
    )
    world.ok(await world.broker.add_quota(world.admin, share))
    first = world.ok(await world.submit(time_limit_seconds=7200))
    await hours(world, 2, first)
    answer = await plan(world, by=at(world.clock.ms + 8 * HOUR_MS))
    assert answer.options[0].why_not.code == "quota_gpu_hours"
    assert answer.chosen.starts_at == at(world.start_ms + 8 * HOUR_MS)  # six hours after the first one ended
    assert "because starting now is refused" in answer.explanation.message
    job = world.ok(await deferred(world, by=at(world.clock.ms + 8 * HOUR_MS)))
    assert job.eta_start == answer.chosen.starts_at
    await hours(world, 9)
    assert (await look(world, job)).cost_micros == 800_000  # an hour by day, an hour by night


async def test_credit_that_expires_before_a_start_does_not_pay_for_it(world):
    await promotion(world)
    expiring = models.GrantSet(
        account="person:alice", amount_micros=5_000_000, expires_at=at(world.start_ms + 8 * HOUR_MS)
    )
    world.ok(await world.broker.grant(world.admin, expiring))
    answer = await plan(world, account="person:alice")
    assert answer.chosen.now
    night = next(option for option in answer.options if option.saving_micros > 0)
    assert night.why_not.code == "credit"


@pytest.mark.slow
async def test_every_job_of_an_array_waits_for_the_price_and_its_money_is_held(world):
    await promotion(world)
    request = models.JobSubmit(
        kind="command",
        argv=("true",),
        gpu_type=H100,
        sweep={"lr": ("1", "2", "3")},
        start="cheapest",
        by=at(world.start_ms + 20 * HOUR_MS),
    )
    array = world.ok(await world.broker.submit_array(world.alice, request))
    assert array.held_micros == 900_000
    await hours(world, 9)
    found = world.ok(await world.broker.array(world.alice, array.id))
    assert {job.state for job in found.jobs} == {models.JobState.running}
    await hours(world, 1)
