"""Asking for more of a limit or of credit: who may ask, who answers, what follows; nobody answers themselves."""

from __future__ import annotations

import asyncio

import pytest

from fastgpu import models
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.views import at
from fastgpu_hub.pricing.explain import Refused

pytestmark = pytest.mark.asyncio
H100 = "h100-80gb"
YES = models.AskDecision()


async def limit(world, scope="member", name="cs101", metric="gpu_seconds", amount=3600, window="day", **changes):
    request = models.QuotaSet(scope=scope, name=name, metric=metric, limit=amount, window=window, **changes)
    return world.ok(await world.broker.add_quota(world.admin, request))


async def ask(world, actor=None, **changes):
    return await world.broker.ask(
        actor or world.alice, models.AskSet(**{"amount": 7200, "reason": "thesis", **changes})
    )


async def told(world, name: str) -> list[tuple[str, str]]:
    notices = await world.store.read(lambda uow: uow.notices(name))
    return [(notice.kind, notice.explanation.code) for notice in notices]


async def seen(world, actor, quota_id: int) -> models.QuotaUse:
    return next(quota for quota in await world.broker.quotas(actor) if quota.quota_id == quota_id)


async def test_a_teacher_gives_more_of_a_limit_to_the_one_who_asked_until_its_window_ends(world):
    quota = await limit(world)
    assert (await world.submit(time_limit_seconds=2 * 3600)).code == "quota_gpu_hours"
    request = world.ok(await ask(world, quota_id=quota.quota_id))
    assert (request.state, request.metric, request.decidable) == ("open", "gpu_seconds", False)
    (shown,) = await world.broker.asks(world.teacher)
    assert (shown.id, shown.owner, shown.reason, shown.decidable) == (request.id, "alice", "thesis", True)
    given = world.ok(await world.broker.approve_ask(world.teacher, request.id, YES))
    assert (given.state, given.decided_by, given.decidable) == ("approved", "tess", False)
    mine = await seen(world, world.alice, quota.quota_id)
    assert (mine.limit, mine.extra, mine.left) == (10_800, 7200, 10_800)
    assert (await seen(world, world.bob, quota.quota_id)).extra == 0
    world.ok(await world.submit(time_limit_seconds=2 * 3600))
    assert await told(world, "alice") == [("answered", "ask_approved")]
    await world.pass_time(24 * 3600)
    assert (await seen(world, world.alice, quota.quota_id)).extra == 0


async def test_a_teacher_may_give_another_amount_and_another_time(world):
    quota = await limit(world)
    request = world.ok(await ask(world, quota_id=quota.quota_id))
    decision = models.AskDecision(amount=60, until=at(world.clock.ms + 60_000), answer="a little")
    given = world.ok(await world.broker.approve_ask(world.teacher, request.id, decision))
    assert (given.amount, given.answer) == (60, "a little")
    assert (await seen(world, world.alice, quota.quota_id)).extra == 60
    (notice,) = await world.store.read(lambda uow: uow.notices("alice"))
    assert notice.explanation.numbers == {"ask_id": request.id, "asked": 7200, "given": 60}
    assert "a little" in notice.explanation.message
    world.clock.ms += 60_000
    assert (await seen(world, world.alice, quota.quota_id)).extra == 0


async def test_more_gpus_at_once_let_a_waiting_job_start(world):
    quota = await limit(world, metric="concurrent_gpus", amount=1, window="always")
    first, second = world.ok(await world.submit()), world.ok(await world.submit())
    await world.settle_down()
    assert (await world.broker.job(world.alice, second.id)).state == "queued"
    request = world.ok(await ask(world, quota_id=quota.quota_id, amount=1))
    world.ok(await world.broker.approve_ask(world.teacher, request.id, YES))
    await world.settle_down()
    assert [(await world.broker.job(world.alice, job.id)).state for job in (first, second)] == ["running", "running"]
    assert (await seen(world, world.alice, quota.quota_id)).used == 2


async def test_credit_for_a_member_comes_out_of_the_class_and_never_more_than_it_has(world):
    b = world.broker
    request = world.ok(await ask(world, account="person:alice", amount=150_000_000))
    assert (await b.approve_ask(world.teacher, request.id, YES)).code == "credit"
    assert (await b.asks(world.alice))[0].state == "open"
    world.ok(await b.approve_ask(world.teacher, request.id, models.AskDecision(amount=60_000_000)))
    accounts = {a.id: a for a in (await b.status(world.alice)).accounts}
    assert accounts["class:cs101"].given_micros == accounts["person:alice"].left_micros == 60_000_000
    (grant,) = await b.grants(world.alice, "person:alice")
    assert (grant.source, grant.note, grant.by) == (f"ask:{request.id}", "thesis", "tess")
    # An administrator gives of the site's.
    more = world.ok(await ask(world, account="person:alice", amount=5))
    world.ok(await b.approve_ask(world.admin, more.id, YES))
    accounts = {a.id: a for a in (await b.status(world.alice)).accounts}
    assert (accounts["class:cs101"].given_micros, accounts["person:alice"].left_micros) == (60_000_000, 60_000_005)


async def test_who_answers_what(world):
    b = world.broker
    member = await limit(world)
    klass = await limit(world, scope="class", metric="spend_micros")
    site = await limit(world, scope="site", name="", metric="spend_micros")
    person = await limit(world, scope="person", name="alice", metric="spend_micros")
    other = Actor("tom", teaches=("bio7",))
    wanted = [
        ({"quota_id": member.quota_id}, True),
        ({"account": "person:alice"}, True),
        ({"account": "class:cs101"}, False),
        ({"quota_id": klass.quota_id}, False),
        ({"quota_id": site.quota_id}, False),
        ({"quota_id": person.quota_id}, False),
    ]
    for what, by_teacher in wanted:
        request = world.ok(await ask(world, **what))
        for actor in (other, world.bob, world.eve):
            for call in (b.approve_ask, b.decline_ask):
                assert (await call(actor, request.id, YES)).code == "not_found"
            assert request.id not in [each.id for each in await b.asks(actor)]
            assert (await b.withdraw_ask(actor, request.id)).code == "not_found"
        assert (await b.approve_ask(world.alice, request.id, YES)).code == "not_allowed"
        answer = await b.approve_ask(world.teacher, request.id, models.AskDecision(amount=1))
        assert isinstance(answer, Refused) is not by_teacher, (what, answer)
        if not by_teacher:
            assert answer.code == "not_found"
            world.ok(await b.approve_ask(world.admin, request.id, models.AskDecision(amount=1)))


async def test_nobody_but_an_administrator_answers_their_own_request(world):
    quota = await limit(world)
    both = Actor("tess", classes=("cs101",), teaches=("cs101",))
    request = world.ok(await ask(world, both, quota_id=quota.quota_id))
    assert (await world.broker.approve_ask(both, request.id, YES)).code == "not_allowed"
    admin = Actor("root", classes=("cs101",), admin=True)
    own = world.ok(await ask(world, admin, quota_id=quota.quota_id))
    assert world.ok(await world.broker.approve_ask(admin, own.id, YES)).state == "approved"
    assert await told(world, "root") == []


async def test_one_asks_for_what_concerns_one_and_once_at_a_time(world):
    foreign = await limit(world, name="bio7")
    share = await limit(world, metric="credit_share_percent", amount=20, window="always")
    for what in (
        {"quota_id": foreign.quota_id},
        {"quota_id": 999},
        {"account": "class:bio7"},
        {"account": "person:bob"},
    ):
        assert (await ask(world, **what)).code == "not_found"
    for what in ({}, {"quota_id": share.quota_id, "account": "person:alice"}, {"quota_id": share.quota_id}):
        assert (await ask(world, **what)).code == "invalid_request"
    first = world.ok(await ask(world, account="person:alice"))
    again = await ask(world, account="person:alice")
    assert (again.code, again.numbers["ask_id"]) == ("ask_open", first.id)
    assert world.ok(await world.broker.withdraw_ask(world.alice, first.id)).state == "withdrawn"
    assert await told(world, "alice") == []
    world.ok(await ask(world, account="person:alice"))
    assert [each.state for each in await world.broker.asks(world.alice)] == ["open", "withdrawn"]
    assert [each.state for each in await world.broker.asks(world.alice, "open")] == ["open"]


async def test_a_request_is_answered_exactly_once_whoever_answers_at_the_same_time(world):
    quota = await limit(world)
    request = world.ok(await ask(world, quota_id=quota.quota_id))
    b = world.broker
    answers = await asyncio.gather(
        *[b.approve_ask(world.teacher, request.id, YES) for _ in range(10)],
        *[b.decline_ask(world.admin, request.id, YES) for _ in range(10)],
        b.withdraw_ask(world.alice, request.id),
    )
    (final,) = [answer for answer in answers if not isinstance(answer, Refused)]
    assert {answer.code for answer in answers if isinstance(answer, Refused)} == {"ask_answered"}
    assert len(await told(world, "alice")) == (final.state != "withdrawn")
    assert len(await world.store.read(lambda uow: uow.extras())) == (final.state == "approved")


async def test_a_declined_request_tells_why_and_gives_nothing(world):
    quota = await limit(world)
    request = world.ok(await ask(world, quota_id=quota.quota_id))
    b = world.broker
    assert (await b.decline_ask(world.teacher, request.id, models.AskDecision(amount=1))).code == "invalid_request"
    world.ok(await b.decline_ask(world.teacher, request.id, models.AskDecision(answer="later")))
    (notice,) = await world.store.read(lambda uow: uow.notices("alice"))
    assert (notice.kind, notice.explanation.code) == ("answered", "ask_declined")
    assert "later" in notice.explanation.message
    assert (await seen(world, world.alice, quota.quota_id)).extra == 0


async def test_what_is_given_and_asked_passes_on_to_a_limit_that_replaces_the_old_one(world):
    quota = await limit(world)
    first = world.ok(await ask(world, quota_id=quota.quota_id, amount=600))
    world.ok(await world.broker.approve_ask(world.teacher, first.id, YES))
    second = world.ok(await ask(world, quota_id=quota.quota_id, amount=60))
    replaced = await limit(world, amount=7200)
    assert (await seen(world, world.alice, replaced.quota_id)).limit == 7800
    world.ok(await world.broker.approve_ask(world.teacher, second.id, YES))
    assert (await seen(world, world.alice, replaced.quota_id)).extra == 660
    third = world.ok(await ask(world, quota_id=replaced.quota_id, amount=1))
    assert await world.broker.remove_quota(world.admin, replaced.quota_id) is None
    assert (await world.broker.approve_ask(world.admin, third.id, YES)).code == "ask_gone"
    assert (await world.broker.asks(world.alice))[0].label == "a limit that was lifted"


async def test_each_step_of_a_request_is_in_the_audit(world):
    quota = await limit(world)
    request = world.ok(await ask(world, quota_id=quota.quota_id))
    world.ok(await world.broker.approve_ask(world.teacher, request.id, models.AskDecision(amount=60)))
    lines = [line for line in await world.broker.audit(world.admin) if line.subject == f"ask:{request.id}"][::-1]
    assert [(line.actor, line.action) for line in lines] == [("alice", "ask"), ("tess", "ask_approved")]
    assert (lines[1].before["amount"], lines[1].after["amount"]) == (7200, 60)


async def test_the_class_page_shows_requests_and_grants_of_the_class(world):
    quota = await limit(world)
    own = world.ok(await ask(world, quota_id=quota.quota_id))
    world.ok(await ask(world, world.eve, account="person:eve"))
    report = world.ok(await world.broker.class_report(world.teacher, "cs101"))
    assert [(each.id, each.decidable) for each in report.asks] == [(own.id, True)]
    assert [grant.account for grant in report.grants] == ["class:cs101"]
