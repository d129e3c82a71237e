"""A day of classes, made up: labs that begin all at once, jobs in between, and an evening before a deadline.

The numbers below are assumptions, chosen for courses with weekly labs and homework; each is named, so that a site that
knows better changes one line. The same seed gives the same requests, whatever the number of GPUs.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TextIO

from fastgpu_hub.simulate.workload import Job, Pool, Workload, workload

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
POOL = "gpu"
NODE_GPUS = 8

# Labs: one for each class, in the slots in turn.
LAB_HOURS = (8.25, 10.25, 12.25, 14.25, 16.25)
LAB_MINUTES = 90
COMING_MINUTES, COMING_SIGMA = 2.0, 0.8  # from the bell to the notebook server: lognormal, its median and spread
LEAVING_SIGMA_MINUTES = 8.0  # around the lab's end: normal
SHORTEST_SESSION_MINUTES = 10.0

# Jobs: how many of a student varies (gamma), and with it the number on the day (Poisson).
EAGERNESS_SHAPE = 2.0
DURING_LAB, DURING_DAY = 0.30, 0.25  # the rest comes before the deadline
FIRST_HOUR = 8.0
BEFORE_DEADLINE_MINUTES = 75.0  # mean of an exponential that ends at the deadline
GPU_COUNTS, GPU_SHARES = (1, 2, 4), (0.90, 0.07, 0.03)

# Run times: tries that fail or end soon, and trainings. Lognormal; students differ in the size of what they train.
TRIES = 0.40
TRY_SECONDS, TRY_SIGMA = 30.0, 1.0
TRAINING_MINUTES, TRAINING_SIGMA, STUDENT_SIGMA = 12.0, 0.9, 0.4
LIMIT_MINUTES = (5, 15, 30, 60, 120, 240)
CAUTION = (1.2, 4.0)  # the limit asked for is at least this many times the run time
TOO_SHORT = 0.05  # trainings whose limit is too short, so that it ends them


@dataclass(frozen=True, slots=True)
class ClassDay:
    """How many people, and what they do. With ``shares`` above 1 that many notebook servers share one GPU."""

    students: int = 300
    class_size: int = 30
    attendance: float = 0.85
    jobs_per_student: float = 3.0
    deadline_hour: float = 22.0
    shares: int = 1


def requests(day: ClassDay, seed: int) -> list[Job]:
    """What the students ask for. A notebook server takes a share of a GPU, a job as many whole ones as it asks for."""
    rng = random.Random(seed)  # noqa: S311  (a day is to be repeatable, not secret)
    found: list[Job] = []
    for student in range(day.students):
        group = student // day.class_size
        lab_ms = round(LAB_HOURS[group % len(LAB_HOURS)] * HOUR_MS)
        attends = rng.random() < day.attendance
        person, course = f"student{student + 1:04}", f"class{group + 1:02}"
        if attends:
            found.append(_session(rng, person, course, lab_ms))
        size = rng.lognormvariate(0, STUDENT_SIGMA)
        mean = rng.gammavariate(EAGERNESS_SHAPE, day.jobs_per_student / EAGERNESS_SHAPE)
        for _ in range(_poisson(rng, mean)):
            at_ms = _submission_ms(rng, lab_ms if attends else None, round(day.deadline_hour * HOUR_MS))
            found.append(_job(rng, person, course, at_ms, size, day.shares))
    found.sort(key=lambda job: (job.submit_ms, job.user))
    return found


def on_gpus(day: ClassDay, asked: Iterable[Job], gpus: int, name: str = "class day") -> Workload:
    """The requests on servers of 8 GPUs, the last one with what is left over.

    With shares each GPU is a node of its own, so that a job always gets whole ones. Raises TraceError when none fits.
    """
    if day.shares > 1:
        nodes = (day.shares,) * gpus
    else:
        nodes = (NODE_GPUS,) * (gpus // NODE_GPUS) + ((gpus % NODE_GPUS,) if gpus % NODE_GPUS else ())
    return workload(name, asked, [Pool(POOL, nodes)])


def write_csv(jobs: Iterable[Job], file: TextIO) -> None:
    """The requests as a trace that can be replayed."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(("job_id", "user", "vc", "gpu_num", "submit_s", "duration", "limit_s", "name", "kind"))
    writer.writerows(_csv_rows(jobs))


def _csv_rows(jobs: Iterable[Job]) -> Iterator[tuple[str | int | float, ...]]:
    for number, job in enumerate(jobs, start=1):
        limit_s = "" if job.limit_ms is None else job.limit_ms / 1000
        yield (
            number,
            job.user,
            job.pool,
            job.gpu_count,
            job.submit_ms / 1000,
            job.run_ms / 1000,
            limit_s,
            job.name,
            job.kind,
        )


def _session(rng: random.Random, person: str, course: str, lab_ms: int) -> Job:
    coming = rng.lognormvariate(math.log(COMING_MINUTES), COMING_SIGMA)
    leaving = LAB_MINUTES + rng.gauss(0, LEAVING_SIGMA_MINUTES)
    return Job(
        id="",
        user=person,
        pool=POOL,
        gpu_count=1,
        submit_ms=lab_ms + round(coming * MINUTE_MS),
        run_ms=round(max(SHORTEST_SESSION_MINUTES, leaving - coming) * MINUTE_MS),
        name=f"{course} notebook",
        kind="server",
    )


def _submission_ms(rng: random.Random, lab_ms: int | None, deadline_ms: int) -> int:
    first_ms = round(FIRST_HOUR * HOUR_MS)
    kind = rng.random()
    if kind < DURING_LAB and lab_ms is not None:
        return lab_ms + round(rng.uniform(0, LAB_MINUTES) * MINUTE_MS)
    if kind < DURING_LAB + DURING_DAY:
        return round(rng.uniform(first_ms, deadline_ms))
    return max(first_ms, deadline_ms - round(rng.expovariate(1 / BEFORE_DEADLINE_MINUTES) * MINUTE_MS))


def _job(rng: random.Random, person: str, course: str, at_ms: int, size: float, shares: int) -> Job:
    (gpus,) = rng.choices(GPU_COUNTS, GPU_SHARES)
    if rng.random() < TRIES:
        minutes = rng.lognormvariate(math.log(TRY_SECONDS / 60), TRY_SIGMA)
        hopeful = False
    else:
        minutes = size * rng.lognormvariate(math.log(TRAINING_MINUTES), TRAINING_SIGMA)
        hopeful = rng.random() < TOO_SHORT
    wanted = minutes * (0.7 if hopeful else rng.uniform(*CAUTION))
    limit = next((choice for choice in LIMIT_MINUTES if choice >= wanted), LIMIT_MINUTES[-1])
    return Job(
        id="",
        user=person,
        pool=POOL,
        gpu_count=gpus * shares,
        submit_ms=at_ms,
        run_ms=max(1000, round(min(minutes, limit) * MINUTE_MS)),
        limit_ms=limit * MINUTE_MS,
        name=f"{course} homework",
    )


def _poisson(rng: random.Random, mean: float) -> int:
    """Knuth's method, good for the small means of a day."""
    bound, count, product = math.exp(-mean), 0, rng.random()
    while product > bound:
        count += 1
        product *= rng.random()
    return count
