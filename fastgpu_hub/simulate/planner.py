"""How many GPUs are enough: days of classes simulated with fewer and more of them, until a goal is just met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from fastgpu_hub.pricing.money import hourly_amount_micros
from fastgpu_hub.simulate.class_day import ClassDay, on_gpus, requests
from fastgpu_hub.simulate.figures import quantile, utilisation
from fastgpu_hub.simulate.replay import DEFAULT_POLICY, replay
from fastgpu_hub.simulate.workload import Job

MOST_GPUS = 4096
AROUND = (0.5, 0.65, 0.8, 0.9, 1.0, 1.1, 1.25)  # of the answer: shown beside it

Tried = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Goal:
    """``share`` of all requests wait at most ``within_ms``."""

    share: float = 0.95
    within_ms: int = 600_000


@dataclass(frozen=True, slots=True)
class Trial:
    """A number of GPUs over several days; each sequence has a value per day."""

    gpus: int
    met_shares: Sequence[float]
    p50_wait_ms: Sequence[float]
    p95_wait_ms: Sequence[float]
    p99_wait_ms: Sequence[float]
    utilisations: Sequence[float]

    def on_most_days(self, goal: Goal) -> bool:
        """Whether the goal is met on the median day."""
        return median(self.met_shares) >= goal.share

    def every_day(self, goal: Goal) -> bool:
        """Whether the goal is met on the worst day."""
        return min(self.met_shares) >= goal.share


@dataclass(frozen=True, slots=True)
class Plan:
    """The fewest GPUs found that meet the goal on the median and on the worst day; None when the most do not."""

    goal: Goal
    days: int
    for_most_days: int | None
    for_every_day: int | None
    trials: Sequence[Trial]

    def telling(self) -> list[Trial]:
        """Trials near the answer, to be shown; the search begins far from it."""
        answer = self.for_every_day or self.trials[-1].gpus
        return [trial for trial in self.trials if round(answer * AROUND[0]) <= trial.gpus <= round(answer * AROUND[-1])]


def plan(
    day: ClassDay,
    goal: Goal,
    seeds: Sequence[int],
    *,
    policy: str = DEFAULT_POLICY,
    most: int = MOST_GPUS,
    tried: Tried | None = None,
) -> Plan:
    """Search by doubling a guess, then by halving the interval; then try numbers around the answer, to show them, too.

    ``tried`` is called with each number of GPUs once it was simulated. Raises TraceError when there are no requests.
    """
    days = [requests(day, seed) for seed in seeds]
    trials: dict[int, Trial] = {}

    def trial(gpus: int) -> Trial:
        if gpus not in trials:
            trials[gpus] = _trial(day, days, gpus, goal, policy)
            if tried:
                tried(gpus)
        return trials[gpus]

    fewest = max((job.gpu_count for asked in days for job in asked), default=1) // day.shares or 1
    guess = max(fewest, min(most, round(max(map(_busy_gpus, days)) / day.shares)))
    for_most = _smallest(lambda gpus: trial(gpus).on_most_days(goal), fewest, guess, most)
    for_every = _smallest(lambda gpus: trial(gpus).every_day(goal), for_most or most, for_most or most, most)
    answer = for_every or for_most or most
    for part in AROUND:
        trial(min(most, max(fewest, round(answer * part))))
    return Plan(goal, len(seeds), for_most, for_every, tuple(trials[gpus] for gpus in sorted(trials)))


def cost_micros(gpus: int, price_micros: int, hours: int) -> int:
    """What a number of GPUs costs for a day, whether used or not, at a price per GPU and hour."""
    return hourly_amount_micros(gpus, price_micros, hours * 3_600_000)


def _trial(day: ClassDay, days: Sequence[Sequence[Job]], gpus: int, goal: Goal, policy: str) -> Trial:
    met, p50, p95, p99, used = [], [], [], [], []
    for asked in days:
        outcome = replay(on_gpus(day, asked, gpus), policy, observe=False)
        waits = sorted(outcome.waits_ms())
        met.append(sum(wait <= goal.within_ms for wait in waits) / len(waits))
        p50.append(quantile(waits, 0.5))
        p95.append(quantile(waits, 0.95))
        p99.append(quantile(waits, 0.99))
        used.append(utilisation(outcome) or 0.0)
    return Trial(gpus, met, p50, p95, p99, used)


def _busy_gpus(asked: Sequence[Job]) -> float:
    """How many GPUs, or shares, would be busy on average from the first submission to the last, did nobody wait."""
    span_ms = asked[-1].submit_ms - asked[0].submit_ms if asked else 0
    return sum(job.gpu_count * job.run_ms for job in asked) / max(span_ms, 3_600_000)


def _smallest(good: Callable[[int], bool], low: int, guess: int, most: int) -> int | None:
    """The smallest number from ``low`` to ``most`` that is good, if more never hurts; None when ``most`` is not.

    Begins with ``guess``: far too few GPUs take long to simulate, because of the long queue.
    """
    high = guess
    while not good(high):
        if high >= most:
            return None
        low, high = high + 1, min(most, high * 2)
    while low < high:
        middle = (low + high) // 2
        if good(middle):
            high = middle
        else:
            low = middle + 1
    return high
