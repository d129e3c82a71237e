"""What the handle of a job promises."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from fastgpu.client import GPUClient
from fastgpu.errors import JobFailed, NotAllowed, NotFound
from fastgpu.job import Job
from fastgpu.models import JobState
from tests.sdk.fake_service import FakeService


def outputs_of(**values: object) -> dict[str, bytes]:
    listed = {"python": "3.11", "outputs": dict.fromkeys(values, 1)}
    files = {f"out/{name}.pkl": pickle.dumps(value) for name, value in values.items()}
    return {"out/outputs.json": json.dumps(listed).encode(), **files}


class Bomb:
    """Unpickling it would tell."""

    def __reduce__(self) -> object:
        return (pytest.fail, ("a stranger's pickle was loaded",))


def test_a_job_just_taken_soon_knows_why_it_waits(
    client: GPUClient, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.add_job(explanation={"code": "admitting", "message": "Being placed in the queue."})
    job = client.job("job-1")
    waits = {"code": "capacity", "message": "0 of 4 free."}
    monkeypatch.setattr("fastgpu.job.time.sleep", lambda _: service.jobs["job-1"].update(explanation=waits))
    assert job.placed() is job
    assert job.snapshot.explanation is not None
    assert job.snapshot.explanation.code == "capacity"


def test_a_service_that_goes_away_does_not_untake_a_job(
    client: GPUClient, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.add_job(explanation={"code": "admitting", "message": "Being placed in the queue."})
    job = client.job("job-1")
    monkeypatch.setattr("fastgpu.job.time.sleep", lambda _: service.jobs.clear())
    assert job.placed().id == "job-1"


def test_it_tells_state_cost_progress_and_expected_end(client: GPUClient, service: FakeService) -> None:
    service.add_job(state="running", progress=0.4)
    job = client.job("job-1")
    assert (job.state, job.done, job.progress) == (JobState.running, False, 0.4)
    assert (job.cost, job.cost_micros) == ("0.07 credits", 70_000)
    assert job.eta is not None
    assert job.eta.hour == 17
    assert repr(job) == "<Job job-1 'train.py': running, 40 %, 0.07 credits>"


def test_properties_ask_again_only_when_the_answer_is_a_second_old(client: GPUClient, service: FakeService) -> None:
    clock = [0.0]
    service.add_job()
    job = Job(client, client.get_job_status("job-1"), monotonic=lambda: clock[0])
    service.jobs["job-1"]["state"] = "running"
    assert job.state is JobState.queued
    clock[0] = 1.0
    assert job.state is JobState.running
    service.jobs["job-1"]["state"] = "succeeded"
    clock[0] = 2.0
    assert job.done
    asked = len(service.calls)
    clock[0] = 99.0
    assert job.state is JobState.succeeded
    assert len(service.calls) == asked


def test_wait_returns_at_the_end(client: GPUClient, service: FakeService) -> None:
    service.add_job()
    assert client.job("job-1").wait().state is JobState.succeeded
    polls = [call.url.params for call in service.sent("GET", "api/jobs/job-1")][1:]
    assert [params["state"] for params in polls] == ["queued", "starting", "running"]
    assert all(params["wait_seconds"] == "30" for params in polls)


def test_wait_with_a_timeout_raises_instead_of_waiting_on(client: GPUClient, service: FakeService) -> None:
    service.path_of_states = ["queued"]
    service.add_job()
    clock = iter(range(0, 99, 2))
    job = Job(client, client.get_job_status("job-1"), monotonic=lambda: next(clock))
    with pytest.raises(TimeoutError, match="still queued"):
        job.wait(timeout=5)


def test_logs_are_whole_and_without_escape_sequences(client: GPUClient, service: FakeService) -> None:
    service.add_job(state="succeeded")
    body = "é" * 300_000
    service.logs["job-1"] = f"\x1b[31mred\x1b[0m \x1b]0;title\x07{body}\nend".encode()
    assert client.job("job-1").logs() == f"red {body}\nend"
    service.jobs["job-1"]["log_bytes"] = len(service.logs["job-1"])
    assert client.job("job-1").logs(tail_bytes=6) == "é\nend"


def test_following_yields_lines_as_they_come_until_the_end(client: GPUClient, service: FakeService) -> None:
    service.add_job()
    assert "".join(client.job("job-1").follow()) == "now starting\nnow running\nnow succeeded\n"


def test_a_character_cut_between_two_pieces_is_put_together(client: GPUClient, service: FakeService) -> None:
    service.add_job(state="succeeded")
    service.logs["job-1"] = b"x" * (256 * 1024 - 1) + "€".encode()
    assert "".join(client.job("job-1").follow()).endswith("x€")


def test_one_interrupt_cancels_and_it_is_followed_to_its_end(client: GPUClient, service: FakeService) -> None:
    service.add_job()
    told: list[str] = []
    interrupts = iter([KeyboardInterrupt()])

    def write(text: str) -> None:
        for interrupt in interrupts:
            raise interrupt

    assert client.job("job-1").follow_to_end(write, told.append)
    assert service.jobs["job-1"]["state"] == "cancelled"
    assert told == ["Cancelling job job-1; interrupt again to detach from it."]


def test_a_second_interrupt_detaches_and_prints_the_id(client: GPUClient, service: FakeService) -> None:
    service.add_job()
    told: list[str] = []

    def tick(job: object) -> None:
        raise KeyboardInterrupt

    assert not client.job("job-1").follow_to_end(lambda text: None, told.append, tick)
    assert "Detached from job job-1" in told[-1]


def test_an_interrupt_after_the_end_is_no_error(client: GPUClient, service: FakeService) -> None:
    service.add_job(state="running")
    job = client.job("job-1")
    interrupts = iter([KeyboardInterrupt()])

    def tick(snapshot: object) -> None:
        for interrupt in interrupts:
            service.jobs["job-1"]["state"] = "succeeded"
            service.refuse(409, "conflict", "It has ended.")
            raise interrupt

    assert job.follow_to_end(lambda text: None, lambda text: None, tick)
    assert job.state is JobState.succeeded


def test_results_come_back_by_name(client: GPUClient, service: FakeService) -> None:
    service.add_job(state="running")
    service.files["job-1"] = outputs_of(loss=0.25, history=[1, 2])
    job = client.job("job-1")
    assert job.output_names == ("loss", "history")
    assert job.pull("loss") == 0.25
    assert job.result() == {"loss": 0.25, "history": [1, 2]}
    with pytest.raises(NotFound, match="saved no 'model'; it saved loss, history"):
        job.pull("model")


def test_a_script_has_no_named_results(client: GPUClient, service: FakeService) -> None:
    service.add_job(state="succeeded")
    assert client.job("job-1").result() == {}
    assert client.job("job-1").outputs == ()


def test_another_persons_result_is_refused_before_it_is_read(client: GPUClient, service: FakeService) -> None:
    service.add_job(state="succeeded", owner="mallory")
    service.files["job-1"] = outputs_of(loss=Bomb())
    with pytest.raises(NotAllowed, match="belongs to mallory"):
        client.job("job-1").pull("loss")
    with pytest.raises(NotAllowed):
        client.job("job-1").result()
    assert service.sent("GET", "api/jobs/job-1/files/out/loss.pkl") == []


def test_a_result_that_cannot_be_loaded_says_what_it_needs(client: GPUClient, service: FakeService) -> None:
    service.add_job(state="succeeded")
    service.files["job-1"] = outputs_of(loss=1) | {"out/loss.pkl": b"cnowhere_module\nthing\n."}
    with pytest.raises(JobFailed, match=r"No module named 'nowhere_module'.*Python 3\.11"):
        client.job("job-1").pull("loss")


@pytest.mark.parametrize(
    ("state", "says"),
    [
        ("failed", "failed with exit code 3"),
        ("cancelled", "was cancelled"),
        ("timed_out", "reached its time limit"),
        ("lost", "was lost"),
    ],
)
def test_the_result_of_a_job_that_did_not_succeed_raises(
    client: GPUClient, service: FakeService, state: str, says: str
) -> None:
    service.add_job(state=state, exit_code=3)
    with pytest.raises(JobFailed, match=says):
        client.job("job-1").result()


def test_files_are_downloaded_where_asked(client: GPUClient, service: FakeService, tmp_path: Path) -> None:
    service.add_job(state="succeeded")
    service.files["job-1"] = {"model.pt": b"weights", "plots/a b.png": b"png"}
    job = client.job("job-1")
    assert [file.path for file in job.files()] == ["model.pt", "plots/a b.png"]
    saved = job.download(tmp_path)
    assert [path.read_bytes() for path in saved] == [b"weights", b"png"]
    assert sorted(path.name for path in tmp_path.rglob("*") if path.is_file()) == ["a b.png", "model.pt"]


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../x", "..\\x", ""])
def test_a_file_that_would_land_outside_is_not_downloaded(
    client: GPUClient, service: FakeService, tmp_path: Path, path: str
) -> None:
    service.add_job(state="succeeded")
    with pytest.raises(NotAllowed):
        client.job("job-1").download(tmp_path, [path])
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_leaves_nothing_half_written(client: GPUClient, service: FakeService, tmp_path: Path) -> None:
    service.add_job(state="succeeded")
    with pytest.raises(NotFound):
        client.job("job-1").download(tmp_path, ["gone.bin"])
    assert list(tmp_path.iterdir()) == []
