"""Bars that are widgets are read along; a job that reports its progress itself is left to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastgpu
from fastgpu_magics.widget_bars import WidgetBars


@pytest.fixture
def reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FASTGPU_PROGRESS_FILE", str(tmp_path / "progress"))
    return tmp_path / "progress"


def made(comm: str, **state: Any) -> tuple[str, dict[str, Any]]:
    return "comm_open", {"comm_id": comm, "data": {"state": {"_model_name": "FloatProgressModel", **state}}}


def moved(comm: str, **state: Any) -> tuple[str, dict[str, Any]]:
    return "comm_msg", {"comm_id": comm, "data": {"method": "update", "state": state}}


def test_the_outer_bar_counts_and_a_full_one_gives_way(reported: Path) -> None:
    bars, seen = WidgetBars(), []
    messages = [
        made("outer", value=0.0, max=4.0),
        made("inner", value=0.0, max=10.0),
        moved("inner", value=9.0),
        moved("outer", value=1.0),
        moved("outer", value=4.0),
        ("comm_close", {"comm_id": "outer"}),
        made("second", value=1.0, max=2.0),
        ("comm_close", {"comm_id": "inner"}),
        moved("second", value=1.5),
    ]
    for message in messages:
        bars.see(*message)
        seen.append(float(reported.read_text()))
    assert seen == [0, 0, 0, 0.25, 0.9, 0.9, 0.9, 0.9, 0.75]


def test_a_job_that_reports_itself_is_left_to_it(reported: Path) -> None:
    bars = WidgetBars()
    bars.see(*made("bar", value=1.0, max=4.0))
    fastgpu.progress(0.6)
    bars.see(*moved("bar", value=3.0))
    assert float(reported.read_text()) == 0.6


def test_a_bar_of_unknown_length_and_outside_a_job_says_nothing(
    reported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    WidgetBars().see(*made("bar", value=0.5, max=1.0, bar_style="info"))
    monkeypatch.delenv("FASTGPU_PROGRESS_FILE")
    WidgetBars().see(*made("bar", value=0.5, max=1.0))
    assert not reported.exists()


NUMBERS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)


@given(value=NUMBERS, most=NUMBERS, least=NUMBERS, data=st.none() | st.integers() | st.just({"state": 3}))
def test_no_message_of_a_kernel_is_an_error(value: Any, most: Any, least: Any, data: Any) -> None:
    bars = WidgetBars()
    bars._file = Path("/nonexistent/progress")
    bars.see(*made("bar", value=value, max=most, min=least))
    for kind in ("comm_open", "comm_msg", "comm_close", "stream"):
        bars.see(kind, {"comm_id": "bar", "data": data})
