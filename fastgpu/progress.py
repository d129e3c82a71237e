"""Telling FastGPU how a job goes, from inside the job's own code: ``fastgpu.progress(0.4)``, ``fastgpu.log_metric``."""

from __future__ import annotations

import json
import math
import os
import time
from typing import SupportsFloat

PROGRESS_FILE_VARIABLE = "FASTGPU_PROGRESS_FILE"
METRICS_FILE_VARIABLE = "FASTGPU_METRICS_FILE"
LONGEST_NAME = 100


def progress(fraction: float) -> None:
    """Report a job's progress, 0 (begun) to 1 (finished); values outside are clamped.

    Outside a job it does nothing, so the same script runs on a laptop. Raises ValueError when ``fraction`` is not a
    number. A file that cannot be written is ignored: reporting progress must never end a training run.
    """
    value = float(fraction)
    if value != value:
        raise ValueError("progress must be a number from 0 to 1, not NaN")
    path = os.environ.get(PROGRESS_FILE_VARIABLE)
    if not path:
        return
    # Written beside and renamed, so that a reader never sees half a number.
    unfinished = f"{path}.{os.getpid()}"
    try:
        with open(unfinished, "w", encoding="ascii") as file:
            file.write(f"{min(1.0, max(0.0, value)):.6f}")
        os.replace(unfinished, path)
    except OSError:
        return


def log_metric(name: str, value: SupportsFloat, step: int | None = None) -> None:
    """Report a figure of a training run: ``fastgpu.log_metric("accuracy", 0.97, step=3)``.

    ``value`` is anything that ``float()`` takes (a number, a NumPy scalar, a tensor of one element); one that is not
    finite is kept as such, for a loss that became NaN is news. Without ``step`` the values of a name are counted from
    0. Names are cut after 100 characters. Outside a job it does nothing, so the same script runs on a laptop.

    Raises TypeError or ValueError for what is no number, no step or no name. A file that cannot be written is ignored:
    reporting must never end a training run.
    """
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"a metric needs a name, such as 'accuracy', not {name!r}")
    number = float(value)
    line = {
        "name": name.strip()[:LONGEST_NAME],
        "value": number if math.isfinite(number) else str(number),
        "step": None if step is None else int(step),
        "at_ms": time.time_ns() // 1_000_000,
    }
    path = os.environ.get(METRICS_FILE_VARIABLE)
    if path:
        _append(path, json.dumps(line, separators=(",", ":")).encode("ascii") + b"\n")


def _append(path: str, line: bytes) -> None:
    """Add a line in one piece, so that processes of one job can report side by side.

    The file is opened anew each time (10 microseconds): a descriptor that is kept may be closed by who forks or
    becomes a daemon, and then be another file's.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, line)
        finally:
            os.close(file)
    except OSError:
        return
