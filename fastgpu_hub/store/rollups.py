"""Usage added up, mostly by calendar month: a balance or a month's report reads thousands of rows, not millions.

The rollups hold every charge, less refunds, up to a watermark: the id of a transfer. Who asks adds what was written
after the watermark in the same snapshot, so every answer is exact at every moment. ``follow`` moves the sums and the
watermark in one transaction, so a crash leaves both right. Months are those of the site's time zone.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple, cast

from sqlalchemy import Connection, Table, text

from fastgpu_hub.pricing.windows import calendar_window
from fastgpu_hub.store import rollup_tables as t
from fastgpu_hub.store.prepared import of_text
from fastgpu_hub.store.rollup_tables import SUMS

# How many transfers one step of ``follow`` takes in: others wait for its transaction.
STEP = 50_000

LINES = "kind IN ('charge', 'refund')"
SIGN = "CASE kind WHEN 'charge' THEN 1 ELSE -1 END"
PAYER = "CASE kind WHEN 'charge' THEN debit ELSE credit END"

_MONTHLY = (t.usage, t.usage_accounts, t.usage_people)
_ALL_TIME = (-(2**63), 2**63 - 1)

cached_text = lru_cache(maxsize=512)(text)


class Mark(NamedTuple):
    """The rollups hold every transfer up to ``until_id``, by months of ``time_zone``."""

    time_zone: str
    until_id: int


def mark(connection: Connection) -> Mark:
    """How far the rollups are in this snapshot."""
    return Mark(*of_text("SELECT time_zone, until_id FROM usage_mark").rows(connection, {})[0])


def prepare(connection: Connection, time_zone: str) -> None:
    """Begin anew where the rollups are kept by other months than the time zone's."""
    found = connection.execute(cached_text("SELECT time_zone FROM usage_mark")).scalar_one_or_none()
    months = connection.execute(cached_text("SELECT DISTINCT month_ms FROM usage_accounts")).scalars()
    if found != time_zone or any(_month(time_zone, begin_ms)[0] != begin_ms for begin_ms in months):
        rebuild(connection, time_zone)


def rebuild(connection: Connection, time_zone: str) -> None:
    """Forget every sum; ``follow`` makes them again from the ledger."""
    for table in (*_MONTHLY, t.usage_promotions, t.usage_mark):
        connection.exec_driver_sql(f"DELETE FROM {table.name}")  # noqa: S608
    statement = cached_text("INSERT INTO usage_mark (id, time_zone, until_id) VALUES (1, :zone, 0)")
    connection.execute(statement, {"zone": time_zone})


def follow(connection: Connection, step: int = STEP) -> bool:
    """Take in at most ``step`` more transfers, in the open transaction; returns whether there are more."""
    time_zone, after = mark(connection)
    last = connection.execute(cached_text("SELECT coalesce(max(id), 0) FROM transfers")).scalar_one()
    if last <= after:
        return False
    span = {"after": after, "upto": min(last, after + step)}
    parts = [(rollup, month) for month in _months(connection, time_zone, span) for rollup in _MONTHLY]
    for rollup, (begin_ms, end_ms) in [*parts, (t.usage_promotions, _ALL_TIME)]:
        statement = cached_text(_take_in(rollup, connection.dialect.name))
        connection.execute(statement, {**span, "begin_ms": begin_ms, "end_ms": end_ms})
    connection.execute(cached_text("UPDATE usage_mark SET until_id = :upto"), {"upto": span["upto"]})
    return bool(span["upto"] < last)


def faults(connection: Connection, limit: int = 10) -> list[str]:
    """Where the rollups are not what the ledger adds up to, one sentence each, at most ``limit``; reads all of it."""
    time_zone, until_id = mark(connection)
    span = {"after": 0, "upto": until_id, "limit": limit}
    months = dict(_months(connection, time_zone, span))
    parts = [(t.usage_promotions, _ALL_TIME)]
    for rollup in _MONTHLY:
        kept = connection.exec_driver_sql(f"SELECT DISTINCT month_ms FROM {rollup.name}").scalars()  # noqa: S608
        parts += [(rollup, (begin_ms, months.get(begin_ms, begin_ms))) for begin_ms in sorted({*kept, *months})]
    found: list[str] = []
    for rollup, (begin_ms, end_ms) in parts:
        statement = cached_text(_differences(rollup, connection.dialect.name))
        for row in connection.execute(statement, {**span, "begin_ms": begin_ms, "end_ms": end_ms}).mappings():
            key = ", ".join(f"{name} {row[name]}" for name in _keys(rollup))
            off = ", ".join(f"{name} by {row[name]}" for name in SUMS if row[name])
            found.append(f"{rollup.name} of {key} is off: {off}")
    return found[:limit]


def _months(connection: Connection, time_zone: str, span: dict[str, int]) -> Iterator[tuple[int, int]]:
    """The months in which lines of a span of the ledger start, as ``[begin, end)``, ascending."""
    first = cached_text(
        f"SELECT min(from_ms), max(from_ms) FROM transfers{by_id(connection.dialect.name)} "  # noqa: S608
        f"WHERE id > :after AND id <= :upto AND {LINES} AND from_ms >= :least_ms"
    )
    values = {"after": span["after"], "upto": span["upto"]}
    from_ms, last_ms = connection.execute(first, {**values, "least_ms": _ALL_TIME[0]}).one()
    while from_ms is not None:
        begin_ms, end_ms = _month(time_zone, from_ms)
        yield begin_ms, end_ms
        if last_ms < end_ms:
            return
        from_ms, last_ms = connection.execute(first, {**values, "least_ms": end_ms}).one()


def _month(time_zone: str, at_ms: int) -> tuple[int, int]:
    return cast("tuple[int, int]", calendar_window("month", time_zone, at_ms))


# ---------------------------------------------------------------- statements, of constants and names only


def by_id(dialect: str) -> str:
    """Keeps SQLite, which knows no statistics, from preferring an index to the last few rows of the table."""
    return " NOT INDEXED" if dialect == "sqlite" else ""


def _keys(rollup: Table) -> list[str]:
    return [column.name for column in rollup.primary_key]


def _take_in(rollup: Table, dialect: str) -> str:
    added = ", ".join(f"{name} = {rollup.name}.{name} + excluded.{name}" for name in SUMS)
    return (
        f"INSERT INTO {rollup.name} ({', '.join([*_keys(rollup), *SUMS])}) {_of_ledger(rollup, dialect)} "
        f"ON CONFLICT ({', '.join(_keys(rollup))}) DO UPDATE SET {added}"
    )


def _of_ledger(rollup: Table, dialect: str) -> str:
    """The rollup's rows of an interval, added up from a span of the ledger."""
    expressions = {"account": PAYER, "month_ms": "CAST(:begin_ms AS BIGINT)"}
    keys = [f"{expressions.get(key, key)} AS {key}" for key in _keys(rollup)]
    sums = [f"CAST(sum({SIGN} * {'1' if name == 'lines' else name}) AS BIGINT) AS {name}" for name in SUMS]
    grouped = ", ".join(PAYER if key == "account" else key for key in _keys(rollup) if key != "month_ms")
    promoted = " AND promotion_id IS NOT NULL" if rollup is t.usage_promotions else ""
    return (
        f"SELECT {', '.join((*keys, *sums))} FROM transfers{by_id(dialect)} "  # noqa: S608
        f"WHERE id > :after AND id <= :upto AND {LINES} AND from_ms >= :begin_ms AND from_ms < :end_ms{promoted} "
        f"GROUP BY {grouped}"
    )


def _differences(rollup: Table, dialect: str) -> str:
    """Rows in which the rollup's month, or all of it, differs from the ledger, with by how much."""
    keys = ", ".join(_keys(rollup))
    month = " WHERE month_ms = :begin_ms" if rollup in _MONTHLY else ""
    negative = ", ".join(f"-{name}" for name in SUMS)
    sums = ", ".join(f"CAST(sum({name}) AS BIGINT) AS {name}" for name in SUMS)
    return (
        f"SELECT {keys}, {sums} FROM ("  # noqa: S608
        f"SELECT {keys}, {', '.join(SUMS)} FROM {rollup.name}{month} UNION ALL "
        f"SELECT {keys}, {negative} FROM ({_of_ledger(rollup, dialect)}) AS counted) AS both_of_them "
        f"GROUP BY {keys} HAVING {' OR '.join(f'sum({name}) <> 0' for name in SUMS)} ORDER BY {keys} LIMIT :limit"
    )
