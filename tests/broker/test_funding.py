"""The end of money and GPU-hours: solved for, announced, an orderly stop; price edits reach what runs, or do not."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from fastgpu import models
from fastgpu_hub.pricing import metering
from fastgpu_hub.pricing.quotas import Scope

pytestmark = pytest.mark.asyncio
MINUTE_MS = 60_000


def at(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(milliseconds=ms)


async def running_server(world, **changes):
    lease = world.ok(await world.lease(**changes))
    lease = world.ok(await world.broker.lease_started(world.spawner, lease.id, models.LeaseStarted(pid=1)))
    await world.look()
    return lease


async def running_job(world, **changes):
    job = world.ok(await world.submit(**changes))
    await world.look()
    return job


async def notices(world, owner="alice", kind="ending"):
    found = await world.store.read(lambda uow: uow.notices(owner))
    return [notice for notice in found if notice.kind == kind]


async def limit_person(world, name="alice", **changes):
    wish = {"scope": "person", "name": name, "metric": "spend_micros", "limit": 1_000_000, **changes}
    return world.ok(await world.broker.add_quota(world.admin, models.QuotaSet(**wish)))


@pytest.mark.parametrize(
    "limit",
    [{"metric": "spend_micros", "limit": 1_000_000}, {"metric": "gpu_seconds", "limit": 7200}],
    ids=["money", "GPU-hours"],
)
async def test_the_end_is_announced_at_30_10_and_2_minutes_to_the_second_and_then_it_is_stopped(world, limit):
    await limit_person(world, **limit)
    lease = await running_server(world)
    told_ms = []
    for _ in range(2 * 3600 // 30):
        before = len(await notices(world))
        await world.pass_time(30)
        if len(await notices(world)) > before:
            told_ms.append(world.clock.ms - world.start_ms)
    assert [told // 1000 for told in told_ms] == [90 * 60, 110 * 60, 118 * 60]
    found = await notices(world)
    assert {notice.ends_ms for notice in found} == {world.start_ms + 2 * 3600 * 1000}
    assert [notice.explanation.numbers["minutes"] for notice in found] == [30, 10, 2]
    assert found[0].explanation.instead
    assert world.hub.stopped == [("alice", "")]
    assert len(await notices(world, kind="stopped")) == 1
    done = world.ok(await world.broker.release_lease(world.spawner, lease.id))
    assert done.cost_micros == 1_000_000


async def test_the_end_is_shown_with_its_reason_and_goes_away_when_credit_comes(world):
    await limit_person(world, limit=500_000)
    lease = await running_server(world)
    await world.pass_time(35 * 60)
    shown = world.ok(await world.broker.lease(world.alice, lease.id))
    assert shown.ends_at == at(world.start_ms + 3600 * 1000)
    assert shown.ending.code == "quota_spend"
    await limit_person(world, limit=50_000_000)
    await world.look()
    shown = world.ok(await world.broker.lease(world.alice, lease.id))
    assert (shown.ends_at, shown.ending) == (None, None)
    await world.pass_time(3600)
    assert world.hub.stopped == []


async def test_what_one_gives_back_lets_another_run_on(world):
    await limit_person(world, limit=1_000_000)
    first = await running_server(world)
    second = await running_server(world, server_name="two")
    await world.pass_time(40 * 60)
    endings = [(await world.broker.lease(world.alice, lease.id)).ends_at for lease in (first, second)]
    assert all(endings)
    world.ok(await world.broker.release_lease(world.spawner, first.id))
    await world.look()
    after = (await world.broker.lease(world.alice, second.id)).ends_at
    assert after is None or after > endings[1]


async def test_a_warning_is_given_once_through_restarts_and_none_that_was_due_before_it_began(world):
    await limit_person(world, limit=100_000)  # 12 minutes
    await running_server(world)
    assert await notices(world) == []
    await world.pass_time(3 * 60)
    assert len(await notices(world)) == 1
    for _ in range(3):
        await world.restart()
        await world.look()
    assert [n.explanation.numbers["minutes"] for n in await notices(world)] == [9]
    await world.pass_time(7 * 60)
    assert [n.explanation.numbers["minutes"] for n in await notices(world)] == [9, 2]


async def test_a_soft_limit_warns_and_refuses_nothing(world):
    await limit_person(world, limit=100_000, soft=True)
    quote = world.ok(
        await world.broker.quote(world.alice, models.QuoteRequest(gpu_type="h100-80gb", duration_seconds=3600))
    )
    assert quote.allowed
    assert [warning.code for warning in quote.warnings] == ["quota_spend"]
    await running_job(world)
    assert len(await notices(world, kind="soft_limit")) == 1
    await running_server(world)
    for _ in range(5):
        await world.pass_time(1800)
    assert len(await notices(world, kind="soft_limit")) == 2
    assert world.hub.stopped == []


# ---------------------------------------------------------------- price edits


async def price(world, per_gpu_hour_micros, valid_from_ms=None):
    wish = models.PriceSet(
        gpu_type="h100-80gb",
        per_gpu_hour_micros=per_gpu_hour_micros,
        valid_from=None if valid_from_ms is None else at(valid_from_ms),
    )
    world.ok(await world.broker.set_price(world.admin, wish))
    await world.look()


async def finished_cost(world, job_id):
    world.engine.finish(job_id, 0)
    await world.look()
    receipt = world.ok(await world.broker.receipt(world.alice, job_id))
    assert receipt.total_micros == receipt.ledger_micros
    return receipt.total_micros


async def test_a_running_job_follows_a_new_list_price_from_its_edge_on(world):
    job = await running_job(world, time_limit_seconds=4 * 3600)
    await world.pass_time(3600)
    await price(world, 1_000_000, world.clock.ms + 3600 * 1000)
    held = (await world.broker.job(world.alice, job.id)).held_micros
    assert held == 2 * 500_000 + 2 * 1_000_000  # nothing is settled before its edge
    assert len(await notices(world, kind="price_changed")) == 1
    await world.pass_time(2 * 3600)
    assert await finished_cost(world, job.id) == 2 * 500_000 + 1_000_000


async def test_a_running_job_keeps_its_price_where_the_site_wants_that(world):
    object.__setattr__(world.settings, "follow_list_prices", False)
    job = await running_job(world, time_limit_seconds=4 * 3600)
    await price(world, 1_000_000)
    await world.pass_time(2 * 3600)
    assert await finished_cost(world, job.id) == 2 * 500_000
    assert await notices(world, kind="price_changed") == []


async def test_a_dearer_price_that_cannot_be_held_ends_the_job_sooner_warned_and_in_order(world):
    await limit_person(world, limit=2_000_000)
    job = await running_job(world, time_limit_seconds=4 * 3600)
    await world.pass_time(3600)
    await price(world, 1_500_000)
    shown = world.ok(await world.broker.job(world.alice, job.id))
    assert shown.ending.code == "quota_spend"
    assert shown.ends_at == at(world.start_ms + 2 * 3600 * 1000)  # 0.5 are spent, 1.5 last for an hour
    for _ in range(60):
        await world.pass_time(60)
    assert len(await notices(world)) == 3
    assert (await world.broker.job(world.alice, job.id)).state.value in ("stopping", "cancelled")
    spent = await world.store.read(lambda uow: uow.charged(Scope(owner="alice")).amount_micros)
    assert spent <= 2_000_000


async def test_a_cheaper_price_reaches_what_runs_and_gives_back_what_is_held_too_much(world):
    job = await running_job(world, time_limit_seconds=4 * 3600)
    await world.pass_time(1800)
    await price(world, 100_000)
    assert (await world.broker.job(world.alice, job.id)).held_micros == 250_000 + 350_000
    await world.pass_time(1800)
    assert await finished_cost(world, job.id) == 250_000 + 50_000


async def test_a_price_edit_never_touches_what_is_settled(world):
    lease = await running_server(world)
    for _ in range(6):
        await world.pass_time(1800)
        await world.reconcile(1)
        await world.look()
    before = await world.store.read(lambda uow: uow.transfers(workload_id=lease.id))
    await price(world, 5_000_000)
    await world.pass_time(60)
    after = await world.store.read(lambda uow: uow.transfers(workload_id=lease.id))
    assert before
    assert after[: len(before)] == before


@pytest.mark.parametrize("follows", [False, True])
async def test_a_promotion_that_is_ended_is_kept_by_what_was_granted_under_it_unless_the_site_follows(world, follows):
    object.__setattr__(world.settings, "follow_promotions", follows)
    made = world.ok(
        await world.broker.add_promotion(
            world.admin,
            models.PromotionSet(
                name="Half", percent_off=50, starts_at=at(world.start_ms), ends_at=at(world.start_ms + 86_400_000)
            ),
        )
    )
    job = await running_job(world, time_limit_seconds=2 * 3600)
    await world.pass_time(1800)
    world.ok(await world.broker.end_promotion(world.admin, made.id))
    await world.look()
    await world.pass_time(1800)
    assert await finished_cost(world, job.id) == 125_000 + (250_000 if follows else 125_000)


async def test_a_restart_finishes_a_repricing_that_was_cut_short(world, monkeypatch):
    job = await running_job(world, time_limit_seconds=2 * 3600)
    with monkeypatch.context() as patch:
        patch.setattr(type(world.broker.runtime), "rules_changed", lambda self: world_sleep())
        await price(world, 1_000_000)
    assert (await world.broker.job(world.alice, job.id)).held_micros == 1_000_000
    await world.restart()
    await world.reconcile()
    assert (await world.broker.job(world.alice, job.id)).held_micros == 2_000_000


async def world_sleep() -> None:
    return None


# ---------------------------------------------------------------- grants that expire


async def test_credit_that_expires_pays_only_for_time_before_and_what_is_left_rolls_over(world):
    end_ms = world.start_ms + 3600 * 1000
    wish = models.GrantSet(
        account="person:eve", amount_micros=1_000_000, expires_at=at(end_ms), rollover_percent=50, priority=1
    )
    world.ok(await world.broker.grant(world.admin, wish))
    refused = await world.submit(world.eve, time_limit_seconds=2 * 3600)
    assert refused.code == "credit"
    job = world.ok(await world.submit(world.eve, time_limit_seconds=3600))
    await world.look()
    await world.pass_time(1800)
    world.engine.finish(job.id, 0)
    await world.look()
    await world.pass_time(1900)
    await world.reconcile()
    account = next(a for a in (await world.broker.status(world.eve)).accounts if a.id == "person:eve")
    assert (account.spent_micros, account.expired_micros) == (250_000, 750_000)
    assert account.left_micros == 375_000
    lines = await world.store.read(lambda uow: uow.transfers(account="person:eve"))
    assert [line.kind for line in lines] == ["grant", "charge", "expire", "grant"]
    await world.reconcile()
    assert len(await world.store.read(lambda uow: uow.transfers(account="person:eve"))) == 4


async def test_lines_are_cut_at_the_sites_midnight_and_add_up(world):
    object.__setattr__(world.settings, "time_zone", "Europe/Berlin")
    quote = world.ok(
        await world.broker.quote(world.alice, models.QuoteRequest(gpu_type="h100-80gb", duration_seconds=86_400))
    )
    cuts = [line.starts_at.astimezone(timezone.utc).isoformat() for line in quote.lines[1:]]
    assert cuts == ["2025-10-09T22:00:00+00:00"]
    assert sum(line.amount_micros for line in quote.lines) == quote.max_micros == 24 * 500_000


async def test_spend_and_holds_never_pass_the_limit_while_servers_draw_on_it_together(world):
    await limit_person(world, limit=2_000_000)
    leases = [await running_server(world, server_name=name) for name in ("", "two", "three")]
    for _ in range(100):
        await world.pass_time(60)
        total = await world.store.read(
            lambda uow: uow.charged(Scope(owner="alice")).amount_micros + uow.held(Scope(owner="alice")).amount_micros
        )
        assert total <= 2_000_000
        for lease in leases:
            if (lease.owner, lease.server_name) in world.hub.stopped:
                world.ok(await world.broker.release_lease(world.spawner, lease.id))
    assert len(set(world.hub.stopped)) == 3
    spent = await world.store.read(lambda uow: metering.total_micros(t.line for t in uow.transfers(kind="charge")))
    assert 1_980_000 < spent <= 2_000_000
