"""The part of the unit of work that keeps the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from sqlalchemy import ColumnElement, Connection, Table, bindparam, func, literal, literal_column, or_, select
from sqlalchemy.exc import DBAPIError

from fastgpu_hub.pricing.ledger import Transfer
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.quotas import Scope, Totals
from fastgpu_hub.pricing.windows import MAX_SPAN_MS
from fastgpu_hub.store import rollups, rows, usage
from fastgpu_hub.store import tables as t
from fastgpu_hub.store.evidence_tables import EvidenceTables
from fastgpu_hub.store.prepared import Prepared

# Written into the statement, not bound: a database uses a partial index only where it sees the index's condition.
_CHARGE: ColumnElement[str] = literal_column("'charge'")
_REFUND: ColumnElement[str] = literal_column("'refund'")

_OF_WORKLOAD = Prepared(
    select(t.transfers).where(t.transfers.c.workload_id == bindparam("key")).order_by(t.transfers.c.id)
)


@cache
def _insertion(dialect: str) -> str:
    marks = ", ".join(["?" if dialect == "sqlite" else "%s"] * len(rows.TRANSFER_COLUMNS))
    return f"INSERT INTO transfers ({', '.join(rows.TRANSFER_COLUMNS)}) VALUES ({marks})"  # noqa: S608


class TransferIds:
    """Gives transfers their ids, ascending: the writer is alone, so one look per transaction tells the last."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._last: int | None = None
        self.given = 0

    def take(self, count: int) -> range:
        """The next so many."""
        if self._last is None:
            statement = "SELECT coalesce(max(id), 0) FROM transfers"
            self._last = int(self._connection.exec_driver_sql(statement).scalar_one())
        first = self._last + 1
        self._last += count
        self.given += count
        return range(first, first + count)


class LedgerTable(EvidenceTables):
    """Reads and writes of the ledger over one connection."""

    def __init__(self, connection: Connection, ids: TransferIds | None = None) -> None:
        """``ids`` are shared by everything that runs in the same transaction."""
        super().__init__(connection)
        self._ids = ids or TransferIds(connection)

    def append(self, transfers: Sequence[Transfer]) -> list[Transfer]:
        """Append-only; returns them with their ids.

        Raises ValueError when an amount is not its line's, and for a charge or refund without line, owner or GPU type.
        """
        if not transfers:
            return []
        written, values = rows.numbered(transfers, self._ids.take(len(transfers)))
        self._insert_values(_insertion(self._bare.dialect.name), values)
        return written

    def _insert_values(self, statement: str, values: list[tuple[Any, ...]]) -> None:
        """Straight to the driver: a charge is a row of plain values, of which there may be very many."""
        driver: Any = self._bare.connection.driver_connection
        dialect = self._bare.dialect
        cursor = driver.cursor()
        try:
            cursor.executemany(statement, values)
        except dialect.loaded_dbapi.Error as error:
            raise DBAPIError.instance(statement, None, error, dialect.loaded_dbapi.Error, dialect=dialect) from error
        finally:
            cursor.close()

    def charged(self, scope: Scope, from_ms: int | None = None, until_ms: int | None = None) -> Totals:
        """Sum of charges, less refunds, whose line starts in ``[from_ms, until_ms)``."""
        return usage.charged(self._bare, scope, from_ms, until_ms)

    def refunded(self, scope: Scope, from_ms: int | None = None, until_ms: int | None = None) -> Totals:
        """Sum of refunds whose line starts in ``[from_ms, until_ms)``."""
        return self._totals("refunded", scope, from_ms, until_ms)

    def usage(
        self,
        by: str,
        *,
        owner: str | None = None,
        accounts: Sequence[str] | None = None,
        from_ms: int | None = None,
        until_ms: int | None = None,
    ) -> Sequence[tuple[Any, int, int, int, int]]:
        """Charges less refunds by ``owner``, ``gpu_type``, ``workload_id`` or ``from_ms``, in no order."""
        return usage.usage(self._connection, by, owner, accounts, from_ms, until_ms)

    def rebuild_usage(self) -> None:
        """Forget the kept sums of usage; they are made again from the ledger, and every answer stays exact."""
        rollups.rebuild(self._connection, rollups.mark(self._connection).time_zone)

    def lines_ending_after(self, scope: Scope, after_ms: int) -> list[Line]:
        """Charged lines, refunded ones left out, that end after an instant, in order of time."""
        c = t.transfers.c
        refunded = select(c.reverses).where(c.reverses.is_not(None))
        statement = select(t.transfers).where(
            c.kind == _CHARGE,
            c.until_ms > after_ms,
            c.id.not_in(refunded),
            # No line is longer than what is priced at once: this bounds the search in the index.
            *within(t.transfers, c.debit, scope, after_ms - MAX_SPAN_MS, None),
        )
        return [rows.line_of(row) for row in self._all(statement.order_by(c.from_ms, c.id))]

    def given(self, account: str, from_ms: int | None = None, until_ms: int | None = None) -> int:
        """Credit that the account itself gave to others in ``[from_ms, until_ms)``, in micro-units."""
        asked = {"account": account, "from_ms": from_ms, "until_ms": until_ms}
        values = {name: value for name, value in asked.items() if value is not None}
        return int(_given(frozenset(values)).rows(self._bare, values)[0][0])

    def expired(self, account: str) -> dict[int, int]:
        """Credit booked as expired, in micro-units, by grant."""
        c = t.transfers.c
        statement = select(c.grant_id, c.amount_micros).where(c.kind != _CHARGE, c.kind == "expire", c.debit == account)
        return {grant_id: int(amount) for grant_id, amount in self._connection.execute(statement)}

    def transfers(
        self,
        *,
        workload_id: str | None = None,
        owner: str | None = None,
        account: str | None = None,
        kind: str | None = None,
        since_ms: int | None = None,
        after_id: int | None = None,
        limit: int | None = None,
    ) -> list[Transfer]:
        """Transfers matching every given filter, in the order they were written: at most ``limit`` after ``after_id``.

        ``account`` is either side of the transfer; ``since_ms`` is when it was booked, inclusive.
        """
        c = t.transfers.c
        if workload_id is not None and (owner, account, since_ms, after_id, limit) == (None,) * 5:
            found = _OF_WORKLOAD.records(self._bare, {"key": workload_id})
            return [rows.transfer_of(row) for row in found if kind in (None, row["kind"])]
        statement = select(t.transfers).order_by(c.id)
        if kind is not None:
            statement = statement.where(c.kind == literal(kind, literal_execute=True))
        if workload_id is not None:
            statement = statement.where(c.workload_id == workload_id)
        if owner is not None:
            statement = statement.where(c.owner == owner)
        if account is not None:
            charges = select(c.id).where(c.kind == _CHARGE, c.debit == account)
            others = select(c.id).where(c.kind != _CHARGE, or_(c.debit == account, c.credit == account))
            statement = statement.where(c.id.in_(charges.union_all(others)))
        if since_ms is not None:
            statement = statement.where(c.at_ms >= since_ms)
        if after_id is not None:
            statement = statement.where(c.id > after_id)
        return [rows.transfer_of(row) for row in self._all(statement.limit(limit))]

    def accounts(self) -> list[str]:
        """Every account that was ever granted credit or charged."""
        c = t.transfers.c
        credited = select(c.credit).distinct().where(c.kind != _CHARGE, c.kind.in_(("grant", "refund")))
        return sorted({*self._connection.execute(credited).scalars(), *usage.accounts(self._connection)})

    def _totals(self, what: str, scope: Scope, from_ms: int | None, until_ms: int | None) -> Totals:
        asked = {"account": scope.account, "owner": scope.owner, "gpu_type": scope.gpu_type}
        values = {**asked, "from_ms": from_ms, "until_ms": until_ms}
        values = {name: value for name, value in values.items() if value is not None}
        amount_micros, gpu_ms = _sums(what, frozenset(values)).rows(self._bare, values)[0]
        return Totals(int(amount_micros), int(gpu_ms))


@cache
def _sums(what: str, asked: frozenset[str]) -> Prepared:
    """The statement for what is ``held`` or ``refunded``, with a condition for each of the values asked with."""
    table = t.hold_lines if what == "held" else t.transfers
    whose = table.c.account if what == "held" else table.c.credit
    sums = (func.coalesce(func.sum(table.c[name]), literal_column("0")) for name in ("amount_micros", "gpu_ms"))
    statement = select(*sums).where(*_conditions(table.c, whose, table.c.from_ms, asked))
    return Prepared(statement if what == "held" else statement.where(table.c.kind == _REFUND))


@cache
def _given(asked: frozenset[str]) -> Prepared:
    c = t.transfers.c
    total = select(func.coalesce(func.sum(c.amount_micros), literal_column("0")))
    grants = total.where(c.kind != _CHARGE, c.kind == literal_column("'grant'"))
    return Prepared(grants.where(*_conditions(c, c.debit, c.at_ms, asked)))


def _conditions(c: Any, whose: ColumnElement[str], at_ms: ColumnElement[int], asked: frozenset[str]) -> list[Any]:
    conditions = {
        "account": whose == bindparam("account"),
        "owner": c.owner == bindparam("owner"),
        "gpu_type": c.gpu_type == bindparam("gpu_type"),
        "from_ms": at_ms >= bindparam("from_ms"),
        "until_ms": at_ms < bindparam("until_ms"),
    }
    return [condition for name, condition in conditions.items() if name in asked]


def within(
    table: Table, account: ColumnElement[str], scope: Scope, from_ms: int | None, until_ms: int | None
) -> list[ColumnElement[bool]]:
    """The conditions of a scope and of lines that start in ``[from_ms, until_ms)``."""
    c = table.c
    wanted = [(account, scope.account), (c.owner, scope.owner), (c.gpu_type, scope.gpu_type)]
    conditions = [column == value for column, value in wanted if value is not None]
    if from_ms is not None:
        conditions.append(c.from_ms >= from_ms)
    if until_ms is not None:
        conditions.append(c.from_ms < until_ms)
    return conditions
