"""Previews: what settled lines would have cost under a promotion, by the rules of pricing, and who may see it."""

from __future__ import annotations

import pytest

from fastgpu import models
from fastgpu_hub.broker.views import at

pytestmark = pytest.mark.asyncio
H100 = "h100-80gb"
HOUR_MS = 3_600_000


def wish(world, **changes) -> models.PromotionSet:
    """Half price for a day from now on, for everyone, unless said otherwise."""
    base = {"name": "Half", "starts_at": at(world.clock.ms), "ends_at": at(world.clock.ms + 24 * HOUR_MS)}
    kinds = ("percent_off", "fixed_per_gpu_hour_micros", "free_gpu_seconds", "credit_micros")
    kind = {} if any(name in changes for name in kinds) else {"percent_off": 50}
    return models.PromotionSet(**{**base, **kind, **changes})


async def week(world) -> None:
    """Alice runs an hour, then bob two hours."""
    for actor, hours in ((world.alice, 1), (world.bob, 2)):
        job = world.ok(await world.submit(actor, time_limit_seconds=hours * 3600))
        await world.pass_time(hours * 3600 - 1)
        world.engine.finish(job.id)
        await world.settle_down()


async def preview(world, actor=None, **changes):
    since, until = at(world.start_ms), at(world.start_ms + 7 * 24 * HOUR_MS)
    request = models.PreviewSet(promotion=wish(world, **changes), since=since, until=until)
    return await world.broker.preview(actor or world.admin, request)


async def test_a_preview_tells_what_the_past_would_have_cost_and_changes_nothing(world):
    await week(world)
    before = await world.store.read(lambda uow: (uow.redemption_counts(""), uow.audit(), uow.promotions()))
    found = world.ok(await preview(world))
    spent = {"alice": 500_000 * 3599 // 3600, "bob": 500_000 * 7199 // 3600}
    assert {row.owner: row.charged_micros for row in found.rows} == spent
    assert {row.owner: row.would_be_micros for row in found.rows} == {
        "alice": 250_000 * 3599 // 3600,
        "bob": 250_000 * 7199 // 3600,
    }
    assert {row.owner: row.gpu_seconds for row in found.rows} == {"alice": 3599, "bob": 7199}
    assert found.saved_micros == found.charged_micros - found.would_be_micros
    assert found.charged_micros == sum(spent.values())
    after = await world.store.read(lambda uow: (uow.redemption_counts(""), uow.audit(), uow.promotions()))
    assert after == before


async def test_a_preview_respects_audience_types_hours_places_budget_and_free_time(world):
    await week(world)  # alice from 09:00 UTC, bob from 10:00

    async def saved(**changes) -> dict[str, int]:
        found = world.ok(await preview(world, **changes))
        return {row.owner: row.charged_micros - row.would_be_micros for row in found.rows}

    assert await saved(audience=("person:bob",)) == {"alice": 0, "bob": 500_000 * 7199 // 3600 - 250_000 * 7199 // 3600}
    assert await saved(gpu_types=("a100",)) == {"alice": 0, "bob": 0}
    assert (await saved(max_redemptions=1))["bob"] == 0
    thursday = models.WeeklyWindow(days=(3,), from_minute=11 * 60, to_minute=24 * 60)
    by_hours = await saved(weekly=(thursday,))
    assert by_hours["alice"] == 0
    assert abs(by_hours["bob"] - 250_000) < 200
    by_budget = await saved(budget_micros=400_000)
    # What a budget is spent by is rounded down once per line.
    assert 399_000 < sum(by_budget.values()) <= 400_010
    assert by_budget["alice"] == 500_000 * 3599 // 3600 - 250_000 * 3599 // 3600  # who came first
    free = await saved(free_gpu_seconds=1800)
    assert free == {"alice": pytest.approx(250_000, abs=2), "bob": pytest.approx(250_000, abs=2)}
    assert await saved(fixed_per_gpu_hour_micros=600_000) == {"alice": 0, "bob": 0}


async def test_a_previews_free_time_is_used_up_once_over_all_that_a_person_ran(world):
    await week(world)
    await week(world)
    found = world.ok(await preview(world, free_gpu_seconds=5400))
    assert {row.owner: row.charged_micros - row.would_be_micros for row in found.rows} == {
        "alice": pytest.approx(750_000, abs=4),
        "bob": pytest.approx(750_000, abs=4),
    }


async def test_a_preview_is_the_best_of_what_applied_and_the_new_one_and_stacks_on_it(world):
    world.ok(await world.broker.add_promotion(world.admin, wish(world)))
    await week(world)
    assert world.ok(await preview(world, percent_off=40)).saved_micros == 0
    stacked = world.ok(await preview(world, percent_off=10, stacks=True))
    assert abs(stacked.saved_micros * 10 - stacked.charged_micros) < 20


async def test_a_preview_leaves_out_what_was_refunded(world):
    await week(world)
    (job,) = [job for job in await world.broker.jobs(world.bob) if job.owner == "bob"]
    world.ok(await world.broker.refund(world.admin, job.id, models.RefundSet(reason="outage")))
    assert [row.owner for row in world.ok(await preview(world)).rows] == ["alice"]


async def test_a_teacher_previews_what_their_class_paid_for_and_nothing_else(world):
    world.ok(await world.broker.grant(world.admin, models.GrantSet(account="person:alice", amount_micros=9_000_000)))
    await week(world)
    private = world.ok(await world.submit(account="person:alice"))
    await world.pass_time(100)
    world.engine.finish(private.id)
    await world.settle_down()
    found = world.ok(await preview(world, world.teacher, audience=("class:cs101",)))
    assert {row.owner: row.gpu_seconds for row in found.rows} == {"alice": 3599, "bob": 7199}
    assert (await preview(world, world.teacher)).code == "not_allowed"
    assert (await preview(world, world.alice, audience=("class:cs101",))).code == "not_allowed"


async def test_a_preview_of_too_long_a_period_or_of_credit_is_refused(world):
    for days in (0, -1, 401):
        request = models.PreviewSet(
            promotion=wish(world), since=at(world.start_ms), until=at(world.start_ms + days * 24 * HOUR_MS)
        )
        assert (await world.broker.preview(world.admin, request)).code == "invalid_request"
    assert (await preview(world, credit_micros=5)).code == "invalid_request"
