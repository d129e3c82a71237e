"""The plain data every screen renders: titles, facts, tables and notes, plus the reader's time and place.

The terminal, the notebook's text and its HTML all render the same :class:`View`, so they cannot say different things.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone, tzinfo

from fastgpu import models
from fastgpu.formatting import NO_VALUE, format_duration, format_instant, one_line

SIMULATED = "simulated"


@dataclass(frozen=True, slots=True)
class Bar:
    """A share of a whole (0–1) that a rich screen may draw; its text says the same. ``None`` is unknown."""

    fraction: float | None
    text: str


Cell = str | Bar


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column names; ``right`` are the indices of columns that hold numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    right: frozenset[int] = frozenset()
    caption: str = ""
    empty: str = "none"


@dataclass(frozen=True, slots=True)
class View:
    """One answer for a person's eyes, true as of ``as_of``."""

    title: str
    as_of: datetime
    facts: tuple[tuple[str, Cell], ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lens:
    """When and where the reader is."""

    now: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    zone: tzinfo | None = None

    def at(self, when: datetime | None) -> str:
        """An instant in the reader's words."""
        return format_instant(when, now=self.now, zone=self.zone)

    def until(self, when: datetime | None) -> str:
        """Time left until an instant."""
        return NO_VALUE if when is None else f"{format_duration((when - self.now).total_seconds())} left"


def gpu_words(gpu_type: str, count: int = 1, simulated: bool = False) -> str:
    """``2 × h100-80gb (simulated)``: how GPUs are named everywhere."""
    times = f"{count} × " if count != 1 else ""
    return f"{times}{one_line(gpu_type)}{f' ({SIMULATED})' if simulated else ''}"


def explain(explanation: models.Explanation, lens: Lens) -> str:
    """A reason as one paragraph: what, when it changes, what to do."""
    parts = [one_line(explanation.message)]
    if explanation.frees_at:
        parts.append(f"Changes {lens.at(explanation.frees_at)}.")
    if explanation.instead:
        parts.append(one_line(explanation.instead))
    return " ".join(parts)
