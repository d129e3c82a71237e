"""Statements that are run all the time: compiled once, then straight to the driver.

What SQLAlchemy does around a statement takes several times as long as a statement that finds one row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Boolean, Connection, Dialect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql import Select
from sqlalchemy.sql.expression import ClauseElement

Values = Mapping[str, Any]


class _Compiled(NamedTuple):
    """The statement's text, the names of its parameters in order (None: the driver takes them by name), constants."""

    sql: str
    order: tuple[str, ...] | None
    constants: dict[str, Any]

    def parameters(self, values: Values) -> Any:
        if self.order is None:
            return {**self.constants, **values}
        given = {**self.constants, **values} if self.constants else values
        return [given[name] for name in self.order]


class Prepared:
    """A statement of fixed text. ``columns`` names the parameters of an INSERT's or UPDATE's new values."""

    def __init__(self, statement: ClauseElement, columns: Sequence[str] | None = None) -> None:
        self._statement = statement
        self._columns = None if columns is None else list(columns)
        self._compiled: dict[str, _Compiled] = {}
        selected = list(statement.selected_columns) if isinstance(statement, Select) else []
        self._names = [column.name for column in selected]
        self._booleans = [column.name for column in selected if isinstance(column.type, Boolean)]

    def _of(self, dialect: Dialect) -> _Compiled:
        known = self._compiled.get(dialect.name)
        if known is None:
            compiled: Any = self._statement.compile(dialect=dialect, column_keys=self._columns)
            constants = {name: value for name, value in compiled.params.items() if value is not None}
            order = tuple(compiled.positiontup) if compiled.positional else None
            known = self._compiled[dialect.name] = _Compiled(compiled.string, order, constants)
        return known

    def _run(self, connection: Connection, parameters: Any, *, many: bool = False) -> Any:
        if not connection.in_transaction():
            connection.begin()
        dialect = connection.dialect
        driver: Any = connection.connection.driver_connection
        cursor = driver.cursor()
        sql = self._of(dialect).sql
        if connection.dispatch.before_cursor_execute:  # whoever watches what is sent sees this too
            connection.dispatch.before_cursor_execute(connection, cursor, sql, parameters, None, many)
        try:
            (cursor.executemany if many else cursor.execute)(sql, parameters)
        except dialect.loaded_dbapi.Error as error:
            raise DBAPIError.instance(sql, None, error, dialect.loaded_dbapi.Error, dialect=dialect) from error
        return cursor

    def rows(self, connection: Connection, values: Values) -> list[Any]:
        """All rows, as tuples."""
        cursor = self._run(connection, self._of(connection.dialect).parameters(values))
        try:
            return list(cursor.fetchall())
        finally:
            cursor.close()

    def records(self, connection: Connection, values: Values) -> list[dict[str, Any]]:
        """All rows, by the names of the columns that are selected."""
        found = [dict(zip(self._names, row, strict=True)) for row in self.rows(connection, values)]
        for row in found:
            for name in self._booleans:
                row[name] = bool(row[name])
        return found

    def change(self, connection: Connection, values: Values) -> int:
        """How many rows it changed."""
        cursor = self._run(connection, self._of(connection.dialect).parameters(values))
        try:
            return int(cursor.rowcount)
        finally:
            cursor.close()

    def change_many(self, connection: Connection, values: Iterable[Values]) -> None:
        """Run it for each of these."""
        compiled = self._of(connection.dialect)
        self._run(connection, [compiled.parameters(each) for each in values], many=True).close()


@lru_cache(maxsize=512)
def of_text(sql: str) -> Prepared:
    """The statement of this text, with parameters as ``:name``."""
    return Prepared(text(sql))
