"""Sums of usage are kept by month, follow the ledger, and every answer is exact at every moment."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError

from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.pricing.ledger import Transfer, charge_transfers, refund_transfers
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.quotas import Scope, Totals
from fastgpu_hub.pricing.windows import LATEST_MS, calendar_window
from fastgpu_hub.store import SqlStore, open_store, rollups, writer
from fastgpu_hub.store.databases import database_of
from fastgpu_hub.store.unit_of_work import SqlUnitOfWork

pytestmark = pytest.mark.slow  # every statement broken off

HOUR = 3_600_000
DAY = 24 * HOUR
NEW_YEAR_MS = 1_735_686_000_000  # 2025-01-01 in Berlin

PEOPLE, CLASSES, TYPES = ("alice", "bob", "carol"), ("class:a", "class:b"), ("h100-80gb", "a100-40gb")


def a_charge(workload: Workload, from_ms: int, amount: int, promotion_id: int | None = None) -> Transfer:
    line = Line("gpu_hour", from_ms, from_ms + HOUR, 2, 5, 11, amount, 1, promotion_id)
    return charge_transfers(workload.id, workload.owner, workload.account, workload.gpu_type, [line], from_ms)[0]


@pytest.fixture
def workloads(workload: Workload) -> list[Workload]:
    whose = [(owner, account, kind) for owner in PEOPLE for account in CLASSES for kind in TYPES]
    return [
        replace(workload, id=f"w{n}", owner=owner, account=account, gpu_type=kind)
        for n, (owner, account, kind) in enumerate(whose)
    ]


def open_with(url: str, workloads: list[Workload], **options: Any) -> SqlStore:
    store = open_store(url, **options)
    if not asyncio.run(store.read(lambda uow: uow.workload("w0"))):
        asyncio.run(store.write(lambda uow: [uow.add_workload(workload) for workload in workloads]))
    return store


@contextmanager
def as_writer(url: str) -> Iterator[Callable[[Callable[[Connection], Any]], Any]]:
    """Runs work in transactions of the writer's connection, without its thread: nothing follows by itself."""
    database = database_of(url, busy_timeout_seconds=1, readers=1)
    connection = database.connect_writer(1)

    def run(work: Callable[[Connection], Any]) -> Any:
        with connection.begin():
            return work(connection)

    try:
        yield run
    finally:
        connection.close()
        database.close()


def by_hand(transfers: list[Transfer], scope: Scope, from_ms: int | None, until_ms: int | None) -> Totals:
    amount = time = 0
    for entry in transfers:
        line, payer = entry.line, entry.debit if entry.kind == "charge" else entry.credit
        assert line is not None
        if scope.account not in (None, payer) or scope.owner not in (None, entry.owner):
            continue
        if scope.gpu_type not in (None, entry.gpu_type) or (from_ms is not None and line.from_ms < from_ms):
            continue
        if until_ms is None or line.from_ms < until_ms:
            sign = 1 if entry.kind == "charge" else -1
            amount, time = amount + sign * entry.amount_micros, time + sign * line.quantity
    return Totals(amount, time)


def by_owner(transfers: list[Transfer], from_ms: int | None, until_ms: int | None) -> dict[Any, tuple[int, ...]]:
    sums: dict[Any, tuple[int, ...]] = {}
    for entry in transfers:
        line = entry.line
        assert line is not None
        if (from_ms is None or line.from_ms >= from_ms) and (until_ms is None or line.from_ms < until_ms):
            sign = 1 if entry.kind == "charge" else -1
            new = (entry.amount_micros, line.quantity, line.saved_micros, 1)
            before = sums.get(entry.owner, (0, 0, 0, 0))
            sums[entry.owner] = tuple(a + sign * b for a, b in zip(before, new, strict=True))
    return {owner: total for owner, total in sums.items() if total[3]}


@pytest.mark.slow
@pytest.mark.parametrize("time_zone", ["Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia"])
def test_every_sum_is_exact_wherever_the_rollups_are(
    database_url: str, workloads: list[Workload], time_zone: str
) -> None:
    """Charges and refunds around edges of months, questions cut anywhere, and following in steps of any size."""
    dice = random.Random(time_zone)
    asyncio.run(open_with(database_url, workloads, time_zone=time_zone).close())
    edges = [NEW_YEAR_MS]
    for _ in range(5):
        edges += [edge for edge in calendar_window("month", time_zone, edges[-1]) if edge is not None]
    instants = [edge + shift for edge in edges for shift in (-HOUR, -1, 0, 1, 9 * DAY)]

    def look(connection: Connection) -> None:
        uow = SqlUnitOfWork(connection)
        booked = uow.transfers()
        for _ in range(6):
            window = sorted(dice.sample(instants, 2))
            from_ms, until_ms = (dice.choice((at_ms, None)) for at_ms in window)
            scope = Scope(*(dice.choice((None, *names)) for names in (CLASSES, PEOPLE, TYPES)))
            assert uow.charged(scope, from_ms, until_ms) == by_hand(booked, scope, from_ms, until_ms)
            found = {row[0]: tuple(row[1:]) for row in uow.usage("owner", from_ms=from_ms, until_ms=until_ms)}
            assert {owner: sums for owner, sums in found.items() if sums[3]} == by_owner(booked, from_ms, until_ms)
        assert uow.rollup_faults(10) == []

    def change(connection: Connection) -> None:
        uow = SqlUnitOfWork(connection)
        new = [
            a_charge(dice.choice(workloads), dice.choice(instants), dice.randrange(100), dice.choice((None, 1)))
            for _ in range(dice.randrange(1, 12))
        ]
        booked = uow.append(new)
        if dice.random() < 0.6:
            uow.append(refund_transfers(dice.sample(booked, 1), 1, "root", "the node failed"))

    with as_writer(database_url) as run:
        for _ in range(25):
            run(change)
            run(look)
            if dice.random() < 0.7:
                step = dice.randrange(1, 15)
                run(lambda connection, step=step: rollups.follow(connection, step))
                run(look)
        while run(rollups.follow):
            pass
        run(look)
        assert run(rollups.mark)[1] == run(lambda connection: len(SqlUnitOfWork(connection).transfers()))


def test_what_promotions_took_off_is_the_same_before_and_after_following(
    database_url: str, workloads: list[Workload]
) -> None:
    from fastgpu_hub.store.usage import of_promotions

    asyncio.run(open_with(database_url, workloads).close())

    def book(connection: Connection) -> None:
        uow = SqlUnitOfWork(connection)
        booked = uow.append([a_charge(w, NEW_YEAR_MS + n * DAY, 7, n % 3 or None) for n, w in enumerate(workloads)])
        uow.append(refund_transfers(booked[1:2], 1, "root", "the node failed"))

    def ask(connection: Connection) -> list[Any]:
        return [
            sorted(map(tuple, of_promotions(connection, ids, owner)))
            for ids in ([1], [1, 2], [9], [])
            for owner in (None, "alice")
        ]

    with as_writer(database_url) as run:
        run(book)
        before = run(ask)
        run(lambda connection: rollups.follow(connection, 5))
        assert run(ask) == before
        run(rollups.follow)
        assert run(ask) == before
    each = Line("gpu_hour", 0, HOUR, 2, 5, 11, 7, 1).saved_micros
    assert before[0] == [(1, 3 * each, 3 * 2 * HOUR)]  # four charges under promotion 1, one of them refunded


def test_questions_about_both_ends_of_the_calendar_are_answered(database_url: str, workloads: list[Workload]) -> None:
    ends = [-62_135_596_800_000, 0, LATEST_MS, LATEST_MS + 1, 253_402_300_799_999]
    asyncio.run(open_with(database_url, workloads, time_zone="Pacific/Apia").close())
    with as_writer(database_url) as run:
        run(lambda connection: SqlUnitOfWork(connection).append([a_charge(workloads[0], NEW_YEAR_MS, 7)]))
        for followed in (False, True):
            if followed:
                run(rollups.follow)
            for from_ms in (None, *ends):
                for until_ms in (*ends, None):
                    total = run(lambda c, w=(from_ms, until_ms): SqlUnitOfWork(c).charged(Scope(), *w).amount_micros)
                    inside = (from_ms or 0) <= NEW_YEAR_MS and (until_ms is None or until_ms > NEW_YEAR_MS)
                    assert total == (7 if inside else 0), (from_ms, until_ms)


class Killed(Exception):
    pass


@pytest.mark.slow
def test_following_that_is_killed_at_any_statement_leaves_every_sum_right(
    database_url: str, workloads: list[Workload]
) -> None:
    asyncio.run(open_with(database_url, workloads).close())

    def book(connection: Connection) -> None:
        new = [a_charge(workload, NEW_YEAR_MS + n * 20 * DAY, n) for n, workload in enumerate(workloads)]
        SqlUnitOfWork(connection).append(new)

    def sums(connection: Connection) -> Any:
        uow = SqlUnitOfWork(connection)
        assert uow.rollup_faults(10) == []
        return uow.charged(Scope()), sorted(map(tuple, uow.usage("owner")))

    def killed(connection: Connection, stop_at: int) -> None:
        seen = 0

        def count(*_: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == stop_at:
                raise Killed

        event.listen(connection, "before_cursor_execute", count)
        try:
            rollups.follow(connection)
        finally:
            event.remove(connection, "before_cursor_execute", count)

    with as_writer(database_url) as run:
        run(book)
        expected = run(sums)
        assert expected[0] == Totals(sum(range(len(workloads))), len(workloads) * 2 * HOUR)
        for stop_at in range(1, 100):
            try:
                run(lambda connection, stop_at=stop_at: killed(connection, stop_at))
            except Killed:
                assert run(sums) == expected
                assert run(rollups.mark).until_id == 0
                continue
            break
        assert stop_at > 20  # so many statements were tried
        assert run(sums) == expected
        assert run(rollups.mark).until_id == len(workloads)


def test_a_sum_that_is_wrong_is_found_and_made_again(database_url: str, workloads: list[Workload]) -> None:
    asyncio.run(open_with(database_url, workloads).close())
    charges = [a_charge(workloads[0], NEW_YEAR_MS, 70, 4), a_charge(workloads[5], NEW_YEAR_MS, 5)]

    def damage(connection: Connection) -> None:
        connection.execute(
            text("UPDATE usage_accounts SET amount_micros = amount_micros + 3 WHERE account = 'class:a'")
        )
        connection.execute(text("DELETE FROM usage_people WHERE owner = 'alice'"))
        connection.execute(text("UPDATE usage SET month_ms = month_ms + 1 WHERE owner = 'alice'"))
        connection.execute(text("UPDATE usage_promotions SET saved_micros = saved_micros - 1"))

    with as_writer(database_url) as run:
        run(lambda connection: SqlUnitOfWork(connection).append(charges))
        run(rollups.follow)
        assert run(rollups.faults) == []
        run(damage)
        found = run(rollups.faults)
        assert len(found) == 6
        for words in (
            "usage_accounts of account class:a",
            "amount_micros by 3",
            "usage_people of month_ms",
            "lines by -1",
            "usage_promotions of promotion_id 4, owner alice is off: saved_micros by -1",
        ):
            assert any(words in fault for fault in found), (words, found)
        assert len(run(lambda connection: rollups.faults(connection, 2))) == 2
        run(lambda connection: SqlUnitOfWork(connection).rebuild_usage())
        assert run(lambda connection: SqlUnitOfWork(connection).charged(Scope())) == Totals(75, 4 * HOUR)
        run(rollups.follow)
        assert run(rollups.faults) == []


def kept(store: SqlStore) -> list[tuple[Any, ...]]:
    statement = text("SELECT month_ms, owner, amount_micros, lines FROM usage_people ORDER BY month_ms, owner")
    found: list[tuple[Any, ...]] = asyncio.run(
        store.read(lambda uow: [tuple(row) for row in uow._connection.execute(statement)])
    )
    return found


def test_another_time_zone_adds_everything_up_anew(database_url: str, workloads: list[Workload]) -> None:
    moment = a_charge(workloads[0], NEW_YEAR_MS - HOUR // 2, 7)
    totals = [Totals(7, 2 * HOUR), Totals(0, 0)]
    month_of = {"Europe/Berlin": 1_733_007_600_000, "Europe/Moscow": 1_735_678_800_000}
    store = open_with(database_url, workloads, time_zone="Europe/Berlin")
    asyncio.run(store.write(lambda uow: uow.append([moment])))
    asyncio.run(store.close())
    for time_zone in ("Europe/Berlin", "Europe/Moscow", "Europe/Berlin"):
        store = open_store(database_url, time_zone=time_zone)
        assert kept(store) == [(month_of[time_zone], "alice", 7, 1)]
        windows = [(None, NEW_YEAR_MS), (NEW_YEAR_MS, None)]
        assert [asyncio.run(store.read(lambda uow, w=w: uow.charged(Scope(), *w))) for w in windows] == totals
        assert asyncio.run(store.read(lambda uow: uow.rollup_faults(10))) == []
        asyncio.run(store.close())


async def followed(store: SqlStore) -> None:
    """Until everything written is in the rollups."""
    statement = text("SELECT (SELECT max(id) FROM transfers) - until_id FROM usage_mark")
    for _ in range(400):
        if not await store.read(lambda uow: uow._connection.execute(statement).scalar_one()):
            return
        await asyncio.sleep(0.02)
    raise AssertionError("the rollups did not follow")


async def test_the_sums_follow_when_nobody_writes(store: SqlStore, workloads: list[Workload]) -> None:
    await store.write(lambda uow: [uow.add_workload(workload) for workload in workloads])
    for round_ in (1, 2):
        await store.write(lambda uow: uow.append([a_charge(workload, NEW_YEAR_MS, 1) for workload in workloads]))
        await followed(store)
        assert await store.read(lambda uow: uow.charged(Scope())) == Totals(12 * round_, 24 * round_ * HOUR)


async def test_the_sums_follow_when_much_was_written_though_nobody_pauses(
    store: SqlStore, workloads: list[Workload], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "IDLE_SECONDS", 1_000)
    monkeypatch.setattr(writer, "TAIL_LIMIT", 20)
    await store.write(lambda uow: [uow.add_workload(workload) for workload in workloads])
    for _ in range(2):  # twelve each
        assert await store.read(lambda uow: rollups.mark(uow._connection).until_id) == 0
        await store.write(lambda uow: uow.append([a_charge(workload, NEW_YEAR_MS, 1) for workload in workloads]))
    await followed(store)


async def test_readers_never_see_a_charge_twice_or_not_at_all(
    store: SqlStore, workloads: list[Workload], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "IDLE_SECONDS", 0.001)
    await store.write(lambda uow: [uow.add_workload(workload) for workload in workloads])
    ending = asyncio.Event()

    async def write() -> None:
        for n in range(40):
            await store.write(lambda uow, n=n: uow.append([a_charge(workloads[n % 12], NEW_YEAR_MS, 1)]))
            await asyncio.sleep(0.002)
        ending.set()

    def look(uow: Any) -> tuple[int, ...]:
        rows = uow.usage("owner")
        return len(uow.transfers()), uow.charged(Scope()).amount_micros, sum(row[1] for row in rows)

    async def read() -> int:
        seen = set()
        while not ending.is_set():
            written, charged, reported = await store.read(look)
            assert written == charged == reported
            seen.add((written, await store.read(lambda uow: rollups.mark(uow._connection).until_id)))
        return len(seen)

    _, *looks = await asyncio.gather(write(), read(), read())
    assert min(looks) > 5


async def test_sums_that_cannot_follow_disturb_no_write(
    store: SqlStore, workloads: list[Workload], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, asked = rollups.follow, asyncio.Event()
    loop = asyncio.get_running_loop()

    def fails(connection: Connection) -> bool:
        real(connection)
        loop.call_soon_threadsafe(asked.set)
        raise OperationalError("INSERT", {}, Exception("disk full"))

    monkeypatch.setattr(rollups, "follow", fails)
    with caplog.at_level(logging.WARNING):
        await store.write(lambda uow: uow.add_workload(workloads[0]))
        for amount in (1, 2):
            asked.clear()
            await store.write(lambda uow, n=amount: uow.append([a_charge(workloads[0], NEW_YEAR_MS, n)]))
            await asyncio.wait_for(asked.wait(), 10)
        assert await store.read(lambda uow: uow.charged(Scope())) == Totals(3, 4 * HOUR)
        assert await store.read(lambda uow: rollups.mark(uow._connection).until_id) == 0
    assert "disk full" in caplog.text
    monkeypatch.undo()
    await store.write(lambda uow: uow.append([a_charge(workloads[0], NEW_YEAR_MS, 4)]))
    await followed(store)
    assert await store.read(lambda uow: (uow.charged(Scope()).amount_micros, uow.rollup_faults(10))) == (7, [])


def test_what_a_killed_service_had_not_added_up_is_there_after_opening_again(
    database_url: str, workloads: list[Workload]
) -> None:
    asyncio.run(open_with(database_url, workloads).close())
    with as_writer(database_url) as run:
        run(lambda connection: SqlUnitOfWork(connection).append([a_charge(w, NEW_YEAR_MS, 1) for w in workloads]))
    store = open_store(database_url)
    assert sum(row[2] for row in kept(store)) == 12
    assert asyncio.run(store.read(lambda uow: rollups.mark(uow._connection).until_id)) == 12
    asyncio.run(store.close())
