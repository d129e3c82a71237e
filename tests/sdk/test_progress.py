"""A job tells how far it is; the same script runs outside a job."""

from __future__ import annotations

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
