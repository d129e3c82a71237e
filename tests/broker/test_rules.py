"""Who may change prices, promotions, quotas and credit; what people are shown of them; every change is audited."""

from __future__ import annotations

import pytest

from fastgpu import models
from fastgpu_hub.broker.reports import suited_for
from fastgpu_hub.broker.views import at
from fastgpu_hub.pricing.explain import Refused

pytestmark = pytest.mark.asyncio
H100 = "h100-80gb"


def half_price(world, **changes) -> models.PromotionSet:
    base = models.PromotionSet(
        name="Half", percent_off=50, starts_at=at(world.clock.ms), ends_at=at(world.clock.ms + 3_600_000)
    )
    return base.model_copy(update=changes)


async def test_rights_of_student_teacher_and_administrator(world):
    price = models.PriceSet(gpu_type=H100, per_gpu_hour_micros=1)
    grant = models.GrantSet(account="class:cs101", amount_micros=1)
    member = models.QuotaSet(scope="member", name="cs101", metric="concurrent_gpus", limit=1)
    site = models.QuotaSet(scope="site", metric="concurrent_gpus", limit=1)
    own = half_price(world, audience=("class:cs101",))
    everyone = half_price(world)
    b = world.broker
    table = [
        (b.set_price, price, (False, False, True)),
        (b.grant, grant, (False, False, True)),
        (b.add_quota, member, (False, True, True)),
        (b.add_quota, site, (False, False, True)),
        (b.add_promotion, own, (False, True, True)),
        (b.add_promotion, everyone, (False, False, True)),
    ]
    for call, request, expected in table:
        allowed = tuple(
            [not isinstance(await call(actor, request), Refused) for actor in (world.alice, world.teacher, world.admin)]
        )
        assert allowed == expected, (call.__name__, request)


async def test_every_change_is_in_the_audit_with_before_and_after(world):
    await world.broker.set_price(world.admin, models.PriceSet(gpu_type=H100, per_gpu_hour_micros=600_000))
    line = (await world.broker.audit(world.admin, 1))[0]
    assert (line.actor, line.action, line.subject) == ("root", "set_price", H100)
    assert line.before["rate"]["per_gpu_hour_micros"] == 500_000
    assert line.after["rate"]["per_gpu_hour_micros"] == 600_000


async def test_setting_the_same_quota_again_replaces_it(world):
    for limit in (5, 3):
        await world.broker.add_quota(
            world.admin, models.QuotaSet(scope="class", name="cs101", metric="concurrent_gpus", limit=limit)
        )
    assert [quota.limit for quota in await world.broker.quotas(world.alice)] == [3]


def limit(world, **changes) -> models.QuotaSet:
    base = {"scope": "member", "name": "cs101", "metric": "gpu_seconds", "limit": 36_000, "window": "always"}
    return models.QuotaSet(**{**base, **changes})


async def test_limits_that_make_no_sense_are_refused_in_words(world):
    now = world.clock.ms
    senseless = [
        ({"scope": "site"}, "no name"),
        ({"name": ""}, "needs the name"),
        ({"window": "term"}, "beginning of a limit's term"),
        ({"window": "term", "starts_at": at(now + 5), "ends_at": at(now)}, "end of a limit's term"),
        ({"starts_at": at(now)}, "no beginning or end"),
        ({"window": "rolling"}, "length of a limit's rolling window"),
        ({"rolling_seconds": 60}, "no length"),
        ({"metric": "concurrent_gpus", "window": "rolling", "rolling_seconds": 60}, "not summed over time"),
        ({"metric": "credit_share_percent", "limit": 0}, "from 1 to 100"),
        ({"metric": "credit_share_percent", "limit": 101}, "from 1 to 100"),
        ({"metric": "credit_share_percent", "scope": "class", "limit": 10}, "for its members"),
        ({"metric": "credit_share_percent", "limit": 10, "window": "day"}, "not per window"),
        ({"time_zone": "Mars/Olympus"}, "time zone"),
    ]
    for changes, says in senseless:
        answer = await world.broker.add_quota(world.admin, limit(world, **changes))
        assert isinstance(answer, Refused), changes
        assert answer.code == "invalid_request"
        assert says in answer.message, (changes, answer.message)
    assert await world.broker.quotas(world.admin) == []


async def test_a_hard_and_a_soft_limit_stand_beside_each_other_and_the_soft_one_warns(world):
    world.ok(await world.broker.add_quota(world.teacher, limit(world, limit=7200)))
    world.ok(await world.broker.add_quota(world.teacher, limit(world, limit=1800, soft=True)))
    assert {(q.soft, q.limit) for q in await world.broker.quotas(world.alice)} == {(False, 7200), (True, 1800)}
    wish = models.QuoteRequest(gpu_type=H100, duration_seconds=3600)
    quote = world.ok(await world.broker.quote(world.alice, wish))
    assert (quote.allowed, [warning.code for warning in quote.warnings]) == (True, ["quota_gpu_hours"])
    world.ok(await world.submit())
    assert (await world.submit(time_limit_seconds=3601)).code == "quota_gpu_hours"


async def test_an_answer_says_used_reserved_left_and_when_how_much_comes_back(world):
    b = world.broker
    term = {"window": "term", "starts_at": at(world.clock.ms), "ends_at": at(world.clock.ms + 9 * 3_600_000)}
    for changes in (
        {"metric": "concurrent_gpus", "limit": 3},
        {"window": "rolling", "rolling_seconds": 7200},
        {"window": "day"},
        term,
        {"metric": "credit_share_percent", "limit": 10},
    ):
        world.ok(await b.add_quota(world.teacher, limit(world, **changes)))
    world.ok(await world.submit(time_limit_seconds=3600))
    await world.pass_time(3600)
    ended_ms = world.clock.ms
    world.ok(await world.submit(time_limit_seconds=1800, gpu_count=2))
    world.ok(await world.submit(time_limit_seconds=3600))
    await world.pass_time(1)
    found = {(q.metric.value, q.window): q for q in await b.quotas(world.alice)}
    for quota in found.values():
        assert quota.used + quota.reserved + quota.left == quota.limit
    gpus = found["concurrent_gpus", "always"]
    assert (gpus.used, gpus.left) == (3, 0)
    assert [(step.at, step.amount) for step in gpus.comes_back] == [
        (at(ended_ms + 1_800_000), 2),
        (at(ended_ms + 3_600_000), 1),
    ]
    rolling = found["gpu_seconds", "rolling"]
    assert (rolling.used, rolling.reserved) == (3600, 7200)
    assert rolling.comes_back[-1].at == at(ended_ms + 7_200_000)
    assert sum(step.amount for step in rolling.comes_back) >= 3600
    day, in_term = found["gpu_seconds", "day"], found["gpu_seconds", "term"]
    assert day.resets_at == at(world.start_ms + 15 * 3_600_000)  # midnight UTC
    assert in_term.resets_at == in_term.ends_at == term["ends_at"]
    share = found["credit_share_percent", "always"]
    assert share.reserved == 500_000 + 500_000
    assert share.limit == (100_000_000 - 500_000) * 10 // 100


async def test_a_soft_limit_on_gpus_at_once_counts_them_and_keeps_nobody_waiting(world):
    world.ok(await world.broker.add_quota(world.teacher, limit(world, metric="concurrent_gpus", limit=1, soft=True)))
    for _ in range(2):
        world.ok(await world.submit())
    assert [job.state for job in await world.broker.jobs(world.alice)] == ["running", "running"]
    (quota,) = await world.broker.quotas(world.alice)
    assert (quota.used, quota.left) == (2, 0)


async def test_a_term_does_not_count_outside_of_it(world):
    term = {"window": "term", "starts_at": at(world.clock.ms + 3_600_000), "ends_at": at(world.clock.ms + 7_200_000)}
    quota = world.ok(await world.broker.add_quota(world.teacher, limit(world, limit=1, **term)))
    assert (quota.used, quota.reserved, quota.left) == (0, 0, 1)
    world.ok(await world.submit(time_limit_seconds=3600))
    assert (await world.submit(time_limit_seconds=3602)).code == "quota_gpu_hours"


async def test_a_code_is_needed_is_secret_and_works(world):
    world.ok(await world.broker.add_promotion(world.admin, half_price(world, code="SPRING-26")))
    promotion = (await world.broker.promotions(world.alice))[0]
    assert promotion.needs_code
    assert promotion.why_not.code == "promo_code_needed"
    assert "SPRING" not in promotion.model_dump_json()
    ask = models.QuoteRequest(gpu_type=H100, gpu_count=8 // 2, duration_seconds=4 * 3600)
    assert (await world.broker.quote(world.alice, ask)).max_micros == 8_000_000
    quote = await world.broker.quote(world.alice, ask.model_copy(update={"promo_code": "spring-26"}))
    assert quote.max_micros == 7_000_000  # the first of four hours at half price
    assert quote.list_micros == 8_000_000


async def test_options_show_price_promotion_capacity_and_why_not(world):
    world.ok(await world.broker.add_promotion(world.admin, half_price(world)))
    options = world.ok(await world.broker.options(world.spawner, "alice"))
    offer = options.offers[0]
    assert (offer.rate.per_gpu_hour_micros, offer.list_rate.per_gpu_hour_micros) == (250_000, 500_000)
    assert (offer.promotion_name, offer.free, offer.total, offer.simulated) == ("Half", 4, 4, True)
    assert offer.rate_until == at(world.clock.ms + 3_600_000)
    poor = world.ok(await world.broker.options(world.spawner, "alice", account="person:alice"))
    assert (poor.offers[0].allowed, poor.offers[0].why_not.code) == (False, "credit")


async def test_a_quote_says_what_forbids_it(world):
    quote = await world.broker.quote(
        world.alice, models.QuoteRequest(gpu_type=H100, gpu_count=4, duration_seconds=10**6, account="person:alice")
    )
    assert (quote.allowed, quote.refusal.code) == (False, "credit")


async def test_costs_add_up_to_the_ledger(world):
    for _ in range(3):
        job = world.ok(await world.submit())
        await world.pass_time(100)
        world.engine.finish(job.id)
        await world.settle_down()
    for by in ("job", "gpu", "day"):
        report = await world.broker.costs(world.alice, None, by)
        assert sum(row.amount_micros for row in report.rows) == report.settled_micros == 3 * (100 * 500_000 // 3600)
    report = await world.broker.costs(world.teacher, None, "person")
    assert [row.key for row in report.rows] == ["alice"]


async def test_a_teacher_sees_the_class_and_nobody_elses(world):
    world.ok(await world.submit())
    report = world.ok(await world.broker.class_report(world.teacher, "cs101"))
    assert {member.name: member.gpus for member in report.members} == {"alice": 1, "bob": 0}
    assert (await world.broker.class_report(world.teacher, "cs999")).code == "not_found"
    assert (await world.broker.class_report(world.alice, "cs101")).code == "not_found"


@pytest.mark.parametrize(
    ("gib", "hint"),
    [
        (None, ""),
        (10, "exercises, inference with small models"),
        (16, "training vision models, fine-tuning small language models"),
        (40, "fine-tuning language models, large batches"),
        (80, "large language models, long training"),
    ],
)
async def test_the_hint_grows_with_the_memory_of_the_type(gib, hint):
    assert suited_for(None if gib is None else gib << 30) == hint
