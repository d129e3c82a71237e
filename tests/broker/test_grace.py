"""The grace that a job asked for, wherever it is stopped; and what it costs."""

from __future__ import annotations

import pytest

from fastgpu.models import JobState
from fastgpu_hub.broker.reconcile import find_problems

pytestmark = pytest.mark.asyncio


@pytest.fixture
def stops(world):
    """The graces with which the engine was told to stop."""
    seen, stop = [], world.engine.stop

    async def noted(lease_id, grace_seconds):
        seen.append(grace_seconds)
        await stop(lease_id, grace_seconds)

    world.engine.stop = noted
    return seen


@pytest.mark.parametrize(("asked", "given"), [(None, 10), (0, 0), (45, 45)])
async def test_a_cancelled_job_has_the_grace_that_it_asked_for(world, stops, asked, given):
    job = world.ok(await world.submit(grace_seconds=asked))
    assert world.engine.launches[0].grace_ms == (None if asked is None else asked * 1000)
    world.ok(await world.broker.cancel_job(world.alice, job.id))
    await world.settle_down()
    assert stops == [given]


async def test_a_grace_is_capped_by_the_hubs_setting_even_when_that_came_later(world, stops):
    job = world.ok(await world.submit(grace_seconds=100))
    world.broker.runtime.settings = world.settings = type(world.settings)(max_grace_seconds=20)
    world.ok(await world.broker.cancel_job(world.alice, job.id))
    await world.settle_down()
    assert stops == [20]
    refused = await world.submit(grace_seconds=121)
    assert (refused.code, refused.numbers["limit"]) == ("invalid_request", 120)


async def test_a_grace_beyond_the_time_limit_is_not_charged_and_no_problem(world):
    job = world.ok(await world.submit(time_limit_seconds=60, grace_seconds=100))
    world.clock.ms += 155_000  # it is still writing its save point
    await world.broker.runtime.time.edge(job.id)
    assert await find_problems(world.broker.runtime) == []
    world.engine.tick()
    await world.settle_down()
    ended = await world.broker.job(world.alice, job.id)
    assert (ended.state, ended.cost_micros) == (JobState.timed_out, 60 * 500_000 // 3600)
