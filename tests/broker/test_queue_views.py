"""The queue as it is looked at: long ones stop nobody; whoever is put off takes nobody's turn; limits weigh classes."""

from __future__ import annotations

import asyncio
import threading
import time

from fastgpu import models
from fastgpu_hub.broker import queue as queues
from fastgpu_hub.broker.queue import Queue
from fastgpu_hub.broker.views import at
from fastgpu_hub.scheduling import parts, scheduler
from fastgpu_hub.scheduling.inventory import Device
from fastgpu_hub.scheduling.policies import Want

H100, HOUR_MS = "h100-80gb", 3_600_000


class Clock:
    ms = 1000

    def now_ms(self) -> int:
        return self.ms


def waiting(settings, count: int) -> Queue:
    """A queue of one GPU for which so many wait."""
    queue = Queue(Clock(), settings)
    queue.tell(scheduler.Discovered((Device("u", H100, "n"),), 0))
    for number in range(count + 1):
        queue.tell(scheduler.Arrived(Want(f"w{number}", f"o{number}", H100, 1, number), 1000))
    return queue


async def test_a_long_queue_is_not_looked_at_on_the_event_loop(world, monkeypatch):
    for name in ("FEW", "LONG_SECONDS", "QUICK_SECONDS", "REST_FACTOR"):
        monkeypatch.setattr(queues, name, 0)
    queue = waiting(world.settings, 20)
    before = queue.view
    queue.tell(scheduler.Gone("w5", 2000))
    looked: list[threading.Thread] = []
    look = queues.overview
    monkeypatch.setattr(queues, "overview", lambda *args: (looked.append(threading.current_thread()), look(*args))[1])
    assert queue.view is before  # what is known, at once
    for _ in range(500):
        if queue.view.version == queue.state.version:
            break
        await asyncio.sleep(0.01)
    assert "w5" not in queue.view.places
    assert looked
    assert threading.main_thread() not in looked


async def test_events_are_handled_while_a_long_queue_is_looked_at(world, monkeypatch):
    queue = waiting(world.settings, 30)
    monkeypatch.setattr(parts, "PART", 2)
    pauses = []
    sleep = time.sleep
    monkeypatch.setattr(queues, "PAUSE_SECONDS", 0.002)
    monkeypatch.setattr(queues.time, "sleep", lambda seconds: (pauses.append(1), sleep(seconds)))
    looking = threading.Thread(target=lambda: queue.view)
    looking.start()
    handled = 0
    while looking.is_alive() and handled < 20:
        queue.tell(scheduler.Gone(f"w{30 - handled}", 2000))
        handled += 1
    looking.join()
    assert len(pauses) > 10
    assert handled > 3
    assert set(queue.view.places) == {want.id for want in queue.state.wants_waiting()}


async def test_only_those_who_are_watched_hear_of_a_moving_queue(world):
    world.ok(await world.submit(gpu_count=4))
    jobs = [world.ok(await world.submit()) for _ in range(3)]
    runtime = world.broker.runtime
    touched = []
    runtime.touch = touched.append
    event = asyncio.Event()
    with runtime.watching(jobs[1].id, event), runtime.watching("nobody", event):
        runtime._tell_queue()
    assert touched == [jobs[1].id]


async def test_a_job_that_is_put_off_takes_its_turn_from_when_it_may_start(world):
    world.settings = type(world.settings)(policy="fifo")
    await world.restart()
    early = world.ok(await world.submit(start_at=at(world.start_ms + 2 * HOUR_MS), gpu_count=4))
    await world.pass_time(3600)
    runs = world.ok(await world.submit(world.bob, gpu_count=4, time_limit_seconds=4 * 3600))
    there = world.ok(await world.submit(world.bob, gpu_count=4))
    await world.pass_time(3600)
    assert [world.ok(await world.broker.job(world.alice, early.id)).queue_place] == [2]
    world.engine.finish(runs.id)
    await world.pass_time(1)
    assert world.ok(await world.broker.job(world.bob, there.id)).state is models.JobState.running


async def test_classes_are_entitled_to_use_by_how_many_gpus_they_may_have(world):
    for name, limit in (("cs101", 6), ("cs102", 2)):
        wish = models.QuotaSet(scope="class", name=name, metric="concurrent_gpus", limit=limit)
        world.ok(await world.broker.add_quota(world.admin, wish))
    await world.reconcile(1)
    assert world.broker.runtime.state.weights == {"class:cs101": 1.5, "class:cs102": 0.5}
    version = world.broker.runtime.state.version
    await world.reconcile(1)
    assert world.broker.runtime.state.version == version
