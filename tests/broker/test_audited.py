"""What an audit of the money found: each of these was wrong once."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from fastgpu import models
from fastgpu_hub.pricing.quotas import Extra, Scope

pytestmark = pytest.mark.asyncio
H100 = "h100-80gb"
HOUR_MS = 3_600_000
MINUTE_MS = 60_000


def at(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=ms)


async def running_server(world, **changes):
    lease = world.ok(await world.lease(**changes))
    lease = world.ok(await world.broker.lease_started(world.spawner, lease.id, models.LeaseStarted(pid=1)))
    await world.look()
    return lease


async def running_job(world, actor=None, **changes):
    job = world.ok(await world.submit(actor or world.alice, **changes))
    await world.look()
    return job


async def notices(world, owner="alice", kind="ending"):
    found = await world.store.read(lambda uow: uow.notices(owner))
    return [notice for notice in found if notice.kind == kind]


async def limit_person(world, name="alice", **changes):
    wish = {"scope": "person", "name": name, "metric": "spend_micros", "limit": 1_000_000, **changes}
    return world.ok(await world.broker.add_quota(world.admin, models.QuotaSet(**wish)))


async def price(world, per_gpu_hour_micros, valid_from_ms=None):
    wish = models.PriceSet(
        gpu_type=H100,
        per_gpu_hour_micros=per_gpu_hour_micros,
        valid_from=None if valid_from_ms is None else at(valid_from_ms),
    )
    world.ok(await world.broker.set_price(world.admin, wish))
    await world.look()


async def promote(world, **changes):
    wish = {
        "name": "Half",
        "percent_off": 50,
        "starts_at": at(world.start_ms),
        "ends_at": at(world.start_ms + 24 * HOUR_MS),
    }
    return world.ok(await world.broker.add_promotion(world.admin, models.PromotionSet(**{**wish, **changes})))


# ---------------------------------------------------------------- the end of the funding


async def test_a_job_shortened_by_a_price_rise_gets_its_time_back_when_credit_comes(world):
    await limit_person(world, limit=2_000_000)
    job = await running_job(world, time_limit_seconds=4 * 3600)
    await world.pass_time(3600)
    await price(world, 1_500_000)
    assert world.ok(await world.broker.job(world.alice, job.id)).ending.code == "quota_spend"
    await limit_person(world, limit=20_000_000)
    await world.look()
    shown = world.ok(await world.broker.job(world.alice, job.id))
    assert (shown.ends_at, shown.ending and shown.ending.code) == (at(world.start_ms + 4 * HOUR_MS), "time_limit")
    for _ in range(5 * 60):
        if world.clock.ms >= world.start_ms + 4 * HOUR_MS - 90_000:
            break
        await world.pass_time(60)
    shown = world.ok(await world.broker.job(world.alice, job.id))
    assert shown.state.value == "running"
    world.engine.finish(job.id, 0)
    await world.look()
    assert (await notices(world)) == []


async def test_a_job_shortened_by_a_price_rise_gets_its_time_back_when_the_price_falls(world):
    await limit_person(world, limit=2_000_000)
    job = await running_job(world, time_limit_seconds=4 * 3600)
    await world.pass_time(3600)
    await price(world, 1_500_000)
    await world.pass_time(60)
    await price(world, 100_000)
    shown = world.ok(await world.broker.job(world.alice, job.id))
    assert shown.ends_at == at(world.start_ms + 4 * HOUR_MS)


async def test_a_job_gets_its_time_back_never_beyond_its_own_limit_on_cost(world):
    await limit_person(world, limit=2_000_000)
    job = await running_job(world, time_limit_seconds=4 * 3600, max_cost_micros=2_300_000)
    await world.pass_time(3600)
    await price(world, 1_500_000)
    await limit_person(world, limit=20_000_000)
    await world.look()
    shown = world.ok(await world.broker.job(world.alice, job.id))
    assert shown.ending.code == "max_cost"
    assert shown.cost_micros + shown.held_micros <= 2_300_000 + shown.cost_micros
    while world.ok(await world.broker.job(world.alice, job.id)).state.value == "running":
        await world.pass_time(60)
    spent = await world.store.read(lambda uow: uow.charged(Scope(owner="alice")).amount_micros)
    held = await world.store.read(lambda uow: uow.held(Scope(owner="alice")).amount_micros)
    assert 2_200_000 < spent + held <= 2_300_000


async def test_an_end_that_moves_later_is_announced_again(world):
    await limit_person(world, limit=1_000_000)
    lease = await running_server(world)
    for _ in range(112):
        await world.pass_time(60)  # until the end is 8 minutes away
    assert [n.explanation.numbers["minutes"] for n in await notices(world)][-1] == 10
    await limit_person(world, limit=1_000_000 + 40 * 500_000 // 60)
    before = len(await notices(world))
    told = []
    for _ in range(50 * 2):
        await world.look()
        await world.pass_time(30)
        if len(await notices(world)) > before:
            before = len(await notices(world))
            told.append((await notices(world))[-1].explanation.numbers["minutes"])
    assert told == [30, 10, 2]
    world.ok(await world.broker.release_lease(world.spawner, lease.id))


async def test_what_was_ended_by_a_price_before_it_began_is_told_of_no_such_end_once_that_is_past(world):
    await limit_person(world, limit=1_000_000)
    lease = world.ok(await world.lease(time_limit_seconds=7200))
    await price(world, 2_000_000)
    await limit_person(world, limit=90_000_000)
    world.ok(await world.broker.lease_started(world.spawner, lease.id, models.LeaseStarted(pid=1)))
    await world.look()
    shown = world.ok(await world.broker.lease(world.alice, lease.id))
    assert (shown.ending.code, shown.ends_at) == ("time_limit", at(world.clock.ms + 2 * HOUR_MS))


# ---------------------------------------------------------------- prices that follow


async def test_a_price_that_falls_shortens_nothing_even_when_the_limit_was_cut_meanwhile(world):
    job = await running_job(world, time_limit_seconds=4 * 3600)
    await world.pass_time(3600)
    await limit_person(world, limit=600_000)
    await price(world, 400_000)
    shown = world.ok(await world.broker.job(world.alice, job.id))
    assert shown.ends_at == at(world.start_ms + 4 * HOUR_MS)
    assert shown.rate_per_hour_micros == 400_000


async def test_a_price_that_falls_reaches_who_has_nothing_left(world):
    job = await running_job(world, time_limit_seconds=4 * 3600)
    await world.pass_time(3600)
    await limit_person(world, limit=1)
    await price(world, 400_000)
    shown = world.ok(await world.broker.job(world.alice, job.id))
    assert shown.rate_per_hour_micros == 400_000


async def test_nothing_runs_on_unpaid_when_a_dearer_price_leaves_no_second_to_hold(world):
    job = await running_job(world, time_limit_seconds=4 * 3600)
    await limit_person(world, limit=1)
    await price(world, 900_000)
    shown = world.ok(await world.broker.job(world.alice, job.id))
    await world.pass_time(3600)
    later = world.ok(await world.broker.job(world.alice, job.id))
    assert later.state.value != "running" or later.cost_micros > 0, (shown.held_micros, shown.ends_at)


async def test_a_dearer_price_is_told_without_an_end_where_there_is_none(world):
    await running_server(world)
    await price(world, 600_000)
    (told,) = await notices(world, kind="price_changed")
    assert told.ends_ms is None
    assert told.explanation.frees_at_ms is None


async def test_following_promotions_counts_not_ones_own_hold_against_what_is_left(world):
    object.__setattr__(world.settings, "follow_promotions", True)
    made = await promote(world, percent_off=None, free_gpu_seconds=4 * 3600)
    job = await running_job(world, time_limit_seconds=4 * 3600)
    assert world.ok(await world.broker.job(world.alice, job.id)).held_micros == 0
    await world.pass_time(1800)
    wish = models.PromotionSet(
        name="Renamed", free_gpu_seconds=4 * 3600, starts_at=made.starts_at, ends_at=made.ends_at
    )
    world.ok(await world.broker.edit_promotion(world.admin, made.id, wish))
    await world.look()
    assert world.ok(await world.broker.job(world.alice, job.id)).held_micros == 0


async def test_following_promotions_takes_a_place_where_one_is_needed(world):
    object.__setattr__(world.settings, "follow_promotions", True)
    made = await promote(world)
    await running_job(world, world.alice)
    await running_job(world, world.bob)
    wish = models.PromotionSet(
        name="Half", percent_off=50, starts_at=made.starts_at, ends_at=made.ends_at, max_redemptions=1
    )
    world.ok(await world.broker.edit_promotion(world.admin, made.id, wish))
    await world.look()
    counts = await world.store.read(lambda uow: uow.redemption_counts("alice"))
    holds = await world.store.read(lambda uow: uow.open_holds())
    newest = await world.store.read(lambda uow: uow.promotions()[-1].id)
    under = {hold.owner for hold in holds if any(line.promotion_id == newest for line in hold.lines)}
    assert len(under) == 1
    assert counts[made.id][1] == 1


async def test_a_restart_charges_nothing_at_an_old_price_after_the_new_one_began(world, monkeypatch):
    job = await running_job(world, time_limit_seconds=3600)
    await world.pass_time(600)

    async def dies(self):
        return None

    with monkeypatch.context() as patch:
        patch.setattr(type(world.broker.runtime), "rules_changed", dies)
        await price(world, 100_000)
    await world.close()
    world.clock.ms += 3000_000
    world.engine.finish(job.id, 0)
    await world.open()
    await world.look()
    receipt = world.ok(await world.broker.receipt(world.alice, job.id))
    assert receipt.total_micros <= 500_000 // 6 + 100_000 * 5 // 6 + 2


# ---------------------------------------------------------------- limits


async def test_more_of_a_daily_limit_for_today_is_not_more_of_it_tomorrow(world):
    limit = await limit_person(world, metric="gpu_seconds", limit=10 * 3600, window="day")
    midnight_ms = (world.start_ms // 86_400_000 + 1) * 86_400_000
    await world.store.write(
        lambda uow: uow.add_extra(Extra(0, limit.quota_id, "", 10 * 3600, world.start_ms, midnight_ms))
    )
    hours_today = (midnight_ms - world.start_ms) // HOUR_MS
    refused = await world.submit(time_limit_seconds=(hours_today + 12) * 3600)
    assert getattr(refused, "code", "") == "quota_gpu_hours"
    world.ok(await world.submit(time_limit_seconds=(hours_today + 9) * 3600))
