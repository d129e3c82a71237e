"""Promotions: from draft to end, codes, places, guessing. Caps hold whoever comes at the same time."""

from __future__ import annotations

import asyncio
from math import log2

import pytest

from fastgpu import models
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.promotion_rules import ALPHABET, random_code
from fastgpu_hub.broker.views import at
from fastgpu_hub.pricing.explain import Refused

pytestmark = pytest.mark.asyncio
H100 = "h100-80gb"
HOUR_MS = 3_600_000
BOTH = pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)


def wish(world, hours: float = 24, **changes) -> models.PromotionSet:
    """Half price from now on, for everyone, unless said otherwise."""
    base = {"name": "Half", "starts_at": at(world.clock.ms), "ends_at": at(world.clock.ms + int(hours * HOUR_MS))}
    kinds = ("percent_off", "fixed_per_gpu_hour_micros", "free_gpu_seconds", "credit_micros")
    kind = {} if any(name in changes for name in kinds) else {"percent_off": 50}
    return models.PromotionSet(**{**base, **kind, **changes})


async def made(world, actor=None, **changes) -> models.Promotion:
    return world.ok(await world.broker.add_promotion(actor or world.admin, wish(world, **changes)))


async def price(world, actor, code=None, seconds: int = 3600) -> int:
    request = models.QuoteRequest(gpu_type=H100, duration_seconds=seconds, promo_code=code)
    return world.ok(await world.broker.quote(actor, request)).max_micros


async def redeem(world, actor, code=None, **changes):
    return await world.broker.redeem(actor, models.Redeem(code=code, **changes))


async def rows_of(world) -> dict[str, int]:
    """How much the tables hold that taking a place may write."""

    def count(uow):
        return {
            "redemptions": sum(everybody for _, everybody in uow.redemption_counts("").values()),
            "grants": len(uow.grants()),
            "transfers": len(uow.transfers()),
            "audit": len(uow.audit(100_000)),
        }

    return await world.store.read(count)


def everybody(count: int) -> list[Actor]:
    return [Actor(f"student{n}", classes=("cs101",)) for n in range(count)]


# ---------------------------------------------------------------- draft, scheduled, live, ended


async def test_a_draft_is_seen_by_its_makers_only_and_changes_no_price_until_it_is_published(world):
    draft = await made(world, world.teacher, draft=True, audience=("class:cs101",))
    assert (draft.state, draft.version) == ("draft", 1)
    assert await price(world, world.alice) == 500_000
    assert await world.broker.promotions(world.alice) == []
    assert [p.id for p in await world.broker.promotions(world.teacher)] == [draft.id]
    assert (await redeem(world, world.alice, promotion_id=draft.id)).code == "not_found"
    live = world.ok(await world.broker.publish_promotion(world.teacher, draft.id))
    assert (live.id, live.version, live.state) == (draft.id, 2, "live")
    assert await price(world, world.alice) == 250_000
    assert (await world.broker.publish_promotion(world.teacher, draft.id)).code == "promo_published"


async def test_a_promotion_goes_through_scheduled_and_live_to_ended(world):
    soon = await made(world, starts_at=at(world.clock.ms + HOUR_MS), hours=2)
    assert (soon.state, soon.active) == ("scheduled", False)
    assert soon.changes_at == at(world.clock.ms + HOUR_MS)
    await world.pass_time(3600)
    assert (await world.broker.promotions(world.alice))[0].state == "live"
    ended = world.ok(await world.broker.end_promotion(world.admin, soon.id))
    assert (ended.state, ended.version, ended.ends_at) == ("ended", 2, at(world.clock.ms))
    assert await world.broker.promotions(world.alice) == []
    assert world.ok(await world.broker.end_promotion(world.admin, soon.id)).version == 2
    assert (await world.broker.edit_promotion(world.admin, soon.id, wish(world))).code == "promo_ended"


async def test_an_edit_is_a_new_version_and_who_holds_a_lease_keeps_the_terms_it_was_granted_with(world):
    half = await made(world)
    job = world.ok(await world.submit())
    edited = world.ok(await world.broker.edit_promotion(world.admin, half.id, wish(world, percent_off=10)))
    assert (edited.id, edited.version) == (half.id, 2)
    assert edited.version_id != half.version_id
    assert await price(world, world.alice) == 450_000
    await world.pass_time(1800)
    world.ok(await world.broker.end_promotion(world.admin, half.id))
    await world.pass_time(1700)
    world.engine.finish(job.id)
    await world.settle_down()
    receipt = world.ok(await world.broker.receipt(world.alice, job.id))
    assert receipt.total_micros == receipt.ledger_micros == 250_000 * 3500 // 3600
    assert {line.promotion_id for line in receipt.lines} == {half.version_id}


async def test_what_a_published_promotion_gives_stays_what_it_is(world):
    half = await made(world)
    b = world.broker
    assert (await b.edit_promotion(world.admin, half.id, wish(world, credit_micros=5))).code == "promo_published"
    assert (await b.edit_promotion(world.admin, half.id, wish(world, draft=True))).code == "promo_published"
    draft = await made(world, draft=True)
    free = world.ok(await b.edit_promotion(world.admin, draft.id, wish(world, free_gpu_seconds=60, draft=True)))
    assert (free.free_gpu_seconds, free.state) == (60, "draft")


async def test_only_who_may_edit_a_promotion_can_tell_it_from_one_that_is_not_there(world):
    other = Actor("tom", teaches=("bio7",))
    own = await made(world, world.teacher, audience=("class:cs101",), needs_code=True)
    b = world.broker
    codes = models.CodesSet(count=1)
    for promotion_id in (own.id, 999):
        told = [
            await b.edit_promotion(other, promotion_id, wish(world, audience=("class:bio7",))),
            await b.end_promotion(other, promotion_id),
            await b.publish_promotion(other, promotion_id),
            await b.promotion_codes(other, promotion_id),
            await b.make_codes(other, promotion_id, codes),
        ]
        assert {(r.code, r.message.replace(str(promotion_id), "X")) for r in told} == {
            ("not_found", "There is no promotion 'X' that you may see.")
        }
    # A teacher can widen it to nobody they do not run, and an everybody's promotion is not theirs.
    wider = wish(world, audience=("class:cs101", "class:bio7"))
    assert (await b.edit_promotion(world.teacher, own.id, wider)).code == "not_allowed"
    assert (await b.add_promotion(world.teacher, wish(world, audience=("new",)))).code == "not_allowed"


async def test_every_change_of_a_promotion_is_in_the_audit_with_before_and_after(world):
    b = world.broker
    draft = await made(world, draft=True, needs_code=True)
    world.ok(await b.publish_promotion(world.admin, draft.id))
    world.ok(await b.make_codes(world.admin, draft.id, models.CodesSet(count=3)))
    world.ok(await b.edit_promotion(world.admin, draft.id, wish(world, percent_off=10, needs_code=True)))
    world.ok(await b.end_promotion(world.admin, draft.id))
    told = [line for line in await b.audit(world.admin, 100) if line.subject == str(draft.id)][::-1]
    assert [line.action for line in told] == [
        "add_promotion",
        "publish_promotion",
        "make_codes",
        "edit_promotion",
        "end_promotion",
    ]
    assert {line.actor for line in told} == {"root"}
    edit = told[3]
    assert (edit.before["percent_off"], edit.after["percent_off"]) == (50, 10)
    assert (edit.before["version"], edit.after["version"]) == (2, 3)
    codes = {code.code for code in await b.promotion_codes(world.admin, draft.id)}
    assert not any(code in line.model_dump_json() for code in codes for line in told)


async def test_of_its_audience_people_see_only_what_names_them(world):
    await made(world, audience=("class:cs101", "person:eve", "class:secret"), draft=False)
    assert (await world.broker.promotions(world.alice))[0].audience == ("class:cs101",)
    assert (await world.broker.promotions(world.bob))[0].eligible
    stranger = (await world.broker.promotions(Actor("zoe", classes=("bio7",))))[0]
    assert (stranger.audience, stranger.eligible, stranger.why_not.code) == ((), False, "promo_audience")
    assert (await world.broker.promotions(world.admin))[0].audience == ("class:cs101", "person:eve", "class:secret")


# ---------------------------------------------------------------- codes


async def test_codes_are_random_grouped_and_without_signs_that_look_alike():
    assert not set("0O1IL") & set(ALPHABET)
    code = random_code()
    assert [len(group) for group in code.split("-")] == [4, 4, 4, 4]
    assert log2(len(ALPHABET)) * len(code.replace("-", "")) >= 60
    many = [random_code() for _ in range(3000)]
    assert len(set(many)) == 3000
    assert set("".join(many)) == set(ALPHABET) | {"-"}


async def test_a_single_use_code_serves_one_person_and_a_shared_one_everybody(world):
    b = world.broker
    promotion = await made(world, code="spring-26")
    single = world.ok(await b.make_codes(world.admin, promotion.id, models.CodesSet(count=2)))
    assert (await redeem(world, world.alice, single[0].code.lower())).promotion.redeemed
    used = await redeem(world, world.bob, single[0].code)
    assert (used.code, used.numbers["uses"]) == ("promo_code_used", 1)
    assert await price(world, world.bob) == 500_000
    assert world.ok(await redeem(world, world.bob, "SPRING-26")).promotion.redeemed
    assert (await redeem(world, world.bob, "SPRING-26")).code == "promo_redeemed"
    # Who redeemed needs no code again.
    assert [await price(world, who) for who in (world.alice, world.bob, world.eve)] == [250_000, 250_000, 500_000]
    uses = {c.code: (c.uses, c.max_uses) for c in await b.promotion_codes(world.admin, promotion.id)}
    assert uses == {"SPRING-26": (1, None), single[0].code: (1, 1), single[1].code: (0, 1)}


async def test_codes_are_made_only_where_they_are_of_use_and_repeats_get_the_same(world):
    from fastgpu_hub.broker.idempotency import IdempotencyClaim

    b = world.broker
    open_one = await made(world)
    assert (await b.make_codes(world.admin, open_one.id, models.CodesSet(count=1))).code == "invalid_request"
    needs = await made(world, needs_code=True)
    key = IdempotencyClaim("k", "POST codes", "0" * 64, 201)
    first = world.ok(await b.make_codes(world.admin, needs.id, models.CodesSet(count=3), key=key))
    assert world.ok(await b.make_codes(world.admin, needs.id, models.CodesSet(count=3), key=key)) == first
    assert len(await b.promotion_codes(world.admin, needs.id)) == 3


async def test_wrong_and_foreign_codes_look_exactly_alike(world):
    foreign = await made(world, audience=("class:bio7",), code="BIO-ONLY")
    draft = await made(world, draft=True, code="NOT-YET")
    assert (foreign.needs_code, draft.state) == (True, "draft")
    told = [await redeem(world, world.alice, code) for code in ("BIO-ONLY", "NOT-YET", "NO-SUCH")]
    assert {
        (r.code, r.message.replace(c, "X"), tuple(r.numbers), r.frees_at_ms, r.instead)
        for r, c in zip(told, ("BIO-ONLY", "NOT-YET", "NO-SUCH"), strict=True)
    } == {("promo_code_wrong", "The code X is not valid for you.", (), None, told[0].instead)}
    listed = [await world.broker.promotions(world.alice, code) for code in ("BIO-ONLY", "NO-SUCH")]
    assert listed[0] == listed[1]
    quotes = [
        await world.broker.quote(world.alice, models.QuoteRequest(gpu_type=H100, promo_code=code))
        for code in ("BIO-ONLY", "NO-SUCH")
    ]
    assert [(q.allowed, q.refusal.code, q.max_micros) for q in quotes] == [(False, "promo_code_wrong", 500_000)] * 2


async def test_a_job_with_a_wrong_code_is_refused_and_not_charged_the_full_price(world):
    assert (await world.submit(promo_code="TYPO")).code == "promo_code_wrong"
    assert (await world.lease(promo_code="TYPO")).code == "promo_code_wrong"
    assert await world.broker.jobs(world.alice) == []


# ---------------------------------------------------------------- guessing


async def test_after_ten_wrong_codes_every_door_is_closed_for_ten_minutes(world):
    await made(world, code="RIGHT")
    b = world.broker
    for n in range(10):
        assert (await redeem(world, world.alice, f"GUESS-{n}")).code == "promo_code_wrong"
        world.clock.ms += 1000
    quote = models.QuoteRequest(gpu_type=H100, promo_code="RIGHT")
    doors = [
        await redeem(world, world.alice, "RIGHT"),
        await b.quote(world.alice, quote),
        await b.options(world.alice, "me", promo_code="RIGHT"),
        await b.options(world.spawner, "alice", promo_code="RIGHT"),
        await b.promotions(world.alice, "RIGHT"),
        await world.submit(promo_code="RIGHT"),
        await world.lease(promo_code="RIGHT"),
    ]
    assert {door.code for door in doors} == {"too_many_guesses"}
    assert {door.frees_at_ms for door in doors} == {world.start_ms + 600_000}
    assert doors[0].numbers["wait_seconds"] == 590
    # Others, and what needs no code, are not concerned.
    assert await price(world, world.alice) == 500_000
    assert await price(world, world.bob, "RIGHT") == 250_000
    world.clock.ms = world.start_ms + 600_000
    assert world.ok(await redeem(world, world.alice, "RIGHT")).promotion.redeemed


async def test_no_number_of_guesses_at_the_same_time_gets_past_the_count(world):
    await made(world, code="RIGHT")
    guesses = [redeem(world, world.alice, f"GUESS-{n}") for n in range(40)]
    answers = await asyncio.gather(*guesses, redeem(world, world.alice, "RIGHT"))
    assert [answer.code for answer in answers].count("promo_code_wrong") == 10
    assert [answer.code for answer in answers].count("too_many_guesses") == 31


async def test_choosing_a_taken_code_for_an_own_promotion_is_a_guess_too(world):
    await made(world, code="TAKEN")
    for n in range(10):
        own = wish(world, audience=("class:cs101",), code="TAKEN", name=f"n{n}")
        assert (await world.broker.add_promotion(world.teacher, own)).code == "promo_code_taken"
    own = wish(world, audience=("class:cs101",), code="FRESH")
    assert (await world.broker.add_promotion(world.teacher, own)).code == "too_many_guesses"


# ---------------------------------------------------------------- places


@BOTH
@pytest.mark.slow
async def test_five_hundred_redeemers_with_many_codes_take_exactly_fifty_places(world):
    b = world.broker
    promotion = await made(world, code="SPRING-26", credit_micros=1_000_000, credit_days=7, max_redemptions=50)
    single = world.ok(await b.make_codes(world.admin, promotion.id, models.CodesSet(count=250)))
    people = everybody(500)
    codes = [single[n // 2].code if n % 3 else "SPRING-26" for n in range(500)]
    before = await rows_of(world)
    answers = await asyncio.gather(*[redeem(world, who, code) for who, code in zip(people, codes, strict=True)])
    won = [answer for answer in answers if not isinstance(answer, Refused)]
    lost = [answer for answer in answers if isinstance(answer, Refused)]
    assert (len(won), len(lost)) == (50, 450)
    assert {refused.code for refused in lost} <= {"promo_full", "promo_code_used"}
    assert "promo_full" in {refused.code for refused in lost}
    after = await rows_of(world)
    assert {name: after[name] - before[name] for name in before} == {
        "redemptions": 50,
        "grants": 50,
        "transfers": 50,
        "audit": 50,
    }
    used = await b.promotion_codes(world.admin, promotion.id)
    assert sum(code.uses for code in used) == 50
    assert all(code.max_uses is None or code.uses <= code.max_uses for code in used)
    assert sorted(answer.promotion.places_left for answer in won) == list(range(50))


@BOTH
@pytest.mark.slow
async def test_fifty_places_taken_by_jobs_at_admission_are_fifty_too(world):
    promotion = await made(world, code="SPRING-26", max_redemptions=50)
    request = models.JobSubmit(
        kind="command", argv=("true",), gpu_type=H100, time_limit_seconds=60, promo_code="SPRING-26"
    )
    answers = await asyncio.gather(*[world.broker.submit_job(who, request) for who in everybody(120)])
    held = sorted(world.ok(answer).held_micros for answer in answers)
    full, half = 500_000 * 60 // 3600, 250_000 * 60 // 3600
    assert held == [half] * 50 + [full] * 70
    shown = (await world.broker.promotions(world.eve))[0]
    assert (shown.id, shown.places_left, shown.why_not.code) == (promotion.id, 0, "promo_full")


async def test_a_place_is_taken_at_admission_once_and_kept(world):
    await made(world, code="ONE", max_redemptions=1)
    first = world.ok(await world.submit(promo_code="one"))
    assert first.held_micros == 250_000
    assert world.ok(await world.submit()).held_micros == 250_000  # the same person, who needs no code again
    assert world.ok(await world.submit(world.bob, promo_code="ONE")).held_micros == 500_000
    refused = await redeem(world, world.bob, "ONE")
    assert (refused.code, refused.numbers["places_left"]) == ("promo_full", 0)


async def test_a_refused_job_takes_no_place(world):
    promotion = await made(world, code="ONE", max_redemptions=1)
    assert (await world.submit(promo_code="ONE", account="person:alice")).code == "credit"
    assert (await world.broker.promotions(world.bob))[0].places_left == 1
    assert world.ok(await redeem(world, world.bob, "ONE")).promotion.id == promotion.id


async def test_what_needs_no_place_is_not_redeemed_and_a_place_may_be_taken_outside_of_its_hours(world):
    open_one = await made(world)
    assert (await redeem(world, world.alice, promotion_id=open_one.id)).code == "promo_no_redemption"
    weekend = (models.WeeklyWindow(days=(5, 6), from_minute=0, to_minute=0),)
    places = await made(world, hours=240, max_redemptions=5, weekly=weekend, percent_off=90)
    taken = world.ok(await redeem(world, world.alice, promotion_id=places.id))
    assert (taken.promotion.places_left, taken.promotion.active, taken.granted_micros) == (4, False, 0)
    later = await made(world, starts_at=at(world.clock.ms + HOUR_MS), max_redemptions=5)
    refused = await redeem(world, world.alice, promotion_id=later.id)
    assert (refused.code, refused.frees_at_ms) == ("promo_not_started", world.clock.ms + HOUR_MS)
    for nothing in ({}, {"promotion_id": places.id, "code": "X"}):
        assert (await world.broker.redeem(world.bob, models.Redeem(**nothing))).code in (
            "invalid_request",
            "promo_code_wrong",
        )


async def test_a_promotion_of_credit_gives_it_to_the_own_account_so_often_and_it_expires(world):
    gift = await made(world, credit_micros=2_000_000, credit_days=7, code="GIFT", max_per_person=2)
    first = world.ok(await redeem(world, world.alice, "GIFT"))
    assert (first.granted_micros, first.account) == (2_000_000, "person:alice")
    second = world.ok(await redeem(world, world.alice, "GIFT", account="class:cs101"))
    assert second.account == "class:cs101"
    third = await redeem(world, world.alice, "GIFT")
    assert (third.code, third.numbers["per_person_left"]) == ("promo_redeemed", 0)
    assert (await redeem(world, world.bob, "GIFT", account="person:alice")).code == "not_allowed"
    (grant,) = await world.broker.grants(world.alice, "person:alice")
    assert (grant.source, grant.amount_micros, grant.left_micros) == (f"promotion:{gift.id}", 2_000_000, 2_000_000)
    assert grant.expires_at == at(world.clock.ms + 7 * 24 * HOUR_MS)
    assert await price(world, world.alice) == 500_000


async def test_new_users_are_told_why_they_are_not_new(world):
    await made(world, name="Welcome", audience=("new",), starts_at=at(world.clock.ms + 60_000))
    job = world.ok(await world.submit())
    await world.pass_time(30)
    world.engine.finish(job.id)
    await world.settle_down()
    await world.pass_time(60)
    assert await price(world, world.bob) == 250_000
    shown = (await world.broker.promotions(world.alice))[0]
    assert (shown.eligible, shown.why_not.code) == (False, "promo_audience")
    assert "new users" in shown.why_not.message
