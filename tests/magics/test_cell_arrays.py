"""A cell sent off once for each value: its parameters are its variables, and the array shows itself as a table."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from fastgpu_magics.array_handle import NotebookJobArray
from fastgpu_magics.cells import notebook_of
from fastgpu_magics.transfer import python_minor
from tests.sdk.fake_service import FakeService

pytestmark = pytest.mark.slow  # a shell each

Run = Callable[[str], Any]
Refusal = Callable[..., str]
LINE = "--gpu a100 --array lr=1e-3,1e-4 --array seed=1,2"


def test_a_cell_may_use_its_parameters_without_binding_them(run: Run, service: FakeService) -> None:
    sent = run(f"%%fastgpu submit {LINE} --max-running 2 --after j-9 --retries 2 --grace 20 --spot\nprint(lr * seed)")
    assert not sent.failed
    assert isinstance(sent.value, NotebookJobArray)
    [body] = service.submissions
    assert (body["sweep"], body["max_running"]) == ({"lr": ["1e-3", "1e-4"], "seed": ["1", "2"]}, 2)
    assert (body["after"], body["retries"], body["grace_seconds"], body["spot"]) == (["j-9"], 2, 20, True)
    assert len(sent.value) == 4


def test_what_is_neither_bound_nor_swept_is_still_refused(refusal: Refusal) -> None:
    assert "uses `momentum`" in refusal(f"submit {LINE}", "print(lr, momentum)")
    assert "is not NAME=VALUE" in refusal("submit --gpu a100 --array lr", "print(1)")


def test_a_name_cannot_be_sent_and_swept(run: Run, refusal: Refusal) -> None:
    run("lr = 1")
    assert "lr is sent with --in and swept" in refusal(f"submit {LINE} --in lr", "print(lr)")


def test_an_array_shows_itself_as_a_table_by_its_parameters(run: Run, service: FakeService) -> None:
    array = run(f"%%fastgpu submit {LINE}\nprint(lr)").value
    shown = array._repr_mimebundle_()
    assert "4 jobs: 4 waiting" in shown["text/plain"]
    assert "1e-4" in shown["text/plain"]
    assert "<table>" in shown["text/html"]
    assert array.data["size"] == 4


def test_a_dry_run_says_what_all_of_them_cost_together(run: Run, service: FakeService) -> None:
    shown = run(f"%%fastgpu submit {LINE} --dry-run\nprint(lr)").value
    assert "the array makes 4, together at most 1.68 credits" in repr(shown)
    assert service.submissions == []


def test_run_waits_for_all_of_them_and_brings_their_variables(
    run: Run, service: FakeService, shell: InteractiveShell
) -> None:
    listed = json.dumps({"python": python_minor(), "outputs": {"loss": 1}}).encode()
    add = service.add_array

    def add_array(array_id: str, **sweep: list[str]) -> Any:
        answer = add(array_id, **sweep)
        for number, job in enumerate(answer["jobs"]):
            service.files[job["id"]] = {"out/outputs.json": listed, "out/loss.pkl": pickle.dumps(number / 10)}
        return answer

    service.add_array = add_array  # type: ignore[method-assign]
    ran = run(f"%%fastgpu run {LINE} --out loss\nloss = lr")
    assert not ran.failed, ran.err
    assert "4 jobs: 4 succeeded" in ran.err
    assert shell.user_ns["loss"] == [0.0, 0.1, 0.2, 0.3]


def test_a_list_of_jobs_shows_an_array_in_one_row(run: Run, service: FakeService) -> None:
    service.add_job()
    service.add_array(lr=["1", "2", "3"])
    assert "3 jobs: 3 waiting" in repr(run("%fastgpu jobs").value)
    assert "j-1-2" in repr(run("%fastgpu jobs --array a-1").value)
    assert "3 jobs: 3 cancelled" in repr(run("%fastgpu cancel a-1").value)
    assert len(run("%fastgpu jobs --all --json").value) == 4


def test_parameters_are_variables_of_the_cell_before_its_code(tmp_path: Path) -> None:
    cell = "import fastgpu\nprint([lr, name, deep], fastgpu.parameters())"
    (tmp_path / "cell.ipynb").write_bytes(notebook_of(cell, (), (), python_minor()))
    parameters = {"lr": "1e-3", "name": "resnet", "deep": "true"}
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(
        [sys.executable, "-m", "fastgpu_magics.runner", "cell.ipynb"],
        cwd=tmp_path,
        env=environment | {"FASTGPU_PARAMETERS": json.dumps(parameters)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout == "[0.001, 'resnet', True] {'lr': 0.001, 'name': 'resnet', 'deep': True}\n"
