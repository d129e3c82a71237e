"""What a job knows of itself, from inside its own code: ``fastgpu.parameters()`` and ``fastgpu.checkpoint_dir()``."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

PARAMETERS_VARIABLE = "FASTGPU_PARAMETERS"
CHECKPOINT_VARIABLE = "FASTGPU_CHECKPOINT_DIR"

_INTEGER = re.compile(r"[+-]?(0|[1-9]\d*)", re.ASCII)
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_TRUTH = {"True": True, "true": True, "False": False, "false": False}


def parameters() -> dict[str, bool | int | float | str]:
    """The values of this job's sweep by name, in the order given; empty outside an array.

    What is written like a number is one: ``1e-3`` is ``0.001``. ``true`` and ``false`` are truth values, all else text.
    """
    given = json.loads(os.environ.get(PARAMETERS_VARIABLE) or "{}")
    return {name: value_of(text) for name, text in given.items()}


def value_of(text: str) -> bool | int | float | str:
    """The value that a written one stands for."""
    if text in _TRUTH:
        return _TRUTH[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


def checkpoint_dir() -> Path:
    """The folder in which this job saves where it is; its next attempt, if there is one, finds it there.

    Outside a job it is ``checkpoints`` in the current folder, made if need be: the same script runs on a laptop.
    """
    given = os.environ.get(CHECKPOINT_VARIABLE)
    if given:
        return Path(given)
    folder = Path("checkpoints")
    folder.mkdir(exist_ok=True)
    return folder
