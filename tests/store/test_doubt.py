"""Promise 14: what was committed as the server went down is not called lost, nor written again."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from fastgpu_hub.broker.ports.store import StoreUnavailable
from fastgpu_hub.pricing.ledger import Transfer
from fastgpu_hub.store import SqlStore

pytestmark = [pytest.mark.postgres, pytest.mark.slow]  # a server stops and starts


@pytest.fixture
def database_url(postgres_url: str) -> str:
    return postgres_url


@pytest.fixture
def restarted(postgres: Any) -> Iterator[Any]:
    """The server, which runs again at the end."""
    yield postgres
    with contextlib.suppress(AssertionError):  # it runs already
        postgres.start()


async def test_a_commit_is_looked_up_when_the_server_that_took_it_is_back(
    store: SqlStore, restarted: Any, grant: Transfer, names_of: Any
) -> None:
    dialect = store._database._writer.dialect
    real, starting = dialect.do_commit, threading.Timer(1.0, restarted.start)

    def takes_it_and_goes(raw: Any) -> None:
        real(raw)
        dialect.do_commit = real
        restarted.stop()
        starting.start()
        raise dialect.loaded_dbapi.OperationalError("server closed the connection unexpectedly")

    dialect.do_commit = takes_it_and_goes
    written = await store.write(lambda uow: uow.append([grant]))
    await asyncio.to_thread(starting.join)
    assert len(written) == len(await names_of()) == 1


async def test_a_commit_that_cannot_be_looked_up_is_unavailable_in_the_end(
    store: SqlStore, restarted: Any, grant: Transfer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastgpu_hub.store.writer._IN_DOUBT_SECONDS", 0.5)
    dialect = store._database._writer.dialect
    real = dialect.do_commit

    def goes(raw: Any) -> None:
        dialect.do_commit = real
        restarted.stop()
        real(raw)

    dialect.do_commit = goes
    with pytest.raises(StoreUnavailable):
        await store.write(lambda uow: uow.append([grant]))
