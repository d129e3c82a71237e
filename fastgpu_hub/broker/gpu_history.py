"""The use of a job's GPUs over its run, in little room: buckets of time, twice as wide whenever they are full. Pure.

Readings of the same few seconds count once together, so that who looks often does not change the mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from fastgpu_hub.broker.ports.world import GpuSample

FIRST_WIDTH_MS = 5_000
MOST_BUCKETS = 240


class Reading(NamedTuple):
    """All GPUs of a job at one instant: mean utilisation in percent, memory in bytes; None where none of them tells."""

    utilisation_percent: float | None
    memory_used_bytes: int | None
    memory_total_bytes: int | None


def reading(samples: Iterable[GpuSample]) -> Reading:
    """The samples of a job's devices as one; a lost device tells nothing."""
    well = [sample for sample in samples if not sample.lost]
    use = [sample.utilisation_percent for sample in well if sample.utilisation_percent is not None]
    used = [sample.memory_used_bytes for sample in well if sample.memory_used_bytes is not None]
    total = [sample.memory_total_bytes for sample in well if sample.memory_total_bytes is not None]
    return Reading(sum(use) / len(use) if use else None, sum(used) if used else None, sum(total) if total else None)


@dataclass(slots=True)
class _Bucket:
    """A stretch of a run: the mean of each moment that was read in it, and peaks."""

    moments: int = 0
    use_sum: float = 0.0
    use_peak: float | None = None
    memory_peak: int | None = None

    @property
    def use_mean(self) -> float | None:
        return self.use_sum / self.moments if self.moments else None

    def take(self, use: float | None, memory: int | None) -> None:
        """A reading: peaks count at once, the mean with its moment."""
        if use is not None:
            self.use_peak = use if self.use_peak is None else max(self.use_peak, use)
        if memory is not None:
            self.memory_peak = memory if self.memory_peak is None else max(self.memory_peak, memory)

    def count(self, use: float) -> None:
        """The mean of a moment."""
        self.moments += 1
        self.use_sum += use


def _joined(first: _Bucket, second: _Bucket) -> _Bucket:
    """One bucket for two: the mean of their means, so that each half of the time counts the same."""
    joined = _Bucket()
    for half in (first, second):
        joined.take(half.use_peak, half.memory_peak)
        if (mean := half.use_mean) is not None:
            joined.count(mean)
    return joined


@dataclass(slots=True)
class _Moment:
    """The latest few seconds, of which there may be any number of readings."""

    slot: int = 0
    readings: int = 0
    use_sum: float = 0.0


class History:
    """One run's readings. ``from_ms`` is the first one's instant, ``width_ms`` how much time a bucket covers."""

    def __init__(self, from_ms: int) -> None:
        self.from_ms = from_ms
        self.width_ms = FIRST_WIDTH_MS
        self.memory_total_bytes: int | None = None
        self._buckets: list[_Bucket] = []
        self._moment = _Moment()

    def add(self, at_ms: int, read: Reading) -> None:
        """Take a reading. One from before the first counts to the first; clocks that are set back do that."""
        slot = max(0, at_ms - self.from_ms) // FIRST_WIDTH_MS
        if slot != self._moment.slot:
            self._close_moment()
            self._moment.slot = slot
        self._bucket_of(slot).take(read.utilisation_percent, read.memory_used_bytes)
        if read.utilisation_percent is not None:
            self._moment.readings += 1
            self._moment.use_sum += read.utilisation_percent
        self.memory_total_bytes = read.memory_total_bytes or self.memory_total_bytes

    def _close_moment(self) -> None:
        if self._moment.readings:
            self._bucket_of(self._moment.slot).count(self._moment.use_sum / self._moment.readings)
        self._moment = _Moment(self._moment.slot)

    def _bucket_of(self, slot: int) -> _Bucket:
        while (place := slot * FIRST_WIDTH_MS // self.width_ms) >= MOST_BUCKETS:
            self._halve()
        self._buckets += (_Bucket() for _ in range(place + 1 - len(self._buckets)))
        return self._buckets[place]

    def _halve(self) -> None:
        if len(self._buckets) % 2:
            self._buckets.append(_Bucket())
        pairs = zip(self._buckets[::2], self._buckets[1::2], strict=True)
        self._buckets = [_joined(first, second) for first, second in pairs]
        self.width_ms *= 2

    def plain(self) -> dict[str, Any]:
        """Plain data to keep: per bucket mean and peak utilisation in tenths of a percent, and peak memory."""
        buckets = list(self._buckets)
        if self._moment.readings:  # as if it were over; what comes yet of it is not counted twice
            place = self._moment.slot * FIRST_WIDTH_MS // self.width_ms
            buckets[place] = replace(buckets[place])
            buckets[place].count(self._moment.use_sum / self._moment.readings)
        return {
            "from_ms": self.from_ms,
            "width_ms": self.width_ms,
            "memory_total_bytes": self.memory_total_bytes,
            "buckets": [[_tenths(b.use_mean), _tenths(b.use_peak), b.memory_peak] for b in buckets],
        }

    @classmethod
    def of_plain(cls, plain: Mapping[str, Any]) -> History:
        """The inverse of :meth:`plain`: a run goes on where it was."""
        history = cls(int(plain["from_ms"]))
        history.width_ms = int(plain["width_ms"])
        history.memory_total_bytes = plain["memory_total_bytes"]
        for mean, peak, memory in plain["buckets"]:
            told = mean is not None
            history._buckets.append(
                _Bucket(int(told), mean / 10 if told else 0.0, peak / 10 if peak is not None else None, memory)
            )
        return history


def _tenths(percent: float | None) -> int | None:
    return None if percent is None else round(percent * 10)


class Summary(NamedTuple):
    """A run's use as a whole. None where no device told it."""

    mean_percent: float | None
    peak_percent: float | None
    memory_peak_bytes: int | None


def summary(plain: Mapping[str, Any]) -> Summary:
    """Mean over the time that was read, and peaks, of a history's plain data."""
    columns = list(zip(*plain["buckets"], strict=True)) or [(), (), ()]
    means, peaks, memory = ([value for value in column if value is not None] for column in columns)
    return Summary(
        sum(means) / len(means) / 10 if means else None,
        max(peaks) / 10 if peaks else None,
        max(memory, default=None),
    )
