"""A log that is followed goes on where it was, over lost connections and while the service is away."""

from __future__ import annotations

import httpx
import pytest

from fastgpu.client import GPUClient
from fastgpu.errors import NotFound, Unavailable
from fastgpu.following import AWAY, LONGEST_PAUSE_SECONDS
from fastgpu.models import JobState
from tests.sdk.fake_service import FakeService

OUTPUT = ("".join(f"line {n} € \n" for n in range(40_000))).encode()


def cut(service: FakeService, times: int) -> None:
    service.failures += [httpx.ConnectError("refused") if n % 2 else httpx.Response(503) for n in range(times)]


def test_an_outage_in_the_middle_loses_and_doubles_nothing(
    client: GPUClient, service: FakeService, slept: list[float]
) -> None:
    service.add_job(state="succeeded")
    service.logs["job-1"] = OUTPUT
    told: list[str] = []
    got = []
    for piece in client.job("job-1").follow(tell=told.append):
        got.append(piece)
        if len(got) in (1, 3):
            cut(service, 23)
    assert "".join(got) == OUTPUT.decode()
    assert told == [AWAY, AWAY], "once for each outage"
    assert max(slept) <= LONGEST_PAUSE_SECONDS


def test_the_next_piece_is_asked_for_by_its_byte_offset(client: GPUClient, service: FakeService) -> None:
    service.add_job(state="succeeded")
    service.logs["job-1"] = OUTPUT
    job = client.job("job-1")
    first = next(iter(job.follow()))
    assert job.log_offset == len(first.encode())
    rest = "".join(client.job("job-1").follow(job.log_offset))
    assert first + rest == OUTPUT.decode()
    offsets = [int(call.url.params["offset"]) for call in service.sent("GET", "api/jobs/job-1/log")]
    assert offsets == sorted(offsets)


def test_it_waits_at_the_end_of_the_log_and_sees_the_job_end(client: GPUClient, service: FakeService) -> None:
    service.add_job(state="running")
    assert "".join(client.job("job-1").follow(wait_seconds=7)) == "now succeeded\n"
    assert {call.url.params["wait_seconds"] for call in service.sent("GET", "api/jobs/job-1/log")} == {"7"}


def test_a_service_that_was_never_there_is_reported(client: GPUClient, service: FakeService) -> None:
    service.add_job(state="running")
    job = client.job("job-1")
    cut(service, 99)
    with pytest.raises(Unavailable):
        list(job.follow())


def test_a_refusal_ends_it_also_after_an_outage(client: GPUClient, service: FakeService) -> None:
    service.add_job(state="running")
    following = client.job("job-1").follow()
    service.logs["job-1"] = b"x"
    assert next(following) == "x"
    cut(service, 9)
    service.refuse(404, "not_found", "There is no such job.")
    with pytest.raises(NotFound):
        list(following)


def test_the_log_of_a_running_job_is_followed_to_its_end_by_the_command_too(
    client: GPUClient, service: FakeService
) -> None:
    service.add_job()
    told: list[str] = []
    job, wrote = client.job("job-1"), list[str]()

    def write(text: str) -> None:
        wrote.append(text)
        if len(wrote) == 1:
            cut(service, 12)

    assert job.follow_to_end(write, told.append)
    assert "".join(wrote) == "now starting\nnow running\nnow succeeded\n"
    assert told == [AWAY]
    assert job.snapshot.state is JobState.succeeded


def test_a_removed_log_says_so(client: GPUClient, service: FakeService) -> None:
    service.add_job(state="succeeded")
    job = client.job("job-1")
    service.refuse(410, "removed", "The files and the log of job job-1 were removed on 1 May 2025.")
    with pytest.raises(Exception, match="were removed on 1 May"):
        job.logs()
