"""Promise 11: a clock set back an hour or forward a day makes no negative interval; it is told and not billed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from fastgpu import models
from fastgpu_hub.engines.fake import FakeEngine
from fastgpu_hub.service.clock import SystemClock

pytestmark = [pytest.mark.asyncio, pytest.mark.slow]  # a life each, several times over
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
JUMPS = pytest.mark.parametrize("jump_ms", [-HOUR_MS, DAY_MS], ids=["back-an-hour", "forward-a-day"])


class Machine:
    """A machine whose wall clock can be set. Time passes by both of its clocks."""

    def __init__(self, wall_ms: int) -> None:
        self.wall_ms, self.steady_ms = wall_ms, 5_000

    def pass_ms(self, ms: int) -> None:
        self.wall_ms += ms
        self.steady_ms += ms


class Clock(SystemClock):
    """The service's clock on that machine; the world moves it through ``ms``."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(lambda: machine.wall_ms, lambda: machine.steady_ms)
        self._machine = machine

    @property
    def ms(self) -> int:
        return self.now_ms()

    @ms.setter
    def ms(self, value: int) -> None:
        self._machine.pass_ms(value - self.now_ms())


class Engine(FakeEngine):
    """Stamps by the wall clock and counts by the steady one, as shepherds do."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(lambda: machine.wall_ms)
        self._machine, self._began = machine, {}

    def run(self, lease_id: str) -> None:
        self._began[lease_id] = self._machine.steady_ms
        super().run(lease_id)

    def _count(self, seen):
        if seen.started_ms is None:
            return seen
        at_ms = seen.started_ms + self._machine.steady_ms - self._began[seen.lease_id]
        return replace(seen, at_ms=at_ms)

    def _see(self, lease_id: str, **changes) -> None:
        if "ended_ms" in changes:
            changes["ended_ms"] = self._count(self._jobs[lease_id].seen).at_ms
        super()._see(lease_id, **changes)

    async def observe(self, lease_id: str):
        return self._count(await super().observe(lease_id))

    async def open(self, notify):
        return [self._count(seen) for seen in await super().open(notify)]

    def tick(self) -> None:
        """Time limits are not what these tests are about."""


@pytest.fixture
async def machine(world):
    machine = Machine(world.start_ms)
    world.clock, world.engine = Clock(machine), Engine(machine)
    world.settings = replace(world.settings, reconcile_interval_ms=10**9)
    await world.restart()
    return machine


async def restart_after(world, machine: Machine, jump_ms: int) -> None:
    """The service is down for four seconds, in which the clock is set."""
    await world.close()
    machine.wall_ms += jump_ms
    machine.pass_ms(4_000)
    world.clock = Clock(machine)
    await world.open()
    await world.look()
    await world.reconcile()


async def started(world):
    lease = world.ok(await world.lease())
    world.ok(await world.broker.lease_started(world.spawner, lease.id, models.LeaseStarted(pid=1)))
    await world.settle_down()
    return lease


async def live_on(world, seconds: int) -> None:
    """In steps, so that a server's hold is renewed before it ends."""
    for _ in range(seconds // 600):
        await world.pass_time(600)
        await world.reconcile(1)


async def billed_ms(world, workload_id: str) -> int:
    """What was charged, in milliseconds: in order, never negative, no moment twice."""
    charges = await world.store.read(lambda uow: uow.transfers(workload_id=workload_id))
    spans = [(t.line.from_ms, t.line.until_ms) for t in charges]
    assert all(start <= until for start, until in spans), spans
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(spans)), spans
    assert all(t.amount_micros == t.line.quantity * 500_000 // 3_600_000 for t in charges)
    return sum(until - start for start, until in spans)


async def history(world, workload_id: str) -> list[str]:
    return [step.kind for step in (await world.broker.why(world.admin, workload_id)).history]


# ---------------------------------------------------------------- the service runs on


@JUMPS
async def test_a_job_is_billed_for_the_time_that_passed_when_the_clock_jumps(world, machine, jump_ms, caplog):
    job = world.ok(await world.submit())
    await world.pass_time(36)
    machine.wall_ms += jump_ms
    await world.pass_time(36)
    await world.reconcile()
    assert await billed_ms(world, job.id) == 0  # nothing is due before it ends
    world.engine.finish(job.id)
    await world.settle_down()
    assert await billed_ms(world, job.id) == 72_000
    assert (await world.broker.job(world.alice, job.id)).cost_micros == 10_000
    assert caplog.text.count("clock jumped") == 1


@JUMPS
async def test_a_job_that_starts_after_the_jump_is_billed_for_its_own_time(world, machine, jump_ms):
    """Its engine stamps the start an hour ago, or tomorrow."""
    machine.wall_ms += jump_ms
    job = world.ok(await world.submit(time_limit_seconds=1800))
    await world.pass_time(36)
    await world.reconcile()
    assert await billed_ms(world, job.id) == 0
    assert (await world.broker.job(world.alice, job.id)).cost_micros == 5_000
    world.engine.finish(job.id)
    await world.settle_down()
    assert await billed_ms(world, job.id) == 36_000


@JUMPS
async def test_a_server_is_billed_for_the_time_that_passed_when_the_clock_jumps(world, machine, jump_ms, caplog):
    lease = await started(world)
    await world.pass_time(900)
    machine.wall_ms += jump_ms
    for _ in range(4):
        await world.pass_time(900)
        await world.reconcile()
    world.ok(await world.broker.release_lease(world.spawner, lease.id))
    assert await billed_ms(world, lease.id) == 4_500_000
    assert "clock jumped" in caplog.text
    assert "not_billed" not in await history(world, lease.id)


# ---------------------------------------------------------------- the service is restarted, and takes the new time


@JUMPS
async def test_a_job_is_billed_for_the_time_that_passed_over_a_jump_and_a_restart(world, machine, jump_ms, caplog):
    job = world.ok(await world.submit())
    await world.pass_time(32)
    await world.reconcile(1)
    await restart_after(world, machine, jump_ms)
    assert await billed_ms(world, job.id) == 0  # by the clock its limit may be over; it did not run that long
    await world.pass_time(36)
    await world.reconcile()
    world.engine.finish(job.id)
    await world.settle_down()
    assert await billed_ms(world, job.id) == 72_000
    if jump_ms < 0:
        assert "it was set back" in caplog.text
        assert "clock_set_back" in await history(world, job.id)


async def test_a_server_over_a_restart_an_hour_back_is_not_billed_for_that_hour_twice(world, machine, caplog):
    lease = await started(world)
    await live_on(world, 2_400)
    await restart_after(world, machine, -HOUR_MS)
    await live_on(world, 1_800)  # the clock has not come to where it was
    assert await billed_ms(world, lease.id) <= 2_400_000
    await live_on(world, 3_600)
    world.ok(await world.broker.release_lease(world.spawner, lease.id))
    # 2400 + 4 + 1800 + 3600 s passed, and 3600 of them had been on the clock before.
    assert await billed_ms(world, lease.id) == 4_204_000
    assert "clock_set_back" in await history(world, lease.id)
    assert "servers are not billed until" in caplog.text


async def test_a_server_released_before_the_clock_is_back_where_it_was_ends_without_a_negative_interval(world, machine):
    lease = await started(world)
    await world.pass_time(600)
    await world.reconcile(1)
    await restart_after(world, machine, -HOUR_MS)
    await world.pass_time(60)
    lease = world.ok(await world.broker.release_lease(world.spawner, lease.id))
    assert lease.state is models.LeaseState.released
    assert await billed_ms(world, lease.id) <= 660_000
    assert lease.ended_at >= lease.started_at


async def test_a_day_that_a_server_lost_over_a_restart_is_noted_and_at_most_what_was_held_is_billed(world, machine):
    """From the store alone it cannot be told from a day in which the service was down and the server ran."""
    lease = await started(world)
    await world.pass_time(600)
    await world.reconcile(1)
    await restart_after(world, machine, DAY_MS)
    await world.pass_time(600)
    world.ok(await world.broker.release_lease(world.spawner, lease.id))
    assert 1_204_000 <= await billed_ms(world, lease.id) <= 1_200_000 + world.settings.server_horizon_ms
    assert "not_billed" in await history(world, lease.id)


# ---------------------------------------------------------------- a clock that breaks its word, and runs backwards


@JUMPS
@pytest.mark.parametrize("kind", ["job", "server"])
async def test_whatever_the_clock_does_no_interval_is_negative_and_none_is_charged_twice(world, kind, jump_ms):
    workload = world.ok(await world.submit()) if kind == "job" else await started(world)
    for seconds in (600, jump_ms / 1000, 60, -jump_ms / 1000, 600):
        await world.pass_time(seconds)
        await world.reconcile(1)
    if kind == "server":
        world.ok(await world.broker.release_lease(world.spawner, workload.id))
    elif (await world.engine.observe(workload.id)).state == "running":
        world.engine.finish(workload.id)
    await world.settle_down()
    # Never more than what is held at a time: a job's limit, a server's horizon at each of the renewals.
    assert await billed_ms(world, workload.id) <= (
        3_600_000 if kind == "job" else 2 * world.settings.server_horizon_ms + 1_260_000
    )
    assert (await history(world, workload.id))[-1] == "ended"
