"""SQLite and PostgreSQL as the store needs them: one locked writing connection, and connections that only read."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, NullPool, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from fastgpu_hub.store.errors import AnotherWriter, StoreError

# Names FastGPU's writer among a PostgreSQL database's advisory locks ("fastgpu" in ASCII).
ADVISORY_LOCK = 0x66617374677075

_RETRY_SECONDS = 0.1

_WRITER_CACHE_KIB = 8_192
_READER_CACHE_KIB = 1_024
_CHECKPOINT_PAGES = 8_000


class Database(Protocol):
    """What differs between databases. Connections of the writer are used by one thread at a time."""

    readers: Engine

    def connect_writer(self, wait_seconds: float) -> Connection:
        """Connect as the only writer. Waits that long for another writer to go, then raises AnotherWriter."""

    def begin_migration(self, connection: Connection) -> None:
        """Prepare the connection (not in a transaction) for changes of the schema."""

    def end_migration(self, connection: Connection) -> None:
        """The inverse, after the changes were committed."""

    def commit_token(self, connection: Connection) -> int | None:
        """Names the transaction about to be committed, None where a failed commit surely wrote nothing."""

    def was_committed(self, connection: Connection, token: int) -> bool:
        """Whether that transaction of an earlier, lost connection took effect. Ask as the writer."""

    def close(self) -> None:
        """Close the readers' connections and let another writer in."""


def database_of(db_url: str, *, busy_timeout_seconds: float, readers: int) -> Database:
    """The database of an SQLAlchemy URL. Raises StoreError for one that cannot be used."""
    try:
        url = make_url(db_url)
    except ArgumentError as error:
        raise StoreError("the database URL cannot be read; write sqlite:///file or postgresql://host/name") from error
    if url.get_backend_name() == "sqlite":
        return SqliteDatabase(url, busy_timeout_seconds, readers)
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg"):
        return PostgresDatabase(url.set(drivername="postgresql+psycopg"), busy_timeout_seconds, readers)
    raise StoreError(f"FastGPU keeps its records in SQLite or PostgreSQL (psycopg), not in {url.drivername}")


# ---------------------------------------------------------------- SQLite


class SqliteDatabase:
    """A SQLite file in WAL mode, durable at every commit.

    Without a file name (``sqlite://``) the database is a temporary one: it lives in a folder that goes when closed, and
    is not forced to disk.
    """

    def __init__(self, url: URL, busy_timeout_seconds: float, readers: int) -> None:
        if url.drivername not in ("sqlite", "sqlite+pysqlite") or url.query or (url.database or "").startswith("file:"):
            raise StoreError("a SQLite database is given as sqlite:///path/to/file, without options")
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if url.database in (None, "", ":memory:"):
            self._temporary = tempfile.TemporaryDirectory(prefix="fastgpu-store-")
            url = url.set(database=os.path.join(self._temporary.name, "store.sqlite"))
        self._path = Path(str(url.database)).absolute()
        url = url.set(database=str(self._path))  # the same file when reopened, wherever the process works by then
        self._lock: int | None = None
        self._busy_timeout_ms = int(busy_timeout_seconds * 1000)
        self._writer = create_engine(url, poolclass=NullPool)
        self.readers = create_engine(url, pool_size=readers, max_overflow=0)
        event.listen(self._writer, "connect", self._set_up_writer)
        event.listen(self.readers, "connect", self._set_up_reader)
        # The driver would open transactions by its own rules: too late for a snapshot, and not around DDL.
        event.listen(self._writer, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        event.listen(self.readers, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))

    def _set_up_writer(self, raw: Any, _record: Any) -> None:
        raw.isolation_level = None
        raw.execute(f"PRAGMA busy_timeout = {self._busy_timeout_ms}")
        if raw.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
            raise StoreError(f"{self._path} cannot be used safely there (a network file system?): it refuses WAL mode")
        raw.execute(f"PRAGMA synchronous = {'OFF' if self._temporary else 'FULL'}")
        # The ledger's indexes grow everywhere at once: pages that stay in memory and are written to the file together,
        # rather than once per commit, make the difference.
        raw.execute(f"PRAGMA cache_size = -{_WRITER_CACHE_KIB}")
        raw.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        raw.execute("PRAGMA temp_store = MEMORY")
        raw.execute("PRAGMA foreign_keys = ON")
        raw.execute("PRAGMA recursive_triggers = ON")  # else INSERT OR REPLACE would delete past the triggers

    def _set_up_reader(self, raw: Any, _record: Any) -> None:
        raw.isolation_level = None
        raw.execute(f"PRAGMA busy_timeout = {self._busy_timeout_ms}")
        raw.execute(f"PRAGMA cache_size = -{_READER_CACHE_KIB}")
        raw.execute("PRAGMA query_only = ON")

    def connect_writer(self, wait_seconds: float) -> Connection:
        if self._lock is None:
            self._lock = self._take_lock(wait_seconds)
        return self._writer.connect()

    def _take_lock(self, wait_seconds: float) -> int:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                _lock_file(descriptor, self._path, wait_seconds)
                self._create()
            except BaseException:
                os.close(descriptor)
                raise
        except OSError as error:
            raise StoreError(f"the database {self._path} cannot be opened: {error.strerror}") from error
        return descriptor

    def _create(self) -> None:
        # Never opened when it is there: closing it would drop the locks this process may hold on it through SQLite.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))

    def begin_migration(self, connection: Connection) -> None:
        # A migration may rebuild a table; dropping the old one must not touch rows that refer to it.
        self._foreign_keys(connection, "OFF")

    def end_migration(self, connection: Connection) -> None:
        self._foreign_keys(connection, "ON")

    def _foreign_keys(self, connection: Connection, value: str) -> None:
        raw: Any = connection.connection.driver_connection
        raw.execute(f"PRAGMA foreign_keys = {value}")

    def commit_token(self, connection: Connection) -> int | None:
        return None

    def was_committed(self, connection: Connection, token: int) -> bool:
        return False

    def close(self) -> None:
        self.readers.dispose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
        if self._temporary is not None:
            self._temporary.cleanup()


def _lock_file(descriptor: int, path: Path, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
        else:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            return
        if time.monotonic() >= deadline:
            holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
            raise AnotherWriter(f"another FastGPU service already writes to {path} (process {holder}); stop it first")
        time.sleep(_RETRY_SECONDS)


# ---------------------------------------------------------------- PostgreSQL


# A server that vanished without a word is noticed within half a minute.
_CONNECT = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "20000",
    "application_name": "fastgpu",
}


class PostgresDatabase:
    """A PostgreSQL database; the writer's session holds an advisory lock for as long as it lives."""

    def __init__(self, url: URL, busy_timeout_seconds: float, readers: int) -> None:
        missing = {name: value for name, value in _CONNECT.items() if name not in url.query}
        url = url.update_query_dict(missing)
        self._name = url.set(query={}).render_as_string(hide_password=True)
        self._lock_timeout_ms = int(busy_timeout_seconds * 1000)
        try:
            self._writer = create_engine(url, poolclass=NullPool)
        except ImportError as error:
            raise StoreError("PostgreSQL needs the psycopg package: pip install 'fastgpu-hub[postgres]'") from error
        event.listen(self._writer, "connect", self._set_up_writer)
        self.readers: Engine = create_engine(
            url,
            pool_size=readers,
            max_overflow=0,
            pool_pre_ping=True,
            isolation_level="REPEATABLE READ",  # a report adds up: all its statements see the same instant
        ).execution_options(postgresql_readonly=True)

    def _set_up_writer(self, raw: Any, _record: Any) -> None:
        raw.execute(f"SET lock_timeout = {self._lock_timeout_ms}")
        raw.execute(
            "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
        )
        raw.commit()

    def connect_writer(self, wait_seconds: float) -> Connection:
        deadline = time.monotonic() + wait_seconds
        connection = self._writer.connect()
        try:
            while not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({ADVISORY_LOCK})").scalar_one():
                connection.rollback()
                if time.monotonic() >= deadline:
                    raise AnotherWriter(f"another FastGPU service already writes to {self._name}; stop it first")
                time.sleep(_RETRY_SECONDS)
            connection.commit()
        except BaseException:
            connection.close()
            raise
        return connection

    def begin_migration(self, connection: Connection) -> None:
        pass

    def end_migration(self, connection: Connection) -> None:
        pass

    def commit_token(self, connection: Connection) -> int | None:
        # When the connection breaks during COMMIT only the server knows whether it took effect.
        return int(connection.exec_driver_sql("SELECT pg_current_xact_id()::text").scalar_one())

    def was_committed(self, connection: Connection, token: int) -> bool:
        # The lost session let go of the writer's lock, so its transaction has ended one way or the other.
        status = connection.exec_driver_sql(f"SELECT pg_xact_status('{token:d}'::xid8)").scalar_one()
        connection.rollback()
        return bool(status == "committed")

    def close(self) -> None:
        self.readers.dispose()
