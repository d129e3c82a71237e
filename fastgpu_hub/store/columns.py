"""What all tables are made with."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, CheckConstraint, Column, Integer, MetaData, text

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# SQLite counts ids by itself only for INTEGER, which has 64 bits there.
_Id = BigInteger().with_variant(Integer, "sqlite")


def id_column() -> Column[int]:
    """A row's own number, given by the database in ascending order."""
    return Column("id", _Id, primary_key=True, autoincrement=True)


def not_negative(*columns: str) -> list[CheckConstraint]:
    """Checks that these columns hold no negative number."""
    return [CheckConstraint(f"{column} >= 0", name=f"{column}_not_negative") for column in columns]


def where(condition: str) -> dict[str, Any]:
    """Makes an index partial: of the rows that meet a condition only."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}
