"""What every store promises about the files that jobs left, over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastgpu_hub.broker.ports.records import Artifact, Workload
from fastgpu_hub.broker.ports.store import Store
from fastgpu_hub.pricing.explain import Explained, Refused
from fastgpu_hub.pricing.quotas import Scope
from fastgpu_hub.store import open_store


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    opened = await asyncio.to_thread(open_store, database_url)
    yield opened
    await opened.close()


def job(job_id: str, owner: str = "alice", account: str = "class:cs101", **more: Any) -> Workload:
    given: dict[str, Any] = {"state": "ended", "requested_ms": 100, "ended_ms": 200, **more}
    return Workload(job_id, given.pop("kind", "job"), owner, account, (), "train", "h100", 1, **given)


def artifact(job_id: str, path: str, size: int, owner: str = "alice", at_ms: int = 300) -> Artifact:
    return Artifact(0, job_id, owner, path, size, f"file:///kept/{job_id}/{path}", at_ms)


async def test_bytes_are_summed_by_person_by_account_and_for_everybody_and_deleted_ones_count_no_more(
    store: Store,
) -> None:
    def add(uow: Any) -> list[Artifact]:
        for workload in (job("a"), job("b", "bob"), job("c", account="person:alice")):
            uow.add_workload(workload)
        return uow.add_artifacts(
            [
                artifact("a", "x", 2**40),
                artifact("a", "y", 5),
                artifact("b", "x", 7, "bob"),
                artifact("c", "x", 11, at_ms=400),
            ]
        )

    added = await store.write(add)
    assert [each.id for each in added] == sorted({each.id for each in added})

    async def sums() -> list[int]:
        scopes = [
            Scope(),
            Scope(owner="alice"),
            Scope(account="class:cs101"),
            Scope(owner="alice", account="class:cs101"),
            Scope(owner="nobody"),
        ]
        return [await store.read(lambda uow, scope=scope: uow.artifact_bytes(scope)) for scope in scopes]

    big = 2**40
    assert await sums() == [big + 23, big + 16, big + 12, big + 5, 0]
    assert await store.read(lambda uow: uow.kept_by_job("alice", 5)) == [("a", 2, big + 5, 300), ("c", 1, 11, 400)]
    assert await store.read(lambda uow: uow.kept_by_job("alice", 1)) == [("a", 2, big + 5, 300)]
    await store.write(lambda uow: uow.delete_artifacts([added[0].id], 500))
    await store.write(lambda uow: uow.delete_artifacts([added[0].id], 900))  # the first time counts
    assert await sums() == [23, 16, 12, 5, 0]
    assert [(a.path, a.deleted_ms) for a in await store.read(lambda uow: uow.artifacts("a"))] == [
        ("x", 500),
        ("y", None),
    ]


async def test_what_was_deleted_is_left_to_remove_until_it_is_gone(store: Store) -> None:
    def add(uow: Any) -> list[Artifact]:
        uow.add_workload(job("a"))
        return uow.add_artifacts([artifact("a", name, 1, at_ms=at) for name, at in (("x", 1), ("y", 2), ("z", 3))])

    x, y, z = await store.write(add)
    assert await store.read(lambda uow: uow.artifacts_left(9)) == []
    assert [a.id for a in await store.read(lambda uow: uow.artifacts_before(3, 9))] == [x.id, y.id]
    assert [a.id for a in await store.read(lambda uow: uow.artifacts_before(3, 1))] == [x.id]
    await store.write(lambda uow: uow.delete_artifacts([x.id, z.id], 50))
    assert [a.id for a in await store.read(lambda uow: uow.artifacts_left(9))] == [x.id, z.id]
    assert [a.id for a in await store.read(lambda uow: uow.artifacts_before(9, 9))] == [y.id]
    await store.write(lambda uow: uow.artifacts_gone([x.id]))
    assert [a.id for a in await store.read(lambda uow: uow.artifacts_left(9))] == [z.id]


async def test_what_is_to_be_kept_is_found_and_comes_back_exactly(store: Store) -> None:
    note = Refused("quota_artifact_bytes", "No room.", {"left": 3}, instead="Delete some.")
    kept = job("k", artifacts="kept", artifacts_note=Explained("kept", "Kept 2 files.", {"files": 2}))
    failed = job("f", artifacts="failed", artifacts_note=note, files_removed_ms=77)

    def add(uow: Any) -> None:
        for workload in (kept, failed, job("q", artifacts="keeping"), job("b", artifacts="keeping"), job("n")):
            uow.add_workload(workload)

    await store.write(add)
    assert [each.id for each in await store.read(lambda uow: uow.keeping(9))] == ["b", "q"]
    assert [each.id for each in await store.read(lambda uow: uow.keeping(1))] == ["b"]
    assert await store.read(lambda uow: (uow.workload("k"), uow.workload("f"))) == (kept, failed)


async def test_only_ended_jobs_whose_folder_is_there_and_needed_no_more_are_old(store: Store) -> None:
    jobs = [
        job("old"),
        job("older", requested_ms=50, ended_ms=60, artifacts="kept"),
        job("young", ended_ms=1000),
        job("lives", state="running", ended_ms=None),
        job("gone", files_removed_ms=300),
        job("keeping", artifacts="keeping"),
        job("server", kind="server"),
    ]

    def add(uow: Any) -> None:
        for each in jobs:
            uow.add_workload(each)

    await store.write(add)
    assert [each.id for each in await store.read(lambda uow: uow.jobs_with_files(500, 9))] == ["older", "old"]
    assert [each.id for each in await store.read(lambda uow: uow.jobs_with_files(500, 1))] == ["older"]
    await store.write(lambda uow: uow.files_removed(["older"], 444))
    assert [each.id for each in await store.read(lambda uow: uow.jobs_with_files(500, 9))] == ["old"]
    removed = await store.read(lambda uow: uow.workload("older"))
    assert removed is not None
    assert removed.files_removed_ms == 444
