"""The single writer: groups, savepoints, and what happens when the database does not answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.exc import IntegrityError, OperationalError

from fastgpu_hub.broker.ports.store import StoreUnavailable
from fastgpu_hub.pricing.ledger import Transfer
from fastgpu_hub.store import SqlStore
from fastgpu_hub.store.writer import GROUP_LIMIT


class Gate:
    """Holds the writer inside a use case of its own until it is opened."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self, _uow: Any) -> None:
        self.entered.set()
        assert self.opened.wait(20)


@pytest.fixture
async def grouped(store: SqlStore) -> Any:
    """Runs the given works in one group: they queue up behind a gate, then all go together."""

    async def run(*works: Callable[[Any], Any]) -> list[Any]:
        gate = Gate()
        first = asyncio.create_task(store.write(gate))
        await asyncio.to_thread(gate.entered.wait, 20)
        tasks = [asyncio.create_task(store.write(work)) for work in works]
        await asyncio.sleep(0)
        gate.opened.set()
        await first
        return await asyncio.gather(*tasks, return_exceptions=True)

    return run


@pytest.fixture
def commits(store: SqlStore) -> list[int]:
    seen: list[int] = []
    event.listen(store._database._writer, "commit", lambda _connection: seen.append(1))
    return seen


async def test_what_waits_together_is_committed_once(grouped: Any, commits: list[int], grant: Transfer) -> None:
    results = await grouped(*(lambda uow: uow.append([grant])[0].id for _ in range(100)))
    assert results == list(range(results[0], results[0] + 100))
    assert len(commits) == 2  # the gate's and the group's


async def test_a_group_has_a_limit(grouped: Any, commits: list[int]) -> None:
    await grouped(*(lambda uow: None for _ in range(GROUP_LIMIT + 1)))
    assert len(commits) == 3


class Leaving(BaseException):
    pass


async def test_a_failing_use_case_takes_back_only_its_own_writes(grouped: Any, names_of: Any, grant: Transfer) -> None:
    def write(note: str, error: BaseException | None = None) -> Callable[[Any], str]:
        def work(uow: Any) -> str:
            uow.append([replace(grant, note=note)])
            if error is not None:
                raise error
            return note

        return work

    def breaks_a_rule(uow: Any) -> None:
        uow.append([replace(grant, note="rule")])
        uow.append([replace(grant, amount_micros=-1)])

    def swallows(uow: Any) -> str:
        uow.append([replace(grant, note="swallowed")])
        try:
            uow.append([replace(grant, amount_micros=-1)])
        except IntegrityError:
            return "went on"
        raise AssertionError

    own, leaving = KeyError("mine"), Leaving()
    results = await grouped(
        write("a"),
        write("b", own),
        write("c"),
        breaks_a_rule,
        write("d", StopIteration()),
        write("e", leaving),
        write("f"),
    )
    assert [results[0], results[2], results[6]] == ["a", "c", "f"]
    assert results[1] is own
    assert isinstance(results[3], IntegrityError)
    assert isinstance(results[4], RuntimeError)
    assert results[5] is leaving
    assert await names_of() == ["a", "c", "f"]
    await grouped(write("g"), swallows, write("h"))
    assert {"a", "c", "f", "g", "h"} <= set(await names_of())


async def test_nobody_hears_of_a_result_before_the_commit(store: SqlStore, names_of: Any, grant: Transfer) -> None:
    gate, inside = Gate(), Gate()
    first = asyncio.create_task(store.write(gate))
    await asyncio.to_thread(gate.entered.wait, 20)
    early = asyncio.create_task(store.write(lambda uow: uow.append([grant])))
    late = asyncio.create_task(store.write(inside))
    await asyncio.sleep(0)
    gate.opened.set()
    await first
    assert await asyncio.to_thread(inside.entered.wait, 20)
    await asyncio.sleep(0.05)
    assert not early.done()  # it ran, in the group whose last member still runs
    assert await names_of() == []
    inside.opened.set()
    await asyncio.gather(early, late)
    assert await names_of() == [""]


async def test_a_commit_that_fails_fails_the_whole_group_and_the_next_one_works(
    store: SqlStore, grouped: Any, names_of: Any, grant: Transfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastgpu_hub.store.writer._IN_DOUBT_SECONDS", 0.2)
    dialect = store._database._writer.dialect
    real, broken = dialect.do_commit, []

    def fails_in_the_group(raw: Any) -> None:
        if broken:
            raise dialect.loaded_dbapi.OperationalError("disk full")
        real(raw)

    dialect.do_commit = fails_in_the_group
    works = [lambda uow: uow.append([grant])] * 5

    def break_it(_uow: Any) -> None:
        broken.append(1)

    results = await grouped(break_it, *works)
    assert all(isinstance(result, StoreUnavailable) for result in results)
    assert "disk full" in str(results[0])
    assert len({id(result) for result in results}) == len(results)
    broken.clear()
    assert await names_of() == []
    await grouped(*works)
    assert len(await names_of()) == 5


async def test_an_operational_error_inside_a_use_case_is_unavailable(store: SqlStore, grouped: Any) -> None:
    def interrupted(_uow: Any) -> None:
        raise OperationalError("SELECT 1", {}, Exception("interrupted"))

    results = await grouped(lambda uow: "fine", interrupted, lambda uow: "fine")
    assert results[::2] == ["fine", "fine"]
    assert isinstance(results[1], StoreUnavailable)


async def test_a_cancelled_caller_disturbs_nobody(store: SqlStore, names_of: Any, grant: Transfer) -> None:
    gate = Gate()
    first = asyncio.create_task(store.write(gate))
    cancelled = asyncio.create_task(store.write(lambda uow: uow.append([grant])))
    await asyncio.to_thread(gate.entered.wait, 20)
    cancelled.cancel()
    gate.opened.set()
    await first
    assert await store.write(lambda uow: "next") == "next"
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert await names_of() == [""]


async def test_a_caller_whose_loop_is_gone_disturbs_nobody(store: SqlStore) -> None:
    gate = Gate()

    def leave() -> None:
        async def ask_and_go() -> None:
            task = asyncio.ensure_future(store.write(gate))
            await asyncio.to_thread(gate.entered.wait, 20)
            task.cancel()

        asyncio.run(ask_and_go())

    await asyncio.to_thread(leave)
    gate.opened.set()
    assert await store.write(lambda uow: "next") == "next"


# ---------------------------------------------------------------- the database does not answer


async def test_a_locked_sqlite_database_is_unavailable_until_it_is_free(tmp_path: Any, grant: Transfer) -> None:
    import sqlite3

    from fastgpu_hub.store import open_store

    store = await asyncio.to_thread(open_store, f"sqlite:///{tmp_path}/s.sqlite", busy_timeout_seconds=0.2)
    other = sqlite3.connect(tmp_path / "s.sqlite", isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.write(lambda uow: uow.append([grant]))
        assert await store.read(lambda uow: uow.transfers()) == []  # reading goes on
        other.execute("ROLLBACK")
        await store.write(lambda uow: uow.append([grant]))
        assert len(await store.read(lambda uow: uow.transfers())) == 1
    finally:
        other.close()
        await store.close()


async def test_a_full_disk_writes_only_what_it_says_it_wrote(tmp_path: Any, grant: Transfer) -> None:
    from fastgpu_hub.store import open_store

    store = await asyncio.to_thread(open_store, f"sqlite:///{tmp_path}/s.sqlite")

    def fill(uow: Any) -> None:
        uow._connection.exec_driver_sql("PRAGMA max_page_count = 1")  # SQLite's own limit: no page more than there are
        uow.append([replace(grant, note="x" * 2**20)])

    def note(text: str) -> Callable[[Any], str]:
        def work(uow: Any) -> str:
            uow.append([replace(grant, note=text)])
            return text

        return work

    try:
        results = await asyncio.gather(
            store.write(note("a")), store.write(fill), store.write(note("b")), return_exceptions=True
        )
        assert isinstance(results[1], StoreUnavailable)
        assert "full" in str(results[1])
        said = [result for result in results if isinstance(result, str)]
        assert [transfer.note for transfer in await store.read(lambda uow: uow.transfers())] == said
    finally:
        await store.close()


@pytest.mark.postgres
class TestPostgres:
    """Connections lost at the worst moments."""

    @pytest.fixture
    def database_url(self, postgres_url: str) -> str:
        return postgres_url

    @staticmethod
    def terminate_sessions(url: str) -> None:
        engine = create_engine(url)
        with engine.connect() as connection:
            connection.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'fastgpu' AND pid <> pg_backend_pid() AND datname = current_database()"
            )
        engine.dispose()

    async def test_a_session_ended_between_groups_costs_one_group(
        self, store: SqlStore, database_url: str, grant: Transfer, names_of: Any
    ) -> None:
        assert await names_of() == []
        await asyncio.to_thread(self.terminate_sessions, database_url)
        with pytest.raises(StoreUnavailable):
            await store.write(lambda uow: uow.append([grant]))
        await store.write(lambda uow: uow.append([grant]))
        assert len(await names_of()) == 1

    async def test_a_session_ended_within_a_group_writes_nothing_of_it(
        self, database_url: str, grouped: Any, grant: Transfer, names_of: Any
    ) -> None:
        def ends(_uow: Any) -> None:
            self.terminate_sessions(database_url)

        results = await grouped(lambda uow: uow.append([grant]), ends, lambda uow: uow.append([grant]))
        assert [type(result) for result in results] == [StoreUnavailable] * 3
        assert len(await grouped(lambda uow: uow.append([grant]))) == 1
        assert len(await names_of()) == 1

    @pytest.mark.parametrize("took_effect", [True, False])
    async def test_a_commit_whose_answer_is_lost_is_looked_up(
        self, store: SqlStore, database_url: str, grant: Transfer, names_of: Any, took_effect: bool
    ) -> None:
        dialect = store._database._writer.dialect
        real, lost = dialect.do_commit, []

        def loses_the_answer(raw: Any) -> None:
            if took_effect or lost:
                real(raw)
            if not lost:
                lost.append(1)
                raw.driver_connection.close()
                raise dialect.loaded_dbapi.OperationalError("server closed the connection unexpectedly")

        dialect.do_commit = loses_the_answer
        if took_effect:
            assert len(await store.write(lambda uow: uow.append([grant]))) == 1
        else:
            with pytest.raises(StoreUnavailable, match="closed the connection"):
                await store.write(lambda uow: uow.append([grant]))
        assert len(await names_of()) == int(took_effect)
        await store.write(lambda uow: uow.append([grant]))
        assert len(await names_of()) == int(took_effect) + 1
