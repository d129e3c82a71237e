"""The broker's Store over SQLite or PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import Connection

from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import StoreUnavailable, UnitOfWork
from fastgpu_hub.store import migrate, rollups
from fastgpu_hub.store.databases import Database, database_of
from fastgpu_hub.store.errors import is_operational, unavailable
from fastgpu_hub.store.unit_of_work import SqlUnitOfWork
from fastgpu_hub.store.writer import Writer

T = TypeVar("T")

_READERS = 4


class SqlStore:
    """Runs use cases in transactions; usable from any event loop. Made by ``open_store``."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="fastgpu-store-reader")
        self._closed = False

    async def write(self, work: Callable[[UnitOfWork], T]) -> T:
        """Run ``work`` in order with all other writes; returns once its effect is durable.

        When ``work`` raises, its effect alone is rolled back and the exception comes out here. ``work`` must not catch
        errors of the database, nor wait for anything. Raises StoreUnavailable when the database cannot commit; then
        nothing of the group was written. One doubt remains: when a connection to PostgreSQL breaks during COMMIT the
        outcome is looked up, and only if that stays impossible for ten seconds may a group have been written all the
        same; idempotency keys, written with their effect, make a repeat safe then too.
        """
        return await self._writer.submit(work)

    def at_hand(self, workload_id: str) -> Workload | None:
        """A live workload as it was last committed, where that is known without asking the database."""
        return self._writer.kept.at_hand(workload_id)

    async def read(self, work: Callable[[UnitOfWork], T]) -> T:
        """Run ``work`` on one snapshot of committed data; the database refuses writes in it.

        Raises StoreUnavailable when the database cannot answer.
        """
        if self._closed:
            raise StoreUnavailable("the store is closed")
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    def _read(self, work: Callable[[UnitOfWork], T]) -> T:
        try:
            with self._database.readers.connect() as connection:
                return work(SqlUnitOfWork(connection))
        except Exception as error:
            if is_operational(error):
                raise unavailable(error) from error
            raise

    async def close(self) -> None:
        """Finish what was asked for, then let go of the database. May be called again."""
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._readers.shutdown()
        self._writer.close()
        self._database.close()


def open_store(
    db_url: str, *, time_zone: str = "UTC", busy_timeout_seconds: float = 5.0, writer_wait_seconds: float = 10.0
) -> SqlStore:
    """Open the store as its only writer and bring its schema and sums of usage up to date. Blocks until it can be used.

    ``db_url`` is ``sqlite:///path``, ``postgresql://…``, or ``sqlite://`` for a temporary store. A statement waits
    ``busy_timeout_seconds`` for a lock that somebody else holds on the data; another FastGPU service that still
    writes to the database gets ``writer_wait_seconds`` to go. Usage is added up by the months of ``time_zone``; when
    that is another than before it is added up anew, which takes some seconds for every million charges.

    Raises AnotherWriter when it does not go, NewerDatabase when the schema is later than this code's, StoreError for a
    URL or file that cannot be used, StoreUnavailable when the database does not answer.
    """
    database = database_of(db_url, busy_timeout_seconds=busy_timeout_seconds, readers=_READERS)

    def prepare(connection: Connection) -> None:
        with connection.begin():
            current = migrate.is_current(connection)
        if not current:
            database.begin_migration(connection)
            with connection.begin():
                migrate.upgrade(connection)
            database.end_migration(connection)
        with connection.begin():
            rollups.prepare(connection, time_zone)
        more = True
        while more:
            with connection.begin():
                more = rollups.follow(connection)

    writer = Writer(database, prepare, writer_wait_seconds)
    try:
        writer.start()
    except BaseException:
        database.close()
        raise
    return SqlStore(database, writer)
