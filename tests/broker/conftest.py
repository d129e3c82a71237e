"""A broker on a real SQLite store, with an engine, a probe, a hub and a clock that the test drives."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from fastgpu import models
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.broker import Broker
from fastgpu_hub.broker.lifecycle import Settings
from fastgpu_hub.broker.ports.world import GpuDevice, GpuSample, HubUnavailable, HubUser
from fastgpu_hub.engines.fake import FakeEngine
from fastgpu_hub.pricing.ledger import check_balanced
from fastgpu_hub.store import open_store

H100 = "h100-80gb"
START_MS = 1_760_000_400_000  # 2025-10-09 09:00 UTC, a Thursday


class ManualClock:
    def __init__(self) -> None:
        self.ms = START_MS

    def now_ms(self) -> int:
        return self.ms


@dataclass
class FakeProbe:
    count: int = 4
    lost: set[str] = field(default_factory=set)

    def devices(self):
        return [
            GpuDevice(f"GPU-{i}", i, "Simulated H100 80GB", H100, 80 << 30, simulated=True) for i in range(self.count)
        ]

    def sample(self, root_pids):
        return {d.uuid: GpuSample(d.uuid, START_MS, 7, lost=d.uuid in self.lost) for d in self.devices()}


@dataclass
class FakeHub:
    users: dict[str, HubUser]
    active: set[tuple[str, str]] = field(default_factory=set)
    stopped: list[tuple[str, str]] = field(default_factory=list)
    down: bool = False

    def _answer(self):
        if self.down:
            raise HubUnavailable("the hub is down")

    async def user(self, name):
        self._answer()
        return self.users.get(name)

    async def class_members(self, name):
        self._answer()
        return [u.name for u in self.users.values() if name in u.classes]

    async def server_active(self, owner, server_name):
        self._answer()
        return (owner, server_name) in self.active

    async def stop_server(self, owner, server_name):
        self._answer()
        self.stopped.append((owner, server_name))


ALICE = Actor("alice", classes=("cs101",))
BOB = Actor("bob", classes=("cs101",))
EVE = Actor("eve")
TEACHER = Actor("tess", teaches=("cs101",))
ADMIN = Actor("root", admin=True)
SPAWNER = Actor("fastgpu-spawner", spawner=True, kind="service")


class World:
    """The broker and everything around it; ``restart`` is a crash and a new start on the same database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clock = ManualClock()
        self.engine = FakeEngine(self.clock.now_ms)
        self.probe = FakeProbe()
        self.hub = FakeHub({name: HubUser(name, ("cs101",)) for name in ("alice", "bob")})
        self.settings = Settings()
        self.alice, self.bob, self.eve = ALICE, BOB, EVE
        self.teacher, self.admin, self.spawner = TEACHER, ADMIN, SPAWNER

    async def open(self) -> None:
        self.store = open_store(self.url)
        self.broker = Broker(self.store, self.engine, self.probe, self.hub, self.clock, self.settings)
        await self.broker.start()

    async def close(self) -> None:
        await self.broker.close()
        await self.engine.close()
        await self.store.close()

    async def restart(self) -> None:
        await self.close()
        await self.open()

    async def seed(self, credit=100_000_000) -> None:
        self.ok(await self.broker.set_price(ADMIN, models.PriceSet(gpu_type=H100, per_gpu_hour_micros=500_000)))
        self.ok(await self.broker.grant(ADMIN, models.GrantSet(account="class:cs101", amount_micros=credit)))

    @staticmethod
    def ok(answer):
        assert not hasattr(answer, "frees_at_ms"), answer
        return answer

    async def settle_down(self) -> None:
        """Let every background step that is under way come to its end."""
        for _ in range(200):
            await asyncio.sleep(0.005)
            waiting = [t for t in self.broker.runtime._tasks if "_keep_time" not in repr(t)]
            if not waiting:
                return
        raise AssertionError(f"still busy: {waiting}")

    async def pass_time(self, seconds: float) -> None:
        """The clock moves; the time keeper looks."""
        await self.settle_down()
        self.clock.ms += round(seconds * 1000)
        self.engine.tick()
        await self.settle_down()
        for workload_id in [w for w, due in self.broker.runtime._due.items() if due <= self.clock.ms]:
            await self.broker.runtime._edge(workload_id)
        await self.settle_down()

    async def submit(self, actor=ALICE, **changes):
        request = models.JobSubmit(kind="command", argv=("true",), gpu_type=H100, time_limit_seconds=3600)
        answer = await self.broker.submit_job(actor, request.model_copy(update=changes))
        await self.settle_down()
        return answer

    async def lease(self, owner="alice", **changes):
        request = models.LeaseRequest(gpu_type=H100).model_copy(update=changes)
        self.hub.active.add((owner, request.server_name))
        answer = await self.broker.request_lease(SPAWNER, owner, request)
        await self.settle_down()
        return answer


@pytest.fixture
async def world(tmp_path):
    """An open world with a price of 0.50 per GPU-hour and 100 credits for class cs101; consistent at the end."""
    world = World(f"sqlite:///{tmp_path}/fastgpu.sqlite")
    await world.open()
    await world.seed()
    yield world
    await world.settle_down()
    await world.broker.runtime.store.read(lambda uow: check_balanced(uow.transfers()))
    from fastgpu_hub.broker.reconcile import _problems

    assert await _problems(world.broker.runtime) == []
    await world.close()
