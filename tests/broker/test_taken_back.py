"""What was changed can be taken back and looked up: versions of promotions, the latest grants, the audit's entries."""

from __future__ import annotations

from datetime import datetime, timezone

from fastgpu import models

H100 = "h100-80gb"
HOUR_MS = 3_600_000


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, timezone.utc)


def wish(world, **changes) -> models.PromotionSet:
    base = {"name": "Half", "percent_off": 50, "starts_at": at(world.start_ms), "audience": ("class:cs101",)}
    return models.PromotionSet(**{**base, "ends_at": at(world.start_ms + 24 * HOUR_MS), **changes})


async def price(world) -> int:
    request = models.QuoteRequest(gpu_type=H100, duration_seconds=3600)
    return world.ok(await world.broker.quote(world.alice, request)).max_micros


async def test_an_end_and_an_edit_are_taken_back_by_a_new_version_and_places_count_on(world):
    b = world.broker
    made = world.ok(await b.add_promotion(world.teacher, wish(world, max_redemptions=2)))
    world.ok(await b.redeem(world.alice, models.Redeem(promotion_id=made.id)))
    world.ok(await b.edit_promotion(world.teacher, made.id, wish(world, percent_off=10, max_redemptions=2)))
    world.ok(await b.end_promotion(world.teacher, made.id))
    assert await price(world) == 500_000
    restored = world.ok(await b.restore_promotion(world.teacher, made.id, 1))
    assert (restored.version, restored.percent_off, restored.state, restored.places_left) == (4, 50, "live", 1)
    assert await price(world) == 250_000
    versions = world.ok(await b.promotion_versions(world.teacher, made.id))
    assert [(one.version, one.percent_off) for one in versions] == [(4, 50), (3, 10), (2, 10), (1, 50)]
    line = world.ok(await b.audit(world.admin, 1))[0]
    assert (line.action, line.before["version"], line.after["version"]) == ("restore_promotion", 3, 4)


async def test_only_what_has_not_ended_and_was_published_is_restored_and_only_by_whom_it_belongs_to(world):
    b = world.broker
    made = world.ok(await b.add_promotion(world.teacher, wish(world, draft=True)))
    world.ok(await b.publish_promotion(world.teacher, made.id))
    assert (await b.restore_promotion(world.teacher, made.id, 1)).code == "promo_published"
    assert (await b.restore_promotion(world.teacher, made.id, 9)).code == "not_found"
    for stranger in (world.alice, world.eve):
        assert (await b.restore_promotion(stranger, made.id, 2)).code == "not_found"
        assert (await b.promotion_versions(stranger, made.id)).code == "not_found"
    world.clock.ms += 24 * HOUR_MS
    assert (await b.restore_promotion(world.teacher, made.id, 2)).code == "invalid_request"


async def test_a_version_for_others_is_not_restored_by_a_teacher(world):
    b = world.broker
    made = world.ok(await b.add_promotion(world.admin, wish(world, audience=())))
    world.ok(await b.edit_promotion(world.admin, made.id, wish(world)))
    assert (await b.restore_promotion(world.teacher, made.id, 1)).code == "not_found"
    assert world.ok(await b.restore_promotion(world.admin, made.id, 1)).audience == ()


async def test_who_runs_a_class_finds_its_promotions_again_when_they_have_ended(world):
    b = world.broker
    made = world.ok(await b.add_promotion(world.teacher, wish(world)))
    world.ok(await b.add_promotion(world.admin, wish(world, audience=())))
    world.ok(await b.end_promotion(world.teacher, made.id))
    assert [(one.id, one.state) for one in await b.managed_promotions(world.teacher)] == [(made.id, "ended")]
    assert len(await b.managed_promotions(world.admin)) == 2
    assert await b.managed_promotions(world.alice) == []


async def test_the_latest_grants_and_refunds_are_listed_apart_with_what_is_left(world):
    b = world.broker
    job = world.ok(await world.submit(time_limit_seconds=3600))
    await world.pass_time(3600)
    world.ok(await b.refund(world.admin, job.id, models.RefundSet(reason="fan")))
    for micros in (1, 2, 3):
        world.ok(await b.grant(world.admin, models.GrantSet(account="person:eve", amount_micros=micros)))
    latest = world.ok(await b.latest_grants(world.admin, 2))
    assert [(one.account, one.left_micros) for one in latest] == [("person:eve", 3), ("person:eve", 2)]
    (refund,) = world.ok(await b.latest_grants(world.admin, 9, refunds=True))
    assert (refund.source, refund.amount_micros) == (f"refund:{job.id}", 500_000)
    assert (await b.latest_grants(world.teacher, 9)).code == "not_allowed"


async def test_an_account_is_shown_to_those_who_charge_or_run_it(world):
    b = world.broker
    for actor in (world.alice, world.teacher, world.admin):
        assert world.ok(await b.account(actor, "class:cs101")).granted_micros == 100_000_000
    assert (await b.account(world.eve, "class:cs101")).code == "not_found"
    assert (await b.account(world.admin, "class:\0")).code == "not_found"


async def test_what_a_class_was_charged_in_a_week_is_counted_without_what_was_refunded(world):
    b = world.broker
    for _ in range(2):
        job = world.ok(await world.submit(time_limit_seconds=3600))
        await world.pass_time(3600)
    assert world.ok(await b.class_report(world.teacher, "cs101")).week_micros == 1_000_000
    world.ok(await b.refund(world.admin, job.id, models.RefundSet(reason="fan")))
    assert world.ok(await b.class_report(world.teacher, "cs101")).week_micros == 500_000
    world.clock.ms += 7 * 24 * HOUR_MS
    assert world.ok(await b.class_report(world.teacher, "cs101")).week_micros == 0
