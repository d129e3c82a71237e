"""How long will it run? Learned online from runs that have ended, with an interval that is kept honest.

Run times are handled as logarithms, for they spread over orders of magnitude. What is known of a request comes from
two sources. *History*: decayed means per person, GPU type, count and program, from the general to the particular, each
drawn towards the more general one while it has seen little. *Its batch*: requests alike that one person submits in one
go (a sweep, a loop) run about equally long, so members that have ended count directly, and members that have run for
long already say that the others will, too.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Protocol

BATCH_GAP_MS = 60_000
MAX_MS = 366 * 24 * 3_600_000
COVERAGE = 0.8
FIRST_VARIANCE = 2.25  # of log run times, before anything is known
MOST_CELLS, MOST_BATCHES = 60_000, 20_000  # what nothing was heard of for longest is forgotten


class Described(Protocol):
    """What of a request tells how long it may run.

    ``similar`` names what it runs, ``batch`` the sweep it is part of.
    """

    @property
    def id(self) -> str: ...
    @property
    def owner(self) -> str: ...
    @property
    def account(self) -> str: ...
    @property
    def gpu_type(self) -> str: ...
    @property
    def gpu_count(self) -> int: ...
    @property
    def duration_ms(self) -> int | None: ...
    @property
    def similar(self) -> str: ...
    @property
    def batch(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """A run time in ms: the likely one, and an interval that four of five fall into."""

    low_ms: int
    likely_ms: int
    high_ms: int


class Cell:
    """Decayed mean and mean square of log run times of requests that have something in common."""

    __slots__ = ("last_ms", "mean", "square", "weight")

    def __init__(self, last_ms: int) -> None:
        self.last_ms = last_ms
        self.weight = self.mean = self.square = 0.0


class Batch:
    """Requests alike, submitted in one go."""

    __slots__ = ("cells", "count", "last_ms", "likely_ms", "limit_ms", "mu", "prior", "running", "sigma", "total")

    def __init__(self, cells: list[Cell], mu: float, sigma: float, limit_ms: int | None) -> None:
        self.cells, self.prior, self.mu, self.sigma, self.limit_ms = cells, mu, mu, sigma, limit_ms
        self.count, self.total = 0, 0.0
        self.last_ms = 0
        self.running: dict[str, int] = {}  # since when, by id, in the order of starting
        self.likely_ms = _capped(mu, limit_ms)


def _capped(mu: float, limit_ms: int | None) -> float:
    likely_ms = math.exp(mu) if mu < 24.0 else float(MAX_MS)
    return likely_ms if limit_ms is None or likely_ms < limit_ms else float(limit_ms)


@dataclass(slots=True)
class Quantile:
    """Follows a quantile of a stream by one small step per value: up when it was exceeded, down when not.

    The steps balance when a share ``level`` of the values lies below, whatever they are distributed like (stochastic
    approximation; Robbins and Monro, 1951).
    """

    level: float
    value: float
    step: float = 0.05

    def see(self, value: float) -> None:
        """Learn from one value."""
        self.value += self.step * (self.level - (value < self.value))


@dataclass(slots=True)
class Predictor:
    """Learns run times as runs end. All state is here; the same calls give the same answers.

    ``decay`` is what a batch's worth of newer runs leaves of the weight of older ones; ``shrinkage`` how much weight a
    particular history needs to count as much as the more general one; ``prior_weight`` how many ended members of a
    batch count as much as the history; ``default_ms`` is for the very first request of all.
    """

    decay: float = 0.7
    shrinkage: float = 1.0
    prior_weight: float = 1.0
    default_ms: int = 3_600_000
    _cells: dict[Hashable, Cell] = field(default_factory=dict)
    _batches: dict[Hashable, Batch] = field(default_factory=dict)
    _low: Quantile = field(default_factory=lambda: Quantile((1 - COVERAGE) / 2, -1.28))
    _high: Quantile = field(default_factory=lambda: Quantile((1 + COVERAGE) / 2, 1.28))

    def batch_of(self, want: Described, now_ms: int) -> Batch:
        """The batch that a request belongs to, made when it is the first of one."""
        named = want.batch
        key: Hashable = (want.owner, want.gpu_type, want.gpu_count, named or want.similar, want.duration_ms, not named)
        batch = self._batches.get(key)
        if batch is None or (not named and now_ms - batch.last_ms > BATCH_GAP_MS):
            if len(self._batches) >= MOST_BATCHES:
                self._forget_batches()
            cells = self._cells_of(want, now_ms) if batch is None else batch.cells
            batch = self._batches[key] = self._new(want, cells, now_ms)
        batch.last_ms = now_ms
        return batch

    def _cells_of(self, want: Described, now_ms: int) -> list[Cell]:
        """What is known of requests that have something in common with this one, the general first."""
        owner, gpu_type, gpu_count = want.owner, want.gpu_type, want.gpu_count
        keys: list[Hashable] = [(), (gpu_type, gpu_count), (gpu_type, owner), (gpu_type, owner, gpu_count)]
        if want.similar:
            keys += [(want.account, want.similar), (owner, want.similar), (owner, want.similar, gpu_type, gpu_count)]
        cells = []
        for key in keys:
            cell = self._cells.get(key)
            if cell is None:
                cell = self._cells[key] = Cell(now_ms)
            cells.append(cell)
        if len(self._cells) > MOST_CELLS:
            known = sorted(self._cells.items(), key=lambda each: each[1].last_ms)
            self._cells = dict(known[-MOST_CELLS // 2 :])
        return cells

    def _new(self, want: Described, cells: list[Cell], now_ms: int) -> Batch:
        mu, variance, known, shrinkage = 0.0, FIRST_VARIANCE, False, self.shrinkage
        for cell in cells:
            cell.last_ms = now_ms
            weight = cell.weight
            if weight > 0:
                spread = cell.square - cell.mean * cell.mean
                if spread < 0.0:
                    spread = 0.0
                if known:
                    share = weight / (weight + shrinkage)
                    away = cell.mean - mu
                    variance = share * spread + (1.0 - share) * (variance + share * away * away)
                    mu += share * away
                else:
                    mu, known = cell.mean, True
                    variance = (spread * weight + FIRST_VARIANCE) / (weight + 1.0)
        if not known:
            mu = math.log(want.duration_ms or self.default_ms)
        return Batch(cells, mu, math.sqrt(variance + 0.01), want.duration_ms)

    def knows(self, batch: Batch) -> bool:
        """Whether anything is known of a batch: one of it, or one that has something in common with it, has ended."""
        return batch.count > 0 or any(cell.weight > 0 for cell in batch.cells)

    def likely_ms(self, batch: Batch, now_ms: int) -> float:
        """How long a member of a batch will run, by all that is known now."""
        likely_ms = batch.likely_ms
        if batch.running:
            running = len(batch.running)
            age_ms = (now_ms - next(iter(batch.running.values()))) * running / (running + batch.count)
            if age_ms > likely_ms:
                return age_ms if batch.limit_ms is None else min(age_ms, batch.limit_ms)
        return likely_ms

    def interval(self, mu: float, sigma: float, limit_ms: int | None) -> Prediction:
        """The prediction for a log run time of mean ``mu`` and deviation ``sigma``."""
        low, high = mu + sigma * min(self._low.value, 0.0), mu + sigma * max(self._high.value, 0.0)
        return Prediction(int(_capped(low, limit_ms)), int(_capped(mu, limit_ms)), math.ceil(_capped(high, limit_ms)))

    def told(self, batch: Batch, now_ms: int) -> tuple[float, float]:
        """Mean and deviation of the log run time (of ms) of a member of a batch, by all that is known now."""
        # Members of a batch are alike: the more have ended, the less is uncertain, down to a floor.
        sigma = batch.sigma if not batch.count else max(0.1, batch.sigma / (1 + batch.count) ** 0.5)
        if not batch.running:
            return batch.mu, sigma
        return math.log(max(1.0, self.likely_ms(batch, now_ms))), sigma

    def predict(self, batch: Batch, now_ms: int) -> Prediction:
        """What is to be told of a member of a batch."""
        return self.interval(*self.told(batch, now_ms), batch.limit_ms)

    def ended(self, batch: Batch, want_id: str, ran_ms: int, told: tuple[float, float] | None = None) -> None:
        """A member of a batch has run for so long. ``told``: mean and deviation of what was predicted for it."""
        batch.running.pop(want_id, None)
        log_ms = math.log(ran_ms) if ran_ms > 1 else 0.0
        if told is not None:
            self._calibrate(log_ms, told, batch.limit_ms)
        batch.count = count = batch.count + 1
        batch.total += log_ms
        batch.mu = (self.prior_weight * batch.prior + batch.total) / (self.prior_weight + count)
        batch.likely_ms = _capped(batch.mu, batch.limit_ms)
        # The whole of a batch weighs little more than its first run: a thousand alike are one experience.
        weight = 1.0 / count if count < 50 else 0.02
        decay = self.decay**weight
        square = log_ms * log_ms
        for cell in batch.cells:
            cell.weight = total = cell.weight * decay + weight
            share = weight / total
            cell.mean += share * (log_ms - cell.mean)
            cell.square += share * (square - cell.square)

    def remember(self, want: Described, requested_ms: int, ran_ms: int) -> None:
        """A run of the past."""
        self.ended(self.batch_of(want, requested_ms), want.id, ran_ms)

    def _calibrate(self, log_ms: float, told: tuple[float, float], limit_ms: int | None) -> None:
        mu, sigma = told
        away = (log_ms - mu) / sigma
        self._low.see(away)
        if limit_ms is None or log_ms < math.log(limit_ms) or away < self._high.value:
            self._high.see(away)

    def _forget_batches(self) -> None:
        """Drop the half of the batches that nobody has joined for longest, but none of which something runs."""
        known = sorted(self._batches.items(), key=lambda each: (bool(each[1].running), each[1].last_ms))
        half = len(known) // 2
        self._batches = {key: batch for place, (key, batch) in enumerate(known) if place >= half or batch.running}
