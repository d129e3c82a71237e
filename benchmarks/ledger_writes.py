"""Ledger benchmark, part one: how fast charge lines are accepted durably, and how many writers share a commit."""

from __future__ import annotations

import asyncio
import gc
import random
import resource
import shutil
import sqlite3
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.pricing.ledger import Transfer, charge_transfers
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.store import SqlStore, open_store, rows
from fastgpu_hub.store.databases import database_of
from fastgpu_hub.store.rollups import mark

PEOPLE, CLASSES, WORKLOADS = 5_000, 50, 20_000
TYPES = ("a100-40gb", "h100-80gb", "h100-80gb.1g.10gb")
BEGIN_MS = 1_759_269_600_000  # October 2025 in Berlin: a month of 31 days and a change of clock
MINUTE_MS = 60_000
BATCH = 1_000
WRITERS = 64


def resident_mib() -> float:
    """What this process has in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def workloads() -> list[Workload]:
    """The same 20,000 of 5,000 people in 50 classes every time."""
    dice = random.Random(1)
    return [
        Workload(
            id=f"{dice.getrandbits(64):016x}",
            kind="job",
            owner=f"student{n % PEOPLE:04d}",
            account=f"class:cs{n % PEOPLE % CLASSES:03d}" if n % 4 else f"person:student{n % PEOPLE:04d}",
            classes=(),
            name="train",
            gpu_type=dice.choice(TYPES),
            gpu_count=1,
            state="ended",
            requested_ms=BEGIN_MS,
        )
        for n in range(WORKLOADS)
    ]


def charges(known: list[Workload], count: int) -> list[Transfer]:
    """Lines of ten minutes each of these workloads in turn, a third of them under a promotion."""
    made: list[Transfer] = []
    for n in range(count):
        workload = known[n % len(known)]
        from_ms = BEGIN_MS + n * 100
        rate, promotion = (300_000, 7) if n % 3 == 0 else (500_000, None)
        line = Line("gpu_hour", from_ms, from_ms + 10 * MINUTE_MS, 1, rate, 500_000, rate // 6, 1, promotion)
        made += charge_transfers(workload.id, workload.owner, workload.account, workload.gpu_type, [line], from_ms)
    return made


def make_store(path: Path, known: list[Workload]) -> None:
    """A store with these workloads and an empty ledger; made once in a folder, then copied."""
    pattern = path.with_name(f"empty-{len(known)}.sqlite")
    if not pattern.exists():
        store = open_store(f"sqlite:///{pattern}", time_zone="Europe/Berlin")
        asyncio.run(store.write(lambda uow: [uow.add_workload(workload) for workload in known]))
        asyncio.run(store.close())
    shutil.copy(pattern, path)


@contextmanager
def raw_connection(path: Path) -> Any:
    """The driver's connection, set up exactly as the store sets up its own: WAL, FULL, foreign keys, cache."""
    database = database_of(f"sqlite:///{path}", busy_timeout_seconds=5, readers=1)
    connection = database.connect_writer(1)
    try:
        yield connection.connection.driver_connection
    finally:
        connection.close()
        database.close()


@dataclass(frozen=True)
class Ingest:
    """Seconds per round: the driver alone, ours until accepted, ours until the rollups hold everything."""

    lines: int
    raw: list[float]
    accepted: list[float]
    caught_up: list[float]

    def ratio(self, ours: list[float]) -> float:
        """Speed against the driver's, the median of the rounds."""
        return statistics.median(raw / own for raw, own in zip(self.raw, ours, strict=True))


def insert_raw(connection: sqlite3.Connection, batches: list[list[tuple[Any, ...]]]) -> float:
    """The driver's batch insert, one commit a batch."""
    marks = ", ".join("?" * len(rows.TRANSFER_COLUMNS))
    statement = f"INSERT INTO transfers ({', '.join(rows.TRANSFER_COLUMNS)}) VALUES ({marks})"
    began = time.perf_counter()
    for batch in batches:
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(statement, batch)
        connection.execute("COMMIT")
    return time.perf_counter() - began


async def insert_ours(store: SqlStore, batches: list[list[Transfer]]) -> tuple[float, float]:
    """``store.write(append)`` of the same batches; seconds until accepted, and until the rollups caught up."""
    began = time.perf_counter()
    for batch in batches:
        await store.write(lambda uow, batch=batch: uow.append(batch))
    accepted = time.perf_counter() - began
    last = await store.read(lambda uow: uow._connection.exec_driver_sql("SELECT max(id) FROM transfers").scalar_one())
    while await store.read(lambda uow: mark(uow._connection).until_id) < last:
        await asyncio.sleep(0.002)
    return accepted, time.perf_counter() - began


def ingest(folder: Path, rounds: int, lines: int, say: Callable[[str], None]) -> Ingest:
    """Both in turn, each into a ledger of its own that grows alike; the first round is not counted."""
    known, dice = workloads(), random.Random(2)
    resident = [0.0]
    make_store(folder / "ours.sqlite", known)
    make_store(folder / "raw.sqlite", known)
    store = open_store(f"sqlite:///{folder}/ours.sqlite", time_zone="Europe/Berlin")
    found = Ingest(lines, [], [], [])
    with raw_connection(folder / "raw.sqlite") as connection:
        for number in range(rounds + 1):
            made = charges(dice.sample(known, len(known)), lines)
            batches = [made[at : at + BATCH] for at in range(0, lines, BATCH)]
            first = number * lines + 1
            values = [
                rows.numbered(batch, range(first + at, first + at + len(batch)))[1]
                for at, batch in zip(range(0, lines, BATCH), batches, strict=True)
            ]
            gc.collect()
            gc.freeze()  # the benchmark's own data are nothing to look through while the clock runs
            if number % 2:
                raw = insert_raw(connection, values)
                accepted, caught_up = asyncio.run(insert_ours(store, batches))
            else:
                accepted, caught_up = asyncio.run(insert_ours(store, batches))
                raw = insert_raw(connection, values)
            if number:
                found.raw.append(raw)
                found.accepted.append(accepted)
                found.caught_up.append(caught_up)
                speeds = (f"{lines / seconds:,.0f}" for seconds in (raw, accepted, caught_up))
                say("  lines/s: driver {}, accepted {}, caught up {}".format(*speeds))
            gc.unfreeze()
            resident.append(resident_mib())
    asyncio.run(store.close())
    half = len(resident) // 2
    say(f"  memory: {resident[half]:.0f} MiB after half of the rounds, {resident[-1]:.0f} MiB after all")
    return found


@dataclass(frozen=True)
class Commits:
    """Writes per second, per round: one writer alone, 64 at once."""

    alone: list[float]
    together: list[float]

    @property
    def speedup(self) -> float:
        """How many times as many, the ratio of the medians."""
        return statistics.median(self.together) / statistics.median(self.alone)


def commits(folder: Path, rounds: int, say: Callable[[str], None]) -> Commits:
    """One charge line per write, every write durable: alone each pays for its commit, together they share it.

    Each writer charges one workload; each round begins with an empty ledger.
    """
    known = workloads()[:WRITERS]
    made = charges(known, WRITERS * 25)

    async def write(store: SqlStore, some: list[Transfer]) -> None:
        for charge in some:
            await store.write(lambda uow, charge=charge: uow.append([charge]))

    async def rate(store: SqlStore, writers: int, count: int) -> float:
        began = time.perf_counter()
        await asyncio.gather(*(write(store, made[number:count:writers]) for number in range(writers)))
        return count / (time.perf_counter() - began)

    found = Commits([], [])
    for number in range(rounds + 1):
        path = folder / f"commits-{number}.sqlite"
        make_store(path, known)
        store = open_store(f"sqlite:///{path}", time_zone="Europe/Berlin")
        alone, together = asyncio.run(rate(store, 1, 200)), asyncio.run(rate(store, WRITERS, len(made)))
        asyncio.run(store.close())
        if number:
            found.alone.append(alone)
            found.together.append(together)
    say(f"  writes/s: alone {statistics.median(found.alone):,.0f}, together {statistics.median(found.together):,.0f}")
    return found
