"""What is old goes, once a day, and says when it went; what lives, or is still needed, stays."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import pytest

from fastgpu import models
from fastgpu_hub.artifacts import JobFiles

pytestmark = pytest.mark.slow  # a world each
DAY_MS = 24 * 3600 * 1000


@pytest.fixture
async def keeper(world, tmp_path):
    world.folder = tmp_path / "artifacts"
    world.files = JobFiles(artifacts_url=str(world.folder))
    world.settings = replace(world.settings, keep_files_days=30, keep_artifacts_days=90)
    await world.restart()
    credit = models.GrantSet(account="class:cs101", amount_micros=10**10)
    world.ok(await world.broker.grant(world.admin, credit))
    return world


async def ended(world, **more) -> str:
    job = world.ok(await world.submit(**more))
    world.engine.write_log(job.id, b"hello\n")
    world.engine.put_file(job.id, "out", b"x" * 10)
    world.engine.finish(job.id)
    for _ in range(200):
        await world.settle_down()
        if not await world.store.read(lambda uow: uow.keeping(1)):
            return job.id
        await asyncio.sleep(0.01)
    raise AssertionError("still keeping")


async def sweep(world) -> None:
    await world.broker.runtime.files.sweep()
    await world.settle_down()


async def test_after_its_days_a_jobs_folder_and_log_go_and_every_answer_says_when(keeper):
    job_id = await ended(keeper, outputs=("out",))
    keeper.clock.ms += 29 * DAY_MS
    await sweep(keeper)
    assert keeper.ok(await keeper.broker.job_log(keeper.alice, job_id, 0, 100))[0] == b"hello\n"
    keeper.clock.ms += 2 * DAY_MS
    await sweep(keeper)
    assert keeper.engine.files(job_id) == []
    job = keeper.ok(await keeper.broker.job(keeper.alice, job_id))
    assert (job.state.value, job.files_removed_at.isoformat()) == ("succeeded", "2025-11-09T09:00:00+00:00")
    for answer in (
        await keeper.broker.job_log(keeper.alice, job_id, 0, 100),
        await keeper.broker.job_files(keeper.alice, job_id),
        await keeper.broker.job_file(keeper.alice, job_id, "out"),
        await keeper.broker.keep_artifacts(keeper.alice, job_id, models.ArtifactsKeep()),
    ):
        assert answer.code == "removed"
        assert f"of job {job_id} were removed on 2025-11-09 09:00 UTC" in answer.message
    assert (await keeper.broker.job_log(keeper.bob, job_id, 0, 100)).code == "not_found"
    kept = keeper.ok(await keeper.broker.artifact(keeper.alice, job_id, "out"))
    assert b"".join(kept.parts) == b"x" * 10


async def test_a_job_that_lives_keeps_its_folder_however_long_ago_it_began(keeper):
    job = keeper.ok(await keeper.submit(time_limit_seconds=100 * 24 * 3600))
    keeper.engine.put_file(job.id, "out", b"1")
    keeper.clock.ms += 60 * DAY_MS
    await sweep(keeper)
    assert keeper.engine.read_file(job.id, "out") == b"1"
    keeper.engine.finish(job.id)
    await keeper.settle_down()
    await sweep(keeper)
    assert keeper.engine.read_file(job.id, "out") == b"1"


async def test_a_job_whose_outputs_are_still_to_be_kept_keeps_its_folder(keeper, monkeypatch):
    monkeypatch.setattr(keeper.broker.runtime.files, "_keep", lambda workload: asyncio.sleep(0))
    job = keeper.ok(await keeper.submit(outputs=("out",)))
    keeper.engine.put_file(job.id, "out", b"1")
    keeper.engine.finish(job.id)
    await keeper.settle_down()
    keeper.clock.ms += 60 * DAY_MS
    await sweep(keeper)
    assert keeper.engine.read_file(job.id, "out") == b"1"


async def test_checkpoints_stay_as_long_as_an_attempt_of_their_job_lives(keeper):
    first = await ended(keeper)
    retry = keeper.ok(await keeper.submit(time_limit_seconds=100 * 24 * 3600))
    await keeper.store.write(lambda uow: uow.save_workload(replace(uow.workload(retry.id), retry_of=first, attempt=2)))
    keeper.clock.ms += 40 * DAY_MS
    await sweep(keeper)
    assert keeper.ok(await keeper.broker.job(keeper.alice, first)).files_removed_at is not None
    assert keeper.engine.removed_checkpoints == []
    keeper.engine.finish(retry.id)
    await keeper.settle_down()
    keeper.clock.ms += 40 * DAY_MS
    await sweep(keeper)
    assert keeper.engine.removed_checkpoints == [first]


async def test_artifacts_go_after_their_days_and_say_when(keeper):
    job_id = await ended(keeper, outputs=("out",))
    keeper.clock.ms += 91 * DAY_MS
    await sweep(keeper)
    for _ in range(200):
        if not list(keeper.folder.iterdir()):
            break
        await asyncio.sleep(0.01)
    assert list(keeper.folder.iterdir()) == []
    assert keeper.ok(await keeper.broker.artifacts(keeper.alice, job_id)) == []
    gone = await keeper.broker.artifact(keeper.alice, job_id, "out")
    assert (gone.code, "was removed on 2026-01-08 09:00 UTC" in gone.message) == ("removed", True)


async def test_input_files_go_with_the_last_job_that_names_them(keeper):
    inputs = {}
    for name in ("shared", "old", "unused"):
        data = name.encode()
        inputs[name] = models.InputFile(path=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        await keeper.engine.put_blob(inputs[name].sha256, [data])
    await ended(keeper, inputs=(inputs["shared"], inputs["old"]))
    keeper.clock.ms += 20 * DAY_MS
    await ended(keeper, inputs=(inputs["shared"],))
    keeper.clock.ms += 11 * DAY_MS
    await sweep(keeper)
    assert [keeper.engine.has_blob(inputs[name].sha256) for name in ("shared", "old", "unused")] == [True, False, False]


async def test_nothing_goes_by_age_unless_the_administrator_says_so(keeper):
    keeper.settings = replace(keeper.settings, keep_files_days=0, keep_artifacts_days=0)
    await keeper.restart()
    job_id = await ended(keeper, outputs=("out",))
    keeper.clock.ms += 3650 * DAY_MS
    await sweep(keeper)
    assert keeper.engine.read_file(job_id, "out") == b"x" * 10
    assert keeper.ok(await keeper.broker.artifacts(keeper.alice, job_id)) != []


async def swept(world) -> None:
    for _ in range(300):
        if await world.store.read(lambda uow: uow.setting("files_swept_ms")) == world.clock.ms:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not swept")


async def test_a_sweep_comes_once_a_day_by_itself(keeper, monkeypatch):
    monkeypatch.setattr("fastgpu_hub.broker.files.LOOK_SECONDS", 0.01)
    await keeper.restart()
    job_id = await ended(keeper)
    await swept(keeper)
    keeper.clock.ms += 31 * DAY_MS
    keeper.broker.runtime.files.wake()
    await swept(keeper)
    assert keeper.ok(await keeper.broker.job(keeper.alice, job_id)).files_removed_at is not None


async def test_a_sweep_that_was_interrupted_is_done_again(keeper, monkeypatch):
    job_id = await ended(keeper)
    keeper.clock.ms += 31 * DAY_MS
    monkeypatch.setattr(keeper.engine, "sweep_blobs", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        await sweep(keeper)
    assert keeper.ok(await keeper.broker.job(keeper.alice, job_id)).files_removed_at is not None
    assert await keeper.store.read(lambda uow: uow.setting("files_swept_ms")) != keeper.clock.ms
    monkeypatch.undo()
    await sweep(keeper)
    assert await keeper.store.read(lambda uow: uow.setting("files_swept_ms")) == keeper.clock.ms
