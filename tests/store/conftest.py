"""Records and stores for the store's own tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.ledger import Transfer, grant_transfer
from fastgpu_hub.store import SqlStore, open_store


@pytest.fixture
def workload() -> Workload:
    return Workload("w1", "job", "alice", "class:cs101", (), "train", "h100-80gb", 1, "queued", 1_000)


@pytest.fixture
def grant() -> Transfer:
    return grant_transfer(Grant(0, "class:cs101", 1_000, 1, by="root"))


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[SqlStore]:
    opened = await asyncio.to_thread(open_store, database_url, busy_timeout_seconds=0.3)
    yield opened
    await opened.close()


@pytest.fixture
def names_of(store: SqlStore) -> Callable[[], Any]:
    """The notes of all transfers, as committed."""

    async def read() -> list[str]:
        return [transfer.note for transfer in await store.read(lambda uow: uow.transfers())]

    return read
