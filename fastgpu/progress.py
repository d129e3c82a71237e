"""Telling FastGPU how far a job is: ``fastgpu.progress(0.4)`` from inside the job's own code."""

from __future__ import annotations

import os

PROGRESS_FILE_VARIABLE = "FASTGPU_PROGRESS_FILE"


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
