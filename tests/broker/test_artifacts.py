"""What a job leaves is kept, counted, given out and deleted; whatever interrupts it, nothing is lost or there twice."""

from __future__ import annotations

import asyncio
import io
import time
from dataclasses import replace

import pytest

from fastgpu import models
from fastgpu_hub.artifacts import JobFiles
from fastgpu_hub.broker.ports.files import FilesUnavailable
from fastgpu_hub.pricing.explain import Refused

MIB = 1 << 20


class Flaky(JobFiles):
    """A local artifact store that can be away, or die in the middle."""

    def __init__(self, folder) -> None:
        super().__init__(artifacts_url=str(folder))
        self.down = False
        self.puts = 0
        self.fails_at = 0

    def put(self, url, source, size_bytes):
        self.puts += 1
        if self.down or self.puts == self.fails_at:
            raise FilesUnavailable("it is away")
        super().put(url, source, size_bytes)


@pytest.fixture
async def keeper(world, tmp_path, monkeypatch):
    """A world with an artifact store; ``world.settled()`` waits until nothing is to be kept or removed."""
    monkeypatch.setattr("fastgpu_hub.broker.files.FIRST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("fastgpu_hub.broker.files.LONGEST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr("fastgpu_hub.broker.files.LOOK_SECONDS", 0.02)
    world.folder = tmp_path / "artifacts"
    world.files = Flaky(world.folder)
    await world.restart()

    async def settled():
        for _ in range(500):
            await world.settle_down()
            if not await world.store.read(lambda uow: uow.keeping(10) or uow.artifacts_left(10)):
                return
            await asyncio.sleep(0.01)
        raise AssertionError("still keeping")

    world.settled = settled
    return world


async def run(world, files: dict[str, bytes], outputs=("out/**",), actor=None, **more) -> str:
    """A job that leaves these files and ends."""
    job = world.ok(await world.submit(actor or world.alice, outputs=outputs, **more))
    for path, data in files.items():
        world.engine.put_file(job.id, path, data)
    world.engine.finish(job.id)
    await world.settle_down()
    return job.id


def lying(world) -> list[str]:
    return sorted(str(path.relative_to(world.folder)) for path in world.folder.rglob("*") if path.is_file())


async def limit(world, size: int, **more) -> int:
    given = {"scope": "person", "name": "alice", "metric": "artifact_bytes", "limit": size, **more}
    return world.ok(await world.broker.add_quota(world.admin, models.QuotaSet(**given))).quota_id


async def content(world, job_id: str, path: str, actor=None) -> bytes:
    found = world.ok(await world.broker.artifact(actor or world.alice, job_id, path))
    return b"".join(found.parts)


async def test_outputs_are_kept_and_nothing_else_of_the_folder_is(keeper):
    job_id = await run(keeper, {"out/a.csv": b"1,2", "out/deep/b.bin": b"x" * 3000, "scratch.tmp": b"no"})
    await keeper.settled()
    job = keeper.ok(await keeper.broker.job(keeper.alice, job_id))
    assert (job.artifacts, job.artifacts_note.message) == ("kept", "Kept 2 files, 2.9 KiB.")
    kept = keeper.ok(await keeper.broker.artifacts(keeper.alice, job_id))
    assert [(a.path, a.size_bytes) for a in kept] == [("out/a.csv", 3), ("out/deep/b.bin", 3000)]
    assert await content(keeper, job_id, "out/a.csv") == b"1,2"
    assert lying(keeper) == [f"alice/{job_id}/out/a.csv", f"alice/{job_id}/out/deep/b.bin"]


async def test_a_job_that_names_no_outputs_costs_the_store_nothing(keeper):
    job_id = await run(keeper, {"out/a.csv": b"1,2"}, outputs=())
    await keeper.settled()
    assert keeper.ok(await keeper.broker.job(keeper.alice, job_id)).artifacts is None
    assert keeper.files.puts == 0


async def test_what_a_failed_or_cancelled_job_left_is_kept_too_and_of_one_that_never_ran_nothing(keeper):
    job = keeper.ok(await keeper.submit(outputs=("*.pt",)))
    keeper.engine.put_file(job.id, "half.pt", b"half")
    keeper.ok(await keeper.broker.cancel_job(keeper.alice, job.id))
    await keeper.settled()
    assert [a.path for a in keeper.ok(await keeper.broker.artifacts(keeper.alice, job.id))] == ["half.pt"]
    keeper.engine._auto_run = False
    other = keeper.ok(await keeper.submit(outputs=("*.pt",)))
    keeper.engine.fail_to_start(other.id)
    await keeper.settled()
    assert keeper.ok(await keeper.broker.job(keeper.alice, other.id)).artifacts is None


async def test_a_crash_between_any_two_files_loses_nothing_and_leaves_no_double(keeper):
    files = {f"out/{n}.bin": bytes([n]) * 100 for n in range(4)}
    keeper.files.down = True
    job_id = await run(keeper, files)
    for fails_at in (2, 4, 1):
        keeper.files.down, keeper.files.puts, keeper.files.fails_at = False, 0, fails_at
        await asyncio.sleep(0.05)
        await keeper.restart()
    keeper.files.fails_at = 0
    await keeper.settled()
    kept = keeper.ok(await keeper.broker.artifacts(keeper.alice, job_id))
    assert [a.path for a in kept] == sorted(files)
    assert lying(keeper) == [f"alice/{job_id}/{path}" for path in sorted(files)]
    assert await keeper.store.read(lambda uow: uow.kept_by_job("alice", 5)) == [
        (job_id, 4, 400, keeper.clock.ms),
    ]


async def test_a_store_that_is_away_is_waited_for_and_the_job_says_so(keeper):
    keeper.files.down = True
    job_id = await run(keeper, {"out/a": b"1"})
    for _ in range(200):
        job = keeper.ok(await keeper.broker.job(keeper.alice, job_id))
        if job.artifacts_note:
            break
        await asyncio.sleep(0.01)
    assert (job.artifacts, job.artifacts_note.code) == ("keeping", "artifacts_waiting")
    assert keeper.ok(await keeper.broker.artifacts(keeper.alice, job_id)) == []
    keeper.files.down = False
    await keeper.settled()
    assert keeper.ok(await keeper.broker.job(keeper.alice, job_id)).artifacts == "kept"


@pytest.mark.slow
async def test_a_store_that_is_away_for_a_day_is_given_up_and_the_owner_is_told(keeper):
    keeper.files.down = True
    job_id = await run(keeper, {"out/a": b"1"})
    keeper.clock.ms += 25 * 3600 * 1000
    await keeper.settled()
    job = keeper.ok(await keeper.broker.job(keeper.alice, job_id))
    assert (job.artifacts, job.artifacts_note.code) == ("failed", "artifacts_unavailable")
    assert [n.kind for n in await keeper.broker.notices(keeper.alice)] == ["not_kept"]
    keeper.files.down = False
    keeper.ok(await keeper.broker.keep_artifacts(keeper.alice, job_id, models.ArtifactsKeep()))
    await keeper.settled()
    assert await content(keeper, job_id, "out/a") == b"1"


async def test_a_service_that_closes_does_not_wait_for_a_large_file_and_the_next_one_keeps_it(keeper, monkeypatch):
    reads = []

    class Slow(io.BytesIO):
        def read(self, size=-1):
            reads.append(size)
            time.sleep(0.01)
            return b"x" if len(reads) < 2000 else b""  # a byte at a time: it would take hours

    monkeypatch.setattr(keeper.engine, "open_file", lambda *_: Slow())
    job_id = keeper.ok(await keeper.submit(keeper.alice, outputs=("out/**",))).id
    keeper.engine.put_file(job_id, "out/large", b"x" * MIB)
    keeper.engine.finish(job_id)
    while not keeper.files.puts:
        await asyncio.sleep(0.01)
    monkeypatch.undo()
    await keeper.restart()
    seen = len(reads)
    await keeper.settled()
    assert await content(keeper, job_id, "out/large") == b"x" * MIB
    assert len(reads) <= seen + 1


# ---------------------------------------------------------------- how much


async def test_beyond_the_quota_none_of_a_jobs_outputs_is_kept_and_the_owner_is_told_what_to_delete(keeper):
    await limit(keeper, 10 * MIB)
    first = await run(keeper, {"out/model.pt": b"m" * (8 * MIB)})
    await keeper.settled()
    second = await run(keeper, {"out/a.pt": b"a" * MIB, "out/b.pt": b"b" * (2 * MIB)})
    await keeper.settled()
    job = keeper.ok(await keeper.broker.job(keeper.alice, second))
    assert (job.artifacts, job.artifacts_note.code) == ("failed", "quota_artifact_bytes")
    told = (await keeper.broker.notices(keeper.alice))[-1]
    assert (told.kind, told.workload_id) == ("not_kept", second)
    assert (
        f"The outputs of job {second} are not kept (out/a.pt, out/b.pt). This needs 3 MiB" in told.explanation.message
    )
    assert "only 2 MiB left (8 MiB used" in told.explanation.message
    assert f"{first} (8 MiB)" in told.explanation.instead
    assert lying(keeper) == [f"alice/{first}/out/model.pt"]
    use = next(q for q in await keeper.broker.quotas(keeper.alice) if q.metric == "artifact_bytes")
    assert (use.used, use.left, use.label) == (8 * MIB, 2 * MIB, "alice: 10 MiB of kept files")

    assert await keeper.broker.delete_artifacts(keeper.alice, first) is None
    keeper.ok(await keeper.broker.keep_artifacts(keeper.alice, second, models.ArtifactsKeep()))
    await keeper.settled()
    assert lying(keeper) == [f"alice/{second}/out/a.pt", f"alice/{second}/out/b.pt"]


async def test_jobs_that_end_together_never_pass_the_quota_together(keeper):
    await limit(keeper, 250, scope="member", name="cs101")
    jobs = [keeper.ok(await keeper.submit(outputs=("*",))) for _ in range(4)]
    for job in jobs:
        keeper.engine.put_file(job.id, "f", b"x" * 100)
        keeper.engine.finish(job.id)
    await keeper.settled()
    states = [keeper.ok(await keeper.broker.job(keeper.alice, job.id)).artifacts for job in jobs]
    assert sorted(states) == ["failed", "failed", "kept", "kept"]
    assert len(lying(keeper)) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scope", "name", "counted"),
    [("class", "cs101", 30), ("site", "", 30), ("person", "bob", 10), ("member", "cs101", 10)],
)
async def test_a_quota_counts_whose_files_it_is_about(keeper, scope, name, counted):
    await run(keeper, {"out/a": b"x" * 20})
    await run(keeper, {"out/a": b"x" * 10}, actor=keeper.bob)
    await keeper.settled()
    await limit(keeper, 1000, scope=scope, name=name)
    use = next(q for q in await keeper.broker.quotas(keeper.bob) if q.metric == "artifact_bytes")
    assert use.used == counted


@pytest.mark.slow
async def test_a_soft_quota_warns_and_keeps(keeper):
    await limit(keeper, 10, soft=True)
    job_id = await run(keeper, {"out/a": b"x" * 20})
    await keeper.settled()
    assert keeper.ok(await keeper.broker.job(keeper.alice, job_id)).artifacts == "kept"
    assert [n.kind for n in await keeper.broker.notices(keeper.alice)] == ["soft_limit"]


async def test_a_quota_on_kept_files_forbids_no_job(keeper):
    await limit(keeper, 0)
    job = keeper.ok(await keeper.submit())
    assert job.held_micros == 500_000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "code"),
    [({"max_artifacts": 2}, "too_many_artifacts"), ({"max_artifact_bytes": 20}, "artifacts_too_large")],
)
async def test_one_job_keeps_so_much_at_most(keeper, changes, code):
    keeper.settings = replace(keeper.settings, **changes)
    await keeper.restart()
    job_id = await run(keeper, {f"out/{n}": b"x" * 10 for n in range(3)})
    await keeper.settled()
    job = keeper.ok(await keeper.broker.job(keeper.alice, job_id))
    assert (job.artifacts, job.artifacts_note.code, lying(keeper)) == ("failed", code, [])


# ---------------------------------------------------------------- whose


async def test_only_its_owner_and_an_administrator_delete_and_the_latter_is_audited(keeper):
    job_id = await run(keeper, {"out/a": b"1", "out/b": b"2"})
    await keeper.settled()
    assert (await keeper.broker.delete_artifacts(keeper.bob, job_id)).code == "not_found"
    assert (await keeper.broker.delete_artifacts(keeper.teacher, job_id)).code == "not_allowed"
    assert await content(keeper, job_id, "out/a", keeper.teacher) == b"1"
    assert isinstance(await keeper.broker.artifact(keeper.bob, job_id, "out/a"), Refused)
    assert await keeper.broker.delete_artifacts(keeper.alice, job_id, "out/a") is None
    await keeper.settled()
    assert lying(keeper) == [f"alice/{job_id}/out/b"]
    gone = await keeper.broker.artifact(keeper.alice, job_id, "out/a")
    assert (gone.code, "was removed on 2025-10-09 09:00 UTC" in gone.message) == ("removed", True)
    assert await keeper.broker.delete_artifacts(keeper.admin, job_id) is None
    await keeper.settled()
    assert lying(keeper) == []
    audited = keeper.ok(await keeper.broker.audit(keeper.admin))
    assert (audited[0].action, audited[0].subject, audited[0].before["files"]) == (
        "delete_artifacts",
        job_id,
        ["out/b"],
    )


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "/etc/passwd", "out/../out/a", "out/a\0", "out//a", "%2e%2e/x", "out"]
)
async def test_no_path_reads_anything_but_what_was_kept(keeper, path):
    job_id = await run(keeper, {"out/a": b"1"})
    await keeper.settled()
    assert (await keeper.broker.artifact(keeper.alice, job_id, path)).code == "not_found"


async def test_a_pattern_that_leads_out_of_the_folder_is_refused_before_anything_is_held(keeper):
    for pattern in ("../*", "/etc/*", "a/../../b", "a//b", "a\nb", "x" * 400 + "/" * 50):
        refused = await keeper.submit(outputs=(pattern,))
        assert (refused.code, refused.message[:19]) == ("invalid_request", "The output pattern "), pattern
    assert await keeper.store.read(lambda uow: uow.open_holds()) == []


async def test_without_an_artifact_store_outputs_are_refused(world):
    assert (await world.submit(outputs=("*",))).code == "invalid_request"


@pytest.mark.slow
async def test_the_largest_of_my_kept_files_come_first(keeper):
    small = await run(keeper, {"out/a": b"1"}, name="small")
    large = await run(keeper, {"out/a": b"1" * 50, "out/b": b"2"}, name="large")
    await run(keeper, {"out/a": b"1" * 99}, actor=keeper.bob)
    await keeper.settled()
    found = await keeper.broker.kept_files(keeper.alice)
    assert [(k.job_id, k.job_name, k.files, k.size_bytes) for k in found] == [
        (large, "large", 2, 51),
        (small, "small", 1, 1),
    ]


@pytest.mark.slow
async def test_keeping_again_replaces_and_follows_new_patterns(keeper):
    job_id = await run(keeper, {"out/a": b"1", "log.txt": b"l"})
    await keeper.settled()
    keeper.ok(
        await keeper.broker.keep_artifacts(keeper.alice, job_id, models.ArtifactsKeep(outputs=("*.txt", "out/a")))
    )
    await keeper.settled()
    assert lying(keeper) == [f"alice/{job_id}/log.txt", f"alice/{job_id}/out/a"]
    running = keeper.ok(await keeper.submit(outputs=("*",)))
    refused = await keeper.broker.keep_artifacts(keeper.alice, running.id, models.ArtifactsKeep())
    assert (refused.code, refused.message) == ("conflict", f"Job {running.id} has not ended.")
