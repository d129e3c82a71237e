"""Whoever waits is told what would start it sooner, or for less, with numbers; a service learns how long things run."""

from __future__ import annotations

from fastgpu import models
from fastgpu_hub.broker.views import at
from fastgpu_hub.pricing.quotas import MAX_LIMIT

HOUR_MS = 3_600_000


async def why(world, job, actor=None):
    return world.ok(await world.broker.why(actor or world.alice, job.id))


async def limit(world, **fields):
    request = models.QuotaSet(scope="class", name="cs101", metric="concurrent_gpus", **fields)
    assert request.limit <= MAX_LIMIT
    world.ok(await world.broker.add_quota(world.admin, request))


async def test_who_waits_for_gpus_hears_of_fewer_gpus_and_of_a_cheaper_time(world):
    world.ok(await world.submit(gpu_count=2))
    night = models.WeeklyWindow(days=tuple(range(7)), from_minute=20 * 60, to_minute=6 * 60)
    wish = models.PromotionSet(
        name="Night rate",
        percent_off=40,
        starts_at=at(world.start_ms - HOUR_MS),
        ends_at=at(world.start_ms + 100 * HOUR_MS),
        weekly=(night,),
        time_zone="Europe/Berlin",
    )
    world.ok(await world.broker.add_promotion(world.admin, wish))
    waiting = world.ok(await world.submit(gpu_count=4))
    told = {each.code: each for each in (await why(world, waiting)).sooner}
    assert told["fewer_gpus"].numbers == {"gpu_count": 2, "gpu_type": "h100-80gb"}
    assert told["other_time"].numbers["cost_micros"] * 10 == told["other_time"].numbers["now_micros"] * 6
    assert "--start cheapest" in told["other_time"].instead
    assert (await why(world, world.ok(await world.broker.job(world.alice, waiting.id)))).run.likely_seconds > 0


async def test_who_waits_for_a_class_limit_hears_of_an_account_that_has_room(world):
    world.ok(await world.broker.grant(world.admin, models.GrantSet(account="person:alice", amount_micros=10**9)))
    await limit(world, limit=1)
    world.ok(await world.submit())
    waiting = world.ok(await world.submit())
    told = {each.code: each for each in (await why(world, waiting)).sooner}
    assert told["other_account"].numbers["account"] == "person:alice"
    assert told["ends"].numbers["limit"] == 1


async def test_nothing_is_suggested_to_one_that_runs(world):
    running = world.ok(await world.submit())
    assert (await why(world, running)).sooner == ()


async def test_run_times_that_were_seen_are_expected_again_also_after_a_restart(world):
    for _ in range(3):
        job = world.ok(await world.submit(name="train"))
        await world.pass_time(600)
        world.engine.finish(job.id)
        await world.pass_time(1)
    expected = []
    for _ in range(2):
        job = world.ok(await world.submit(name="train"))
        expected.append((await why(world, job)).run)
        await world.restart()
    for run in expected:
        assert 500 <= run.likely_seconds <= 900
        assert run.low_seconds <= run.likely_seconds <= run.high_seconds <= 3600


async def test_the_expected_start_of_who_waits_has_bounds_and_moves_with_what_runs(world):
    first = world.ok(await world.submit(name="train", gpu_count=4))
    second = world.ok(await world.submit(name="train", gpu_count=4))
    told = world.ok(await world.broker.job(world.alice, second.id))
    assert told.eta_start_early <= told.eta_start <= told.eta_start_late
    assert told.eta_end_early <= told.eta_end <= told.eta_end_late
    world.engine.finish(first.id)
    await world.pass_time(1)
    assert world.ok(await world.broker.job(world.alice, second.id)).state is models.JobState.running
