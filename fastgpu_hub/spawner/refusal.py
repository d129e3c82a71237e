"""A refusal, told once: the service's explanation or our own becomes the hub's policy exception.

A :class:`SpawnException` is logged without a traceback and does not count towards the hub's limit of consecutive
failures, so a thousand refused spawns leave the hub alive.
"""

from __future__ import annotations

import re

from jupyterhub.spawner import SpawnException
from markupsafe import Markup, escape

from fastgpu.errors import FastGPUError, InvalidRequest, NotAllowed, Unavailable
from fastgpu.formatting import format_date_time, one_line
from fastgpu.models import Explanation
from fastgpu.view import untold_change

_STATUS: tuple[tuple[type[FastGPUError], int], ...] = ((InvalidRequest, 422), (NotAllowed, 403), (Unavailable, 503))


class GpuRefused(SpawnException):
    """This server does not get its GPUs, for a reason a person can read and act on."""

    def __init__(self, code: str, sentences: list[str], *, status_code: int = 403) -> None:
        message = " ".join(sentences)
        html = Markup("<br>").join(escape(sentence) for sentence in sentences)
        super().__init__(message, reason=label(code), message_html=str(html), status_code=status_code)
        self.code = code
        # What the spawn form and the progress page show instead of "403 SpawnException(...)".
        self.jupyterhub_message = message
        self.jupyterhub_html_message = str(html)


class ShowForm(SpawnException):
    """Not a failure: a link with options (``?opt-gpu=``) shows the prefilled form and never spends money by itself."""

    jupyterhub_message = ""
    jupyterhub_html_message = ""

    def __init__(self) -> None:
        super().__init__("showing the prefilled form", reason="prefill", status_code=200)


def refused(error: FastGPUError) -> GpuRefused:
    """The refusal for an error of the SDK."""
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 403)
    if error.explanation is not None:
        return refused_lease(error.explanation, status_code=status)
    sentences = [one_line(text) for text in (error.message, error.hint) if text]
    return GpuRefused(error.code, sentences, status_code=status)


def refused_lease(explanation: Explanation, *, status_code: int = 403) -> GpuRefused:
    """The refusal for an explanation: the sentence with its numbers, when it frees up, what to do instead."""
    return GpuRefused(explanation.code, sentences(explanation), status_code=status_code)


def sentences(explanation: Explanation) -> list[str]:
    """An explanation in whole sentences, on one line each."""
    told = [_sentence(explanation.message)]
    if when := untold_change(explanation):
        told.append(f"It frees up on {format_date_time(when)}.")
    if explanation.instead:
        told.append(_sentence(explanation.instead))
    return told


def label(code: str) -> str:
    """A code as a label of the hub's metrics: few, short, plain."""
    return re.sub(r"[^a-z0-9_]", "_", code.lower())[:40] or "refused"


def _sentence(text: str) -> str:
    line = one_line(text)
    return line if not line or line[-1] in ".!?…" else f"{line}."
