"""Inputs named by address: fetched by the service after the grant, before the start, and billed by nobody."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import pytest

from fastgpu import models
from fastgpu_hub.artifacts import JobFiles
from fastgpu_hub.broker.ports.files import CannotFetch, FilesUnavailable
from fastgpu_hub.broker.reconcile import reconcile

pytestmark = pytest.mark.slow  # a world each


class Addresses(JobFiles):
    """``test://`` addresses: what lies there, and whether it comes."""

    def __init__(self, folder) -> None:
        super().__init__(artifacts_url=str(folder), source_prefixes=["test://data/"])
        self.there = {"test://data/train.csv": b"1,2,3"}
        self.comes = threading.Event()
        self.comes.set()
        self.fetches = 0

    def fetch(self, address, into, limit_bytes, go_on):
        if self.check_source(address):
            raise AssertionError(f"asked for {address}")
        self.fetches += 1
        while not self.comes.wait(0.01):
            if not go_on():
                raise CannotFetch("Fetching the sources took too long.")
        if address not in self.there:
            raise CannotFetch(f"There is nothing at {address}.")
        if len(self.there[address]) > limit_bytes:
            raise CannotFetch(f"It is larger than the {limit_bytes} bytes that may still be fetched for this job.")
        return into.write(self.there[address])


@pytest.fixture
async def fetcher(world, tmp_path):
    world.files = Addresses(tmp_path / "artifacts")
    await world.restart()
    yield world
    world.files.comes.set()


async def settled(world, job_id: str, *states: str):
    for _ in range(2000):
        await asyncio.sleep(0.005)
        job = world.ok(await world.broker.job(world.alice, job_id))
        if job.state.value in states:
            return job
    raise AssertionError(job)


async def begin(world, sources, **more):
    """Submit without waiting for what goes on in the background."""
    request = models.JobSubmit(kind="command", argv=("true",), gpu_type="h100-80gb", sources=sources, **more)
    return await world.broker.submit_job(world.alice, request)


async def test_a_source_lies_in_the_jobs_folder_when_it_starts(fetcher):
    job = fetcher.ok(await begin(fetcher, {"data/train.csv": "test://data/train.csv"}))
    await settled(fetcher, job.id, "running")
    assert fetcher.engine.read_file(job.id, "data/train.csv") == b"1,2,3"
    assert fetcher.files.fetches == 1


async def test_fetching_is_not_billed_and_the_bill_begins_with_the_start(fetcher):
    fetcher.files.comes.clear()
    job = fetcher.ok(await begin(fetcher, {"a": "test://data/train.csv"}))
    await settled(fetcher, job.id, "starting")
    fetcher.clock.ms += 600_000
    assert fetcher.engine.launches == []
    fetcher.files.comes.set()
    job = await settled(fetcher, job.id, "running")
    assert job.cost_micros == 0
    assert job.started_at.timestamp() * 1000 == fetcher.clock.ms


async def test_a_source_that_is_not_there_fails_the_job_with_a_reason_and_no_charge(fetcher):
    job = fetcher.ok(await begin(fetcher, {"a": "test://data/train.csv", "b": "test://data/none"}))
    job = await settled(fetcher, job.id, "failed")
    assert job.explanation.message == (
        "Its inputs could not be fetched: There is nothing at test://data/none. Charged 0.00 credits."
    )
    assert (job.cost_micros, job.held_micros, fetcher.engine.launches) == (0, 0, [])


async def test_fetching_that_takes_too_long_is_given_up(fetcher):
    fetcher.settings = replace(fetcher.settings, fetch_seconds=0)
    await fetcher.restart()
    fetcher.files.comes.clear()
    job = fetcher.ok(await begin(fetcher, {"a": "test://data/train.csv"}))
    job = await settled(fetcher, job.id, "failed")
    assert "took too long" in job.explanation.message


async def test_all_sources_of_a_job_share_one_limit_on_their_size(fetcher):
    fetcher.settings = replace(fetcher.settings, max_source_bytes=8)
    await fetcher.restart()
    job = fetcher.ok(await begin(fetcher, {"a": "test://data/train.csv", "b": "test://data/train.csv"}))
    job = await settled(fetcher, job.id, "failed")
    assert "larger than the 3 bytes" in job.explanation.message


async def test_a_job_cancelled_while_its_inputs_are_fetched_never_starts(fetcher):
    fetcher.files.comes.clear()
    job = fetcher.ok(await begin(fetcher, {"a": "test://data/train.csv"}))
    await settled(fetcher, job.id, "starting")
    fetcher.ok(await fetcher.broker.cancel_job(fetcher.alice, job.id))
    job = await settled(fetcher, job.id, "cancelled")
    assert (job.cost_micros, fetcher.engine.launches) == (0, [])


async def test_a_restart_while_inputs_are_fetched_fetches_them_again_and_starts_the_job_once(fetcher):
    fetcher.files.comes.clear()
    job = fetcher.ok(await begin(fetcher, {"a": "test://data/train.csv"}))
    await settled(fetcher, job.id, "starting")
    while not fetcher.files.fetches:
        await asyncio.sleep(0.005)
    await fetcher.restart()
    for _ in range(3):
        await reconcile(fetcher.broker.runtime)
    fetcher.files.comes.set()
    await settled(fetcher, job.id, "running")
    assert [launch.lease_id for launch in fetcher.engine.launches] == [job.id]
    assert fetcher.files.fetches == 2


# ---------------------------------------------------------------- what earlier jobs kept


async def test_what_an_earlier_job_of_mine_kept_can_be_a_source(fetcher):
    first = fetcher.ok(await fetcher.submit(outputs=("*.pt",)))
    fetcher.engine.put_file(first.id, "model.pt", b"weights")
    fetcher.engine.finish(first.id)
    await settled(fetcher, first.id, "succeeded")
    # Named at once: it is waited for while it is being kept.
    second = fetcher.ok(await begin(fetcher, {"in/model.pt": f"artifact:{first.id}/model.pt"}))
    await settled(fetcher, second.id, "running")
    assert fetcher.engine.read_file(second.id, "in/model.pt") == b"weights"


async def test_what_another_person_kept_is_as_if_it_was_not_there(fetcher):
    theirs = fetcher.ok(await fetcher.submit(fetcher.bob, outputs=("*",)))
    refused = await begin(fetcher, {"a": f"artifact:{theirs.id}/f"})
    unknown = await begin(fetcher, {"a": "artifact:j-none/f"})
    assert refused.code == unknown.code == "not_found"
    assert refused.message.replace(theirs.id, "j-none") == unknown.message


async def test_a_file_that_was_not_kept_or_was_deleted_fails_the_job_and_says_which(fetcher):
    first = fetcher.ok(await fetcher.submit(outputs=("*.pt",)))
    fetcher.engine.put_file(first.id, "a.pt", b"1")
    fetcher.engine.finish(first.id)
    await settled(fetcher, first.id, "succeeded")
    job = fetcher.ok(await begin(fetcher, {"a": f"artifact:{first.id}/other.pt"}))
    assert (
        f"Job {first.id} kept no such file: 'other.pt'"
        in (await settled(fetcher, job.id, "failed")).explanation.message
    )
    assert await fetcher.broker.delete_artifacts(fetcher.alice, first.id) is None
    job = fetcher.ok(await begin(fetcher, {"a": f"artifact:{first.id}/a.pt"}))
    message = (await settled(fetcher, job.id, "failed")).explanation.message
    assert "was removed from the artifact store" in message


async def test_a_store_that_does_not_give_out_an_artifact_fails_the_job_plainly(fetcher, monkeypatch):
    first = fetcher.ok(await fetcher.submit(outputs=("*",)))
    fetcher.engine.put_file(first.id, "a", b"1")
    fetcher.engine.finish(first.id)
    await settled(fetcher, first.id, "succeeded")

    def away(url):
        raise FilesUnavailable("secret-key is wrong")

    monkeypatch.setattr(fetcher.files, "open", away)
    job = fetcher.ok(await begin(fetcher, {"a": f"artifact:{first.id}/a"}))
    message = (await settled(fetcher, job.id, "failed")).explanation.message
    assert "does not give out 'a'" in message
    assert "secret" not in message


# ---------------------------------------------------------------- refused before anything is held


NOT_ALLOWED = [
    ({"../up": "test://data/x"}, "leads out"),
    ({"/abs": "test://data/x"}, "is absolute"),
    ({"a": "test://other/x"}, "not below any"),
    ({"a": "test://data/../x"}, ". or .."),
    ({"a": "test://data/%2e%2e/x"}, ". or .."),
    ({"a": "file:///etc/passwd"}, "not below any"),
    ({"a": "http://169.254.169.254/latest"}, "not below any"),
    ({"a": "simplecache::test://data/x"}, "holds ::"),
    ({"a": "artifact:../x"}, "names no kept file"),
    ({"a": "artifact:j-1"}, "names no kept file"),
    ({"a": "test://data/x", "a/b": "test://data/x"}, "both a file and a folder"),
]


async def test_a_source_that_is_not_allowed_is_refused_when_it_is_submitted(fetcher):
    for sources, part in NOT_ALLOWED:
        refused = await begin(fetcher, sources)
        assert (refused.code, part in refused.message) == ("invalid_request", True), refused


async def test_an_environment_or_lock_file_that_is_not_there_is_refused_with_those_that_are(fetcher):
    refused = await begin(fetcher, {}, python="keras")
    assert "Environments here: torch." in refused.instead
    assert fetcher.ok(await begin(fetcher, {}, python="torch"))
    refused = await begin(fetcher, {}, lock="requirements.txt")
    assert "a command chooses its own interpreter" in refused.message
