"""Promise 14: a database that stops, ends sessions, is locked or full: 503 meanwhile, nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine

from fastgpu import models as m
from fastgpu_hub.pricing.ledger import check_balanced

pytestmark = pytest.mark.slow  # each waits for an outage to pass
MOST_SECONDS = 30


class Customers:
    """Submit jobs without a pause, each under a key until it is acknowledged; they note every answer."""

    def __init__(self, service: Any) -> None:
        self.service = service
        self.jobs: dict[str, str] = {}  # by the key it was submitted under
        self.refusals = self.mistakes = 0
        self.latest = float("-inf")  # when something was acknowledged last
        self.slowest = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    async def _submit(self) -> None:
        while True:
            key = uuid.uuid4().hex
            body = {"kind": "command", "argv": ["true"], "gpu_type": "h100-80gb", "time_limit_seconds": 60}
            while key not in self.jobs:
                began = time.monotonic()
                answer = await self.service.call(
                    "t-alice", "POST", "api/jobs", json=body, headers={"Idempotency-Key": key}
                )
                self.slowest = max(self.slowest, time.monotonic() - began)
                if answer.status_code == 201:
                    self.jobs[key], self.latest = answer.json()["id"], time.monotonic()
                else:
                    self.check(answer)
                    await asyncio.sleep(0.05)
            await self.service.call("t-alice", "POST", f"api/jobs/{self.jobs[key]}/cancel")

    def check(self, answer: Any) -> None:
        """An answer that is no success says when to come back, in the one shape of errors."""
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) >= 1
        assert m.ErrorAnswer.model_validate(answer.json()).error.code == "unavailable"
        self.refusals += 1

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._submit()) for _ in range(3)]
        try:
            await self.acknowledged()
            yield
            await self.acknowledged()
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [error for error in ended if not isinstance(error, asyncio.CancelledError)] == []

    async def acknowledged(self) -> float:
        """Wait until something new is acknowledged; how long that took, in seconds."""
        began = time.monotonic()
        while self.latest < began:
            assert time.monotonic() - began < MOST_SECONDS, "it has not recovered"
            await asyncio.sleep(0.01)
        return self.latest - began


async def check_kept(service: Any, customers: Customers, ran: dict[str, Any]) -> None:
    """Every acknowledged job is there once; what ran through the outage is charged for its time, once."""
    workloads, transfers, events, holds = await service.broker.store.read(
        lambda uow: (uow.workloads(), uow.transfers(), uow.events(ran["id"]), uow.open_holds())
    )
    check_balanced(transfers)
    submitted = [workload.id for workload in workloads if workload.id != ran["id"]]
    assert set(customers.jobs.values()) <= set(submitted)
    assert len(submitted) - len(customers.jobs) <= 3  # what each of them is at
    seen = await service.engine.observe(ran["id"])
    lines = [t.line for t in transfers if t.workload_id == ran["id"]]
    assert [(line.from_ms, line.until_ms) for line in lines] == [(seen.started_ms, seen.ended_ms)]
    assert [event.kind for event in events] == ["requested", "granted", "started", "ended"]
    active = {workload.id for workload in workloads if workload.state != "ended"}
    assert {hold.workload_id for hold in holds} == active


async def settled(service: Any, job_id: str) -> float:
    """Wait until a job has ended in the store; how long that took, in seconds."""
    began = time.monotonic()
    while True:
        answer = await service.call("t-bob", "GET", f"api/jobs/{job_id}")
        if answer.status_code == 200 and answer.json()["state"] == "succeeded":
            return time.monotonic() - began
        assert time.monotonic() - began < MOST_SECONDS, answer.text
        await asyncio.sleep(0.02)


async def through(
    service: Any, begin: Callable[[], None], end: Callable[[], None], seconds: float, *, reads: bool
) -> dict[str, float]:
    """Have customers work through an outage in which a job ends; how fast it recovered, in seconds."""
    customers = Customers(service)
    ran = await service.running("t-bob", time_limit_seconds=600)
    async with customers.at_work():
        await asyncio.to_thread(begin)
        service.engine.finish(ran["id"])
        began = time.monotonic()
        while time.monotonic() < began + seconds or not customers.refusals:
            assert time.monotonic() < began + seconds + 15, "nobody was refused"
            look = await service.call("t-bob", "GET", f"api/jobs/{ran['id']}")
            if reads:
                assert look.status_code == 200, look.text
                assert look.json()["state"] == "running"
            elif look.status_code != 200:
                customers.check(look)
            await asyncio.sleep(0.05)
        refusals = customers.refusals
        await asyncio.to_thread(end)
        ended = time.monotonic()
        recovered = await customers.acknowledged()
        await settled(service, ran["id"])
        booked = time.monotonic() - ended
    assert recovered < MOST_SECONDS
    assert booked < MOST_SECONDS
    await check_kept(service, customers, await settled_job(service, ran["id"]))
    figures = {"recovered_s": recovered, "booked_s": booked, "refused": refusals, "slowest_s": customers.slowest}
    print({name: round(value, 2) for name, value in figures.items()}, f"{len(customers.jobs)} jobs")
    return figures


async def settled_job(service: Any, job_id: str) -> dict[str, Any]:
    job: dict[str, Any] = (await service.call("t-bob", "GET", f"api/jobs/{job_id}")).json()
    return job


# ---------------------------------------------------------------- SQLite


async def test_a_locked_database_costs_time_and_nothing_else(serve: Any, tmp_path: Path) -> None:
    """``FASTGPU_LOCK_SECONDS=30`` for the whole half minute; another process holds the lock."""
    seconds = float(os.environ.get("FASTGPU_LOCK_SECONDS", "3"))
    service = await serve(f"sqlite:///{tmp_path}/s.sqlite", busy_timeout_seconds=min(5.0, seconds / 3))
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); "
        "c.execute('PRAGMA busy_timeout = 60000'); c.execute('BEGIN IMMEDIATE'); print('locked', flush=True); input()"
    )
    held: list[subprocess.Popen[bytes]] = []

    def lock() -> None:
        command = ["python3", "-c", program, str(tmp_path / "s.sqlite")]
        held.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert held[0].stdout is not None
        assert held[0].stdout.readline() == b"locked\n"

    def free() -> None:
        held[0].communicate(b"\n", timeout=10)

    await through(service, lock, free, seconds, reads=True)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system, with room for the database, its log and what the customers of a test write."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def test_a_full_disk_refuses_what_it_cannot_keep_and_goes_on_when_there_is_room(
    serve: Any, small_disk: Path
) -> None:
    service = await serve(f"sqlite:///{small_disk}/s.sqlite")
    ballast = small_disk / "ballast"

    def fill() -> None:
        with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)

    await through(service, fill, ballast.unlink, 2, reads=False)
    connection = sqlite3.connect(small_disk / "s.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


# ---------------------------------------------------------------- PostgreSQL


@pytest.mark.postgres
@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_database_server_that_stops_and_starts_loses_nothing(
    serve: Any, postgres: Any, postgres_url: str, mode: str
) -> None:
    service = await serve(postgres_url)
    stopped = []

    def stop() -> None:
        postgres.stop(mode)
        stopped.append(1)

    try:
        await through(service, stop, postgres.start, 2, reads=False)
    finally:
        with contextlib.suppress(AssertionError):  # it runs already
            postgres.start()


@pytest.mark.postgres
async def test_sessions_ended_in_the_middle_of_their_transactions_lose_nothing(serve: Any, postgres_url: str) -> None:
    service = await serve(postgres_url)
    engine = create_engine(postgres_url, isolation_level="AUTOCOMMIT")
    going = True

    def end_sessions() -> int:
        count = 0
        with engine.connect() as connection:
            while going:
                count += connection.exec_driver_sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'fastgpu' "
                    "AND datname = current_database() AND (backend_xid IS NOT NULL OR random() < 0.05)"
                ).rowcount
                time.sleep(0.002)
        return count

    ended: list[Any] = []

    def begin() -> None:
        ended.append(loop.run_in_executor(None, end_sessions))

    def end() -> None:
        nonlocal going
        going = False

    loop = asyncio.get_running_loop()
    await through(service, begin, end, 3, reads=False)
    assert await ended[0] >= 20
    engine.dispose()
