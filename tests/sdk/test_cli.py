"""Every command of ``fastgpu`` does what it says, in tables and in JSON, and fails in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastgpu import cli
from fastgpu.client import GPUClient
from tests.sdk.fake_service import FakeService


class Run:
    """What one command line did."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(client: GPUClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setattr(cli, "make_client", lambda: client)

    def run(*words: str) -> Run:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(words))
        captured = capsys.readouterr()
        return Run(ended.value.code, captured.out, captured.err)  # type: ignore[arg-type]

    return run


@pytest.mark.parametrize(
    ("words", "shows", "json_has"),
    [
        (["status"], "FastGPU status of alice", "leases"),
        (["gpus"], "h100-80gb (simulated)", "offers"),
        (["quote", "--gpu", "a100", "--time", "2h"], "It would be accepted now.", "lines"),
        (
            ["when", "--gpu", "a100", "--time", "2h", "--by", "2030-01-31 18:00"],
            "Thu 31 Jan 2030, 18:00 CET",
            "options",
        ),
        (["jobs", "--all"], "train.py", None),
        (["cost", "--by", "gpu", "--since", "2025-11-01"], "Cost by gpu", "rows"),
        (["why", "job-1"], "All 4 GPUs are in use.", "explanation"),
        (["why"], "All 4 GPUs are in use.", "explanation"),
        (["promos"], "50 % off", None),
        (["quota"], "40 GPU-hours per week", None),
        (["redeem", "K7QF-9M2X-4TRW"], "0.25 credits for person:alice", "promotion"),
        (["credit"], "summer school", None),
        (["asks"], "the final project", None),
        (["ask", "10h", "the final project", "--limit", "1"], "10.00 GPU-h", "reason"),
        (["notices"], "will be stopped in 10 minutes. Ask for more.", None),
        (["receipt", "job-1"], "receipt total == ledger total", "lines"),
        (["metrics", "job-1"], "0.98 at step 1", None),
        (["cancel", "job-1"], "cancelled", None),
    ],
)
def test_every_reading_command_prints_a_table_or_json(
    run: Any, service: FakeService, words: list[str], shows: str, json_has: str | None
) -> None:
    service.add_job()
    table = run(*words)
    assert (table.code, table.err) == (0, "")
    assert shows in table.out
    assert "as of " in table.out
    plain = run(*words, "--json").json
    assert json_has in plain if json_has else isinstance(plain, list)


@pytest.mark.parametrize("written", ["text", "html", "csv"])
def test_a_receipt_is_printed_as_the_service_writes_it(run: Any, written: str) -> None:
    assert run("receipt", "job-1", "--format", written).out == f"as {written}\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["receipt", "job-1", "--format", "pdf"], "is none of text, html, csv"),
        (["ask", "10h", "more", "--limit", "77"], "no limit with the number 77"),
        (["ask", "ten", "more", "--limit", "1"], "duration"),
        (["ask", "5.00", "more"], "--limit NUMBER"),
        (["ask", "1.2345678", "more", "--account", "person:alice"], "1.2345678"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_sent(
    run: Any, service: FakeService, words: list[str], says: str
) -> None:
    done = run(*words)
    assert done.code == 2
    assert says in done.err
    assert "POST" not in {call.method for call in service.calls}


def test_more_is_asked_for_in_the_limits_own_unit(run: Any, service: FakeService) -> None:
    run("ask", "10h", "the final project", "--limit", "1")
    run("ask", "2.50", "the final project", "--account", "person:alice")
    bodies = [json.loads(call.content) for call in service.calls if call.method == "POST"]
    assert [(b["quota_id"], b["account"], b["amount"]) for b in bodies] == [
        (1, None, 36_000),
        (None, "person:alice", 2_500_000),
    ]


def test_every_command_is_tested_here() -> None:
    source = Path(__file__).read_text()
    assert all(
        f'"{command.callback.__name__}"' in source for command in cli.app.registered_commands if command.callback
    )


def test_submit_sends_program_arguments_and_files(run: Any, service: FakeService, folder: Path) -> None:
    (folder / "a.csv").write_text("1")
    options = ["--gpu", "a100", "--count", "2", "--time", "45m", "--files", "*.csv", "--env", "SEED=a=b"]
    done = run("submit", "train.py", *options, "--max-cost", "2.50", "--", "--epochs", "3")
    assert (done.code, done.err) == (0, "")
    assert "Job job-1 train.py" in done.out
    [body] = service.submissions
    assert body["argv"] == ["train.py", "--epochs", "3"]
    assert (body["gpu_type"], body["gpu_count"], body["time_limit_seconds"]) == ("a100-40gb", 2, 2700)
    assert (body["environment"], body["max_cost_micros"]) == ({"SEED": "a=b"}, 2_500_000)
    assert [each["path"] for each in body["inputs"]] == ["a.csv", "train.py"]
    assert run("submit", "train.py", "--gpu", "a100", "--json").json["id"] == "job-2"


def test_submit_takes_a_command(run: Any, service: FakeService) -> None:
    assert run("submit", "--gpu", "h100-80gb", "--command", "nvidia-smi", "--", "-L").code == 0
    assert (service.submissions[0]["kind"], service.submissions[0]["argv"]) == ("command", ["nvidia-smi", "-L"])


def test_run_prints_the_log_and_the_end(run: Any, service: FakeService, folder: Path) -> None:
    done = run("run", "train.py", "--gpu", "h100-80gb")
    assert done.code == 0
    assert done.out.startswith("now starting\nnow running\nnow succeeded\n")
    assert "succeeded" in done.out
    assert done.err == "job job-1\n"
    with_json = run("run", "train.py", "--gpu", "h100-80gb", "--json")
    assert with_json.json["state"] == "succeeded"
    assert "now running" in with_json.err


def test_run_of_a_job_that_fails_exits_1(run: Any, service: FakeService, folder: Path) -> None:
    service.path_of_states = ["queued", "running", "failed"]
    done = run("run", "train.py", "--gpu", "h100-80gb")
    assert done.code == 1
    assert "failed with exit code 1" in done.err.splitlines()[-1]


def test_interrupting_run_cancels_the_job(
    run: Any, service: FakeService, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupts = iter([KeyboardInterrupt()])
    advance = service._advance

    def interrupted(job: dict[str, Any]) -> None:
        for interrupt in interrupts:
            raise interrupt
        advance(job)

    monkeypatch.setattr(service, "_advance", interrupted)
    done = run("run", "train.py", "--gpu", "h100-80gb")
    assert done.code == 1
    assert service.jobs["job-1"]["state"] == "cancelled"
    assert "interrupt again" in done.err


def test_an_interrupt_elsewhere_ends_cleanly(run: Any, client: GPUClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> GPUClient:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "make_client", interrupted)
    done = run("status")
    assert (done.code, done.err) == (130, "")


def test_logs_prints_or_follows(run: Any, service: FakeService) -> None:
    service.add_job(state="running")
    service.logs["job-1"] = b"epoch 1\n\x1b]0;owned\x07"
    assert run("logs", "job-1").out == "epoch 1\n"
    assert run("logs", "job-1", "--json").json["log"] == "epoch 1\n"
    assert run("logs", "job-1", "-f").out == "epoch 1\nnow succeeded\n"
    assert run("logs", "job-1", "-f", "--json").json["state"] == "succeeded"


def test_jobs_shows_active_ones_unless_asked_for_all(run: Any, service: FakeService) -> None:
    service.add_job(state="succeeded")
    assert run("jobs").out.strip().endswith("none")
    assert run("jobs", "--json").json == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["bogus"], "No such command"),
        (["submit"], "PROGRAM"),
        (["quote", "--count", "0"], "--count"),
        (["quote", "--gpu", "h100"], "could be several GPU types"),
        (["quote", "--gpu", "v100"], "is not a GPU type here"),
        (["quote"], "which GPU type?"),
        (["cost", "--by", "moon"], "none of job, gpu, day, person"),
        (["logs", "nothing"], "no such job"),
        (["submit", "train.py", "--gpu", "a100", "--env", "=x"], "NAME=VALUE"),
        (["why"], "no job yet"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(run: Any, words: list[str], says: str) -> None:
    done = run(*words)
    assert (done.code, done.out) == (2, "")
    assert says in done.err
    assert done.err.startswith("fastgpu: ")
    assert done.err.count("\n") == 1


def test_a_refusal_is_exit_code_2_and_an_absent_service_1(run: Any, service: FakeService) -> None:
    service.refuse(403, "quota_spend", "The class has spent its 100 credits.", instead="Ask your teacher.")
    refused = run("status")
    assert refused.code == 2
    assert (
        refused.err == "fastgpu: The class has spent its 100 credits. Ask your teacher. [quota_spend, request r-42]\n"
    )
    service.failures = [httpx.ConnectError("refused")] * 5
    away = run("status")
    assert away.code == 1
    assert away.err.count("\n") == 1


def test_without_a_command_it_shows_help(run: Any) -> None:
    shown = run()
    assert shown.code == 0
    assert "receipt" in shown.out


def test_names_are_printed_as_they_are_and_cannot_style_the_terminal(run: Any, service: FakeService) -> None:
    service.add_job(name="[red]x[/red] \x1b[31m:boom:")
    assert "[red]x[/red] :boom:" in run("jobs").out
