"""What every store promises the broker, over SQLite (file and temporary) and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from fastgpu_hub.broker.ports.records import AuditEntry, Hold, IdempotencyKey, Workload, WorkloadEvent
from fastgpu_hub.broker.ports.store import Store, StoreUnavailable
from fastgpu_hub.pricing.explain import Explained, Refused
from fastgpu_hub.pricing.ledger import Transfer, charge_transfers, check_balanced, grant_transfer
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.pricebook import PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Promotion
from fastgpu_hub.pricing.quotas import Quota, Scope, Totals
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
        grant_transfer(PAID_BY, 5_000_000, 1, "root", "autumn"),
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
        uow.append([grant_transfer(PAID_BY, 500, 1, "root"), grant_transfer("person:bob", 500, 2, "root")])
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
        uow.append([grant_transfer(PAID_BY, 10**15, 1, "root"), grant_transfer(PAID_BY, 10**15, 1, "root")])
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
    assert await with_workloads.read(lambda uow: uow.granted(PAID_BY)) == 2 * 10**15
    assert await with_workloads.read(lambda uow: uow.granted("person:alice")) == 0


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


async def test_promotions_come_back_exactly_and_end_once(store: Store) -> None:
    night = Promotion(
        id=0,
        name="Night",
        starts_ms=0,
        ends_ms=10 * HOUR,
        percent_off=40,
        gpu_types=("h100-80gb",),
        audience=("class:cs101", "person:bob"),
        code="OWL",
        weekly=(WeeklyWindow((0, 4), 1_320, 360), WeeklyWindow((6,), 0, 1_440)),
        time_zone="Europe/Berlin",
        created_by="root",
    )
    fixed = Promotion(0, "Fixed", 0, HOUR, fixed_per_gpu_hour_micros=0)
    night = await store.write(lambda uow: uow.add_promotion(night))
    fixed = await store.write(lambda uow: uow.add_promotion(fixed))
    assert await store.read(lambda uow: uow.promotions()) == [night, fixed]

    ended = await store.write(lambda uow: uow.end_promotion(night.id, HOUR))
    assert ended == replace(night, ends_ms=HOUR)
    assert await store.write(lambda uow: uow.end_promotion(night.id, 2 * HOUR)) == ended
    assert await store.write(lambda uow: uow.end_promotion(999, HOUR)) is None
    assert await store.read(lambda uow: uow.promotion_names()) == {night.id: "Night", fixed.id: "Fixed"}


async def test_quotas_come_and_go(store: Store) -> None:
    first = await store.write(lambda uow: uow.add_quota(Quota(0, "class", "cs101", "gpu_seconds", 40 * 3600, "week")))
    second = await store.write(
        lambda uow: uow.add_quota(Quota(0, "site", "", "concurrent_gpus", 10, gpu_type="h100-80gb", time_zone="UTC"))
    )
    assert await store.read(lambda uow: uow.quotas()) == [first, second]
    assert await store.write(lambda uow: uow.remove_quota(first.id)) == first
    assert await store.write(lambda uow: uow.remove_quota(first.id)) is None
    assert await store.read(lambda uow: uow.quotas()) == [second]


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
    assert await store.read(lambda uow: uow.audit()) == entries[::-1]
    assert await store.read(lambda uow: uow.audit(limit=1)) == [entries[2]]


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
