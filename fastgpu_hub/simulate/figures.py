"""The figures of a replay: queue, slowdown, utilisation, and how good the predictions were."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from statistics import fmean

from fastgpu_hub.simulate.replay import Outcome

SLOWDOWN_FLOOR_MS = 10_000
MS_PER_S = 1000


@dataclass(frozen=True, slots=True)
class Figures:
    """Times in seconds. None where there is nothing to tell: utilisation of an instant, predictions of an oracle."""

    jobs: int
    mean_jct_s: float
    mean_queue_s: float
    p50_queue_s: float
    p99_queue_s: float
    p999_queue_s: float
    max_queue_s: float
    mean_bounded_slowdown: float
    max_user_bounded_slowdown: float
    utilisation: float | None
    predictor_spearman: float | None
    jobs_per_cpu_s: float
    calibration_80: float | None
    wait_calibration_80: float | None

    def as_json(self) -> dict[str, int | float | None]:
        """All figures by name, rounded to what they are worth."""
        return {
            name: round(value, 4) if isinstance(value := getattr(self, name), float) else value
            for name in self.__dataclass_fields__
        }


def figures(outcome: Outcome) -> Figures:
    """What a replay shows.

    Bounded slowdown of a job is ``max(1, (wait + run) / max(run, 10 s))``; of a user, the mean over their jobs.
    Utilisation is the share of GPU time in use between the first and the last submission. The rank correlation
    (Spearman) is that of predicted and real run time over all jobs, calibration the share of run times, and of the
    waits that were predicted, within the interval that should hold 80 of 100.
    """
    jobs = outcome.workload.jobs
    waits = outcome.waits_ms()
    sorted_waits = sorted(waits)
    slowdowns = [bounded_slowdown(wait, job.run_ms) for wait, job in zip(waits, jobs, strict=True)]
    by_user: defaultdict[str, list[float]] = defaultdict(list)
    for job, slowdown in zip(jobs, slowdowns, strict=True):
        by_user[job.user].append(slowdown)
    runs = [job.run_ms for job in jobs]
    predicted = [guess.likely_ms for guess in outcome.predictions]
    return Figures(
        jobs=len(jobs),
        mean_jct_s=(sum(waits) + sum(runs)) / len(jobs) / MS_PER_S,
        mean_queue_s=sum(waits) / len(jobs) / MS_PER_S,
        p50_queue_s=quantile(sorted_waits, 0.5) / MS_PER_S,
        p99_queue_s=quantile(sorted_waits, 0.99) / MS_PER_S,
        p999_queue_s=quantile(sorted_waits, 0.999) / MS_PER_S,
        max_queue_s=sorted_waits[-1] / MS_PER_S,
        mean_bounded_slowdown=fmean(slowdowns),
        max_user_bounded_slowdown=max(map(fmean, by_user.values())),
        utilisation=utilisation(outcome),
        predictor_spearman=spearman(predicted, runs) if predicted else None,
        jobs_per_cpu_s=len(jobs) / max(outcome.cpu_s, 1e-9),
        calibration_80=share_of(run_hits(outcome).values()),
        wait_calibration_80=share_of(wait_hits(outcome).values()),
    )


def bounded_slowdown(wait_ms: int, run_ms: int) -> float:
    """How many times longer a job took than on an empty machine, short jobs counted as 10 s."""
    return max(1.0, (wait_ms + run_ms) / max(run_ms, SLOWDOWN_FLOOR_MS))


def quantile(ordered: Sequence[float], share: float) -> float:
    """The quantile of sorted values, linear between neighbours."""
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def utilisation(outcome: Outcome) -> float | None:
    """Share of GPU time in use between the first and the last submission."""
    jobs = outcome.workload.jobs
    first, last = jobs[0].submit_ms, jobs[-1].submit_ms
    if first == last:
        return None
    used = sum(
        job.gpu_count * max(0, min(start + job.run_ms, last) - start)
        for job, start in zip(jobs, outcome.starts_ms, strict=True)
    )
    return used / (outcome.workload.gpus * (last - first))


def run_hits(outcome: Outcome) -> dict[int, bool]:
    """By place in the workload, whether a job's run time lay within the predicted interval."""
    jobs = outcome.workload.jobs
    return {
        place: guess.low_ms <= jobs[place].run_ms <= guess.high_ms for place, guess in enumerate(outcome.predictions)
    }


def wait_hits(outcome: Outcome) -> dict[int, bool]:
    """The same of predicted starts, of jobs that had to wait."""
    return {
        place: start.early_ms <= outcome.starts_ms[place] <= start.late_ms for place, start in outcome.foretold.items()
    }


def share_of(hits: Collection[bool]) -> float | None:
    """Which part of them is true; None of none."""
    return fmean(hits) if hits else None


def spearman(left: Sequence[float], right: Sequence[float]) -> float | None:
    """Rank correlation; equal values share the mean of their ranks. None when one side is constant."""
    ranks = ranked(left), ranked(right)
    means = fmean(ranks[0]), fmean(ranks[1])
    shared = sum((a - means[0]) * (b - means[1]) for a, b in zip(*ranks, strict=True))
    spreads = [sum((rank - mean) ** 2 for rank in side) for side, mean in zip(ranks, means, strict=True)]
    return shared / math.sqrt(spreads[0] * spreads[1]) if all(spreads) else None


def ranked(values: Sequence[float]) -> list[float]:
    """Ranks from 0; equal values share the mean of theirs."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ranks = [0.0] * len(values)
    begin = 0
    while begin < len(order):
        end = begin
        while end + 1 < len(order) and values[order[end + 1]] == values[order[begin]]:
            end += 1
        for place in order[begin : end + 1]:
            ranks[place] = (begin + end) / 2
        begin = end + 1
    return ranks
