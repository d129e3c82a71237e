"""What the writer keeps at hand between its calls is what the database holds, whatever was done or broken off."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from fastgpu_hub.broker.ports.records import Hold, Workload, WorkloadEvent
from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.ledger import charge_transfers, grant_transfer
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.quotas import Scope
from fastgpu_hub.store import SqlStore, kept, open_store
from fastgpu_hub.store.buffered import BufferedUnitOfWork
from fastgpu_hub.store.databases import database_of
from fastgpu_hub.store.kept import Kept
from fastgpu_hub.store.unit_of_work import SqlUnitOfWork

OWNERS, ACCOUNTS, TYPES = ("alice", "bob"), ("class:a", "class:b"), ("big", "small")
SCOPES = [
    Scope(account, owner, gpu_type)
    for account in (*ACCOUNTS, None)
    for owner in (*OWNERS, None)
    for gpu_type in (*TYPES, None)
]
INTERVALS = [(None, None), (None, 500), (500, None), (200, 700)]


class Broken(Exception):
    """A call that does not come to its end."""


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    url = f"sqlite:///{tmp_path}/s.sqlite"
    asyncio.run(open_store(url).close())
    database = database_of(url, busy_timeout_seconds=1, readers=1)
    opened = database.connect_writer(1)
    with opened.begin():
        yield opened
    opened.close()
    database.close()


class Calls:
    """Calls of random steps, as the writer carries them out, and what then must be the same."""

    def __init__(self, connection: Connection, seed: int) -> None:
        self.connection, self.dice, self.kept = connection, random.Random(seed), Kept()
        self.names: list[str] = []
        self.seed = seed
        self.reused = 0

    def lines(self) -> tuple[Line, ...]:
        begins = [self.dice.randrange(1000) for _ in range(self.dice.randrange(3))]
        return tuple(
            Line("gpu_hour", at, at + self.dice.randrange(1, 9), 1, 5, 5, self.dice.randrange(50), 1) for at in begins
        )

    def step(self, uow: BufferedUnitOfWork) -> None:
        dice = self.dice
        name = dice.choice(self.names) if self.names and dice.random() < 0.5 else ""
        hold = uow.open_hold(name) if name else None
        workload = uow.workload(name) if name else None
        match dice.randrange(7):
            case 0 | 1 if workload is None:
                new = f"{self.seed}-{len(self.names)}-{dice.random()}"
                who, payer, kind = dice.choice(OWNERS), dice.choice(ACCOUNTS), dice.choice(TYPES)
                uow.add_workload(Workload(new, "job", who, payer, (), "n", kind, 1, "queued", dice.randrange(9)))
                uow.add_hold(Hold(0, new, who, payer, kind, 1, 1000, self.lines()))
                self.names.append(new)
            case 2 | 3 if hold is not None:
                uow.save_hold(replace(hold, lines=self.lines(), until_ms=dice.randrange(1000)))
            case 4 if hold is not None and workload is not None:
                uow.append(charge_transfers(name, hold.owner, hold.account, hold.gpu_type, hold.lines, 1))
                uow.save_hold(replace(hold, lines=(), state="settled", resolved_ms=5))
                uow.save_workload(replace(workload, state="ended"))
            case 5 if workload is not None and workload.state != "ended":
                uow.save_workload(replace(workload, state=dice.choice(["granted", "running"]), pid=dice.randrange(9)))
                uow.add_event(WorkloadEvent(name, 1, "noted"))
            case 6 if dice.random() < 0.15:  # what is not followed
                uow.set_setting("something", dice.random())
                grant = uow.add_grant(Grant(0, dice.choice(ACCOUNTS), 1, 1, by="root"))
                uow.append([grant_transfer(grant)])
            case _:
                self.ask(uow, dice.choice(SCOPES), dice.choice(INTERVALS))

    @staticmethod
    def ask(uow: Any, scope: Scope, interval: tuple[int | None, int | None]) -> Any:
        return uow.held(scope, *interval), uow.charged(scope, *interval)

    def call(self) -> None:
        """One call; it may break off, and what it asked is what the database says once all is written."""
        self.connection.exec_driver_sql("SAVEPOINT one_call")
        known = len(self.names)
        uow = BufferedUnitOfWork(self.connection, kept=self.kept)
        try:
            for _ in range(self.dice.randrange(1, 6)):
                self.step(uow)
            asked = [(scope, each) for scope in self.dice.sample(SCOPES, 4) for each in INTERVALS]
            told = [self.ask(uow, *question) for question in asked]
            if self.dice.random() < 0.15:
                raise Broken
            uow.done()
            assert told == [self.ask(SqlUnitOfWork(self.connection), *question) for question in asked]
        except Broken:
            self.kept.forget()
            self.connection.exec_driver_sql("ROLLBACK TO SAVEPOINT one_call")
            del self.names[known:]
        self.connection.exec_driver_sql("RELEASE SAVEPOINT one_call")

    def check(self) -> None:
        """Whoever comes next is told what the database says."""
        uow, plain = BufferedUnitOfWork(self.connection, kept=self.kept), SqlUnitOfWork(self.connection)
        self.reused += len(self.kept.workloads) > 0
        for scope in self.dice.sample(SCOPES, 6):
            for interval in INTERVALS:
                assert self.ask(uow, scope, interval) == self.ask(plain, scope, interval)
        for name in self.names[-20:]:
            assert uow.workload(name) == plain.workload(name)
            assert uow.open_hold(name) == plain.open_hold(name)
        for account in ACCOUNTS:
            assert uow.grants(account) == plain.grants(account)
            assert uow.given(account) == plain.given(account)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_sums_holds_and_workloads_at_hand_are_those_of_the_database(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(kept, "MOST_WORKLOADS", 10)
    calls = Calls(connection, seed)
    for _ in range(150):
        calls.call()
        calls.check()
    assert len(calls.names) > 30
    assert calls.reused > 75


async def test_a_workload_is_at_hand_as_committed_and_not_before(store: SqlStore, workload: Workload) -> None:
    seen = []

    def add(uow: Any) -> None:
        uow.add_workload(workload)
        seen.append(store.at_hand(workload.id))

    await store.write(add)
    assert seen == [None]
    assert store.at_hand(workload.id) == workload

    def change_and_fail(uow: Any) -> None:
        uow.save_workload(replace(workload, state="granted"))
        raise Broken

    with pytest.raises(Broken):
        await store.write(change_and_fail)
    assert (await store.read(lambda uow: uow.workload(workload.id))) == workload
    assert store.at_hand(workload.id) in (None, workload)
    await store.write(lambda uow: uow.save_workload(replace(workload, state="ended")))
    assert store.at_hand(workload.id) is None
