"""Long looks in parts, with pauses in which events may be handled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

PART = 2000

Pause = Callable[[], None]
T = TypeVar("T")


def no_pause() -> None:
    """For those who look at everything at once."""


def in_parts(items: Sequence[T], pause: Pause) -> Iterator[T]:
    """The items, with a pause after each so many."""
    for start in range(0, len(items), PART):
        if start:
            pause()
        yield from items[start : start + PART]
