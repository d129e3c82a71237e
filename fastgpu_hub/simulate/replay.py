"""The production scheduler and predictor on a virtual clock: every submission and every end is one event."""

from __future__ import annotations

import gc
import heapq
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from fastgpu_hub.scheduling import eta
from fastgpu_hub.scheduling.eta import Start
from fastgpu_hub.scheduling.policies import Want, policy_of
from fastgpu_hub.scheduling.prediction import Prediction
from fastgpu_hub.scheduling.scheduler import Arrived, Discovered, Foretold, Gone, Instruction, State, handle
from fastgpu_hub.simulate.workload import Workload, devices

Progress = Callable[[int, int], None]

DEFAULT_POLICY = "default"
PROGRESS_EVERY = 1024  # a power of two
MOST_FORETOLD = 1000  # a prediction looks at the whole queue, which costs more than a decision
NOT_STARTED = -1


class StuckError(Exception):
    """Everything has ended and jobs still wait: a fault of the policy."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """When each job of the workload started, what was predicted at its submission, and the CPU time of the replay.

    ``foretold`` has predicted starts by the job's place in the workload, of some of those that had to wait. Of an
    oracle's run there are no predictions: it was told how long every job runs.
    """

    workload: Workload
    policy: str
    starts_ms: Sequence[int]
    predictions: Sequence[Prediction]
    cpu_s: float
    foretold: Mapping[int, Start] = field(default_factory=dict)

    @property
    def oracle(self) -> bool:
        """Whether the scheduler was told the run times."""
        return not self.predictions

    def waits_ms(self) -> list[int]:
        """Time in the queue of each job."""
        return [start - job.submit_ms for start, job in zip(self.starts_ms, self.workload.jobs, strict=True)]


def replay(
    workload: Workload,
    policy: str = DEFAULT_POLICY,
    *,
    oracle: bool = False,
    observe: bool = True,
    progress: Progress | None = None,
) -> Outcome:
    """Run a workload through ``scheduler.handle`` under one of the policies.

    The predictor learns a job's run time when the job ends and not before. With ``oracle`` it is not asked: the
    scheduler is told the true run times. At one instant ends come before submissions, each in the order of the trace.
    To ``observe``, all is replayed once more, not timed: then the outcome has the predictions. ``progress`` is called
    with submissions done and submissions in all. Raises StuckError, and ValueError for an unknown policy.
    """
    jobs = workload.jobs
    passes = 2 if observe and not oracle else 1

    def tell(done: int) -> None:
        if progress:
            progress(done, passes * len(jobs))

    with _without_collector():
        run = _Replay(workload, policy, oracle=oracle)
        began = time.process_time()
        run.run(tell)
        cpu_s = time.process_time() - began
        if waiting := run.starts_ms.count(NOT_STARTED):
            raise StuckError(f"{workload.name}, policy {policy}: {waiting} of {len(jobs)} jobs never started")
        if passes == 2:
            waited = sum(start > job.submit_ms for start, job in zip(run.starts_ms, jobs, strict=True))
            run = _Replay(workload, policy, foretell_every=-(-waited // MOST_FORETOLD) or 1)
            run.run(lambda done: tell(len(jobs) + done))
    return Outcome(workload, policy, run.starts_ms, run.predictions, cpu_s, run.foretold)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Nothing here makes cycles, so looking for them would only cost time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Replay:
    """The event queue of one run. With ``foretell_every`` it notes predictions; starts of one in so many that wait."""

    def __init__(self, workload: Workload, policy: str, *, oracle: bool = False, foretell_every: int = 0) -> None:
        self._jobs = jobs = workload.jobs
        self._total = len(jobs)
        found = Discovered(tuple(devices(workload.pools)), jobs[0].submit_ms)
        self._state, _ = handle(State(policy_of(policy)), found)
        self._foretell_every = foretell_every
        self._arrivals = [
            Arrived(
                Want(
                    id=str(place),
                    owner=job.user,
                    gpu_type=job.pool,
                    gpu_count=job.gpu_count,
                    requested_ms=job.submit_ms,
                    duration_ms=job.limit_ms,
                    account=job.pool,
                    kind=job.kind,
                    similar=job.name,
                    expected_ms=job.run_ms if oracle else None,
                ),
                job.submit_ms,
            )
            for place, job in enumerate(jobs)
        ]
        # One whole number, end * total + place, sorts by end and then by place, and costs less than a tuple.
        self._ends: list[int] = []
        self._waited = 0
        self.starts_ms = [NOT_STARTED] * len(jobs)
        self.predictions: list[Prediction] = []
        self.foretold: dict[int, Start] = {}

    def run(self, tell: Callable[[int], None]) -> None:
        """All submissions in order, ends in between, and what ends after the last one."""
        state, ends, total = self._state, self._ends, self._total
        for place, arrival in enumerate(self._arrivals):
            at_ms = arrival.at_ms
            bound = (at_ms + 1) * total
            if ends and ends[0] < bound:
                self._end_until(bound)
            _, orders = handle(state, arrival)
            if orders:
                self._start(orders, at_ms)
            if self._foretell_every:
                self._observe(place, arrival.want, at_ms)
            if not place & (PROGRESS_EVERY - 1):
                tell(place)
        self._end_until(math.inf)
        tell(total)

    def _end_until(self, bound: float) -> None:
        """Everything that ends before ``bound``, also what only starts on the way."""
        state, ends, total, arrivals = self._state, self._ends, self._total, self._arrivals
        while ends and ends[0] < bound:
            at_ms, place = divmod(heapq.heappop(ends), total)
            _, orders = handle(state, Gone(arrivals[place].want.id, at_ms))
            if orders:
                self._start(orders, at_ms)

    def _start(self, orders: Iterable[Instruction], at_ms: int) -> None:
        for order in orders:
            place = int(order.id)
            self.starts_ms[place] = at_ms
            heapq.heappush(self._ends, (at_ms + self._jobs[place].run_ms) * self._total + place)

    def _observe(self, place: int, want: Want, at_ms: int) -> None:
        """What is predicted at this moment of a request that was just submitted."""
        state = self._state
        told = state.told.get(want.id) or state.holding[want.id].told
        assert told is not None
        self.predictions.append(state.predictor.interval(*told, want.duration_ms))
        if self.starts_ms[place] != NOT_STARTED:
            return
        self._waited += 1
        if self._waited % self._foretell_every:
            return
        start = eta.starts(state, want.gpu_type, at_ms).get(want.id)
        if start is not None:
            self.foretold[place] = start
            # As in the hub, where what people are told teaches the scheduler how far off such predictions are.
            handle(state, Foretold(want.id, start.likely_ms - at_ms, at_ms))
