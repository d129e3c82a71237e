"""A database opened to read only, beside the service that writes it or without it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from fastgpu_hub.store import migrate
from fastgpu_hub.store.databases import database_of
from fastgpu_hub.store.errors import StoreError, is_operational, unavailable
from fastgpu_hub.store.unit_of_work import SqlUnitOfWork

_BUSY_SECONDS = 30.0


@contextmanager
def read_only(db_url: str) -> Iterator[SqlUnitOfWork]:
    """One snapshot of committed data, of any length; nothing is locked, created or migrated.

    Raises StoreError for a URL that cannot be used and a database that is not there or not of this version,
    NewerDatabase for one of a later version, StoreUnavailable when it does not answer.
    """
    _must_exist(db_url)
    database = database_of(db_url, busy_timeout_seconds=_BUSY_SECONDS, readers=1)
    try:
        with database.readers.connect() as connection:
            if not migrate.is_current(connection):
                raise StoreError(
                    "this is not a database of this version of FastGPU; where it is of an earlier one, start the "
                    "service once, which brings it up to date"
                )
            yield SqlUnitOfWork(connection)
    except Exception as error:
        if is_operational(error):
            raise unavailable(error) from error
        raise
    finally:
        database.close()


def _must_exist(db_url: str) -> None:
    """SQLite would make an empty file of any name that is mistyped."""
    try:
        url = make_url(db_url)
    except ArgumentError:
        return  # database_of says it
    if url.get_backend_name() == "sqlite" and not (url.database and Path(url.database).is_file()):
        raise StoreError(f"there is no database {url.database or 'without a file name'}")
