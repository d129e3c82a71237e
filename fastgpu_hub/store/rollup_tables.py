"""The tables of sums: charges less refunds up to one transfer, most by calendar month of the site's time zone."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, Index, Integer, String, Table

from fastgpu_hub.store.tables import metadata

SUMS = ("amount_micros", "gpu_ms", "saved_micros", "lines")


def _sums() -> list[Column[Any]]:
    return [Column(name, BigInteger, nullable=False) for name in SUMS]


usage = Table(
    "usage",
    metadata,
    Column("owner", String, primary_key=True),
    Column("month_ms", BigInteger, primary_key=True),
    Column("account", String, primary_key=True),
    Column("gpu_type", String, primary_key=True),
    *_sums(),
    Index("ix_usage_account", "account", "month_ms"),
    sqlite_with_rowid=False,
)

usage_accounts = Table(
    "usage_accounts",
    metadata,
    Column("account", String, primary_key=True),
    Column("month_ms", BigInteger, primary_key=True),
    Column("gpu_type", String, primary_key=True),
    *_sums(),
    sqlite_with_rowid=False,
)

usage_people = Table(
    "usage_people",
    metadata,
    Column("month_ms", BigInteger, primary_key=True),
    Column("owner", String, primary_key=True),
    *_sums(),
    sqlite_with_rowid=False,
)

usage_promotions = Table(
    "usage_promotions",
    metadata,
    Column("promotion_id", BigInteger, primary_key=True, autoincrement=False),
    Column("owner", String, primary_key=True),
    *_sums(),
    sqlite_with_rowid=False,
)

usage_mark = Table(
    "usage_mark",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("time_zone", String, nullable=False),
    Column("until_id", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="one_row"),
)
