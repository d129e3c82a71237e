"""A job tells how far it is; the same script runs outside a job."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import fastgpu


@pytest.mark.parametrize(("given", "written"), [(0.4, "0.400000"), (1, "1.000000"), (7, "1.000000"), (-1, "0.000000")])
def test_progress_is_written_whole_and_clamped(
    given: float, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTGPU_PROGRESS_FILE", str(tmp_path / "progress"))
    fastgpu.progress(given)
    assert [path.read_text() for path in tmp_path.iterdir()] == [written]


def test_outside_a_job_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTGPU_PROGRESS_FILE", raising=False)
    fastgpu.progress(0.5)


def test_a_full_disk_does_not_end_a_training_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTGPU_PROGRESS_FILE", str(tmp_path / "gone" / "progress"))
    fastgpu.progress(0.5)


def test_not_a_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="NaN"):
        fastgpu.progress(float("nan"))


def reported(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_figure_is_one_line_of_json_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    monkeypatch.setenv("FASTGPU_METRICS_FILE", str(path))
    fastgpu.log_metric("accuracy", 0.97, step=3)
    fastgpu.log_metric(" loss ", Tensor(), step=Index(4))
    lines = reported(path)
    assert [(line["name"], line["value"], line["step"]) for line in lines] == [("accuracy", 0.97, 3), ("loss", 0.25, 4)]
    assert all(isinstance(line["at_ms"], int) for line in lines)
    assert os.stat(path).st_mode & 0o777 == 0o600


class Tensor:
    """What frameworks hand over."""

    def __float__(self) -> float:
        return 0.25


class Index(int):
    """A counter of a framework."""


@pytest.mark.parametrize(("value", "written"), [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf")])
def test_a_loss_that_became_nan_is_news_and_no_error(
    value: float, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTGPU_METRICS_FILE", str(tmp_path / "m"))
    fastgpu.log_metric("loss", value)
    assert reported(tmp_path / "m")[0]["value"] == written


def test_no_figure_of_several_processes_is_torn_or_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTGPU_METRICS_FILE", str(tmp_path / "m"))
    children = []
    for rank in range(3):
        if (pid := os.fork()) == 0:
            for step in range(100):
                fastgpu.log_metric(f"rank{rank}", step, step)
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 3
    assert len(reported(tmp_path / "m")) == 300


@pytest.mark.parametrize("path", [None, "", "gone/metrics.jsonl", "."])
def test_what_is_ours_never_ends_a_training_run(
    path: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if path is None:
        monkeypatch.delenv("FASTGPU_METRICS_FILE", raising=False)
    else:
        monkeypatch.setenv("FASTGPU_METRICS_FILE", path)
    fastgpu.log_metric("accuracy", 0.97)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "value"), [("", 1), (" ", 1), (None, 1), (3, 1), ("loss", "high"), ("loss", [1, 2])])
def test_a_mistake_shows_itself_at_once_also_outside_a_job(
    name: object, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTGPU_METRICS_FILE", raising=False)
    with pytest.raises((TypeError, ValueError)):
        fastgpu.log_metric(name, value)  # type: ignore[arg-type]
