"""Arrays, jobs that wait for others, and attempts, as programs and people at a terminal use them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastgpu import cli
from fastgpu.aio import AsyncGPUClient
from fastgpu.client import GPUClient
from fastgpu.errors import InvalidRequest, JobFailed
from fastgpu.job_array import JobArray
from fastgpu.models import JobState
from fastgpu.together import sweep_of
from tests.sdk.fake_service import URL, FakeService


@pytest.fixture
def fastgpu(client: GPUClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command line: its exit code, what it printed and what it said."""
    monkeypatch.setattr(cli, "make_client", lambda: client)

    def run(*words: str) -> tuple[Any, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(words))
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return run


def lost(service: FakeService, job_id: str = "job-1", again: str = "job-2") -> None:
    """The job was lost, and its next attempt waits."""
    service.jobs[job_id].update(state="lost", next_attempt=again)
    service.add_job(again, attempt=2, retry_of=job_id)


# ---------------------------------------------------------------- arrays


def test_an_array_is_one_submission_with_its_sweep(client: GPUClient, service: FakeService, folder: Path) -> None:
    array = client.submit(
        "train.py", "h100-80gb", args=["--lr={lr}"], array={"lr": [1e-3, 0.01], "deep": (True,)}, max_running=2
    )
    assert isinstance(array, JobArray)
    sent = service.submissions[-1]
    assert (sent["sweep"], sent["max_running"]) == ({"lr": ["0.001", "0.01"], "deep": ["True"]}, 2)
    assert (len(array), array.id) == (2, "a-1")
    assert repr(array) == "<JobArray a-1 'train.py': 2 jobs: 2 waiting, 0.14 credits>"


def test_what_a_job_waits_for_and_how_often_it_is_tried_is_sent(
    client: GPUClient, service: FakeService, folder: Path
) -> None:
    first, array = client.submit("train.py", "h100-80gb"), client.submit("train.py", "h100-80gb", array={"i": [1]})
    client.submit("train.py", "h100-80gb", after=[first, array, "j-9"], retries=3, grace=60, spot=True)
    sent = service.submissions[-1]
    assert (sent["after"], sent["retries"], sent["grace_seconds"]) == (["job-1", "a-1", "j-9"], 3, 60)
    assert sent["spot"] is True
    client.submit("train.py", "h100-80gb", after=first)
    assert (service.submissions[-1]["after"], service.submissions[-1]["spot"]) == (["job-1"], False)
    assert (sent["sweep"], sent["max_running"]) == ({}, None)


def test_text_in_place_of_values_is_a_mistake(client: GPUClient, folder: Path) -> None:
    with pytest.raises(InvalidRequest, match="give a list"):
        client.submit("train.py", "h100-80gb", array={"lr": "1e-3"})


def test_waiting_for_an_array_ends_when_all_its_jobs_have(client: GPUClient, service: FakeService) -> None:
    service.add_array(lr=["1e-3", "1e-4"], seed=["1"])
    seen: list[Any] = []
    array = client.array("a-1").wait(tick=lambda answer: seen.append(dict(answer.counts)))
    assert array.done
    assert array.counts == {"succeeded": 2}
    assert seen[-1] == {JobState.succeeded: 2}
    assert len(service.sent("GET", "api/arrays/a-1")) < 12


def test_waiting_for_an_array_with_a_timeout_raises_instead_of_waiting_on(
    client: GPUClient, service: FakeService
) -> None:
    service.path_of_states = ["queued"]
    service.add_array(lr=["1", "2"])
    clock = iter(range(0, 99, 2))
    with pytest.raises(TimeoutError, match="2 jobs: 2 waiting"):
        JobArray(client, client.array("a-1").snapshot, monotonic=lambda: next(clock)).wait(timeout=5)


def test_results_are_a_table_by_parameter(client: GPUClient, service: FakeService) -> None:
    service.add_array(lr=["1e-3", "1e-4"], name=["big"])
    rows = client.array("a-1").results()
    assert [(row["lr"], row["name"], row["state"], row["accuracy <b>"]) for row in rows] == [
        (0.001, "big", "succeeded", 0.97),
        (0.0001, "big", "succeeded", 0.97),
    ]


def test_the_jobs_of_an_array_are_handles_in_its_order(client: GPUClient, service: FakeService) -> None:
    service.add_array(lr=["1", "2", "3"])
    lost(service, "j-1-0", "j-1-9")
    service.jobs["j-1-9"].update(array_id="a-1", array_index=0, parameters={"lr": "1"})
    array = client.array("a-1")
    assert [job.id for job in array] == ["j-1-9", "j-1-1", "j-1-2"]
    assert [job.snapshot.parameters["lr"] for job in array.jobs] == ["1", "2", "3"]


def test_cancelling_an_array_cancels_its_jobs(client: GPUClient, service: FakeService) -> None:
    service.add_array(lr=["1", "2"])
    assert client.array("a-1").cancel().snapshot.counts == {JobState.cancelled: 2}


async def test_the_async_client_does_the_same(service: FakeService, folder: Path) -> None:
    async with AsyncGPUClient(URL, "t", transport=service.transport) as client:
        array = await client.submit("train.py", "h100-80gb", array={"lr": [1, 2]}, max_running=1, after="j-9")
        assert service.submissions[-1]["after"] == ["j-9"]
        assert (await array).counts == {JobState.succeeded: 2}
        assert (await (await client.array("a-1")).cancel()).done


def test_both_clients_take_the_same_options() -> None:
    options = [set(inspect.signature(client.submit).parameters) for client in (GPUClient, AsyncGPUClient)]
    assert options[0] == options[1]
    assert {"array", "max_running", "after", "retries", "grace"} <= options[0]


# ---------------------------------------------------------------- attempts


def test_a_handle_follows_its_job_to_the_latest_attempt(client: GPUClient, service: FakeService) -> None:
    service.add_job()
    job = client.job("job-1")
    lost(service)
    service.path_of_states = ["queued", "starting", "running", "succeeded"]
    assert job.wait().state is JobState.succeeded
    assert (job.id, job.snapshot.attempt, job.snapshot.retry_of) == ("job-2", 2, "job-1")
    assert ", attempt 2" in repr(job)


def test_a_failure_that_is_tried_again_is_no_failure_yet(client: GPUClient, service: FakeService) -> None:
    service.add_job()
    lost(service)
    service.path_of_states = ["queued", "succeeded"]
    assert client.job("job-1").result() == {}


def test_logs_are_those_of_the_latest_attempt_or_of_this_one(client: GPUClient, service: FakeService) -> None:
    service.add_job()
    lost(service)
    service.logs.update({"job-1": b"first", "job-2": b"second"})
    job = client.job("job-1")
    assert job.logs(latest=False) == "first"
    job.refresh()
    assert job.logs() == "second"


def test_following_goes_on_with_the_next_attempt_from_its_first_byte(client: GPUClient, service: FakeService) -> None:
    service.add_job()
    lost(service)
    service.logs["job-1"] = b"epoch 1\n" * 100
    text = "".join(client.job("job-1").follow())
    assert text.startswith("epoch 1\n" * 100 + "\n[fastgpu] attempt 2: job-2\nnow starting\n")
    assert text.endswith("now succeeded\n")


async def test_an_async_handle_follows_too(service: FakeService) -> None:
    service.add_job()
    lost(service)
    async with AsyncGPUClient(URL, "t", transport=service.transport) as client:
        job = await client.job("job-1")
        assert (await job).state is JobState.succeeded
        assert job.id == "job-2"


# ---------------------------------------------------------------- the command line


def test_submit_takes_an_array_and_shows_it(fastgpu: Callable[..., Any], service: FakeService, folder: Path) -> None:
    words = ("submit", "train.py", "--gpu", "h100-80gb", "--array", "lr=1e-3,1e-4", "--array", "seed=1,2")
    code, out, _ = fastgpu(*words, "--max-running", "2", "--after", "j-9", "--retries", "1", "--grace", "30", "--spot")
    assert (code, "4 jobs: 4 waiting" in out) == (0, True)
    sent = service.submissions[-1]
    assert sent["sweep"] == {"lr": ["1e-3", "1e-4"], "seed": ["1", "2"]}
    assert (sent["max_running"], sent["after"], sent["retries"], sent["grace_seconds"]) == (2, ["j-9"], 1, 30)
    assert sent["spot"] is True
    assert json.loads(fastgpu(*words, "--json")[1])["size"] == 4


def test_run_says_how_far_an_array_is_and_fails_with_it(
    fastgpu: Callable[..., Any], service: FakeService, folder: Path
) -> None:
    words = ("run", "train.py", "--gpu", "h100-80gb", "--array", "lr=1,2")
    code, out, err = fastgpu(*words)
    assert (code, err.splitlines()[0]) == (0, "array a-1")
    assert "2 jobs: 1 running, 1 waiting" in err
    assert "2 jobs: 2 succeeded" in out
    service.path_of_states = ["queued", "running", "failed"]
    code, _, err = fastgpu(*words)
    assert code == 1
    assert "Of array a-2 2 of 2 jobs did not succeed." in err


def test_a_list_of_jobs_shows_an_array_in_one_row(fastgpu: Callable[..., Any], service: FakeService) -> None:
    service.add_job()
    service.add_array(lr=["1", "2", "3"])
    service.jobs["j-1-0"]["state"] = "succeeded"
    service.jobs["j-1-1"]["state"] = "running"
    out = fastgpu("jobs", "--all")[1]
    assert "3 jobs: 1 succeeded, 1 running, 1 waiting" in out
    assert "j-1-0" not in out
    assert "job-1" in out
    assert len(json.loads(fastgpu("jobs", "--all", "--json")[1])) == 4
    out = fastgpu("jobs", "--array", "a-1")[1]
    assert "j-1-0" in out
    assert "lr" in out


def test_whole_arrays_are_cancelled_by_their_id(fastgpu: Callable[..., Any], service: FakeService) -> None:
    service.add_job()
    service.add_array(lr=["1", "2"])
    code, out, _ = fastgpu("cancel", "a-1", "job-1")
    assert (code, "2 jobs: 2 cancelled" in out) == (0, True)
    assert {job["state"] for job in service.jobs.values()} == {"cancelled"}


def test_logs_say_which_attempt_they_are_of(fastgpu: Callable[..., Any], service: FakeService) -> None:
    service.add_job()
    lost(service)
    service.logs.update({"job-1": b"first", "job-2": b"second"})
    assert fastgpu("logs", "job-1") == (0, "second", "attempt 2: job-2\n")
    assert fastgpu("logs", "job-1", "--only") == (0, "first", "")


@pytest.mark.parametrize("word", ["lr", "lr=", "=1", "l r=1", "lr=,"])
def test_a_mistyped_sweep_is_one_line(word: str) -> None:
    with pytest.raises(InvalidRequest, match="is not NAME=VALUE"):
        sweep_of("--array", [word])
    with pytest.raises(InvalidRequest, match="twice"):
        sweep_of("--array", ["lr=1", "lr=2"])


def test_an_array_with_a_failed_job_raises_when_asked(client: GPUClient, service: FakeService) -> None:
    service.add_array(lr=["1", "2"])
    array = client.array("a-1").wait()
    array.raise_for_failure()
    service.jobs["j-1-1"]["state"] = "failed"
    array.refresh()
    with pytest.raises(JobFailed, match="1 of 2 jobs did not succeed"):
        array.raise_for_failure()
