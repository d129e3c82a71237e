"""What every store promises the broker, over SQLite (file and temporary) and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from fastgpu_hub.broker.ports.records import (
    Ask,
    AuditEntry,
    Hold,
    IdempotencyKey,
    Notice,
    PromotionCode,
    PromotionUse,
    Redemption,
    RunRecord,
    Workload,
    WorkloadEvent,
)
from fastgpu_hub.broker.ports.store import Store, StoreUnavailable
from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.explain import Explained, Refused
from fastgpu_hub.pricing.ledger import (
    Transfer,
    charge_transfers,
    check_balanced,
    expire_transfer,
    grant_transfer,
    refund_transfers,
)
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.pricebook import PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Promotion
from fastgpu_hub.pricing.quotas import Extra, Quota, Scope, Totals
from fastgpu_hub.pricing.windows import WeeklyWindow
from fastgpu_hub.store import open_store

HOUR = 3_600_000
PAID_BY = "class:cs101"


@pytest.fixture(params=["file", "temporary", pytest.param("postgres", marks=pytest.mark.postgres)])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres_url")
        return url
    return "sqlite://" if request.param == "temporary" else f"sqlite:///{tmp_path}/store.sqlite"


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    opened = await asyncio.to_thread(open_store, store_url)
    yield opened
    check_balanced(await opened.read(lambda uow: uow.transfers()))
    await opened.close()


def a_workload(workload_id: str = "w1", **changes: Any) -> Workload:
    plain = Workload(
        id=workload_id,
        kind="job",
        owner="alice",
        account=PAID_BY,
        classes=("cs101",),
        name="train",
        gpu_type="h100-80gb",
        gpu_count=2,
        state="queued",
        requested_ms=1_000,
    )
    return replace(plain, **changes)


def a_line(from_ms: int = 0, until_ms: int = HOUR, *, unit: str = "gpu_hour", amount: int = 1_000_000) -> Line:
    return Line(unit, from_ms, until_ms, 2, 500_000, 600_000, amount, 1, None)


def a_hold(workload_id: str = "w1", *lines: Line, owner: str = "alice", account: str = PAID_BY) -> Hold:
    return Hold(0, workload_id, owner, account, "h100-80gb", 1_000, HOUR, lines or (a_line(),))


def charges(*lines: Line, workload_id: str = "w1", owner: str = "alice", account: str = PAID_BY) -> list[Transfer]:
    return charge_transfers(workload_id, owner, account, "h100-80gb", lines, 2 * HOUR)


# ---------------------------------------------------------------- workloads


async def test_a_workload_comes_back_exactly_as_it_was_saved(store: Store) -> None:
    full = a_workload(
        state="ended",
        classes=("cs101", "größe"),
        server_name="gpu",
        time_limit_ms=2**53 + 1,
        promo_code="EARLY",
        max_cost_micros=10**15,
        spec={"argv": ["python", "train.py"], "environment": {"A": "\x00 \ud800 é"}, "deep": {"n": [1, 2.5, None]}},
        fingerprint="f" * 64,
        granted_ms=1,
        billed_from_ms=2,
        charged_until_ms=3,
        ended_ms=4,
        outcome="failed",
        exit_code=-9,
        gpu_uuids=("GPU-1", "MIG-2"),
        node="n1",
        pid=4_194_304,
        simulated=True,
        explanation=Explained("queued", "second in line", {"place": 2, "gpu": "h100"}, 5, "ask for less"),
        stop_reason=Refused("credit", "the money is used up", {"left": 0}),
    )
    bare = a_workload("w2")
    await store.write(lambda uow: [uow.add_workload(full), uow.add_workload(bare)])
    assert await store.read(lambda uow: uow.workload("w1")) == full
    assert type((await store.read(lambda uow: uow.workload("w1"))).stop_reason) is Refused
    assert await store.read(lambda uow: uow.workload("w2")) == bare
    assert await store.read(lambda uow: uow.workload("w3")) is None


async def test_saving_a_workload_replaces_it_and_an_unknown_one_is_an_error(store: Store) -> None:
    granted = a_workload(state="granted", granted_ms=5, gpu_uuids=("GPU-1",))
    await store.write(lambda uow: uow.add_workload(a_workload(explanation=Explained("queued", "wait"))))
    await store.write(lambda uow: uow.save_workload(granted))
    assert await store.read(lambda uow: uow.workload("w1")) == granted
    with pytest.raises(LookupError, match="w9"):
        await store.write(lambda uow: uow.save_workload(a_workload("w9")))


async def test_workloads_are_filtered_ordered_and_limited(store: Store) -> None:
    everything = [
        a_workload("b", requested_ms=10, fingerprint="f1"),
        a_workload("a", requested_ms=10, state="running"),
        a_workload("c", requested_ms=5, owner="bob", account="person:bob", state="ended"),
        a_workload("d", requested_ms=20, kind="server", state="ended"),
    ]
    await store.write(lambda uow: [uow.add_workload(workload) for workload in everything])

    async def ids(**filters: Any) -> str:
        return "".join(workload.id for workload in await store.read(lambda uow: uow.workloads(**filters)))

    assert await ids() == "cabd"
    assert await ids(newest_first=True) == "dbac"
    assert await ids(newest_first=True, limit=2) == "db"
    assert await ids(limit=0) == ""
    assert await ids(owner="alice") == "abd"
    assert await ids(account="person:bob") == "c"
    assert await ids(states=("queued", "running")) == "ab"
    assert await ids(states=()) == ""
    assert await ids(kind="server", owner="alice") == "d"
    assert await ids(fingerprint="f1") == "b"


async def test_events_keep_their_order(store: Store) -> None:
    events = [WorkloadEvent("w1", at_ms, kind, {"n": at_ms}) for at_ms, kind in [(5, "requested"), (3, "granted")]]
    await store.write(lambda uow: [uow.add_workload(a_workload()), *map(uow.add_event, events)])
    assert await store.read(lambda uow: uow.events("w1")) == events
    assert await store.read(lambda uow: uow.events("w2")) == []


async def test_what_is_kept_of_a_run_comes_back_exactly_and_is_replaced(store: Store) -> None:
    first = RunRecord("w1", gpu_use={"from_ms": 1, "buckets": [[10, 20, None]]})
    last = RunRecord("w1", ({"name": "loss", "points": [[0, 0.1, None]]},), None, 0.1 + 0.2)
    await store.write(lambda uow: (uow.add_workload(a_workload()), uow.save_run_record(first)))
    assert await store.read(lambda uow: uow.run_record("w1")) == first
    await store.write(lambda uow: uow.save_run_record(last))
    assert await store.read(lambda uow: uow.run_record("w1")) == last
    assert await store.read(lambda uow: uow.run_record("w2")) is None


# ---------------------------------------------------------------- holds


@pytest.fixture
async def with_workloads(store: Store) -> Store:
    await store.write(lambda uow: [uow.add_workload(a_workload(name)) for name in ("w1", "w2", "w3")])
    return store


async def test_a_hold_comes_back_with_its_lines_in_order(with_workloads: Store) -> None:
    lines = (a_line(unit="start", until_ms=0), a_line(), replace(a_line(HOUR, 2 * HOUR), promotion_id=7))
    first = await with_workloads.write(lambda uow: uow.add_hold(a_hold("w1", *lines)))
    second = await with_workloads.write(lambda uow: uow.add_hold(a_hold("w2")))
    assert first == replace(a_hold("w1", *lines), id=first.id)
    assert first.id != second.id
    assert await with_workloads.read(lambda uow: uow.open_hold("w1")) == first
    assert await with_workloads.read(lambda uow: uow.open_hold("w3")) is None
    assert await with_workloads.read(lambda uow: uow.open_holds()) == [first, second]


async def test_a_workload_never_has_two_open_holds(with_workloads: Store) -> None:
    first = await with_workloads.write(lambda uow: uow.add_hold(a_hold()))
    with pytest.raises(ValueError, match="w1"):
        await with_workloads.write(lambda uow: uow.add_hold(a_hold()))
    assert await with_workloads.read(lambda uow: uow.open_holds()) == [first]
    await with_workloads.write(lambda uow: uow.save_hold(replace(first, lines=(), state="settled", resolved_ms=9)))
    assert (await with_workloads.write(lambda uow: uow.add_hold(a_hold()))).id != first.id


@pytest.mark.parametrize("state", ["settled", "voided"])
async def test_a_hold_is_resolved_once(with_workloads: Store, state: str) -> None:
    hold = await with_workloads.write(lambda uow: uow.add_hold(a_hold()))
    resolved = replace(hold, lines=(), state=state, resolved_ms=9)
    await with_workloads.write(lambda uow: uow.save_hold(resolved))
    for again in (resolved, hold, replace(hold, state="voided"), replace(hold, id=999)):
        with pytest.raises(ValueError, match="not open"):
            await with_workloads.write(lambda uow, again=again: uow.save_hold(again))
    assert await with_workloads.read(lambda uow: uow.open_holds()) == []
    assert await with_workloads.read(lambda uow: uow.held(Scope())) == Totals()


async def test_saving_a_hold_replaces_what_is_held(with_workloads: Store) -> None:
    hold = await with_workloads.write(lambda uow: uow.add_hold(a_hold("w1", a_line(amount=70), a_line(amount=30))))
    await with_workloads.write(lambda uow: uow.save_hold(replace(hold, lines=(a_line(amount=30),), until_ms=HOUR + 1)))
    assert await with_workloads.read(lambda uow: uow.held(Scope())) == Totals(30, 2 * HOUR)
    left = await with_workloads.read(lambda uow: uow.open_hold("w1"))
    assert (left.lines, left.until_ms) == ((a_line(amount=30),), HOUR + 1)
    await with_workloads.write(lambda uow: uow.save_hold(replace(hold, lines=(a_line(),), state="voided")))
    assert await with_workloads.read(lambda uow: uow.held(Scope())) == Totals()


async def test_held_adds_up_the_lines_of_the_scope_and_window(with_workloads: Store) -> None:
    task = a_line(HOUR, 2 * HOUR, unit="task_hour", amount=5)

    def add(uow: Any) -> None:
        uow.add_hold(a_hold("w1", a_line(amount=100), task))
        uow.add_hold(a_hold("w2", a_line(HOUR, 2 * HOUR, amount=1_000), owner="bob"))
        uow.add_hold(replace(a_hold("w3", a_line(amount=20_000), account="person:alice"), gpu_type="a100-40gb"))

    await with_workloads.write(add)

    async def held(scope: Scope, *window: int | None) -> Totals:
        return await with_workloads.read(lambda uow: uow.held(scope, *window))

    assert await held(Scope()) == Totals(21_105, 6 * HOUR)
    assert await held(Scope(account=PAID_BY)) == Totals(1_105, 4 * HOUR)
    assert await held(Scope(account=PAID_BY, owner="alice")) == Totals(105, 2 * HOUR)
    assert await held(Scope(owner="alice")) == Totals(20_105, 4 * HOUR)
    assert await held(Scope(gpu_type="a100-40gb")) == Totals(20_000, 2 * HOUR)
    assert await held(Scope(), HOUR, None) == Totals(1_005, 2 * HOUR)
    assert await held(Scope(), 0, HOUR) == Totals(20_100, 4 * HOUR)
    assert await held(Scope(owner="nobody")) == Totals()


# ---------------------------------------------------------------- ledger


async def test_transfers_come_back_with_ids_and_lines(with_workloads: Store) -> None:
    new = [
        grant_transfer(Grant(0, PAID_BY, 5_000_000, 1, note="autumn", by="root")),
        *charges(a_line(), replace(a_line(amount=0), promotion_id=3)),
    ]
    written = await with_workloads.write(lambda uow: uow.append(new))
    assert [replace(transfer, id=0) for transfer in written] == new
    assert len({transfer.id for transfer in written}) == 3
    assert written == sorted(written, key=lambda transfer: transfer.id)
    assert await with_workloads.read(lambda uow: uow.transfers()) == written
    assert await with_workloads.write(lambda uow: uow.append([])) == []


async def test_transfers_are_filtered(with_workloads: Store) -> None:
    def add(uow: Any) -> None:
        uow.append(
            [
                grant_transfer(Grant(0, PAID_BY, 500, 1, by="root")),
                grant_transfer(Grant(0, "person:bob", 500, 2, by="root")),
            ]
        )
        uow.append(charges(a_line()))
        uow.append(charges(a_line(), workload_id="w2", owner="bob", account="person:bob"))

    await with_workloads.write(add)

    async def found(**filters: Any) -> list[tuple[str, str]]:
        return [(t.kind, t.debit) for t in await with_workloads.read(lambda uow: uow.transfers(**filters))]

    assert await found(kind="grant") == [("grant", "site:grants")] * 2
    assert await found(account=PAID_BY) == [("grant", "site:grants"), ("charge", PAID_BY)]
    assert await found(account=PAID_BY, kind="charge") == [("charge", PAID_BY)]
    assert await found(workload_id="w2") == [("charge", "person:bob")]
    assert await found(owner="alice", kind="charge") == [("charge", PAID_BY)]
    assert await found(since_ms=2 * HOUR) == [("charge", PAID_BY), ("charge", "person:bob")]
    assert await found(kind="nothing") == []
    assert await with_workloads.read(lambda uow: uow.accounts()) == [PAID_BY, "person:bob"]


async def test_charged_adds_up_the_lines_of_the_scope_and_window(with_workloads: Store) -> None:
    def add(uow: Any) -> None:
        uow.append(
            [
                grant_transfer(Grant(0, PAID_BY, 10**15, 1, by="root")),
                grant_transfer(Grant(0, PAID_BY, 10**15, 1, by="root")),
            ]
        )
        uow.append(charges(a_line(amount=100), a_line(HOUR, 2 * HOUR, unit="task_hour", amount=5)))
        uow.append(charges(a_line(HOUR, 2 * HOUR, amount=1_000), workload_id="w2", owner="bob"))
        uow.append(charges(a_line(amount=0), workload_id="w3", account="person:alice"))

    await with_workloads.write(add)

    async def charged(scope: Scope, *window: int | None) -> Totals:
        return await with_workloads.read(lambda uow: uow.charged(scope, *window))

    assert await charged(Scope()) == Totals(1_105, 6 * HOUR)
    assert await charged(Scope(account=PAID_BY)) == Totals(1_105, 4 * HOUR)
    assert await charged(Scope(account=PAID_BY, owner="alice")) == Totals(105, 2 * HOUR)
    assert await charged(Scope(owner="alice")) == Totals(105, 4 * HOUR)
    assert await charged(Scope(gpu_type="a100-40gb")) == Totals()
    assert await charged(Scope(account=PAID_BY), HOUR, 2 * HOUR) == Totals(1_005, 2 * HOUR)
    assert await charged(Scope(account=PAID_BY), None, HOUR) == Totals(100, 2 * HOUR)


async def test_a_refund_takes_its_charge_out_of_every_sum(with_workloads: Store) -> None:
    def add(uow: Any) -> list[Transfer]:
        booked: list[Transfer] = uow.append(charges(a_line(amount=100), a_line(HOUR, 2 * HOUR, amount=7)))
        uow.append(refund_transfers(booked[:1], 3 * HOUR, "root", "the node failed"))
        return booked

    first, second = await with_workloads.write(add)

    def look(uow: Any) -> tuple[Any, ...]:
        scope = Scope(account=PAID_BY, owner="alice", gpu_type="h100-80gb")
        return (
            uow.charged(scope),
            uow.charged(scope, 0, HOUR),
            uow.refunded(scope),
            uow.refunded(Scope(account="person:alice")),
            uow.lines_ending_after(scope, 0),
        )

    assert await with_workloads.read(look) == (
        Totals(7, 2 * HOUR),
        Totals(),
        Totals(100, 2 * HOUR),
        Totals(),
        [second.line],
    )
    with pytest.raises(IntegrityError):
        await with_workloads.write(lambda uow: uow.append(refund_transfers([first], 4 * HOUR, "root", "again")))


async def test_lines_that_still_count_are_found_by_their_end(with_workloads: Store) -> None:
    lines = [a_line(0, HOUR), a_line(0, 3 * HOUR), a_line(2 * HOUR, 3 * HOUR)]
    await with_workloads.write(lambda uow: uow.append(charges(*lines)))
    assert await with_workloads.read(lambda uow: uow.lines_ending_after(Scope(owner="alice"), HOUR)) == lines[1:]
    assert await with_workloads.read(lambda uow: uow.lines_ending_after(Scope(owner="bob"), 0)) == []


async def test_what_an_account_gave_away_and_what_expired_of_it(store: Store) -> None:
    def add(uow: Any) -> Grant:
        of_class = uow.add_grant(Grant(0, PAID_BY, 1_000, 1, expires_ms=50, by="root"))
        gift = uow.add_grant(Grant(0, "person:alice", 300, 10, by="teacher"))
        uow.append([grant_transfer(of_class), grant_transfer(gift, PAID_BY)])
        assert uow.expired_grants(50) == [of_class]
        uow.append([expire_transfer(of_class, 700, 50)])
        assert uow.expired_grants(50) == []
        return of_class

    of_class = await store.write(add)
    windows = [(), (10, 11), (11, None), (None, 10)]
    given = await store.read(lambda uow: [uow.given(PAID_BY, *window) for window in windows])
    assert given == [300, 300, 0, 0]
    assert await store.read(lambda uow: uow.given("person:alice")) == 0
    assert await store.read(lambda uow: uow.expired(PAID_BY)) == {of_class.id: 700}
    assert await store.read(lambda uow: uow.expired("person:alice")) == {}
    assert await store.read(lambda uow: uow.accounts()) == [PAID_BY, "person:alice"]
    assert [g.account for g in await store.read(lambda uow: uow.grants())] == [PAID_BY, "person:alice"]
    assert await store.read(lambda uow: uow.grants(PAID_BY)) == [of_class]


async def test_usage_is_added_up_by_any_of_its_columns(with_workloads: Store) -> None:
    saving = replace(a_line(HOUR, 2 * HOUR, amount=1_000), promotion_id=3)

    def add(uow: Any) -> None:
        uow.append(charges(a_line(amount=100), a_line(HOUR, 2 * HOUR, unit="task_hour", amount=5)))
        uow.append(charges(saving, workload_id="w2", owner="bob"))
        free = uow.append(charges(a_line(amount=9), workload_id="w3", account="person:alice"))
        uow.append(refund_transfers(free, 3 * HOUR, "root", "the node failed"))

    await with_workloads.write(add)

    async def usage(by: str, **which: Any) -> list[tuple[Any, ...]]:
        return sorted(tuple(row) for row in await with_workloads.read(lambda uow: uow.usage(by, **which)))

    saved = [line.saved_micros for line in (a_line(), a_line(unit="task_hour"), saving)]
    alice, bob = ("alice", 105, 2 * HOUR, sum(saved[:2]), 2), ("bob", 1_000, 2 * HOUR, saved[2], 1)
    assert saved == [200_000, 100_000, 200_000]
    assert await usage("owner") == [alice, bob]
    assert await usage("owner", accounts=[PAID_BY]) == [alice, bob]
    assert await usage("owner", accounts=["person:alice"]) == [("alice", 0, 0, 0, 0)]
    assert await usage("owner", accounts=["person:alice", PAID_BY], owner="bob") == [bob]
    assert await usage("owner", accounts=[]) == []
    assert await usage("owner", from_ms=HOUR) == [("alice", 5, 0, saved[1], 1), bob]
    assert await usage("owner", until_ms=HOUR) == [("alice", 100, 2 * HOUR, saved[0], 1)]
    assert await usage("gpu_type") == [("h100-80gb", 1_105, 4 * HOUR, sum(saved), 3)]
    assert await usage("gpu_type", owner="bob") == [("h100-80gb", *bob[1:])]
    assert await usage("workload_id", owner="alice") == [("w1", *alice[1:]), ("w3", 0, 0, 0, 0)]
    assert await usage("from_ms", owner="bob", from_ms=0, until_ms=2 * HOUR) == [(HOUR, *bob[1:])]
    assert await with_workloads.read(lambda uow: uow.rollup_faults(10)) == []


@pytest.mark.parametrize("missing", ["line", "owner", "gpu_type"])
async def test_a_charge_that_no_sum_could_count_is_refused(with_workloads: Store, missing: str) -> None:
    bare = replace(charges(a_line())[0], **{missing: None})
    with pytest.raises(ValueError, match="a charge carries its"):
        await with_workloads.write(lambda uow: uow.append([bare]))
    assert await with_workloads.read(lambda uow: uow.transfers()) == []


async def test_an_amount_that_is_negative_or_not_its_lines_is_refused(with_workloads: Store) -> None:
    charge = charges(a_line())[0]
    with pytest.raises(ValueError, match="cannot carry"):
        await with_workloads.write(lambda uow: uow.append([replace(charge, amount_micros=1)]))
    negative = replace(charge, amount_micros=-1, line=a_line(amount=-1))
    with pytest.raises(IntegrityError):
        await with_workloads.write(lambda uow: uow.append([negative]))
    with pytest.raises(IntegrityError):
        await with_workloads.write(lambda uow: uow.add_hold(a_hold("w1", a_line(amount=-1))))
    assert await with_workloads.read(lambda uow: uow.transfers()) == []


# ---------------------------------------------------------------- rules


async def test_prices_come_back_with_ids(store: Store) -> None:
    rate = Rate(500_000, 100_000, 7)
    first = await store.write(lambda uow: uow.add_price("h100-80gb", rate, 0, "root"))
    second = await store.write(lambda uow: uow.add_price("h100-80gb", Rate(), HOUR, "root"))
    assert first == PriceVersion(first.id, "h100-80gb", rate, 0, "root")
    assert await store.read(lambda uow: uow.prices()) == [first, second]


def a_promotion(**changes: Any) -> Promotion:
    plain = Promotion(
        id=0,
        name="Night",
        starts_ms=0,
        ends_ms=10 * HOUR,
        percent_off=40,
        gpu_types=("h100-80gb",),
        audience=("class:cs101", "person:bob", "new"),
        weekly=(WeeklyWindow((0, 4), 1_320, 360), WeeklyWindow((6,), 0, 1_440)),
        time_zone="Europe/Berlin",
        created_by="root",
        needs_code=True,
        published=False,
        max_redemptions=50,
        max_per_person=2,
        budget_micros=10**9,
    )
    return replace(plain, **changes)


async def test_promotions_come_back_exactly_in_their_newest_version(store: Store) -> None:
    kinds = [
        a_promotion(),
        a_promotion(percent_off=None, fixed_per_gpu_hour_micros=0),
        a_promotion(percent_off=None, free_gpu_ms=HOUR),
        a_promotion(percent_off=None, credit_micros=5, credit_days=30, budget_micros=None, gpu_types=()),
        a_promotion(budget_micros=None, stacks=True, published=True),
    ]
    written = await store.write(lambda uow: [uow.add_promotion(kind) for kind in kinds])
    assert written == [replace(kind, id=one.id, family=one.id) for kind, one in zip(kinds, written, strict=True)]
    assert await store.read(lambda uow: uow.promotions()) == written

    night, *others = written
    later = await store.write(lambda uow: uow.add_promotion(replace(night, version=2, ends_ms=HOUR)))
    assert later == replace(night, id=later.id, version=2, ends_ms=HOUR)
    assert await store.read(lambda uow: uow.promotions()) == [later, *others]
    assert await store.read(lambda uow: uow.promotion_versions()) == [*written, later]
    assert await store.read(lambda uow: uow.promotion_names()) == {one.id: "Night" for one in (*written, later)}
    with pytest.raises(IntegrityError):
        await store.write(lambda uow: uow.add_promotion(replace(night, version=2)))


async def test_codes_and_redemptions_are_counted(store: Store) -> None:
    def add(uow: Any) -> int:
        family: int = uow.add_promotion(a_promotion()).family
        other: int = uow.add_promotion(a_promotion()).family
        uow.add_codes([PromotionCode("OWL", family, 2, 1, "root"), PromotionCode("BAT", family, None, 2, "root")])
        for owner, code, at_ms in (("alice", "OWL", 3), ("alice", "OWL", 4), ("bob", "BAT", 5)):
            made = uow.add_redemption(Redemption(0, family, owner, PAID_BY, code, at_ms))
            assert made.id > 0
        uow.add_redemption(Redemption(0, other, "bob", PAID_BY, None, 6))
        return family

    family = await store.write(add)
    owl = PromotionCode("OWL", family, 2, 1, "root", uses=2)
    assert await store.read(lambda uow: uow.code("OWL")) == owl
    assert await store.read(lambda uow: uow.code("owl")) is None
    assert await store.read(lambda uow: uow.codes(family)) == [
        owl,
        PromotionCode("BAT", family, None, 2, "root", uses=1),
    ]
    counts = await store.read(lambda uow: [uow.redemption_counts(owner) for owner in ("alice", "bob", "carol")])
    assert [of_one[family] for of_one in counts] == [(2, 3), (1, 3), (0, 3)]
    assert [len(of_one) for of_one in counts] == [2, 2, 2]
    with pytest.raises(ValueError, match="OWL"):
        await store.write(lambda uow: uow.add_codes([PromotionCode("OWL", family, 1, 9, "root")]))


async def test_what_a_promotion_took_off_counts_charges_refunds_and_holds(with_workloads: Store) -> None:
    def add(uow: Any) -> tuple[int, int]:
        first = uow.add_promotion(a_promotion())
        second = uow.add_promotion(replace(first, version=2))
        other = uow.add_promotion(a_promotion())

        def line(promotion: Promotion, amount: int) -> Line:
            return replace(a_line(amount=amount), promotion_id=promotion.id)

        booked = uow.append(charges(line(first, 1), line(second, 2), line(other, 3)))
        uow.append(charges(line(second, 4), owner="bob", workload_id="w2"))
        uow.append(refund_transfers(booked[:1], 5, "root", "the node failed"))
        uow.add_hold(a_hold("w3", line(second, 5), a_line()))
        return first.family, other.family

    family, other = await with_workloads.write(add)
    each = a_line().saved_micros
    used = await with_workloads.read(lambda uow: uow.promotion_use([family, other, 999]))
    assert used == {family: PromotionUse(3 * each, 6 * HOUR), other: PromotionUse(each, 2 * HOUR)}
    used = await with_workloads.read(lambda uow: uow.promotion_use([family], owner="bob"))
    assert used == {family: PromotionUse(each, 2 * HOUR)}
    assert await with_workloads.read(lambda uow: uow.promotion_use([])) == {}


async def test_when_a_person_first_used_a_gpu(with_workloads: Store) -> None:
    assert await with_workloads.read(lambda uow: uow.first_used_ms("alice")) is None
    await with_workloads.write(lambda uow: uow.append(charges(a_line(2 * HOUR, 3 * HOUR), a_line(HOUR, 2 * HOUR))))
    assert await with_workloads.read(lambda uow: uow.first_used_ms("alice")) == HOUR
    assert await with_workloads.read(lambda uow: uow.first_used_ms("bob")) is None


async def test_quotas_come_and_go(store: Store) -> None:
    first = await store.write(lambda uow: uow.add_quota(Quota(0, "class", "cs101", "gpu_seconds", 40 * 3600, "week")))
    second = await store.write(
        lambda uow: uow.add_quota(Quota(0, "site", "", "concurrent_gpus", 10, gpu_type="h100-80gb", time_zone="UTC"))
    )
    assert await store.read(lambda uow: uow.quotas()) == [first, second]
    assert await store.write(lambda uow: uow.remove_quota(first.id)) == first
    assert await store.write(lambda uow: uow.remove_quota(first.id)) is None
    assert await store.read(lambda uow: uow.quotas()) == [second]


async def test_every_kind_of_limit_and_what_is_given_beyond_it_comes_back_exactly(store: Store) -> None:
    limits = [
        Quota(0, "class", "cs101", "spend_micros", 5, "term", soft=True, starts_ms=1, ends_ms=9),
        Quota(0, "person", "alice", "gpu_seconds", 5, "rolling", rolling_ms=HOUR),
        Quota(0, "member", "cs101", "credit_share_percent", 40),
    ]
    written = await store.write(lambda uow: [uow.add_quota(limit) for limit in limits])
    assert [replace(limit, id=0) for limit in written] == limits
    assert await store.read(lambda uow: uow.quotas()) == written
    extras = [Extra(0, written[0].id, "", 7, 1, None), Extra(0, written[1].id, "alice", 3, 1, 9)]
    given = await store.write(lambda uow: [uow.add_extra(extra) for extra in extras])
    assert [replace(extra, id=0) for extra in given] == extras
    assert await store.read(lambda uow: uow.extras()) == given


async def test_every_change_of_a_rule_raises_their_version(store: Store) -> None:
    seen: list[Any] = [await store.read(lambda uow: uow.rules_version())]
    quota = Quota(0, "site", "", "concurrent_gpus", 10)
    changes = [
        lambda uow: uow.add_price("h100-80gb", Rate(1), 0, "root"),
        lambda uow: uow.add_promotion(a_promotion()),
        lambda uow: uow.add_quota(quota),
        lambda uow: uow.add_extra(Extra(0, 1, "", 7, 1, None)),
        lambda uow: uow.remove_quota(1),
    ]
    for change in changes:
        await store.write(change)
        seen.append(await store.read(lambda uow: uow.rules_version()))
    assert len(set(seen)) == len(seen)
    await store.write(lambda uow: uow.set_setting("seed", 1))
    assert await store.read(lambda uow: uow.rules_version()) == seen[-1]


async def test_requests_for_more_are_kept_until_they_are_decided(store: Store) -> None:
    first = await store.write(lambda uow: uow.add_ask(Ask(0, "alice", PAID_BY, 3, 10, "a deadline", "open", 1)))
    second = await store.write(lambda uow: uow.add_ask(Ask(0, "bob", PAID_BY, None, 20, "", "open", 2)))
    decided = replace(first, state="approved", decided_ms=5, decided_by="teacher", answer="yes")
    await store.write(lambda uow: uow.save_ask(decided))
    assert await store.read(lambda uow: uow.asks()) == [second, decided]
    assert await store.read(lambda uow: uow.asks(owner="alice")) == [decided]
    assert await store.read(lambda uow: uow.asks(state="open")) == [second]
    with pytest.raises(LookupError, match="999"):
        await store.write(lambda uow: uow.save_ask(replace(first, id=999)))


async def test_notices_are_read_on_from_the_last_one_seen(store: Store) -> None:
    def add(uow: Any) -> list[Notice]:
        about = Explained("ending", "ends soon", {"minutes": 10}, 5, "renew")
        new = [Notice(0, owner, 1, "ending", about, "w1", 9) for owner in ("alice", "bob", "alice", "alice")]
        return [uow.add_notice(notice) for notice in new]

    first, bobs, second, third = await store.write(add)
    assert await store.read(lambda uow: uow.notices("alice")) == [first, second, third]
    assert await store.read(lambda uow: uow.notices("alice", after_id=first.id)) == [second, third]
    assert await store.read(lambda uow: uow.notices("alice", limit=2)) == [second, third]
    assert await store.read(lambda uow: uow.notices("bob")) == [bobs]


# ---------------------------------------------------------------- idempotency, audit, seeds


async def test_an_idempotency_key_is_claimed_once_per_actor_and_forgotten_with_age(store: Store) -> None:
    entry = IdempotencyKey("alice", "k", "POST /jobs", "0" * 64, 100, 201, '{"id": "w1"}')
    others = [replace(entry, actor="bob", created_ms=200)]
    await store.write(lambda uow: [uow.add_idempotency_key(one) for one in [entry, *others]])
    with pytest.raises(IntegrityError):
        await store.write(lambda uow: uow.add_idempotency_key(replace(entry, status=500)))
    assert await store.read(lambda uow: uow.idempotency_key("alice", "k")) == entry
    assert await store.read(lambda uow: uow.idempotency_key("alice", "other")) is None
    assert await store.write(lambda uow: uow.forget_idempotency_keys(200)) == 1
    assert await store.read(lambda uow: uow.idempotency_key("alice", "k")) is None
    assert await store.read(lambda uow: uow.idempotency_key("bob", "k")) == others[0]


async def test_the_audit_shows_the_newest_first(store: Store) -> None:
    entries = [
        AuditEntry(at_ms, "root", "price.set", "h100-80gb", None if at_ms == 1 else {"n": at_ms}, {})
        for at_ms in (1, 2, 3)
    ]
    await store.write(lambda uow: [uow.add_audit(entry) for entry in entries])
    found = await store.read(lambda uow: uow.audit())
    assert [replace(entry, id=0, sha256="") for entry in found] == entries[::-1]
    assert [entry.id for entry in found] == [3, 2, 1]
    assert await store.read(lambda uow: uow.audit(limit=1)) == found[:1]


async def test_the_audit_is_read_on_by_actor_and_by_text_in_the_subject(store: Store) -> None:
    subjects = ("class CS101: 40 %", "class bio7: 4 GPUs", "class cs101: 41_")
    entries = [
        AuditEntry(n, "root" if n else "tina", "set_quota", subject, None, None) for n, subject in enumerate(subjects)
    ]
    await store.write(lambda uow: [uow.add_audit(entry) for entry in entries])

    async def ids(**wanted: Any) -> list[int]:
        return [entry.id for entry in await store.read(lambda uow: uow.audit(**wanted))]

    assert await ids(before_id=3) == [2, 1]
    assert await ids(actor="root", before_id=3) == [2]
    assert await ids(subject="cs101") == [3, 1], "whatever the case"
    assert await ids(subject="%") == [1], "taken as it is written"
    assert await ids(subject="1_") == [3]
    assert await ids(actor="tina", subject="bio7") == []


@pytest.mark.parametrize("value", [0, "", [1, "two"], {"a": {"b": None}}, True])
async def test_a_setting_is_replaced(store: Store, value: Any) -> None:
    assert await store.read(lambda uow: uow.setting("seed")) is None
    await store.write(lambda uow: uow.set_setting("seed", "before"))
    await store.write(lambda uow: uow.set_setting("seed", value))
    assert await store.read(lambda uow: uow.setting("seed")) == value


# ---------------------------------------------------------------- transactions


async def test_a_use_case_sees_its_own_writes_and_takes_all_of_them_back_when_it_fails(store: Store) -> None:
    def fails(uow: Any) -> None:
        uow.add_workload(a_workload())
        uow.append(charges(a_line()))
        assert uow.charged(Scope()).amount_micros == 1_000_000
        raise KeyError("my own")

    with pytest.raises(KeyError, match="my own"):
        await store.write(fails)
    assert await store.read(lambda uow: (uow.workload("w1"), uow.transfers())) == (None, [])


async def test_writes_of_one_task_happen_in_the_order_they_were_asked_for(store: Store) -> None:
    seen: list[int] = []
    await asyncio.gather(*(store.write(lambda uow, n=n: seen.append(n)) for n in range(600)))
    assert seen == list(range(600))


async def test_sixty_four_concurrent_writers_lose_no_update(store: Store) -> None:
    def increment(uow: Any) -> int:
        value: int = (uow.setting("count") or 0) + 1
        uow.set_setting("count", value)
        return value

    async def writer() -> list[int]:
        return [await store.write(increment) for _ in range(5)]

    results = await asyncio.gather(*(writer() for _ in range(64)))
    assert sorted(value for values in results for value in values) == list(range(1, 321))
    assert await store.read(lambda uow: uow.setting("count")) == 320


async def test_reading_refuses_to_write(store: Store) -> None:
    with pytest.raises(Exception, match=r"(?i)read-?only"):
        await store.read(lambda uow: uow.set_setting("a", 1))
    assert await store.read(lambda uow: uow.setting("a")) is None


async def test_a_closed_store_says_so_and_may_be_closed_again(store_url: str) -> None:
    store = await asyncio.to_thread(open_store, store_url)
    last = asyncio.gather(*(store.write(lambda uow, n=n: n) for n in range(100)))
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    assert await last == list(range(100))
    for call in (store.write, store.read):
        with pytest.raises(StoreUnavailable, match="closed"):
            await call(lambda uow: None)


def test_it_works_from_any_event_loop(store_url: str) -> None:
    def numbers() -> Iterator[int]:
        store = open_store(store_url)
        try:
            for n in range(3):
                yield asyncio.run(store.write(lambda uow, n=n: n))
        finally:
            asyncio.run(store.close())

    assert list(numbers()) == [0, 1, 2]
