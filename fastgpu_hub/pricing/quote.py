"""What a request would cost, itemised by interval; and a quoted price that is kept for a later run."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from fastgpu_hub.pricing import metering
from fastgpu_hub.pricing.metering import Line


@dataclass(frozen=True, slots=True)
class Itemised:
    """The priced lines of a request with their sums, all in micro-units."""

    lines: tuple[Line, ...]

    @property
    def min_micros(self) -> int:
        """What starting alone costs: the least that is charged once it runs."""
        return metering.total_micros(line for line in self.lines if line.unit == metering.START)

    @property
    def max_micros(self) -> int:
        """What the whole duration costs: the amount a grant holds."""
        return metering.total_micros(self.lines)

    @property
    def list_micros(self) -> int:
        """What it would cost without promotions."""
        return metering.list_micros(self.lines)

    @property
    def saved_micros(self) -> int:
        """What promotions take off the list price."""
        return self.list_micros - self.max_micros


def shifted(lines: Sequence[Line], from_ms: int, cuts: Iterable[int]) -> tuple[Line, ...]:
    """Quoted lines for a run that begins at ``from_ms`` instead: the same rates for as long, naming the same rules.

    They are cut at ``cuts``, which belong to the new time, and never cost more than they did, whatever rounding does.
    """
    begins_ms = min((line.from_ms for line in lines), default=from_ms)
    instants = sorted(set(cuts))
    tidy = _moved(_joined(lines), from_ms - begins_ms, instants)
    if metering.total_micros(tidy) <= metering.total_micros(lines):
        return tidy
    return _moved(lines, from_ms - begins_ms, instants)


def _moved(lines: Iterable[Line], by_ms: int, instants: Sequence[int]) -> tuple[Line, ...]:
    moved: list[Line] = []
    for segment in _segments(lines):
        begin_ms, end_ms = segment[0].from_ms + by_ms, segment[0].until_ms + by_ms
        inside = instants[bisect_right(instants, begin_ms) : bisect_left(instants, end_ms)]
        for from_ms, until_ms in pairwise((begin_ms, *inside, end_ms)):
            parts = (replace(line, from_ms=from_ms, until_ms=until_ms) for line in segment)
            moved += (replace(part, amount_micros=part.priced_at(part.rate_micros)) for part in parts)
    return tuple(moved)


def _segments(lines: Iterable[Line]) -> list[list[Line]]:
    """Lines of the same interval together: of GPU time, and of task time where that has a price."""
    found: list[list[Line]] = []
    for line in lines:
        if found and (found[-1][0].from_ms, found[-1][0].until_ms) == (line.from_ms, line.until_ms):
            found[-1].append(line)
        else:
            found.append([line])
    return found


def _joined(lines: Iterable[Line]) -> list[Line]:
    """Stretches of the same terms that follow each other, as one; task time has GPU time's intervals also then."""
    joined: list[list[Line]] = []
    for segment in _segments(lines):
        before = joined[-1] if joined else []
        begin_ms, end_ms = segment[0].from_ms, segment[0].until_ms
        if (
            before
            and before[0].unit != metering.START
            and before[0].until_ms == begin_ms
            and [replace(line, from_ms=begin_ms, until_ms=end_ms, amount_micros=0) for line in before]
            == [replace(line, amount_micros=0) for line in segment]
        ):
            joined[-1] = [replace(line, until_ms=end_ms) for line in before]
        else:
            joined.append(segment)
    return [line for segment in joined for line in segment]


def never_dearer(lines: Sequence[Line], held: Sequence[Line]) -> bool:
    """Whether the lines cost no more than those held up to any instant, in money and in GPU time."""
    for at_ms in sorted({line.until_ms for line in (*lines, *held)}):
        now, before = metering.charge(lines, at_ms)[0], metering.charge(held, at_ms)[0]
        if metering.total_micros(now) > metering.total_micros(before):
            return False
        if metering.gpu_ms(now) > metering.gpu_ms(before):
            return False
    return True


def no_dearer_than_quoted(lines: tuple[Line, ...], quoted: Sequence[Line], cuts: Iterable[int]) -> tuple[Line, ...]:
    """The terms of a run that was quoted for another time: the prices of its own time where no part of the run, however
    soon it ends, costs more by them; else the quoted ones."""
    begins_ms = min((line.from_ms for line in lines), default=0)
    kept = shifted(quoted, begins_ms, cuts)
    return lines if never_dearer(lines, kept) else kept
