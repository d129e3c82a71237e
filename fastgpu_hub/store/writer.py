"""The single writer: one thread, one connection, many use cases per commit.

A durable commit costs a wait for the disk. The writer therefore takes everything that waits (at most ``GROUP_LIMIT``)
into one transaction, each in a savepoint of its own, and commits once. Nobody hears of a result before that commit.
When nobody waits, or much has been written, it lets the sums of usage follow the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from sqlalchemy import Connection, RootTransaction
from sqlalchemy.exc import SQLAlchemyError

from fastgpu_hub.broker.ports.store import StoreUnavailable, UnitOfWork
from fastgpu_hub.store import rollups
from fastgpu_hub.store.buffered import BufferedUnitOfWork
from fastgpu_hub.store.databases import Database
from fastgpu_hub.store.errors import StoreError, is_operational, unavailable
from fastgpu_hub.store.kept import Kept
from fastgpu_hub.store.ledger_table import TransferIds

T = TypeVar("T")

GROUP_LIMIT = 256

# The sums of usage follow after so long without a write, or when so many transfers are not in them: every question adds
# those up again.
IDLE_SECONDS = 0.1
TAIL_LIMIT = 100_000

# How long a lost commit may take to find out about, and how long a reconnect waits for its own old session to go.
_IN_DOUBT_SECONDS = 10.0
_RECONNECT_SECONDS = 1.0
_ASK_AGAIN_SECONDS = 0.2

_log = logging.getLogger(__name__)


class _Call:
    """One use case: what to run, and who waits for it."""

    __slots__ = ("error", "future", "loop", "result", "work")

    def __init__(self, work: Callable[[UnitOfWork], Any]) -> None:
        self.work = work
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None

    def deliver(self) -> None:
        """Tell the waiting task; runs on its event loop."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        elif isinstance(self.error, StopIteration):  # which a future refuses to carry
            self.future.set_exception(RuntimeError("the work raised StopIteration"))
        else:
            self.future.set_exception(self.error)


class Writer:
    """Runs use cases in the order they came. ``prepare`` gets the first connection before anything else."""

    def __init__(self, database: Database, prepare: Callable[[Connection], None], wait_seconds: float) -> None:
        self._database = database
        self._queue: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._door = threading.Lock()
        self._closed = False
        self._connection: Connection | None = None
        self.kept = Kept()
        self._tail = 0  # transfers committed since the sums of usage followed
        self._thread = threading.Thread(
            target=self._run, args=(prepare, wait_seconds), name="fastgpu-store-writer", daemon=True
        )
        self._ready: Future[None] = Future()

    def start(self) -> None:
        """Connect and prepare; raises what went wrong, and is closed then."""
        self._thread.start()
        try:
            self._ready.result()
        except BaseException:
            self.close()
            raise

    async def submit(self, work: Callable[[UnitOfWork], T]) -> T:
        """Run ``work`` and return its result once committed. A caller that is cancelled does not stop its work."""
        call = _Call(work)
        with self._door:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            self._queue.put(call)
        result: T = await call.future
        return result

    def close(self) -> None:
        """Finish what was submitted, then disconnect. Blocks until done."""
        with self._door:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    # ------------------------------------------------------------ on the writer's thread

    def _run(self, prepare: Callable[[Connection], None], wait_seconds: float) -> None:
        try:
            self._connection = self._database.connect_writer(wait_seconds)
            prepare(self._connection)
        except BaseException as error:
            self._disconnect()
            self._ready.set_exception(unavailable(error) if is_operational(error) else error)
            return
        self._ready.set_result(None)
        while (group := self._take(IDLE_SECONDS if self._tail else None)) is not None:
            self._write(group)
            self._deliver(group)
            if self._tail and (not group or self._tail >= TAIL_LIMIT):
                self._follow()
            del group  # keeps nobody's results alive while waiting for the next
        self._disconnect()

    def _take(self, seconds: float | None) -> list[_Call] | None:
        """Wait for a call, then take all that wait behind it; empty after so many seconds, None when closed."""
        group: list[_Call] = []
        with contextlib.suppress(queue.Empty):
            while len(group) < GROUP_LIMIT:
                call = self._queue.get(block=not group, timeout=seconds)
                if call is None:
                    self._queue.put(None)  # nothing comes behind it: found again by the next take
                    return group or None
                group.append(call)
        return group

    def _write(self, group: list[_Call]) -> None:
        if not group:
            return
        token: int | None = None
        try:
            if self._connection is None:
                self._connection = self._database.connect_writer(_RECONNECT_SECONDS)
            transaction = self._connection.begin()
            ids = TransferIds(self._connection)
            if len(group) == 1:
                transaction = _attempt_alone(self._connection, ids, self.kept, group[0], transaction)
            else:
                driver = self._connection.connection.driver_connection
                for call in group:
                    _attempt(self._connection, driver, ids, self.kept, call)
            token = self._database.commit_token(self._connection)
            transaction.commit()
            self._tail += ids.given
            self.kept.committed()
        except Exception as error:
            self._disconnect()
            if token is not None and self._was_committed(token):
                return
            _log.warning("%d writes failed together: %s", len(group), unavailable(error))
            for call in group:
                call.error = unavailable(error)

    def _follow(self) -> None:
        """Let the sums of usage take in what is new. What fails is left for after the next write: nothing needs it."""
        self._tail = 0
        self.kept.values.clear()  # the mark of how far the sums follow is among them
        try:
            if self._connection is None:
                self._connection = self._database.connect_writer(_RECONNECT_SECONDS)
            with self._connection.begin():
                self._tail = int(rollups.follow(self._connection))
        except Exception as error:
            self._disconnect()
            _log.warning("the sums of usage could not follow the ledger: %s", unavailable(error))

    def _was_committed(self, token: int) -> bool:
        """Find out about a transaction whose connection broke while it was being committed.

        A server that is being restarted answers again in a moment, so it is asked for some time.
        """
        deadline = time.monotonic() + _IN_DOUBT_SECONDS
        while True:
            try:
                self._connection = self._database.connect_writer(_IN_DOUBT_SECONDS)
                return self._database.was_committed(self._connection, token)
            except (SQLAlchemyError, StoreError) as error:
                self._disconnect()
                if time.monotonic() >= deadline:
                    _log.error("cannot find out whether transaction %d was committed: %s", token, error)
                    return False
            time.sleep(_ASK_AGAIN_SECONDS)

    def _disconnect(self) -> None:
        self.kept.forget()
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):  # it may be broken in any way; what matters is that it goes
                connection.close()

    @staticmethod
    def _deliver(group: list[_Call]) -> None:
        for loop in dict.fromkeys(call.loop for call in group):
            calls = [call for call in group if call.loop is loop]
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(_deliver_all, calls)


def _deliver_all(calls: list[_Call]) -> None:
    for call in calls:
        call.deliver()


def _carry_out(connection: Connection, ids: TransferIds, kept: Kept, call: _Call) -> None:
    uow = BufferedUnitOfWork(connection, ids, kept)
    call.result = call.work(uow)
    uow.done()


def _attempt_alone(
    connection: Connection, ids: TransferIds, kept: Kept, call: _Call, transaction: RootTransaction
) -> RootTransaction:
    """Run a call that is the whole transaction: a savepoint would cost it a copy of every page it changes.

    Returns the transaction to commit, a new one when the call failed. Raises only when the connection is lost.
    """
    try:
        _carry_out(connection, ids, kept, call)
        return transaction
    except BaseException as error:
        kept.forget()
        if connection.invalidated:
            raise unavailable(error) from error
        transaction.rollback()
        call.result = None
        call.error = unavailable(error) if is_operational(error) else error
        return connection.begin()


def _attempt(connection: Connection, driver: Any, ids: TransferIds, kept: Kept, call: _Call) -> None:
    """Run one call in a savepoint. Raises only when the transaction as a whole is lost.

    Savepoints are set on the ``driver``'s connection: they need nothing of what SQLAlchemy does around a statement.
    """
    driver.execute("SAVEPOINT one_call")
    try:
        _carry_out(connection, ids, kept, call)
        driver.execute("RELEASE SAVEPOINT one_call")
    except BaseException as error:
        kept.forget()
        if connection.invalidated:
            raise unavailable(error) from error
        try:
            driver.execute("ROLLBACK TO SAVEPOINT one_call")
        except Exception:  # a full disk makes SQLite take back the whole transaction by itself
            raise unavailable(error) from error
        driver.execute("RELEASE SAVEPOINT one_call")
        call.result = None
        call.error = unavailable(error) if is_operational(error) else error
