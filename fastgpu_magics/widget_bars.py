"""Progress bars that are widgets (``tqdm.auto`` in a notebook), read along where nobody is there to see them move."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastgpu.progress import PROGRESS_FILE_VARIABLE, progress

_MODELS = ("FloatProgressModel", "IntProgressModel")


class WidgetBars:
    """The bars of one kernel. What the first unfinished one says is reported as the job's progress.

    Bars within bars come after those they are in. A job that reports its progress itself is left to it.
    """

    def __init__(self) -> None:
        self._bars: dict[str, dict[str, Any]] = {}
        self._reported: float | None = None
        path = os.environ.get(PROGRESS_FILE_VARIABLE)
        self._file = Path(path) if path else None

    def see(self, kind: str, content: Mapping[str, Any]) -> None:
        """A message of the kernel: ``comm_open``, ``comm_msg`` or ``comm_close`` may be about a bar."""
        if self._file is None or not kind.startswith("comm_"):
            return
        data, comm = content.get("data"), str(content.get("comm_id"))
        state = data.get("state") if isinstance(data, dict) else None
        if kind == "comm_close":
            self._bars.pop(comm, None)
        elif isinstance(state, dict) and (comm in self._bars or state.get("_model_name") in _MODELS):
            self._bars.setdefault(comm, {}).update(state)
            self._report()

    def _report(self) -> None:
        fraction = next((done for bar in self._bars.values() if (done := _fraction(bar)) is not None), None)
        if fraction is None or fraction == self._reported or not self._is_ours():
            return
        progress(fraction)
        self._reported = fraction

    def _is_ours(self) -> bool:
        """Whether what was reported last, if anything, was reported here."""
        try:
            there = float(self._file.read_text(encoding="ascii")) if self._file else None
        except (OSError, ValueError):
            there = None
        return there == self._reported


def _fraction(bar: Mapping[str, Any]) -> float | None:
    """How far a bar is, in thousandths; None for one that is full, empty of meaning or not understood."""
    value, least, most = bar.get("value"), bar.get("min", 0), bar.get("max", 100)
    numbers = all(isinstance(number, int | float) for number in (value, least, most))
    if not numbers or bar.get("bar_style") == "info" or not most > least:  # "info": of unknown length, in tqdm
        return None
    fraction = round((value - least) / (most - least), 3)
    return fraction if 0 <= fraction < 1 else None
