"""What a job knows of itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import fastgpu
from fastgpu.inside import value_of


def test_parameters_are_values_by_name_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastgpu.parameters() == {}
    given = {"lr": "1e-3", "deep": "true", "model": "resnet", "seed": "7"}
    monkeypatch.setenv("FASTGPU_PARAMETERS", json.dumps(given))
    assert fastgpu.parameters() == {"lr": 0.001, "deep": True, "model": "resnet", "seed": 7}
    assert list(fastgpu.parameters()) == list(given)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("1", 1), ("-3", -3), ("0", 0), ("0.5", 0.5), (".5", 0.5), ("1e-4", 1e-4), ("+2E3", 2000.0)),
        *(("False", False), ("007", "007"), ("05", "05"), ("1_000", "1_000"), ("nan", "nan")),
        *(("inf", "inf"), ("١", "١")),
        *(("", ""), ("1.2.3", "1.2.3"), ("0x10", "0x10"), ("None", "None")),
    ],
)
def test_what_is_written_like_a_number_is_one_and_nothing_else(text: str, value: object) -> None:
    assert value_of(text) == value
    assert type(value_of(text)) is type(value)


def test_the_checkpoint_folder_is_the_jobs_or_one_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fastgpu.checkpoint_dir() == Path("checkpoints")
    assert (tmp_path / "checkpoints").is_dir()
    monkeypatch.setenv("FASTGPU_CHECKPOINT_DIR", str(tmp_path / "kept"))
    assert fastgpu.checkpoint_dir() == tmp_path / "kept"
