"""Why a store cannot be opened, and which database errors mean "not now"."""

from __future__ import annotations

import sqlalchemy.exc as sa

from fastgpu_hub.broker.ports.store import StoreUnavailable


class StoreError(Exception):
    """The store cannot be opened as configured; waiting does not help. The message says what to do."""


class AnotherWriter(StoreError):
    """Another process is the writer of this database."""


class NewerDatabase(StoreError):
    """The database was written by a later version of FastGPU."""


def is_operational(error: BaseException) -> bool:
    """Whether the database, not the statement, is at fault: locked, full, unreachable, damaged."""
    if isinstance(error, (sa.OperationalError, sa.InterfaceError, sa.PendingRollbackError)):
        return True
    return type(error) is sa.DatabaseError  # what sqlite3 raises for a file that is damaged or no database


def unavailable(error: BaseException) -> StoreUnavailable:
    """A StoreUnavailable that names its cause, without the statement and its values."""
    if isinstance(error, StoreUnavailable):
        return StoreUnavailable(*error.args)
    reason = getattr(error, "orig", None) or error
    result = StoreUnavailable(f"the database does not answer: {str(reason).strip()}")
    result.__cause__ = error
    return result
