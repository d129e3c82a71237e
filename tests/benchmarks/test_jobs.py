"""The jobs' benchmark names what is not installed, tells medians by their keys, and leaves nothing running."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest

FOLDER = Path(__file__).resolve().parent.parent.parent / "benchmarks"
KEYS = {
    "submit_to_first_line_p50_s",
    "jobs_per_s",
    "slurm_submit_to_first_line_p50_s",
    "slurm_jobs_per_s",
    "tsp_submit_to_first_line_p50_s",
    "tsp_jobs_per_s",
    "notebook_first_cell_p50_s",
    "jupyter_scheduler_first_cell_p50_s",
}
RATIOS = {
    "slurm_first_line_over_ours",
    "jobs_per_s_over_slurm",
    "jobs_per_s_over_tsp",
    "jupyter_scheduler_first_cell_over_ours",
}


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program as a module; its neighbours are found as when it is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("jobs")


def test_medians_and_ratios_stand_under_their_keys(jobs: Any) -> None:
    measured = jobs.Measured(
        line={"FastGPU": [0.03, 0.01, 0.02], "Slurm": [0.5, 0.4, 9.0], "task-spooler": [0.002]},
        rate={"FastGPU": [150.0, 300.0], "Slurm": [10.0], "task-spooler": [450.0]},
        cell={"FastGPU": [0.5], "jupyter-scheduler": [2.0]},
    )
    found = jobs.figures(measured, [])
    assert set(found) == KEYS | RATIOS | {"left_out"}
    assert (found["submit_to_first_line_p50_s"], found["slurm_submit_to_first_line_p50_s"]) == (0.02, 0.5)
    assert (found["jobs_per_s"], found["slurm_jobs_per_s"], found["tsp_jobs_per_s"]) == (225.0, 10.0, 450.0)
    assert {key: found[key] for key in RATIOS} == {
        "slurm_first_line_over_ours": 25.0,
        "jobs_per_s_over_slurm": 22.5,
        "jobs_per_s_over_tsp": 0.5,
        "jupyter_scheduler_first_cell_over_ours": 4.0,
    }
    text = jobs.table(found)
    assert "20 ms" in text
    assert "first line sooner than Slurm's by: 25 (wanted: at least 40)" in text
    assert "left out" not in text


def test_a_peer_that_is_not_installed_is_named_and_its_figures_are_null(
    jobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(jobs.jobs_slurm, "_PATH", str(tmp_path))
    left_out = jobs.absent(None)
    assert left_out == ["Slurm", "task-spooler", "jupyter-scheduler"]
    measured = jobs.Measured({"FastGPU": [0.01]}, {"FastGPU": [200.0]}, {"FastGPU": [0.5]})
    found = jobs.figures(measured, left_out)
    nulls = {key for key, value in found.items() if value is None}
    assert nulls == {key for key in KEYS if key.startswith(("slurm", "tsp", "jupyter"))} | RATIOS
    assert found["left_out"] == left_out
    assert jobs.table(found).count("left out") == 8


def test_slurm_is_tuned_has_eight_gpus_and_keeps_to_its_folder(jobs: Any, tmp_path: Path) -> None:
    files = jobs.jobs_slurm.configuration(tmp_path, "here", "me", (11, 12))
    lines = dict(line.split("=", 1) for line in files["slurm.conf"].splitlines())
    assert lines["SchedulerParameters"] == "batch_sched_delay=0,sched_interval=1"
    assert lines["NodeName"].startswith("here NodeAddr=127.0.0.1 ")
    assert lines["NodeName"].endswith(" Gres=gpu:8")
    assert (lines["SlurmctldHost"], lines["SlurmUser"]) == ("here(127.0.0.1)", "me")
    paths = [value for key, value in lines.items() if key.endswith(("Location", "Dir", "File"))]
    assert len(paths) == 6
    assert all(path.startswith(f"{tmp_path}/") for path in paths)
    assert files["gres.conf"] == f"Name=gpu File={tmp_path}/gpu[0-7]\n"


def test_the_notebook_that_is_sent_is_one_and_has_more_to_do_after_its_first_cell(jobs: Any) -> None:
    notebook = nbformat.from_dict(jobs.jobs_notebooks.notebook("print('first')"))
    nbformat.validate(notebook)
    assert [cell.source for cell in notebook.cells] == ["print('first')", "import time; time.sleep(0.2)"]


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Slurm, where it is installed, needs a folder with a short path."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name:
        yield Path(name)


@pytest.mark.slow
def test_a_small_run_gives_our_figures_names_who_is_missing_and_leaves_nothing_running(short_folder: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(short_folder)}
    command = [sys.executable, str(FOLDER / "jobs.py"), "--quick", "--json"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            text, _ = process.communicate(timeout=150)
        except subprocess.TimeoutExpired:
            process.terminate()  # it ends the hub it has started, too
            raise
    assert process.returncode == 0, text
    found = json.loads(text.splitlines()[-1])
    assert set(found) == KEYS | RATIOS | {"left_out"}
    ours = ("submit_to_first_line_p50_s", "jobs_per_s", "notebook_first_cell_p50_s")
    assert all(found[key] > 0 for key in ours)
    assert "jupyter-scheduler" in found["left_out"]
    assert f"left out, not installed: {', '.join(found['left_out'])}" in text
    assert list(short_folder.iterdir()) == []
    left = [process for process in psutil.process_iter() if str(short_folder) in _description(process)]
    assert psutil.wait_procs(left, timeout=5)[1] == []


def _description(process: psutil.Process) -> str:
    """Command line and environment: one of them names the folder of whatever the program has started."""
    try:
        return f"{process.cmdline()} {process.environ()}"
    except (psutil.Error, OSError):
        return ""
