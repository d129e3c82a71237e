"""Progress bars as tqdm draws them, read from the end of a job's output. Pure.

A drawn bar: ``Epoch 2/5:  40%|████      | 40/100 [00:10<00:15,  4.00it/s, loss=0.3]``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

TAIL_BYTES = 4096
LONGEST_BAR = 2000  # characters of one line that are looked at
LONGEST_REST_SECONDS = 10 * 366 * 86_400

_ESCAPE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
# The bracket is in every bar; where a narrow terminal cuts what is in it, the time left is not told.
_BAR = re.compile(
    r"(?P<before>[^|]*?)\d{1,3}%\|[^|]*\|\s*(?P<n>\d+(?:\.\d+)?[kMGTPEZY]?)/(?P<total>\d+(?:\.\d+)?[kMGTPEZY]?) \["
    r"(?:(?:\d+ days?, )?[\d:]+<(?P<left>(?:\d+ days?, )?[\d:]+)[,\]])?",
    re.ASCII,
)
_ROUND = re.compile(r"(?<![\d.])(\d{1,6})\s?/\s?(\d{1,6})(?![\d.])", re.ASCII)
_PREFIXES = {letter: 1000.0**power for power, letter in enumerate("kMGTPEZY", start=1)}


@dataclass(frozen=True, slots=True)
class Told:
    """How far a job is: ``fraction`` 0–1 of all there is to do; ``seconds_left`` where that is told, else None.

    ``reported``: by the job itself; else it is read from its output.
    """

    fraction: float
    seconds_left: int | None = None
    reported: bool = True


def last_bar(tail: bytes) -> Told | None:
    """The last whole bar in the end of an output; None when there is none.

    Where the words before it count rounds (``Epoch 2/5``), the fraction is that of all rounds, and the time left, which
    is that of this round, is not given.
    """
    text = _ESCAPE.sub("", tail.decode("utf-8", "replace"))
    end = len(text)
    while (end := text.rfind("%|", 0, end)) >= 0:
        begin = max(text.rfind("\n", 0, end), text.rfind("\r", 0, end)) + 1
        line = re.split(r"[\r\n]", text[max(begin, end - LONGEST_BAR) : end + LONGEST_BAR], maxsplit=1)[0]
        found = _BAR.match(line)
        if found is not None and (bar := _read(found)) is not None:
            return bar
        end = begin
    return None


def _read(found: re.Match[str]) -> Told | None:
    done, total = _number(found["n"]), _number(found["total"])
    if total <= 0:
        return None
    fraction = min(1.0, done / total)
    rounds = _ROUND.findall(found["before"])
    if rounds:
        this, all_rounds = (int(number) for number in rounds[-1])
        if 1 <= this <= all_rounds:
            return Told((this - 1 + fraction) / all_rounds, reported=False)
    return Told(fraction, _seconds(found["left"]), reported=False)


def _number(text: str) -> float:
    return float(text[:-1]) * _PREFIXES[text[-1]] if text[-1] in _PREFIXES else float(text)


def _seconds(text: str | None) -> int | None:
    """``1:02:03``, ``01:05`` or ``2 days, 1:00:00`` in seconds; None for what is not told and what nobody waits for."""
    days, comma, clock = (text or "").rpartition(", ")
    parts = clock.split(":")
    if not all(parts) or not 2 <= len(parts) <= 3 or any(len(part) > 9 for part in parts) or len(days) > 15:
        return None
    seconds = sum(int(part) * 60**power for power, part in enumerate(reversed(parts)))
    seconds += int(days.split()[0]) * 86_400 if comma else 0
    return seconds if seconds <= LONGEST_REST_SECONDS else None
