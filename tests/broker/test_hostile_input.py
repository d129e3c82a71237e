"""Promise 12: hostile windows, limits, names and numbers are refused with an explanation, never with an error."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from fastgpu import models
from fastgpu_hub.pricing.explain import Refused

pytestmark = pytest.mark.asyncio
H100 = "h100-80gb"
BOTH = pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)
NAMES = ("\udc80", "a\0b", "'; DROP TABLE workloads; --", "../../etc", "x" * 10_000, "", "%", "\u202e")
INSTANTS = tuple(
    datetime(*day, tzinfo=timezone(timedelta(hours=hours)))
    for day in ((1, 1, 1), (1969, 12, 31), (8999, 12, 31), (9999, 12, 31, 23, 59, 59, 999_999))
    for hours in (-23, 0, 23)
)


@BOTH
async def test_ids_and_names_that_nobody_has_are_not_found(world):
    b = world.broker
    for name in NAMES:
        for call in (b.job, b.lease, b.receipt, b.why, b.cancel_job, b.job_files):
            assert (await call(world.admin, name)).code == "not_found"
        assert (await b.release_lease(world.spawner, name)).code == "not_found"
        assert (await b.lease_started(world.spawner, name, models.LeaseStarted())).code == "not_found"
        assert (await b.job_log(world.admin, name, 0, 10)).code == "not_found"
        assert (await b.options(world.alice, name)).code == "not_found"
        assert (await b.request_lease(world.spawner, name, models.LeaseRequest(gpu_type=H100))).code == "not_found"
        assert (await b.class_report(world.teacher, name)).code == "not_found"
        assert (await b.jobs(world.alice, owner="eve", account=name)).code == "not_found"
        assert (await b.jobs(world.alice, account=name)).code == "not_found"
        await b.jobs(world.admin, owner=name)
        await b.jobs(world.admin, account=name)
        assert isinstance(await b.options(world.alice, "me", account=name), Refused)
        assert not isinstance(await b.options(world.alice, "me", promo_code=name), Refused)
        await b.promotions(world.alice, name)
        await b.wait_changed(name, 0.001)
        world.clock.ms += 600_000  # these were wrong codes, and of those only ten are let pass


@pytest.mark.parametrize("instant", INSTANTS, ids=str)
async def test_instants_at_both_ends_of_the_calendar_are_answered(world, instant):
    b = world.broker
    quote = await b.quote(world.alice, models.QuoteRequest(gpu_type=H100, starts_at=instant))
    assert isinstance(quote, (Refused, models.Quote))
    await b.costs(world.alice, since=instant)
    price = models.PriceSet(gpu_type=H100, per_gpu_hour_micros=500_000, valid_from=instant)
    await b.set_price(world.admin, price)
    for starts_at, ends_at in ((instant, INSTANTS[-1]), (INSTANTS[0], instant)):
        for weekly in ((), (models.WeeklyWindow(days=(6,), from_minute=1439, to_minute=0),)):
            promotion = models.PromotionSet(
                name="x", percent_off=1, starts_at=starts_at, ends_at=ends_at, weekly=weekly, time_zone="Pacific/Apia"
            )
            await b.add_promotion(world.admin, promotion)
    await b.promotions(world.alice)
    await b.prices(world.alice)
    await b.options(world.alice, "me")
    world.ok(await world.submit())


async def test_the_largest_numbers_are_answered(world):
    b = world.broker
    most = models.PriceSet(
        gpu_type=H100,
        per_gpu_hour_micros=models.MAX_MICROS,
        per_task_hour_micros=models.MAX_MICROS,
        per_start_micros=models.MAX_MICROS,
    )
    world.ok(await b.set_price(world.admin, most))
    wish = models.QuoteRequest(gpu_type=H100, gpu_count=1024, duration_seconds=models.MAX_SECONDS)
    quote = world.ok(await b.quote(world.alice, wish))
    assert quote.refusal.code == "capacity_never"
    for seconds in (1, models.MAX_SECONDS):
        assert (await world.submit(gpu_count=4, time_limit_seconds=seconds)).code == "credit"
        assert (await world.lease(gpu_count=4, time_limit_seconds=seconds)).code == "credit"
    for metric in ("concurrent_gpus", "gpu_seconds", "spend_micros"):
        limit = models.QuotaSet(scope="site", metric=metric, limit=models.MAX_MICROS, window="week")
        world.ok(await b.add_quota(world.admin, limit))
    for _ in range(3):
        grant = models.GrantSet(account="class:cs101", amount_micros=models.MAX_MICROS)
        world.ok(await b.grant(world.admin, grant))
    assert (await world.submit(gpu_count=4, time_limit_seconds=models.MAX_SECONDS)).code in ("credit", "quota_spend")


async def test_an_account_or_class_that_nobody_knows_cannot_be_charged(world):
    for account in ("class:nobody", "person:bob", "class:", "person:\u0000"):
        assert (await world.submit(account=account)).code == "not_allowed"
        assert (await world.lease(account=account)).code == "not_allowed"
        assert (
            await world.broker.quote(
                world.alice, models.QuoteRequest(gpu_type=H100).model_copy(update={"account": account})
            )
        ).code == "not_allowed"


async def test_everybody_sees_the_limits_that_concern_them(world):
    sets = [
        models.QuotaSet(scope=scope, name=name, metric="concurrent_gpus", limit=9)
        for scope, name in (
            ("site", ""),
            ("class", "cs101"),
            ("member", "cs101"),
            ("class", "cs999"),
            ("member", "cs999"),
            ("person", "alice"),
            ("person", "bob"),
        )
    ]
    for quota in sets:
        world.ok(await world.broker.add_quota(world.admin, quota))
    world.ok(await world.submit())

    async def seen(actor):
        return {(q.scope.value, q.name): (q.used, q.left) for q in await world.broker.quotas(actor)}

    everybody = {("site", ""): (1, 8)}
    of_class = {("class", "cs101"): (1, 8), ("member", "cs101"): (0, 9)}
    assert await seen(world.alice) == {
        **everybody,
        ("class", "cs101"): (1, 8),
        ("member", "cs101"): (1, 8),
        ("person", "alice"): (1, 8),
    }
    assert await seen(world.eve) == everybody
    assert await seen(world.teacher) == {**everybody, **of_class}
    others = {
        ("class", "cs999"): (0, 9),
        ("member", "cs999"): (0, 9),
        ("person", "alice"): (1, 8),
        ("person", "bob"): (0, 9),
    }
    assert await seen(world.admin) == {**everybody, **of_class, **others}
    for quota in await world.broker.quotas(world.admin):
        assert await world.broker.remove_quota(world.admin, quota.quota_id) is None
    assert await world.broker.quotas(world.admin) == []
