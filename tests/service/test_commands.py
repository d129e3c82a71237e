"""``fastgpu-hub audit verify`` and ``ledger verify``, admin page and metrics: an administrator checks the books."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import NullPool, create_engine
from typer.testing import CliRunner, Result

from fastgpu_hub.broker.ports.records import AuditEntry
from fastgpu_hub.broker.reconcile import reconcile
from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.ledger import grant_transfer
from fastgpu_hub.service import __main__ as program
from fastgpu_hub.service.commands import app
from fastgpu_hub.store import SqlStore, open_store

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """The command as an administrator types it, in an empty folder."""
    for name in ("FASTGPU_STATE_DIR", "FASTGPU_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return lambda *words: CliRunner().invoke(app, list(words))


def fill(uow: Any) -> None:
    for amount in (5, 6, 7):
        grant = uow.add_grant(Grant(0, "class:cs101", amount, 1, by="root"))
        uow.append([grant_transfer(grant)])
        uow.add_audit(AuditEntry(1, "root", "grant", "class:cs101", None, {"amount_micros": amount}))


@pytest.fixture
def running(database_url: str) -> Iterator[SqlStore]:
    """A database with something in it, its only writer still at work."""
    store = open_store(database_url)
    asyncio.run(store.write(fill))
    yield store
    asyncio.run(store.close())


def change(url: str, *statements: str) -> None:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            for name in connection.exec_driver_sql(triggers).scalars().all():
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
        else:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_whole_books_are_told_so_beside_the_running_service(running: SqlStore, database_url: str, run: Run) -> None:
    told = run("audit", "verify", "--db-url", database_url)
    assert told.exit_code == 0, told.output
    assert "The audit is whole: 3 entries." in told.output
    (entry,) = re.findall(r"^Last entry: (3:[0-9a-f]{64})$", told.output, re.MULTILINE)
    asyncio.run(running.write(fill))  # the service goes on
    again = run("audit", "verify", "--db-url", database_url, "--expect", entry)
    assert (again.exit_code, "6 entries" in again.output) == (0, True)
    told = run("ledger", "verify", "--db-url", database_url)
    assert (told.exit_code, told.output) == (0, "The ledger fits: 0 workloads, 6 entries.\n")


@pytest.mark.slow
def test_a_broken_audit_is_named_with_what_to_do(running: SqlStore, database_url: str, run: Run) -> None:
    change(database_url, "UPDATE audit SET actor = 'eve' WHERE id = 2")
    told = run("audit", "verify", "--db-url", database_url)
    assert told.exit_code == 1
    assert told.output.startswith("The audit is broken.\n  audit entry 2: entry 2 of the audit does not fit")
    assert "Compare the audit from that entry on with a backup" in told.output
    plain = json.loads(run("audit", "verify", "--db-url", database_url, "--json").stdout)
    assert (plain["ok"], plain["problems_found"], plain["problems"][0]["where"]) == (False, 1, "audit entry 2")
    assert plain["last_entry"]["id"] == 1


@pytest.mark.slow
def test_an_audit_that_is_not_the_one_expected_is_broken(running: SqlStore, database_url: str, run: Run) -> None:
    told = run("audit", "verify", "--db-url", database_url, "--expect", f"2:{'0' * 64}")
    assert told.exit_code == 1
    assert "audit entry 2: it was 0000" in told.output
    mistyped = run("audit", "verify", "--db-url", database_url, "--expect", "2")
    assert mistyped.exit_code == 2
    assert "ID:SHA256" in mistyped.output


@pytest.mark.slow
def test_a_ledger_that_does_not_fit_is_named_with_what_to_do(running: SqlStore, database_url: str, run: Run) -> None:
    change(database_url, "UPDATE transfers SET amount_micros = 8 WHERE id = 2")
    told = run("ledger", "verify", "--db-url", database_url)
    assert told.exit_code == 1
    assert "ledger entry 2: it gives 8 to class:cs101, but grant 2 is of 6 to class:cs101" in told.output
    assert "Keep a copy of the database" in told.output
    plain = json.loads(run("ledger", "verify", "--db-url", database_url, "--json").stdout)
    assert (plain["ok"], plain["checked"]) == (False, {"workloads": 0, "ledger_entries": 3})
    assert plain["problems_found"] == len(plain["problems"]) == 2


def test_nothing_is_written_nor_made(run: Run, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/state/fastgpu.sqlite"
    store = open_store(url)
    asyncio.run(store.write(fill))
    asyncio.run(store.close())
    file = tmp_path / "state" / "fastgpu.sqlite"
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    for what in ("audit", "ledger"):
        assert run(what, "verify", "--state-dir", str(tmp_path / "state")).exit_code == 0
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before
    missing = run("audit", "verify", "--state-dir", str(tmp_path / "nothing"))
    assert missing.exit_code == 2
    assert "Nothing was checked: there is no database" in missing.output
    assert not (tmp_path / "nothing").exists()


def test_the_database_is_found_as_the_service_finds_it(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("here/.fastgpu", "state"):
        asyncio.run(open_store(f"sqlite:///{tmp_path}/{folder}/fastgpu.sqlite").close())
    assert run("ledger", "verify").exit_code == 2
    monkeypatch.chdir(tmp_path / "here")
    assert run("ledger", "verify").exit_code == 0
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FASTGPU_STATE_DIR", str(tmp_path / "state"))
    assert run("ledger", "verify").exit_code == 0
    monkeypatch.setenv("FASTGPU_CONFIG", json.dumps({"FastGPUService": {"db_url": f"sqlite:///{tmp_path}/no.sqlite"}}))
    assert "no.sqlite" in run("ledger", "verify").output


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://x/y", "keeps its records in SQLite or PostgreSQL"),
        ("sqlite://", "there is no database without a file name"),
        ("nonsense", "cannot be read"),
        ("postgresql+psycopg://nobody@127.0.0.1:1/x", "does not answer"),
    ],
)
def test_what_cannot_be_checked_is_no_broken_book(run: Run, url: str, said: str) -> None:
    told = run("audit", "verify", "--db-url", url)
    assert told.exit_code == 2
    assert said in told.output


def test_a_database_of_another_version_is_not_touched(run: Run, tmp_path: Path) -> None:
    (tmp_path / "old.sqlite").touch()
    told = run("audit", "verify", "--db-url", f"sqlite:///{tmp_path}/old.sqlite")
    assert (told.exit_code, "start the service once" in told.output) == (2, True)
    (tmp_path / "damaged.sqlite").write_bytes(b"no database at all" * 100)
    assert run("audit", "verify", "--db-url", f"sqlite:///{tmp_path}/damaged.sqlite").exit_code == 2


def test_the_program_runs_commands_and_else_the_service(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTGPU_STATE_DIR", raising=False)
    monkeypatch.setattr(sys, "argv", ["fastgpu-hub", "ledger", "verify"])
    with pytest.raises(SystemExit) as ended:
        program.main()
    assert ended.value.code == 2
    started = []
    monkeypatch.setattr(
        "fastgpu_hub.service.main.FastGPUService.launch_instance", lambda: started.append(True), raising=True
    )
    monkeypatch.setattr(sys, "argv", ["fastgpu-hub"])
    program.main()
    assert started == [True]


@pytest.mark.slow
def test_the_installed_program_checks_the_books(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/fastgpu.sqlite"
    store = open_store(url)
    asyncio.run(store.write(fill))
    asyncio.run(store.close())
    installed = Path(sys.executable).with_name("fastgpu-hub")
    done = subprocess.run(
        [installed, "audit", "verify", "--state-dir", tmp_path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("The audit is whole: 3 entries.\n")


# ---------------------------------------------------------------- page, API, metrics


async def test_the_admin_page_says_that_everything_fits_or_what_does_not_and_since_when(
    service: Any, tmp_path: Path
) -> None:
    async def page() -> str:
        answer = await service.call("t-root", "GET", "admin")
        assert answer.status_code == 200
        return str(answer.text)

    await reconcile(service.broker.runtime)
    entries = (await service.broker.store.read(lambda uow: uow.extent()))[2]
    shown = await page()
    assert f"The audit's chain is intact up to entry {entries}." in shown
    assert "Everything fits: checked at <time" in shown
    assert (await service.call("t-root", "GET", "api/problems")).json() == []
    change(f"sqlite:///{tmp_path}/fastgpu.sqlite", "UPDATE audit SET subject = '<b>eve</b>' WHERE id = 2")
    await reconcile(service.broker.runtime)
    shown = await page()
    assert "The audit's chain is broken at entry 2; it holds up to entry 1." in shown
    assert "Everything fits" not in shown
    (problem,) = (await service.call("t-root", "GET", "api/problems")).json()
    assert problem["sentence"].startswith("audit entry 2: ")
    assert "does not fit what came before it" in shown
    figures = (await service.call("t-metrics", "GET", "metrics")).text
    assert "fastgpu_consistency_problems 1.0" in figures
    assert "fastgpu_audit_chain_intact 0.0" in figures
    assert re.search(r"^fastgpu_consistency_checked_timestamp_seconds 1\.\d+e\+09$", figures, re.MULTILINE)


async def test_a_change_of_somebodys_rights_that_is_seen_at_sign_in_is_in_the_audit(
    service: Any, cookies: Callable[[str], dict[str, str]]
) -> None:
    async def visit(token: str) -> list[dict[str, Any]]:
        name, value = next(iter(cookies(token).items()))
        headers = {"Cookie": f"{name}={value}"}
        assert (await service.client.get(service.url, headers=headers)).status_code == 200
        lines = (await service.call("t-root", "GET", "api/audit?limit=1000")).json()
        return [line for line in lines if line["action"] == "roles"]

    assert await visit("t-alice") == []
    for _ in range(2):
        (line,) = await visit("t-tina")
    assert (line["actor"], line["subject"]) == ("service:jupyterhub", "tina")
    assert (line["before"], line["after"]) == (None, {"admin": False, "teaches": ["cs101"]})
    service.auth.people["t-tina"]["scopes"] = ["custom:fastgpu:use"]
    service.auth.cache.clear() if service.auth.cache else None
    found = await visit("t-tina")
    assert found[0]["after"] == {"admin": False, "teaches": []}
    assert found[0]["before"] == {"admin": False, "teaches": ["cs101"]}
    # A token that carries less says nothing about its owner.
    await service.call("t-narrow", "GET", "")
    assert len(await visit("t-tina")) == 2
