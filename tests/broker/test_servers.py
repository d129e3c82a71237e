"""Server leases: a rolling horizon renewed while money lasts, an orderly stop, a release on every evidence."""

from __future__ import annotations

import pytest

from fastgpu import models
from fastgpu_hub.broker.reconcile import reconcile
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.probes.shared import SharedProbe

pytestmark = pytest.mark.asyncio


async def started(world, **changes):
    lease = world.ok(await world.lease(**changes))
    lease = world.ok(await world.broker.lease_started(world.spawner, lease.id, models.LeaseStarted(pid=1)))
    await world.settle_down()
    return lease


async def test_a_server_is_billed_from_its_start_to_its_release(world):
    lease = world.ok(await world.lease())
    lease = await world.broker.lease(world.spawner, lease.id)
    assert lease.state is models.LeaseState.granted
    assert lease.environment["CUDA_VISIBLE_DEVICES"] == lease.gpus[0].uuid
    await world.pass_time(30)  # starting is free
    world.ok(await world.broker.lease_started(world.spawner, lease.id, models.LeaseStarted()))
    await world.pass_time(72)
    assert (await world.broker.lease(world.alice, lease.id)).cost_micros == 10_000
    done = world.ok(await world.broker.release_lease(world.spawner, lease.id))
    again = world.ok(await world.broker.release_lease(world.spawner, lease.id))
    assert (done.state, again.cost_micros) == (models.LeaseState.released, 10_000)


async def test_the_horizon_is_renewed_while_it_runs_and_rows_grow_with_edges_only(world):
    lease = await started(world)
    for _ in range(12):
        await world.pass_time(900)
    lease = await world.broker.lease(world.alice, lease.id)
    assert lease.state is models.LeaseState.running
    assert lease.cost_micros == 3 * 500_000
    assert lease.funded_until.timestamp() * 1000 > world.clock.ms
    assert len(await world.store.read(lambda uow: uow.transfers(workload_id=lease.id))) <= 13


async def test_a_server_runs_until_the_last_affordable_minute_then_is_stopped_and_never_overcharged(world):
    world.ok(
        await world.broker.add_quota(
            world.admin,
            models.QuotaSet(scope="person", name="alice", metric="spend_micros", limit=300_000, window="always"),
        )
    )
    lease = await started(world)
    for _ in range(60):
        await world.pass_time(60)
    assert world.hub.stopped == [("alice", "")]
    why = await world.broker.why(world.alice, lease.id)
    assert "funding ended" in why.explanation.message
    world.ok(await world.broker.release_lease(world.spawner, lease.id))
    cost = (await world.broker.lease(world.alice, lease.id)).cost_micros
    assert 290_000 < cost <= 300_000
    assert (await world.lease()).code == "quota_spend"


async def test_a_hub_that_does_not_answer_stops_nothing_and_one_that_denies_twice_does(world):
    lease = await started(world)
    await world.pass_time(60)
    await reconcile(world.broker.runtime)
    world.hub.down = True
    for _ in range(3):
        await world.pass_time(15)
        await reconcile(world.broker.runtime)
    assert (await world.broker.lease(world.alice, lease.id)).state is models.LeaseState.running
    world.hub.down = False
    world.hub.active.clear()
    await reconcile(world.broker.runtime)
    assert (await world.broker.lease(world.alice, lease.id)).state is models.LeaseState.running
    await reconcile(world.broker.runtime)
    ended = await world.broker.lease(world.alice, lease.id)
    assert ended.state is models.LeaseState.released
    assert ended.cost_micros == 60 * 500_000 // 3600  # until it was last seen


async def test_a_restart_keeps_a_servers_lease_gpus_and_billing(world):
    lease = await started(world)
    await world.pass_time(36)
    await world.restart()
    assert world.broker.runtime.state.inventory.holder == {lease.gpus[0].uuid: lease.id}
    await world.pass_time(36)
    world.ok(await world.broker.release_lease(world.spawner, lease.id))
    assert (await world.broker.lease(world.alice, lease.id)).cost_micros == 10_000


async def test_only_the_spawner_requests_and_reports(world):
    lease = world.ok(await world.lease())
    for actor in (world.alice, world.teacher, world.admin):
        assert (await world.broker.request_lease(actor, "alice", models.LeaseRequest(gpu_type="h100-80gb"))).code == (
            "not_allowed"
        )
        assert isinstance(await world.broker.release_lease(actor, lease.id), Refused)
        assert isinstance(await world.broker.lease_started(actor, lease.id, models.LeaseStarted()), Refused)


async def test_a_lost_gpu_is_fenced_alone_and_comes_back(world):
    world.probe.lost.add("GPU-0")
    await world.broker.runtime.gpus.sample(max_age_ms=0)
    gpus = {row.gpu.uuid: row.state for row in await world.broker.inventory(world.admin)}
    assert gpus == {"GPU-0": "fenced", "GPU-1": "free", "GPU-2": "free", "GPU-3": "free"}
    lease = world.ok(await world.lease(gpu_count=3))
    assert "GPU-0" not in [gpu.uuid for gpu in (await world.broker.lease(world.spawner, lease.id)).gpus]
    world.probe.lost.clear()
    await world.broker.runtime.gpus.sample(max_age_ms=0)
    assert "fenced" not in {row.state for row in await world.broker.inventory(world.admin)}


async def test_a_waiting_server_whose_spawn_was_given_up_leaves_the_queue(world):
    world.ok(await world.lease(gpu_count=4))
    waiting = world.ok(await world.lease("bob"))
    assert waiting.explanation.code == "capacity"
    released = world.ok(await world.broker.release_lease(world.spawner, waiting.id))
    assert released.state is models.LeaseState.cancelled
    assert released.held_micros == 0


async def test_shares_are_priced_as_parts_and_a_server_sees_each_gpu_once(world):
    world.probe = SharedProbe(world.probe, {"h100-80gb": 2})
    await world.restart()
    lease = await started(world, gpu_type="h100-80gb.share-2", gpu_count=3)
    assert [gpu.uuid for gpu in lease.gpus] == ["GPU-0#1", "GPU-0#2", "GPU-1#1"]
    assert lease.environment["CUDA_VISIBLE_DEVICES"] == "GPU-0,GPU-1"
    assert lease.rate_per_hour_micros == 750_000
    status = await world.broker.status(world.alice)
    assert [(use.gpu.uuid, use.utilisation_percent) for use in status.gpus] == [(g.uuid, 7) for g in lease.gpus]
    (offer,) = world.ok(await world.broker.options(world.alice, "me")).offers
    assert (offer.total, offer.free) == (8, 5)
    assert "neither memory nor speed is kept apart" in offer.suited_for
