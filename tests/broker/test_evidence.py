"""Time and money by evidence: nothing is charged beyond what is known to have run, no jump or outage is billed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from fastgpu import models
from fastgpu_hub.broker import funding, reconcile
from fastgpu_hub.broker.ports.store import StoreUnavailable
from fastgpu_hub.broker.reconcile import find_problems
from fastgpu_hub.pricing.explain import Explained

pytestmark = pytest.mark.asyncio
H100 = "h100-80gb"


async def started(world, **changes):
    lease = world.ok(await world.lease(**changes))
    world.ok(await world.broker.lease_started(world.spawner, lease.id, models.LeaseStarted(pid=1)))
    await world.settle_down()
    return lease


async def spans(world, workload_id):
    charges = await world.store.read(lambda uow: uow.transfers(workload_id=workload_id))
    return [(t.line.from_ms - world.start_ms, t.line.until_ms - world.start_ms) for t in charges]


async def test_a_charge_never_reaches_beyond_the_last_evidence(world):
    job = world.ok(await world.submit())
    raised = models.PriceSet(gpu_type=H100, per_gpu_hour_micros=900_000)
    world.ok(await world.broker.set_price(world.admin, raised))
    world.clock.ms += 36_000
    ended = replace(await world.engine.observe(job.id), state="exited", ended_ms=world.clock.ms, exit_code=0)
    world.engine.lose_sight(job.id)
    await world.pass_time(3_600)  # the hold is over, but nobody saw the job run until then
    look = await world.store.write(
        lambda uow: funding.edge(uow, job.id, world.clock.ms, world.start_ms, world.settings)
    )
    assert look.stop is None
    assert await spans(world, job.id) == []
    world.engine._jobs[job.id].seen = ended
    await world.reconcile(1)
    assert await spans(world, job.id) == [(0, 36_000)]


async def test_evidence_from_the_future_is_taken_as_of_now(world):
    job = world.ok(await world.submit())
    await world.pass_time(36)
    exited = replace(await world.engine.observe(job.id), state="exited", exit_code=0)
    world.engine._jobs[job.id].seen = replace(exited, ended_ms=world.clock.ms + 86_400_000)
    await world.reconcile(1)
    assert await spans(world, job.id) == [(0, 36_000)]


async def test_a_job_whose_folder_is_gone_ends_as_lost_and_one_that_cannot_be_judged_stays(world):
    lost, unknown = world.ok(await world.submit()), world.ok(await world.submit())
    await world.reconcile(1)
    await world.pass_time(36)
    await world.reconcile(1)
    world.engine.lose_sight(unknown.id)
    del world.engine._jobs[lost.id]
    world.clock.ms += 3_000
    await world.restart()
    await world.reconcile()
    assert (await world.broker.job(world.alice, lost.id)).explanation.code == "lost"
    assert await spans(world, lost.id) == [(0, 36_000)]
    assert (await world.broker.job(world.alice, unknown.id)).state is models.JobState.running


async def test_a_new_server_of_the_same_name_ends_the_lease_that_was_left_behind(world):
    left = await started(world)
    await world.pass_time(36)
    await world.reconcile(1)
    new = await started(world)  # the hub died, came back and started it anew
    await world.reconcile()
    assert (await world.broker.lease(world.alice, left.id)).state is models.LeaseState.released
    assert (await world.broker.lease(world.alice, new.id)).state is models.LeaseState.running
    assert set(world.broker.runtime.state.inventory.holder.values()) == {new.id}


async def test_a_server_that_stops_while_the_hub_is_down_is_stopped_when_it_is_back(world):
    lease = await started(world, time_limit_seconds=60)
    world.hub.down = True
    await world.pass_time(55)
    await world.reconcile()
    assert (await world.broker.lease(world.alice, lease.id)).explanation.code == "time_limit"
    assert world.hub.stopped == []
    world.hub.down = False
    await world.reconcile(1)
    assert ("alice", "") in world.hub.stopped


async def test_a_server_granted_when_the_hub_died_gives_its_gpus_back_unbilled(world):
    lease = world.ok(await world.lease())
    world.hub.active.clear()
    await world.restart()
    await world.reconcile()
    lease = await world.broker.lease(world.alice, lease.id)
    assert (lease.state, lease.cost_micros, lease.held_micros) == (models.LeaseState.released, 0, 0)


async def test_a_hub_that_hangs_delays_no_edge_and_is_asked_once_a_round(world):
    leases = [await started(world) for _ in range(3)]
    asked = 0

    async def hang(owner, name):
        nonlocal asked
        asked += 1
        await asyncio.sleep(0.2)
        raise reconcile.HubUnavailable("timed out")

    world.hub.server_active = hang
    await world.reconcile(1)
    assert asked == 1
    del world.hub.server_active
    assert len(leases) == 3


async def test_a_workload_that_cannot_be_looked_at_keeps_no_other_from_its_time(world, monkeypatch):
    bad, good = await started(world), await started(world, owner="bob")
    real = funding.edge

    def edge(uow, workload_id, *rest):
        if workload_id == bad.id:
            raise KeyError("a fault of ours")
        return real(uow, workload_id, *rest)

    monkeypatch.setattr(funding, "edge", edge)
    time = world.broker.runtime.time
    world.clock.ms += 1_800_000
    time.look_at(bad.id)
    time.look_at(good.id)
    await asyncio.sleep(0.05)
    lease = await world.broker.lease(world.bob, good.id)
    assert lease.funded_until.timestamp() * 1000 == world.clock.ms + 3_600_000


# ---------------------------------------------------------------- time and money


async def test_a_day_without_the_service_is_noted_and_not_billed(world):
    lease = await started(world)
    await world.close()
    world.clock.ms += 86_400_000
    await world.open()
    await world.look()
    lease = await world.broker.lease(world.alice, lease.id)
    assert lease.cost_micros == 500_000  # the hour that was held
    assert lease.funded_until.timestamp() * 1000 == world.clock.ms + 3_600_000
    assert "not_billed" in [step.kind for step in (await world.broker.why(world.alice, lease.id)).history]


async def test_a_price_rise_and_an_empty_purse_at_renewal_stop_the_server_in_time(world):
    object.__setattr__(world.settings, "follow_list_prices", False)
    world.ok(await world.broker.grant(world.admin, models.GrantSet(account="person:eve", amount_micros=600_000)))
    world.hub.users["eve"] = replace(world.hub.users["bob"], name="eve", classes=())
    lease = await started(world, owner="eve")
    world.ok(await world.broker.set_price(world.admin, models.PriceSet(gpu_type=H100, per_gpu_hour_micros=1_000_000)))
    funded = world.start_ms + 3_600_000 + 360_000  # an hour at 0.50, then 0.10 at 1.00
    stop_ms = None
    while stop_ms is None and world.clock.ms < funded + 60_000:
        await world.pass_time(5 if world.clock.ms >= funded - 120_000 else 60)
        stop_ms = world.clock.ms if world.hub.stopped else None
    assert funded - 10_000 <= stop_ms <= funded - 5_000
    await world.pass_time(120)  # it takes its time
    world.ok(await world.broker.release_lease(world.spawner, lease.id))
    account = (await world.broker.status(world.eve)).accounts[0]
    assert (account.spent_micros, account.held_micros) == (600_000, 0)


async def test_a_limit_per_day_inside_the_horizon_opens_again_at_midnight(world):
    limit = models.QuotaSet(scope="person", name="alice", metric="gpu_seconds", limit=1200, window="day")
    world.ok(await world.broker.add_quota(world.admin, limit))
    world.clock.ms += 15 * 3_600_000 - 600_000  # ten minutes before midnight UTC
    lease = await started(world)
    for _ in range(5):
        await world.pass_time(240)
    lease = await world.broker.lease(world.alice, lease.id)
    assert lease.funded_until.timestamp() * 1000 <= world.clock.ms - 1_200_000 + 600_000 + 1_200_000
    assert world.hub.stopped == []
    await world.pass_time(600)
    assert world.hub.stopped


async def test_funding_that_is_over_while_it_runs_is_told(world):
    await started(world, time_limit_seconds=60)
    world.clock.ms += 200_000
    assert "funding is over" in (await find_problems(world.broker.runtime))[0].sentence
    world.clock.ms -= 200_000


async def test_limits_that_the_scheduler_missed_are_made_good(world):
    world.ok(await world.submit())
    await world.pass_time(0)
    await asyncio.sleep(0.1)  # the time keeper has looked at the new job: the next calls are the ones below
    limit = models.QuotaSet(scope="class", name="cs101", metric="concurrent_gpus", limit=1)
    world.points.arm(2, "before")  # the read after the change
    with pytest.raises(StoreUnavailable):
        await world.broker.add_quota(world.admin, limit)
    assert not world.broker.runtime.state.held_per_key
    await world.reconcile(1)
    assert list(world.broker.runtime.state.held_per_key.values()) == [1]
    second = world.ok(await world.submit(world.bob))
    assert second.explanation.code == "quota_concurrent_gpus"


async def test_explanations_are_kept_for_a_job_that_was_declined(world):
    reason = Explained("credit", "none left")
    job = world.ok(await world.submit(gpu_count=4))
    waiting = world.ok(await world.submit())
    state = world.broker.runtime.state
    state.declined[waiting.id] = reason
    state.version += 1
    assert (await world.broker.job(world.alice, waiting.id)).explanation.message == "none left"
    assert (await world.broker.job(world.alice, waiting.id)).eta_start is None
    assert job.id
