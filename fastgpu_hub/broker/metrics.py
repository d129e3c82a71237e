"""The figures that a job reports of itself: read from what it wrote, whatever that is; thinned for a chart. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

MOST_POINTS = 500
MOST_NAMES = 100
# Kept of all series of an ended job together.
KEPT_POINTS, FEWEST_KEPT = 2000, 10
LONGEST_LINE_BYTES, LONGEST_NAME = 1000, 100
LARGEST_STEP = 2**53
LAST_MS = 253_402_300_799_999  # the last instant that has a date

_LESS_IS_BETTER = re.compile(
    r"loss|err|perplexity|ppl|(?<![a-z])(r?mse|mae|wer|cer|nll|bpb|bpc|fid)(?![a-z])|divergence|distance|latency"
)
_NEITHER = re.compile(
    r"(?<![a-z])(lr|epoch|epochs|step|steps|temperature|momentum|memory|time|seconds)(?![a-z])|learning.?rate"
)


class Point(NamedTuple):
    """One reported value. ``value`` is None where it was not finite, ``at_ms`` where the job did not say when."""

    step: int
    value: float | None
    at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Values of one name by step. ``count`` is how many were read; ``last`` was reported last, whatever its step."""

    name: str
    points: tuple[Point, ...]
    count: int
    last: Point
    lowest: Point | None
    highest: Point | None

    @property
    def less_is_better(self) -> bool:
        """Whether its name says that it is to go down, as that of a loss or an error does."""
        return _LESS_IS_BETTER.search(self.name.lower()) is not None

    @property
    def best(self) -> Point | None:
        """The lowest or highest value, by its name; None when no value was finite, or none is better than another."""
        if _NEITHER.search(self.name.lower()):
            return None
        return self.lowest if self.less_is_better else self.highest


# ---------------------------------------------------------------- reading


def read(reported: bytes) -> list[Series]:
    """The series in what ``fastgpu.log_metric`` wrote, by name in the order of their first values.

    The file belongs to the job: lines that are no such report, too long, or of a hundred-and-first name are left out.
    """
    found: dict[str, list[Point]] = {}
    for line in reported.split(b"\n"):
        entry = _entry(line)
        name = _name(entry.get("name")) if entry else ""
        if not entry or not name or (name not in found and len(found) >= MOST_NAMES):
            continue
        try:
            value = _value(entry.get("value"))
        except ValueError:
            continue
        points = found.setdefault(name, [])
        points.append(Point(_step(entry.get("step"), len(points)), value, _instant(entry.get("at_ms"))))
    return [_series(name, points) for name, points in found.items()]


def _entry(line: bytes) -> dict[str, Any] | None:
    if not line.startswith(b"{") or len(line) > LONGEST_LINE_BYTES:
        return None
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None


def _name(value: Any) -> str:
    """Only what can be seen: no control or direction characters, no half characters."""
    if not isinstance(value, str):
        return ""
    return "".join(c for c in value if c.isprintable()).strip()[:LONGEST_NAME]


def _value(value: Any) -> float | None:
    """A number, or None for one that is not finite. Raises ValueError for anything else."""
    if value in ("nan", "inf", "-inf"):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("not a number")
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _step(value: Any, default: int) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) > LARGEST_STEP:
        return default
    return value


def _instant(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LAST_MS else None


def _series(name: str, reported: Sequence[Point]) -> Series:
    points = tuple(sorted(reported, key=lambda point: point.step))
    lowest, highest = _extremes(points)
    return Series(name, points, len(points), reported[-1], lowest, highest)


def _extremes(points: Iterable[Point]) -> tuple[Point | None, Point | None]:
    """The points of the lowest and the highest finite value, the earliest of equals."""
    finite = [(point.value, place, point) for place, point in enumerate(points) if point.value is not None]
    if not finite:
        return None, None
    return min(finite)[2], max(finite, key=lambda item: (item[0], -item[1]))[2]


# ---------------------------------------------------------------- thinning


def thinned(points: Sequence[Point], most: int) -> tuple[Point, ...]:
    """At most ``most`` (>= 4) of the points that show the same course: the first, the last, and of each stretch between
    them the lowest and the highest, in their order; of a stretch without finite values one."""
    if len(points) <= most:
        return tuple(points)
    between, stretches = points[1:-1], (most - 2) // 2
    kept = [points[0]]
    for place in range(stretches):
        stretch = between[place * len(between) // stretches : (place + 1) * len(between) // stretches]
        lowest, highest = _extremes(stretch)
        if lowest is None or highest is None:
            kept += stretch[:1]
        else:
            kept += [lowest] if lowest is highest else sorted((lowest, highest), key=stretch.index)
    return (*kept, points[-1])


# ---------------------------------------------------------------- what is kept after the end


def kept(series: Sequence[Series]) -> list[dict[str, Any]]:
    """Plain data of series, small enough to keep for good: 2,000 points of all together at most, or ten of each."""
    most = max(FEWEST_KEPT, min(MOST_POINTS, KEPT_POINTS // max(1, len(series))))
    return [
        {
            "name": each.name,
            "count": each.count,
            "points": [list(point) for point in thinned(each.points, most)],
            **{name: _plain(getattr(each, name)) for name in ("last", "lowest", "highest")},
        }
        for each in series
    ]


def _plain(point: Point | None) -> list[Any] | None:
    return None if point is None else list(point)


def of_kept(plain: Iterable[Mapping[str, Any]]) -> list[Series]:
    """The inverse of :func:`kept`."""
    return [
        Series(
            str(each["name"]),
            tuple(Point(*point) for point in each["points"]),
            int(each["count"]),
            Point(*each["last"]),
            *(None if each[name] is None else Point(*each[name]) for name in ("lowest", "highest")),
        )
        for each in plain
    ]
