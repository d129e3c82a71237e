"""Ledger benchmark, part two: the month's cost report of 5,000 people, from our store and from DuckDB over Parquet."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger_writes import BEGIN_MS, WORKLOADS, charges, make_store, raw_connection, workloads

from fastgpu_hub.pricing.windows import MS_PER_DAY, calendar_window
from fastgpu_hub.store import SqlStore, open_store

CHUNK = 500_000
# DuckDB's own size of a row group: one thread reads one, so fewer and larger ones would tie its hands.
ROW_GROUP = 122_880
COLUMNS = ("id", "owner", "debit", "gpu_type", "from_ms", "amount_micros", "gpu_ms", "saved_micros")

# A hash of the number makes amounts and workloads; instants ascend, from a day before the month to a day after it.
FILL = f"""
INSERT INTO transfers (id, kind, debit, credit, amount_micros, at_ms, workload_id, owner, gpu_type, unit, from_ms,
    until_ms, gpu_count, rate_micros, list_rate_micros, price_id, promotion_id, gpu_ms, saved_micros, note, made_by)
WITH RECURSIVE numbers(n) AS (SELECT :first UNION ALL SELECT n + 1 FROM numbers WHERE n < :last)
SELECT n, 'charge', w.account, 'site:revenue', n * 2654435761 % 4294967296 % 5000000,
    :begin_ms + n * :span_ms / :lines + 600000, w.id, w.owner, w.gpu_type, 'gpu_hour',
    :begin_ms + n * :span_ms / :lines, :begin_ms + n * :span_ms / :lines + 600000,
    1, 500000, 500000, 1, CASE n % 3 WHEN 0 THEN 7 END, 600000, CASE n % 3 WHEN 0 THEN n % 1000 ELSE 0 END, '', ''
FROM numbers JOIN workloads AS w ON w.rowid = 1 + n * 40503 % 2147483647 % {WORKLOADS}
"""


@dataclass(frozen=True)
class Report:
    """Milliseconds per asking, ours and DuckDB's (None: not installed), and ours with lines not yet in the rollups."""

    lines: int
    ours: list[float]
    duckdb: list[float] | None
    with_tail: list[float]


def month() -> tuple[int, int]:
    """The month of the report."""
    begin_ms, end_ms = calendar_window("month", "Europe/Berlin", BEGIN_MS)
    assert begin_ms is not None
    assert end_ms is not None
    return begin_ms, end_ms


def make_ledger(path: Path, lines: int, say: Callable[[str], None]) -> None:
    """The store's own tables, indexes and triggers; the indexes are made after the lines, which is quicker."""
    make_store(path, workloads())
    begin_ms, end_ms = month()
    span = {"begin_ms": begin_ms - MS_PER_DAY, "span_ms": end_ms - begin_ms + 2 * MS_PER_DAY, "lines": lines}
    with raw_connection(path) as raw:
        raw.execute("PRAGMA synchronous = OFF")
        raw.execute("PRAGMA threads = 2")
        indexes = raw.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'index' AND tbl_name = 'transfers' AND sql IS NOT NULL"
        ).fetchall()
        for name, _ in indexes:
            raw.execute(f"DROP INDEX {name}")
        began = time.monotonic()
        for first in range(1, lines + 1, CHUNK):
            raw.execute("BEGIN IMMEDIATE")
            raw.execute(FILL, {**span, "first": first, "last": min(first + CHUNK - 1, lines)})
            raw.execute("COMMIT")
        say(f"  {lines:,} lines written in {time.monotonic() - began:.0f} s")
        began = time.monotonic()
        for _, statement in indexes:
            raw.execute(statement)
        raw.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        say(f"  {len(indexes)} indexes made in {time.monotonic() - began:.0f} s, {path.stat().st_size / 2**30:.1f} GiB")


def write_parquet(ledger: Path, path: Path) -> None:
    """The ledger's lines, column by column, as DuckDB likes them."""
    import pyarrow
    import pyarrow.parquet

    kinds = [pyarrow.string() if name in ("owner", "debit", "gpu_type") else pyarrow.int64() for name in COLUMNS]
    schema = pyarrow.schema(list(zip(COLUMNS, kinds, strict=True)))
    with raw_connection(ledger) as raw, pyarrow.parquet.ParquetWriter(path, schema) as writer:
        cursor = raw.execute(f"SELECT {', '.join(COLUMNS)} FROM transfers ORDER BY id")
        while some := cursor.fetchmany(ROW_GROUP):
            columns = [list(column) for column in zip(*some, strict=True)]
            writer.write_table(pyarrow.table(columns, schema=schema), row_group_size=ROW_GROUP)


def duckdb_report(path: Path) -> Callable[[], list[tuple[Any, ...]]] | None:
    """Asks DuckDB, with all the threads it wants; None when it is not installed."""
    try:
        import duckdb
    except ImportError:
        return None
    connection = duckdb.connect()
    sums = ", ".join(f"CAST(sum({name}) AS BIGINT)" for name in ("amount_micros", "gpu_ms", "saved_micros"))
    statement = f"SELECT owner, {sums}, count(*) FROM '{path}' WHERE from_ms >= ? AND from_ms < ? GROUP BY owner"
    return lambda: connection.execute(statement, list(month())).fetchall()


def report(folder: Path, lines: int, rounds: int, say: Callable[[str], None]) -> Report:
    """Both in turn; raises SystemExit when they do not agree to the micro-unit."""
    ledger, parquet = folder / f"{lines}.sqlite", folder / f"{lines}.parquet"
    make_ledger(ledger, lines, say)
    ask_duckdb = duckdb_report(parquet)
    if ask_duckdb is not None:
        write_parquet(ledger, parquet)
        say(f"  Parquet written, {parquet.stat().st_size / 2**20:.0f} MiB")
    began = time.monotonic()
    store = open_store(f"sqlite:///{ledger}", time_zone="Europe/Berlin")
    say(f"  rollups caught up in {time.monotonic() - began:.0f} s")
    found = asyncio.run(_measure(store, ask_duckdb, lines, rounds))
    asyncio.run(store.close())
    for path in folder.glob(f"{lines}.*"):
        path.unlink()
    duck = "DuckDB left out" if found.duckdb is None else f"DuckDB {statistics.median(found.duckdb):.1f} ms"
    say(f"  report {statistics.median(found.ours):.1f} ms, {duck}")
    return found


async def _measure(
    store: SqlStore, ask_duckdb: Callable[[], list[tuple[Any, ...]]] | None, lines: int, rounds: int
) -> Report:
    begin_ms, end_ms = month()
    ours: list[float] = []
    theirs: list[float] = []
    with_tail: list[float] = []

    async def ask(times: list[float]) -> list[tuple[Any, ...]]:
        began = time.perf_counter()
        rows = await store.read(lambda uow: uow.usage("owner", from_ms=begin_ms, until_ms=end_ms))
        times.append(1e3 * (time.perf_counter() - began))
        return sorted(map(tuple, rows))

    for _ in range(rounds):
        own = await ask(ours)
        if ask_duckdb is not None:
            began = time.perf_counter()
            other = ask_duckdb()
            theirs.append(1e3 * (time.perf_counter() - began))
            if sorted(other) != own:
                raise SystemExit(f"DuckDB and the store disagree about {lines:,} lines")
    # What has just been charged is in the next answer, before the rollups follow.
    for number in range(5):
        newer = charges(workloads()[number::5], 10_000)
        await store.write(lambda uow, newer=newer: uow.append(newer))
        before, own = sum(row[1] for row in own), await ask(with_tail)
        if sum(row[1] for row in own) != before + sum(charge.amount_micros for charge in newer):
            raise SystemExit("the report lacks what was just charged")
    return Report(lines, ours, theirs or None, with_tail)
