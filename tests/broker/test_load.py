"""Many at once: limits hold on every database, answers stay quick, what hangs is not waited for, no thread trips."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from dataclasses import replace

import pytest

from fastgpu import models
from fastgpu_hub.broker.idempotency import IdempotencyClaim
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.scheduling import scheduler
from fastgpu_hub.scheduling.policies import Want

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]  # many requests at once
H100 = "h100-80gb"
BOTH = pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)


@BOTH
@pytest.mark.parametrize(
    ("metric", "limit", "fitting"),
    [("spend_micros", 500_000, 20), ("gpu_seconds", 3_600, 20), ("gpu_seconds", 3_599, 19)],
)
async def test_many_submissions_at_once_never_hold_more_than_the_limit(world, metric, limit, fitting):
    world.ok(
        await world.broker.add_quota(
            world.admin, models.QuotaSet(scope="class", name="cs101", metric=metric, limit=limit, window="week")
        )
    )
    request = models.JobSubmit(kind="command", argv=("true",), gpu_type=H100, time_limit_seconds=180)
    people = (world.alice, world.bob)
    answers = await asyncio.gather(*[world.broker.submit_job(people[n % 2], request) for n in range(60)])
    assert sum(1 for answer in answers if not isinstance(answer, Refused)) == fitting
    await world.settle_down()
    for quota in await world.broker.quotas(world.alice):
        assert quota.used + quota.reserved + quota.left == quota.limit
    while running := await world.store.read(lambda uow: uow.workloads(states=("running",))):
        for workload in running:
            world.engine.finish(workload.id)
        await world.settle_down()
    assert await world.store.read(lambda uow: uow.open_holds()) == []


@BOTH
async def test_one_key_in_flight_from_many_calls_has_one_effect_for_each_person(world):
    request = models.JobSubmit(kind="command", argv=("true",), gpu_type=H100)
    claim = IdempotencyClaim("same", "jobs", "a" * 64)
    people = (world.alice, world.bob)
    answers = await asyncio.gather(*[world.broker.submit_job(people[n % 2], request, key=claim) for n in range(40)])
    assert len({answer.id for answer in answers}) == 2
    mine = {answer.id for n, answer in enumerate(answers) if n % 2 == 0}
    assert len(mine) == 1
    await world.settle_down()
    world.engine.finish(*mine)
    await world.settle_down()
    again = await world.broker.submit_job(world.alice, request, key=claim)  # a repeat gets the first answer
    assert {again.id} == mine
    assert len(world.engine.launches) == 2


async def queue_up(world, count: int) -> None:
    """That many waiting jobs of alice, written at once."""
    request = models.JobSubmit(kind="command", argv=("true",), gpu_type=H100, gpu_count=4, time_limit_seconds=60)
    world.engine._auto_run = False
    for start in range(0, count, 250):
        calls = [world.broker.submit_job(world.alice, request) for _ in range(min(250, count - start))]
        world.ok((await asyncio.gather(*calls))[0])


async def took(call) -> float:
    began = time.perf_counter()
    await call
    return time.perf_counter() - began


@pytest.mark.slow
async def test_answers_take_time_in_proportion_to_what_they_show_with_two_thousand_waiting(world):
    world.ok(await world.broker.grant(world.admin, models.GrantSet(account="class:cs101", amount_micros=10**12)))
    await queue_up(world, 500)
    few = [await took(world.broker.jobs(world.alice, True, 500)), await took(world.broker.leases(world.alice))]
    await queue_up(world, 1500)
    many = [await took(world.broker.jobs(world.alice, True, 2000)), await took(world.broker.leases(world.alice))]
    status = await took(world.broker.status(world.alice))
    print(f"500: {few}, 2000: {many}, status {status:.2f} s")
    assert all(after < 8 * before + 0.5 for before, after in zip(few, many, strict=True))
    assert await took(world.broker.job(world.alice, (await world.broker.jobs(world.alice, limit=1))[0].id)) < 0.25


async def test_the_reasons_of_two_thousand_waiting_requests_take_one_pass(world):
    state = world.broker.runtime.state
    now_ms = world.clock.now_ms()
    for number in range(2000):
        want = Want(f"w{number}", "alice", H100, 4, now_ms + number)
        scheduler.handle(state, scheduler.Arrived(want, now_ms + number))
    began = time.perf_counter()
    reasons = world.broker.runtime.view.reasons
    assert time.perf_counter() - began < 0.5
    assert (reasons["w1"].code, reasons["w1999"].numbers["ahead"]) == ("capacity", 1998)  # the first has its GPUs
    for number in reversed(range(2000)):
        scheduler.handle(state, scheduler.Gone(f"w{number}", now_ms + 2000))


async def test_looking_from_other_threads_while_the_queue_moves_never_fails(world):
    """Views are made on the store's threads, while the scheduler works on the event loop's."""
    world.probe.count = 300
    await world.broker.runtime.gpus.find()
    job = world.ok(await world.submit())
    waiting = replace(await world.store.read(lambda uow: uow.workload(job.id)), id="j-waits", state="queued")
    feed, errors, stop = world.broker.runtime.feed, [], threading.Event()

    def look() -> None:
        try:
            while not stop.is_set():
                world.broker._live([waiting])
                world.broker._wait_ms(H100)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=look) for _ in range(2)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for number in range(1, 100):
            feed(scheduler.Resumed(Want(f"r{number}", "alice", H100, 1, 0), (f"GPU-{number}",), 0, 0))
        for number in range(1000):
            feed(scheduler.Gone(f"r{number % 99 + 1}", 0))
            feed(scheduler.Resumed(Want(f"r{number % 99 + 1}", "bob", H100, 1, 0), (f"GPU-{number % 99 + 1}",), 0, 0))
        for number in range(1, 100):
            feed(scheduler.Gone(f"r{number}", 0))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(before)
    assert errors == []


async def test_a_probe_that_hangs_is_asked_once_and_holds_up_nobody(world):
    world.ok(await world.submit())
    release, calls = threading.Event(), 0
    real = world.probe.sample

    def hang(roots):
        nonlocal calls
        calls += 1
        release.wait(10)
        return real(roots)

    world.probe.sample = hang
    world.broker.runtime.gpus._read_at = float("-inf")
    began = time.perf_counter()
    answers = await asyncio.gather(*[world.broker.status(world.alice) for _ in range(20)])
    took_seconds = time.perf_counter() - began
    release.set()
    await world.settle_down()
    assert calls == 1
    assert took_seconds < 2
    assert len({answer.user for answer in answers}) == 1
    assert len((await world.broker.status(world.alice)).gpus) == 1


async def test_waiting_for_what_never_changes_leaves_nothing_behind(world):
    for number in range(50):
        await world.broker.wait_changed(f"j-{number}", 0.001)
    waiting = asyncio.ensure_future(world.broker.wait_changed("j-x", 10))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert world.broker.runtime._watchers == {}


async def test_one_change_wakes_everybody_who_waits_for_it(world):
    waits = [asyncio.ensure_future(world.broker.wait_changed("j-x", 10)) for _ in range(5)]
    await asyncio.sleep(0.01)
    world.broker.runtime.touch("j-x")
    await asyncio.wait_for(asyncio.gather(*waits), 1)
