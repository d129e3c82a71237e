"""The scheduler in a running broker: its state, what readers on any thread see of it, and what it learns from."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

from fastgpu_hub.broker.admission import Rules
from fastgpu_hub.broker.attempts import interrupted
from fastgpu_hub.broker.orders import want_of
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.ports.world import Clock
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.scheduling import scheduler
from fastgpu_hub.scheduling.overview import Overview, overview
from fastgpu_hub.scheduling.parts import in_parts
from fastgpu_hub.scheduling.policies import Want, policy_of
from fastgpu_hub.scheduling.prediction import Prediction
from fastgpu_hub.scheduling.sooner import Limits, sooner

MOST_AGE_MS = 1000
QUICK_SECONDS = 0.002
FEW = 500  # that wait or run: a look at so many is never long
LONG_SECONDS = 0.05
PAUSE_SECONDS = 0.0005
REST_FACTOR = 20
HISTORY = 5000
HISTORY_PART = 250


def history(uow: UnitOfWork, rules: Rules) -> tuple[tuple[Want, int, int], ...]:
    """The latest workloads that have ended and tell how long such ones run, oldest first: as the scheduler saw them,
    when they were requested, how long they ran.

    A part at a time, for in full they take much memory.
    """
    past: list[tuple[Want, int, int]] = []
    for offset in range(0, HISTORY, HISTORY_PART):
        ended = uow.workloads(states=("ended",), newest_first=True, limit=HISTORY_PART, offset=offset)
        past += [
            (want_of(one, rules, one.requested_ms), one.requested_ms, one.ended_ms - one.billed_from_ms)
            for one in ended
            if tells_run_time(one) and one.billed_from_ms is not None and one.ended_ms is not None
        ]
        if len(ended) < HISTORY_PART:
            break
    return tuple(past[::-1])


def tells_run_time(workload: Workload | None) -> bool:
    """Whether the run of a workload that has ended tells how long others like it will run.

    One that never ran, or was interrupted, or about which nothing is known, does not.
    """
    return workload is not None and workload.billed_from_ms is not None and not interrupted(workload)


class Queue:
    """Holds the scheduler's state. Events are told on the event loop; the view may be asked for on any thread."""

    def __init__(self, clock: Clock, settings: Settings) -> None:
        self._clock = clock
        self.state = scheduler.State(policy=policy_of(settings.policy), seats=dict(settings.seats))
        self._lock, self._looking = threading.Lock(), threading.Lock()
        self._known: Overview | None = None
        self._took_seconds = 0.0
        self._looked_at = 0.0

    def tell(self, event: scheduler.Event) -> tuple[scheduler.Instruction, ...]:
        """Tell the scheduler; returns what it orders."""
        with self._lock:
            self.state, orders = scheduler.handle(self.state, event)
        return orders

    @property
    def view(self) -> Overview:
        """The queue as it stands, at most a second old, worked out once for everybody.

        A long queue, which takes time to look at, is looked at less often: a twentieth of the time at most, with pauses
        for events, and a very long one never on the event loop.
        """
        known, now_ms = self._known, self._clock.now_ms()
        if known is None:
            return self._look()
        if known.version == self.state.version and 0 <= now_ms - known.at_ms < MOST_AGE_MS:
            return known
        took = self._took_seconds if len(known.places) + len(known.holding) > FEW else 0.0
        if took > QUICK_SECONDS and time.monotonic() - self._looked_at < took * REST_FACTOR:
            return known
        if took > LONG_SECONDS and (loop := _running_loop()) is not None:
            loop.run_in_executor(None, self._look)
            return known
        return self._look()

    def _look(self) -> Overview:
        """Work it out; whoever asks meanwhile has what was known before."""
        before = self._known
        if not self._looking.acquire(blocking=before is None) and before is not None:
            return before
        try:
            if before is None and self._known is not None:  # another has done it since
                return self._known
            began, now_ms = time.monotonic(), self._clock.now_ms()
            with self._lock:
                known = overview(self.state, now_ms, self._pause)
                for who, start in in_parts(list(known.starts.items()), self._pause):
                    if who not in self.state.foretold:
                        wait_ms = max(0, start.likely_ms - now_ms)
                        scheduler.handle(self.state, scheduler.Foretold(who, wait_ms, now_ms))
            self._known, self._looked_at = known, time.monotonic()
            self._took_seconds = self._looked_at - began
            return known
        finally:
            self._looking.release()

    def _pause(self) -> None:
        self._lock.release()
        time.sleep(PAUSE_SECONDS)  # without that, who waits for the lock would not get it
        self._lock.acquire()

    def runs(self, workload_ids: Iterable[str], now_ms: int) -> dict[str, Prediction]:
        """How long workloads that wait or run will run, by id."""
        found = {}
        with self._lock:
            for workload_id in workload_ids:
                running = self.state.holding.get(workload_id)
                want = running.want if running is not None else self.state.waiting(workload_id)
                batch = self.state.batch_of(workload_id)
                if want is not None and batch is not None:
                    found[workload_id] = self.state.prediction(want, batch, now_ms)
        return found

    def sooner(self, workload_id: str, now_ms: int, limits_by_type: Mapping[str, Limits]) -> tuple[Explained, ...]:
        """What would start a waiting workload sooner, as the scheduler sees it; ``limits_by_type`` of other types."""
        with self._lock:
            want = self.state.waiting(workload_id)
            return sooner(self.state, want, now_ms, limits_by_type) if want is not None else ()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of this thread; None on any other thread."""
    with suppress(RuntimeError):
        return asyncio.get_running_loop()
    return None
