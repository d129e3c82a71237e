"""What a job wrote, fit for a page of ours: the end of its log, and its notebook's outputs as text and images. Pure.

HTML and scripts that a notebook put out are never shown: they would run as the reader. Their words are.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Any

from fastgpu.formatting import clean_text

LARGEST_NOTEBOOK_BYTES = 8 * 1024 * 1024
MOST_CELLS, MOST_OUTPUTS = 100, 200
LONGEST_TEXT = 20_000
MOST_IMAGE_BYTES = 6 * 1024 * 1024
TAIL_BYTES, TAIL_LINES = 32 * 1024, 25

_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_RASTER = ("image/png", "image/jpeg", "image/gif", "image/webp")
_VECTOR = "image/svg+xml"  # as an image it neither runs scripts nor loads anything


@dataclass(frozen=True, slots=True)
class Output:
    """Text, or an image as an address of its own bytes. ``error``: it ended the cell."""

    text: str = ""
    image: str = ""
    error: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell that put something out."""

    source: str
    outputs: tuple[Output, ...]


@dataclass(frozen=True, slots=True)
class Notebook:
    """What is shown of an executed notebook; ``left_out`` says that there is more in the file."""

    cells: tuple[Cell, ...]
    left_out: bool = False


def drawn(text: str) -> str:
    """Text as a terminal would have it in the end: of each line what was drawn over the rest."""
    lines = clean_text(text).replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2].rstrip() for line in lines)


def log_tail(data: bytes, *, whole: bool) -> str:
    """The last lines of an output whose end this is; without its first, cut one, unless it is ``whole``."""
    lines = drawn(data.decode("utf-8", "replace")).strip("\n").split("\n")
    if not whole and len(lines) > 1:
        del lines[0]
    return "\n".join(line[:2000] for line in lines[-TAIL_LINES:])


def notebook(content: bytes) -> Notebook | None:
    """The outputs of an executed notebook; None when it cannot be read as one."""
    try:
        cells = json.loads(content)["cells"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return _Reading().notebook(cells) if isinstance(cells, list) else None


class _Reading:
    """One reading, with what it may still take."""

    def __init__(self) -> None:
        self._outputs, self._image_bytes = MOST_OUTPUTS, MOST_IMAGE_BYTES
        self._left_out = False

    def notebook(self, cells: list[Any]) -> Notebook:
        shown = []
        for cell in cells[:MOST_CELLS]:
            if isinstance(cell, dict) and isinstance(found := cell.get("outputs"), list):
                outputs = [output for each in found if (output := self._output(each)) is not None]
                if outputs:
                    shown.append(Cell(self._cut(clean_text(_joined(cell.get("source")))), tuple(outputs)))
        return Notebook(tuple(shown), self._left_out or len(cells) > MOST_CELLS)

    def _output(self, output: Any) -> Output | None:
        if not isinstance(output, dict):
            return None
        if self._outputs == 0:
            self._left_out = True
            return None
        shown = self._shown(output)
        self._outputs -= shown is not None
        return shown

    def _shown(self, output: dict[str, Any]) -> Output | None:
        kind = output.get("output_type")
        if kind == "error":
            trace = output.get("traceback")
            return Output(self._cut(drawn("\n".join(map(str, trace)))) if isinstance(trace, list) else "", error=True)
        if kind == "stream":
            text = self._cut(drawn(_joined(output.get("text"))).strip("\n"))
            return Output(text) if text else None
        data = output.get("data")
        if kind not in ("display_data", "execute_result") or not isinstance(data, dict):
            return None
        if image := self._image(data):
            return Output(image=image, text=clean_text(_joined(data.get("text/plain")))[:200])
        text = self._cut(clean_text(_joined(data.get("text/plain"))).strip("\n"))
        self._left_out = self._left_out or "text/html" in data or not text
        return Output(text) if text else None

    def _image(self, data: dict[str, Any]) -> str:
        for media in (*_RASTER, _VECTOR):
            raw = _joined(data.get(media))
            if media == _VECTOR:
                encoded = base64.b64encode(raw.encode("utf-8", "replace")).decode("ascii")
            else:
                encoded = "".join(raw.split())
            if not encoded or not _BASE64.fullmatch(encoded):
                continue
            if len(encoded) > self._image_bytes:
                self._left_out = True
                return ""
            self._image_bytes -= len(encoded)
            return f"data:{media};base64,{encoded}"
        return ""

    def _cut(self, text: str) -> str:
        if len(text) <= LONGEST_TEXT:
            return text
        self._left_out = True
        return f"{text[:LONGEST_TEXT]}\n…"


def _joined(text: Any) -> str:
    """nbformat keeps text as one string or as a list of lines."""
    if isinstance(text, list):
        return "".join(part for part in text if isinstance(part, str))
    return text if isinstance(text, str) else ""
