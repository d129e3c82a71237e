"""The async twin keeps the same promises, and serves the spawner."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from fastgpu.aio import AsyncGPUClient
from fastgpu.errors import NotFound, QuotaError, Unavailable
from fastgpu.models import JobState, LeaseRequest, LeaseState
from tests.sdk.fake_answers import NOW
from tests.sdk.fake_service import URL, FakeService


@pytest.fixture
async def aclient(service: FakeService, slept: list[float]) -> AsyncIterator[AsyncGPUClient]:
    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with AsyncGPUClient(URL, "secret-token", transport=service.transport, sleep=sleep) as client:
        yield client


async def test_a_job_can_be_awaited(aclient: AsyncGPUClient, service: FakeService, folder: Path) -> None:
    job = await aclient.submit("train.py", "h100-80gb", 1, "2h", name="mnist")
    ended = await job
    assert ended.state is JobState.succeeded
    assert await job.logs() == "now starting\nnow running\nnow succeeded\n"
    assert service.submissions[0]["name"] == "mnist"
    assert len(service.blobs) == 1


async def test_jobs_can_be_listed_found_refreshed_and_cancelled(aclient: AsyncGPUClient, service: FakeService) -> None:
    service.add_job()
    [job] = await aclient.jobs("active")
    assert repr(job) == "<AsyncJob job-1 queued>"
    assert (await job.refresh()).state is JobState.queued
    assert (await job.cancel()).state is JobState.cancelled
    assert (await aclient.job("job-1")).snapshot.state is JobState.cancelled


async def test_reading_calls_answer_with_models(aclient: AsyncGPUClient) -> None:
    assert (await aclient.me()).name == "alice"
    assert (await aclient.status()).user == "alice"
    assert (await aclient.options()).offers
    assert (await aclient.quote("h100-80gb", 2, "4h")).duration_seconds == 14400
    assert (await aclient.costs(NOW)).settled_micros == 420_000
    assert (await aclient.receipt("job-1")).settled
    assert (await aclient.why("job-1")).state == "queued"


async def test_the_spawner_leases_reports_and_releases(aclient: AsyncGPUClient, service: FakeService) -> None:
    request = LeaseRequest(gpu_type="h100-80gb")
    lease = await aclient.request_lease("alice", request, idempotency_key="start-1")
    await aclient.lease(lease.id, wait_seconds=20, state=LeaseState.queued)
    await aclient.lease_started(lease.id, 4711)
    assert (await aclient.release_lease(lease.id)).state is LeaseState.released
    assert service.calls[0].headers["Idempotency-Key"] == "start-1"
    assert dict(service.calls[1].url.params) == {"wait_seconds": "20", "state": "queued"}
    assert service.calls[2].content == b'{"pid":4711}'


async def test_a_post_is_repeated_with_the_same_key(
    aclient: AsyncGPUClient, service: FakeService, slept: list[float]
) -> None:
    service.failures = [httpx.ConnectError("refused"), httpx.Response(503, headers={"Retry-After": "3"})]
    await aclient.request_lease("alice", LeaseRequest(gpu_type="h100-80gb"))
    assert len({call.headers["Idempotency-Key"] for call in service.calls}) == 1
    assert len(service.calls) == 3
    assert slept[1] == 3.0


async def test_what_the_spawner_repeats_itself_is_sent_once(
    aclient: AsyncGPUClient, service: FakeService, slept: list[float]
) -> None:
    service.failures = [httpx.ConnectError("refused"), httpx.ConnectError("refused")]
    with pytest.raises(Unavailable):
        await aclient.release_lease("lease-1")
    with pytest.raises(Unavailable):
        await aclient.lease_started("lease-1")
    assert service.failures == []
    assert slept == []


async def test_errors_are_the_same_tree(aclient: AsyncGPUClient, service: FakeService) -> None:
    service.refuse(403, "quota_concurrent_gpus", "You hold 4 of 4 GPUs.")
    with pytest.raises(QuotaError):
        await aclient.status()
    with pytest.raises(NotFound):
        await aclient.job("nothing")
    service.failures = [httpx.ConnectError("down")] * 5
    with pytest.raises(Unavailable):
        await aclient.status()
    assert repr(aclient) == f"<AsyncGPUClient {URL}>"
