"""What a replay looked like over time, and how good its predictions were from the shortest to the longest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from fastgpu_hub.simulate.figures import run_hits, wait_hits
from fastgpu_hub.simulate.replay import Outcome

STEPS = 600
GROUPS = 10
MS_PER_HOUR = 3_600_000


@dataclass(frozen=True, slots=True)
class Timeline:
    """Means over equal steps, from the first submission to the last end; ``hours`` are the middles of the steps."""

    hours: Sequence[float]
    waiting: Sequence[float]
    busy: Sequence[float]


@dataclass(frozen=True, slots=True)
class Coverage:
    """Jobs of similar predicted length: how many, their median prediction, the share within their interval."""

    jobs: int
    likely_ms: int
    share: float


def timeline(outcome: Outcome, steps: int = STEPS) -> Timeline:
    """Jobs that wait, and the share of GPUs in use."""
    jobs = outcome.workload.jobs
    begin = jobs[0].submit_ms
    end = max(start + job.run_ms for start, job in zip(outcome.starts_ms, jobs, strict=True))
    edges = [begin + (end - begin) * step / steps for step in range(steps + 1)]
    waits = [(job.submit_ms, start, 1) for job, start in zip(jobs, outcome.starts_ms, strict=True)]
    runs = [(start, start + job.run_ms, job.gpu_count) for job, start in zip(jobs, outcome.starts_ms, strict=True)]
    gpus = outcome.workload.gpus
    return Timeline(
        [((left + right) / 2 - begin) / MS_PER_HOUR for left, right in pairwise(edges)],
        means(waits, edges),
        [value / gpus for value in means(runs, edges)],
    )


def means(intervals: Sequence[tuple[int, int, int]], edges: Sequence[float]) -> list[float]:
    """Mean of the summed weights of intervals ``(begin, end, weight)`` over each step between equally spaced edges."""
    changes = sorted(change for begin, end, weight in intervals for change in ((begin, weight), (end, -weight)))
    found: list[float] = []
    level = place = 0
    for left, right in pairwise(edges):
        if left == right:
            return [0.0] * (len(edges) - 1)
        area, at = 0.0, left
        while place < len(changes) and changes[place][0] < right:
            when, change = changes[place]
            area += level * (max(when, left) - at)
            at = max(when, left)
            level += change
            place += 1
        found.append((area + level * (right - at)) / (right - left))
    return found


def run_coverage(outcome: Outcome, groups: int = GROUPS) -> list[Coverage]:
    """Jobs in groups of equal size by predicted run time, and how often the interval held in each."""
    likely = {place: guess.likely_ms for place, guess in enumerate(outcome.predictions)}
    return _coverage(likely, run_hits(outcome), groups)


def wait_coverage(outcome: Outcome, groups: int = GROUPS) -> list[Coverage]:
    """Jobs that had to wait in groups by predicted wait, and how often its interval held in each."""
    jobs = outcome.workload.jobs
    likely = {place: start.likely_ms - jobs[place].submit_ms for place, start in outcome.foretold.items()}
    return _coverage(likely, wait_hits(outcome), groups)


def _coverage(likely_ms: Mapping[int, int], held: Mapping[int, bool], groups: int) -> list[Coverage]:
    order = sorted(likely_ms, key=likely_ms.__getitem__)
    parts = [order[len(order) * group // groups : len(order) * (group + 1) // groups] for group in range(groups)]
    return [
        Coverage(len(part), likely_ms[part[len(part) // 2]], fmean(held[place] for place in part))
        for part in parts
        if part
    ]
