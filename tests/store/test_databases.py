"""Opening a store: one writer only, private files, clear refusals."""

from __future__ import annotations

import asyncio
import logging
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import IntegrityError

from fastgpu_hub.broker.ports.store import StoreUnavailable
from fastgpu_hub.pricing.ledger import Transfer
from fastgpu_hub.pricing.quotas import Scope
from fastgpu_hub.store import AnotherWriter, NewerDatabase, SqlStore, StoreError, open_store
from fastgpu_hub.store.usage import of_promotions


async def test_a_second_writer_is_refused_until_the_first_has_gone(store: SqlStore, database_url: str) -> None:
    with pytest.raises(AnotherWriter, match="another FastGPU service already writes to") as refused:
        await asyncio.to_thread(open_store, database_url, writer_wait_seconds=0.2)
    assert "://fastgpu" in str(refused.value) or f"process {os.getpid()}" in str(refused.value)
    waiting = asyncio.create_task(asyncio.to_thread(open_store, database_url, writer_wait_seconds=20))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await store.close()
    await (await waiting).close()


async def test_another_process_cannot_write_beside_us(store: SqlStore, database_url: str) -> None:
    program = (
        "import sys; from fastgpu_hub.store import open_store, AnotherWriter\n"
        "try: open_store(sys.argv[1], writer_wait_seconds=0)\n"
        "except AnotherWriter: sys.exit(7)"
    )
    command = [sys.executable, "-c", program, database_url]
    done = await asyncio.to_thread(subprocess.run, command, check=False, env={**os.environ, "PYTHONPATH": os.getcwd()})
    assert done.returncode == 7


async def test_a_refused_or_closed_store_leaves_no_thread(database_url: str) -> None:
    before = set(threading.enumerate())
    store = await asyncio.to_thread(open_store, database_url)
    with pytest.raises(AnotherWriter):
        await asyncio.to_thread(open_store, database_url, writer_wait_seconds=0)
    await store.read(lambda uow: uow.prices())
    await store.close()
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not [name for name in left if name.startswith("fastgpu-store")]


async def test_a_database_from_later_code_is_refused_untouched(database_url: str) -> None:
    await (await asyncio.to_thread(open_store, database_url)).close()
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(NewerDatabase, match="later version of FastGPU"):
        await asyncio.to_thread(open_store, database_url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one() == "9999"
    engine.dispose()


async def test_the_ledger_refuses_to_be_changed_even_by_hand(
    store: SqlStore, database_url: str, grant: Transfer, workload: Any
) -> None:
    from fastgpu_hub.broker.ports.records import AuditEntry, WorkloadEvent

    def fill(uow: Any) -> None:
        uow.append([grant])
        uow.add_workload(workload)
        uow.add_event(WorkloadEvent("w1", 1, "requested"))
        uow.add_audit(AuditEntry(1, "root", "a", "b", None, None))

    await store.write(fill)
    engine = create_engine(database_url)
    for table in ("transfers", "workload_events", "audit"):
        for statement in (f"UPDATE {table} SET at_ms = 0", f"DELETE FROM {table}"):
            with pytest.raises(IntegrityError, match="append-only"), engine.begin() as connection:
                connection.execute(text(statement))
    if engine.dialect.name == "postgresql":
        with pytest.raises(IntegrityError, match="append-only"), engine.begin() as connection:
            connection.execute(text("TRUNCATE transfers"))
    engine.dispose()
    assert len(await store.read(lambda uow: uow.transfers())) == 1


async def test_two_open_holds_are_refused_by_the_database_itself(
    store: SqlStore, database_url: str, workload: Any
) -> None:
    await store.write(lambda uow: uow.add_workload(workload))
    hold = text(
        "INSERT INTO holds (workload_id, owner, account, gpu_type, created_ms, until_ms, state) "
        "VALUES ('w1', 'alice', 'class:cs101', 'h100-80gb', 0, 1, :state)"
    )
    engine = create_engine(database_url)
    with engine.begin() as connection:
        for state in ("open", "settled", "settled"):
            connection.execute(hold, {"state": state})
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(hold, {"state": "open"})
    engine.dispose()


# ---------------------------------------------------------------- SQLite


def test_the_database_is_private_to_its_user(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        store = open_store(f"sqlite:///{tmp_path}/hub/data/s.sqlite")
        asyncio.run(store.write(lambda uow: uow.set_setting("a", 1)))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "hub/data").iterdir()}
        asyncio.run(store.close())
    finally:
        os.umask(old)
    assert modes == dict.fromkeys(["s.sqlite", "s.sqlite-wal", "s.sqlite-shm", "s.sqlite.lock"], 0o600)
    assert stat.S_IMODE((tmp_path / "hub/data").stat().st_mode) == 0o700


def test_every_commit_reaches_the_disk(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/s.sqlite")
    pragmas = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
    values = asyncio.run(
        store.write(lambda uow: [uow._connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in pragmas])
    )
    asyncio.run(store.close())
    assert values == ["wal", 2, 1, 5000]  # 2 is FULL


def test_nobody_changes_what_a_use_case_has_read_before_it_writes(tmp_path: Path) -> None:
    import sqlite3

    def reads_while_another_writes(uow: Any) -> None:
        assert uow.setting("a") is None
        other = sqlite3.connect(tmp_path / "s.sqlite", timeout=0)
        try:
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("INSERT INTO settings VALUES ('a', '1')")
        finally:
            other.close()
        uow.set_setting("a", 2)

    store = open_store(f"sqlite:///{tmp_path}/s.sqlite")
    asyncio.run(store.write(reads_while_another_writes))
    asyncio.run(store.close())


@pytest.fixture
def plans(tmp_path: Path) -> Iterator[Callable[[Callable[[Any], Any]], list[str]]]:
    """Runs a question and gives how SQLite reads ``transfers`` for it, step by step."""
    store = open_store(f"sqlite:///{tmp_path}/s.sqlite")
    found: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        cursor = connection.connection.driver_connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)
        found.extend(row[3] for row in cursor if " transfers" in row[3])

    event.listen(store._database.readers, "before_cursor_execute", explain)

    def ask(question: Callable[[Any], Any]) -> list[str]:
        found.clear()
        asyncio.run(store.read(question))
        return list(found)

    yield ask
    asyncio.run(store.close())


SCOPES = [Scope(account="a"), Scope(account="a", owner="o"), Scope(owner="o", gpu_type="g"), Scope()]


@pytest.mark.parametrize("scope", SCOPES)
def test_sums_over_part_of_a_month_are_answered_from_an_index(plans: Any, scope: Scope) -> None:
    charges, refunds = plans(lambda uow: uow.charged(scope, 0, 10))
    assert "SEARCH transfers USING COVERING INDEX" in charges
    assert "USING COVERING INDEX ix_transfers_refunds" in refunds


@pytest.mark.parametrize("scope", SCOPES)
def test_sums_over_all_time_read_no_line_that_is_in_the_rollups(plans: Any, scope: Scope) -> None:
    assert plans(lambda uow: uow.charged(scope)) == ["SEARCH transfers USING INTEGER PRIMARY KEY (rowid>?)"]


@pytest.mark.parametrize("by", ["owner", "gpu_type"])
def test_a_report_reads_no_line_that_is_in_the_rollups(plans: Any, by: str) -> None:
    read = ["SEARCH transfers USING INTEGER PRIMARY KEY (rowid>?)"]
    assert plans(lambda uow: uow.usage(by)) == read
    assert plans(lambda uow: uow.usage(by, accounts=["a"], from_ms=0)) == read


QUESTIONS = {
    "given": lambda uow: uow.given("a", 0, 10),
    "expired": lambda uow: uow.expired("a"),
    "expired_grants": lambda uow: uow.expired_grants(5),
    "refunded": lambda uow: uow.refunded(Scope(account="a")),
    "accounts": lambda uow: uow.accounts(),
    "first_used_ms": lambda uow: uow.first_used_ms("o"),
    "lines_ending_after": lambda uow: [uow.lines_ending_after(scope, 10**12) for scope in SCOPES],
    "promotion_use": lambda uow: [of_promotions(uow._connection, [1], owner) for owner in ("o", None)],
    "of a workload": lambda uow: uow.transfers(workload_id="w"),
    "of an account": lambda uow: uow.transfers(account="a"),
    "from a place on": lambda uow: uow.transfers(after_id=7, limit=10),
    "by job": lambda uow: uow.usage("workload_id", owner="o", from_ms=5),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_question_reads_the_whole_ledger(plans: Any, question: str) -> None:
    steps = plans(QUESTIONS[question])
    assert steps
    # What are few are looked through: refunds, and what is neither charge nor refund.
    few = ("ix_transfers_refunds", "ix_transfers_credits", "ix_transfers_reverses")
    assert [step for step in steps if step.startswith("SCAN") and not step.endswith(few)] == []


def test_a_temporary_store_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    store = open_store("sqlite://")
    assert len(list(tmp_path.iterdir())) == 1
    asyncio.run(store.close())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("nonsense", "cannot be read"),
        ("mysql://h/d", "not in mysql"),
        ("postgresql+asyncpg://h/d", "not in postgresql"),
        ("sqlite:///file:x?mode=memory&uri=true", "without options"),
        ("sqlite:////proc/nowhere/s.sqlite", "cannot be opened"),
    ],
)
def test_a_url_that_cannot_be_used_says_why(url: str, says: str) -> None:
    with pytest.raises(StoreError, match=says):
        open_store(url)


def test_a_file_that_is_no_database_and_a_server_that_is_not_there_are_unavailable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / "s.sqlite").write_text("not a database, " * 100)
    with pytest.raises(StoreUnavailable, match="not a database"):
        open_store(f"sqlite:///{tmp_path}/s.sqlite")
    with pytest.raises(StoreUnavailable) as refused:
        open_store("postgresql://hub:sesame@127.0.0.1:1/none")
    assert "sesame" not in str(refused.value) + caplog.text
