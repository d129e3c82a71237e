"""The plain data every screen renders: titles, facts, tables and notes, plus the reader's time and place.

The terminal, the notebook's text and its HTML all render the same :class:`View`, so they cannot say different things.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timezone, tzinfo

from fastgpu import models
from fastgpu.formatting import NO_VALUE, format_duration, format_instant, one_line

SIMULATED = "simulated"
WHOLE_CHARACTERS = 18


@dataclass(frozen=True, slots=True)
class Bar:
    """A share of a whole (0–1) that a rich screen may draw; its text says the same. ``None`` is unknown."""

    fraction: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Link:
    """An address that a rich screen may let people follow; elsewhere it is printed."""

    address: str
    text: str


Cell = str | Bar | Link


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under column names; ``right`` are the indices of columns that hold numbers."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    right: frozenset[int] = frozenset()
    caption: str = ""
    empty: str = "none"

    def whole(self, place: int) -> bool:
        """True when no value of this column may be broken over lines: a bar, or all as short as an id or an amount."""
        cells = [row[place] for row in self.rows]
        if any(isinstance(cell, Bar) for cell in cells):
            return True
        return all(len(cell) <= WHOLE_CHARACTERS for cell in cells if isinstance(cell, str))


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

    def exactly(self, when: datetime | None) -> str:
        """An instant with its seconds, for records."""
        return format_instant(when, now=self.now, zone=self.zone, seconds=True)

    def until(self, when: datetime | None) -> str:
        """Length of the time left until an instant."""
        return NO_VALUE if when is None else format_duration((when - self.now).total_seconds())


def gpu_words(gpu_type: str, count: int = 1, simulated: bool = False) -> str:
    """``2 × h100-80gb (simulated)``: how GPUs are named everywhere."""
    times, name = f"{count} × " if count != 1 else "", one_line(gpu_type)
    return f"{times}{name}{f' ({SIMULATED})' if simulated and SIMULATED not in name.lower() else ''}"


def untold_change(explanation: models.Explanation) -> datetime | None:
    """When the answer changes by itself, unless its own words say that already (quotas name their reset)."""
    when = explanation.frees_at
    told = when is not None and f"{when.astimezone(timezone.utc):%Y-%m-%d %H:%M}" in (
        f"{explanation.message} {explanation.instead}"
    )
    return None if told else when


def explain(explanation: models.Explanation, lens: Lens) -> str:
    """A reason as one paragraph: what, when it changes, what to do."""
    parts = [one_line(explanation.message)]
    if when := untold_change(explanation):
        parts.append(f"Changes {lens.at(when)}.")
    if explanation.instead:
        parts.append(one_line(explanation.instead))
    return " ".join(parts)
