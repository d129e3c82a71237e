"""Credit: grants of the site and of a class, what is left of each, refunds; audited, and nothing given twice."""

from __future__ import annotations

import asyncio

import pytest

from fastgpu import models
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.views import at
from fastgpu_hub.pricing.explain import Refused

pytestmark = pytest.mark.asyncio
H100 = "h100-80gb"
DAY_MS = 24 * 3_600_000
BOTH = pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)


def gift(amount: int, to: str = "person:alice", **changes) -> models.GrantSet:
    return models.GrantSet(account=to, amount_micros=amount, **{"from_account": "class:cs101", **changes})


async def account(world, name: str) -> models.Account:
    status = await world.broker.status(Actor("alice", classes=("cs101",)))
    return next(found for found in status.accounts if found.id == name)


async def ran(world, actor=None, seconds: int = 3600, **changes) -> models.Job:
    """A job that ran for so long."""
    job = world.ok(await world.submit(actor or world.alice, time_limit_seconds=seconds + 60, **changes))
    await world.pass_time(seconds)
    world.engine.finish(job.id)
    await world.settle_down()
    return job


# ---------------------------------------------------------------- grants


async def test_a_teacher_gives_of_the_class_credit_to_members_only_and_never_more_than_is_left(world):
    b = world.broker
    world.ok(await world.submit(time_limit_seconds=3600))  # holds half a credit of 100
    assert (await b.grant(world.teacher, gift(99_500_001))).code == "credit"
    given = world.ok(await b.grant(world.teacher, gift(99_500_000)))
    assert (given.id, given.left_micros) == ("person:alice", 99_500_000)
    klass = await account(world, "class:cs101")
    assert (klass.given_micros, klass.left_micros) == (99_500_000, 0)
    assert (await b.grant(world.teacher, gift(1))).code == "credit"
    (grant,) = await b.grants(world.alice, "person:alice")
    assert (grant.source, grant.by) == ("class:cs101", "tess")


async def test_who_may_give_what(world):
    b = world.broker
    other = Actor("tom", teaches=("bio7",))
    refusals = {
        "not_allowed": [
            (world.teacher, gift(1, from_account=None)),
            (world.alice, gift(1)),
            (other, gift(1)),
        ],
        "not_found": [(world.teacher, gift(1, "person:eve")), (world.admin, gift(1, "person:eve"))],
        "invalid_request": [
            (world.teacher, gift(1, "class:cs102")),
            (world.teacher, gift(1, from_account="person:bob")),
            (world.admin, gift(1, expires_at=at(world.clock.ms))),
            (world.admin, gift(1, rollover_percent=10)),
        ],
    }
    for code, tried in refusals.items():
        for actor, request in tried:
            assert (await b.grant(actor, request)).code == code, (actor.name, request)
    assert await b.grants(world.alice, "person:alice") == []
    world.ok(await b.grant(world.admin, gift(1)))


@BOTH
async def test_gifts_at_the_same_time_never_give_more_than_the_class_has(world):
    answers = await asyncio.gather(*[world.broker.grant(world.teacher, gift(7_000_000)) for _ in range(40)])
    assert sum(not isinstance(answer, Refused) for answer in answers) == 14
    assert (await account(world, "class:cs101")).left_micros == 2_000_000
    assert (await account(world, "person:alice")).left_micros == 98_000_000


async def test_a_gift_leaves_what_is_held_for_later(world):
    """Credit that expires in an hour pays for no second hour: what does may not be given away, though more is left."""
    b = world.broker
    lasting = models.GrantSet(account="class:x", amount_micros=1_000_000, priority=1)
    brief = models.GrantSet(account="class:x", amount_micros=10_000_000, expires_at=at(world.clock.ms + 3_600_000))
    for grant in (lasting, brief):
        world.ok(await b.grant(world.admin, grant))
    world.hub.users["zoe"] = type(world.hub.users["bob"])("zoe", ("x",))
    zoe, teacher = Actor("zoe", classes=("x",)), Actor("tim", teaches=("x",))
    job = world.ok(await world.submit(zoe, time_limit_seconds=2 * 3600))  # holds all that lasts, for it burns first
    wish = gift(1, "person:zoe", from_account="class:x")
    refused = await b.grant(teacher, wish)
    assert (refused.code, refused.numbers["short_micros"]) == ("credit", 1)
    world.engine.finish(job.id)
    await world.settle_down()
    world.ok(await b.grant(teacher, wish))


async def test_the_list_tells_what_is_left_of_each_grant_by_priority_then_expiry_then_age(world):
    b = world.broker
    soon = at(world.clock.ms + 10 * DAY_MS)
    wanted = [
        models.GrantSet(account="person:alice", amount_micros=300_000, note="plain"),
        models.GrantSet(account="person:alice", amount_micros=300_000, note="expires", expires_at=soon),
        models.GrantSet(account="person:alice", amount_micros=300_000, note="first", priority=1),
    ]
    for grant in wanted:
        world.ok(await b.grant(world.admin, grant))
    await ran(world, account="person:alice", seconds=2880)  # 0.4 credits
    left = {grant.note: grant.left_micros for grant in await b.grants(world.alice, "person:alice")}
    assert left == {"first": 0, "expires": 200_000, "plain": 300_000}
    assert (await account(world, "person:alice")).expires_micros == 200_000
    await world.pass_time(11 * DAY_MS // 1000)
    await world.reconcile()
    left = {grant.note: grant.left_micros for grant in await b.grants(world.alice, "person:alice")}
    assert left == {"first": 0, "expires": 0, "plain": 300_000}
    mine = await account(world, "person:alice")
    assert (mine.expired_micros, mine.left_micros) == (200_000, 300_000)


async def test_grants_are_seen_by_those_whom_the_account_concerns(world):
    b = world.broker
    assert [grant.account for grant in await b.grants(world.alice)] == ["class:cs101"]
    assert [grant.account for grant in await b.grants(world.teacher)] == ["class:cs101"]
    assert [grant.account for grant in await b.grants(world.admin)] == ["class:cs101"]
    assert await b.grants(world.eve) == []
    for actor, name in ((world.alice, "person:bob"), (world.eve, "class:cs101"), (world.teacher, "person:alice")):
        told = await b.grants(actor, name)
        missing = await b.grants(actor, "class:none")
        assert (told.code, told.message.replace(name, "X")) == (
            missing.code,
            missing.message.replace("class:none", "X"),
        )


# ---------------------------------------------------------------- refunds


@BOTH
async def test_a_refund_gives_money_and_gpu_time_back_once_and_the_receipt_shows_it(world):
    b = world.broker
    for metric, limit in (("gpu_seconds", 36_000), ("spend_micros", 5_000_000)):
        quota = models.QuotaSet(scope="member", name="cs101", metric=metric, limit=limit, window="week")
        world.ok(await b.add_quota(world.admin, quota))
    job = await ran(world)
    refund = models.RefundSet(reason="the node failed")
    answers = await asyncio.gather(*[b.refund(world.admin, job.id, refund) for _ in range(10)])
    (receipt,) = [answer for answer in answers if not isinstance(answer, Refused)]
    assert {answer.code for answer in answers if isinstance(answer, Refused)} == {"nothing_to_refund"}
    assert (receipt.total_micros, receipt.ledger_micros, receipt.refunded_micros) == (0, 0, 500_000)
    assert all(line.refunded for line in receipt.lines)
    klass = await account(world, "class:cs101")
    assert (klass.granted_micros, klass.spent_micros, klass.left_micros) == (100_000_000, 0, 100_000_000)
    assert {quota.used for quota in await b.quotas(world.alice)} == {0}
    grants = await b.grants(world.alice, "class:cs101")
    assert sum(g.amount_micros for g in grants if g.source == f"refund:{job.id}") == 500_000
    line = (await b.audit(world.admin, 1))[0]
    assert (line.actor, line.action, line.subject) == ("root", "refund", job.id)
    assert line.before["account"]["spent_micros"] == 500_000
    assert (line.after["account"]["spent_micros"], line.after["reason"]) == (0, "the node failed")


async def test_lines_are_refunded_one_by_one_each_at_most_once(world):
    b = world.broker
    half = models.PromotionSet(
        name="Half", percent_off=50, starts_at=at(world.clock.ms + 600_000), ends_at=at(world.clock.ms + 1_200_000)
    )
    world.ok(await b.add_promotion(world.admin, half))
    job = await ran(world, seconds=1800)
    lines = world.ok(await b.receipt(world.alice, job.id)).lines
    assert len(lines) == 3
    middle = models.RefundSet(reason="slow", charge_ids=(lines[1].charge_id,))
    receipt = world.ok(await b.refund(world.admin, job.id, middle))
    assert [line.refunded for line in receipt.lines] == [False, True, False]
    assert receipt.total_micros == receipt.ledger_micros == lines[0].amount_micros + lines[2].amount_micros
    assert (await b.refund(world.admin, job.id, middle)).code == "already_refunded"
    for nothing in (0, 999, lines[1].charge_id + 10_000):
        request = models.RefundSet(reason="x").model_copy(update={"charge_ids": (nothing,)})
        assert (await b.refund(world.admin, job.id, request)).code == "not_found"
    rest = world.ok(await b.refund(world.admin, job.id, models.RefundSet(reason="all")))
    assert (rest.total_micros, rest.saved_micros) == (0, 0)


async def test_only_an_administrator_refunds_and_a_refusal_changes_nothing(world):
    job = await ran(world)
    request = models.RefundSet(reason="please")
    for actor in (world.alice, world.teacher):
        assert (await world.broker.refund(actor, job.id, request)).code == "not_allowed"
    assert (await world.broker.refund(world.eve, job.id, request)).code == "not_found"
    assert (await account(world, "class:cs101")).spent_micros == 500_000


async def test_a_refund_frees_what_was_taken_of_a_budget_and_of_free_time(world):
    b = world.broker
    day = {"starts_at": at(world.clock.ms), "ends_at": at(world.clock.ms + DAY_MS)}
    world.ok(await b.add_promotion(world.admin, models.PromotionSet(name="Free", free_gpu_seconds=3600, **day)))
    job = await ran(world)
    assert (await b.promotions(world.alice))[0].free_left_seconds == 0
    receipt = world.ok(await b.refund(world.admin, job.id, models.RefundSet(reason="lost")))
    assert (receipt.refunded_micros, [line.refunded for line in receipt.lines]) == (0, [True])
    assert (await b.promotions(world.alice))[0].free_left_seconds == 3600
