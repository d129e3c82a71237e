"""A broker on a real SQLite store, with an engine, a probe, a hub and a clock that the test drives."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass, field

import pytest

from fastgpu import models
from fastgpu_hub.broker import books
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.broker import Broker
from fastgpu_hub.broker.ports.store import StoreUnavailable
from fastgpu_hub.broker.ports.world import GpuDevice, GpuSample, HubUnavailable, HubUser
from fastgpu_hub.broker.reconcile import find_problems, reconcile
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.engines.fake import FakeEngine
from fastgpu_hub.pricing.ledger import check_balanced
from fastgpu_hub.store import open_store
from tests.broker.statements import Statements

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


class Failpoints:
    """Counts the broker's calls of store, engine and hub; the one numbered ``at`` fails, or the process dies there.

    ``mode``: ``before`` and ``after`` raise instead of the call or after it took effect; ``crash-before`` and
    ``crash-after`` end the process there: no call of it ever comes back, until the world restarts it.
    """

    def __init__(self) -> None:
        self.calls, self.at, self.mode, self.fired = 0, 0, "", ""
        self.chance = None  # a Random, with which one call in ten fails
        self.crashed = asyncio.Event()

    def arm(self, at: int, mode: str) -> None:
        self.calls, self.at, self.mode, self.fired = 0, at, mode, ""

    async def around(self, name, call, error):
        if self.crashed.is_set():
            await asyncio.Future()
        self.calls += 1
        if self.chance is not None and self.chance.random() < 0.1:
            self.at, self.mode = self.calls, self.chance.choice(("before", "after"))
        if self.calls != self.at:
            return await call()
        self.fired = f"{self.mode} {name}"
        if self.mode.endswith("after"):
            await call()
        if self.mode.startswith("crash"):
            self.crashed.set()
            await asyncio.Future()
        raise error


class Failing:
    """A port whose named calls pass the failpoints."""

    def __init__(self, port, points: Failpoints, names: tuple[str, ...], error: Exception) -> None:
        self._port, self._points, self._names, self._error = port, points, names, error

    def __getattr__(self, name):
        attribute = getattr(self._port, name)
        if name not in self._names:
            return attribute
        return lambda *args: self._points.around(name, lambda: attribute(*args), self._error)


class World:
    """The broker and everything around it; ``restart`` is a crash and a new start on the same database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clock, self.start_ms = ManualClock(), START_MS
        self.engine = FakeEngine(self.clock.now_ms)
        self.probe = FakeProbe()
        self.hub = FakeHub({name: HubUser(name, ("cs101",)) for name in ("alice", "bob")})
        self.settings = Settings()
        self.files = None  # an artifact store, for tests that have one
        self.points = Failpoints()
        self.alice, self.bob, self.eve = ALICE, BOB, EVE
        self.teacher, self.admin, self.spawner = TEACHER, ADMIN, SPAWNER

    async def open(self) -> None:
        self.store = open_store(self.url)
        p = self.points
        self.broker = Broker(
            Failing(self.store, p, ("read", "write"), StoreUnavailable("injected")),
            Failing(self.engine, p, ("start", "stop", "observe"), RuntimeError("injected")),
            self.probe,
            Failing(self.hub, p, ("user", "server_active", "stop_server"), HubUnavailable("injected")),
            self.clock,
            self.settings,
            self.files,
        )
        await self.broker.start()

    async def close(self) -> None:
        await self.broker.close()
        await self.engine.close()
        await self.store.close()

    async def restart(self) -> None:
        await self.close()
        self.points.crashed.clear()
        await self.open()

    async def insist(self, call):
        """As a client that tries again: until the call comes back, through errors, crashes and restarts."""
        while True:
            doing = asyncio.ensure_future(call())
            crash = asyncio.ensure_future(self.points.crashed.wait())
            try:
                await asyncio.wait({doing, crash}, return_when=asyncio.FIRST_COMPLETED)
                if self.points.crashed.is_set():
                    doing.cancel()
                    await asyncio.gather(doing, return_exceptions=True)
                    self.engine._notify = None
                    await self.restart()
                    continue
                return self.ok(doing.result())
            except (StoreUnavailable, HubUnavailable):
                continue
            finally:
                crash.cancel()

    async def look(self) -> None:
        """Do what is due now, and let it come to its end."""
        await self.settle_down()
        self.engine.tick()
        await self.settle_down()
        for workload_id in [w for w, due in self.broker.runtime.time.due.items() if due <= self.clock.ms]:
            await self.broker.runtime.time.edge(workload_id)
        await self.settle_down()

    async def reconcile(self, rounds: int = 2) -> None:
        for _ in range(rounds):
            await reconcile(self.broker.runtime)
            await self.settle_down()

    async def seed(self, credit=100_000_000) -> None:
        self.ok(await self.broker.set_price(ADMIN, models.PriceSet(gpu_type=H100, per_gpu_hour_micros=500_000)))
        self.ok(await self.broker.grant(ADMIN, models.GrantSet(account="class:cs101", amount_micros=credit)))

    @staticmethod
    def ok(answer):
        assert not hasattr(answer, "frees_at_ms"), answer
        return answer

    async def settle_down(self) -> None:
        """Let every background step that is under way come to its end."""
        for _ in range(3):  # what was reported becomes a task
            await asyncio.sleep(0)
        for _ in range(1000):
            waiting = [t for t in self.broker.runtime._tasks if t.get_coro().__name__ not in ("run", "keep_reconciled")]
            if not waiting:
                return
            await asyncio.sleep(0.001)
        raise AssertionError(f"still busy: {waiting}")

    async def pass_time(self, seconds: float) -> None:
        """The clock moves; the time keeper looks."""
        await self.settle_down()
        self.clock.ms += round(seconds * 1000)
        await self.look()

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


@pytest.fixture(autouse=True)
def no_patience(monkeypatch):
    monkeypatch.setattr("fastgpu_hub.broker.runtime.RETRY_SECONDS", 0.01)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A database with its tables and nothing in them; copying it is faster than making it."""
    path = tmp_path_factory.mktemp("empty") / "fastgpu.sqlite"
    asyncio.run(open_store(f"sqlite:///{path}").close())
    return path


@pytest.fixture
def database(request, tmp_path, empty_database) -> str:
    """URL of an empty SQLite database; of PostgreSQL where the test is parametrised with ``postgres``."""
    if getattr(request, "param", "sqlite") == "postgres":
        return request.getfixturevalue("postgres_url")
    shutil.copy(empty_database, tmp_path / "fastgpu.sqlite")
    return f"sqlite:///{tmp_path}/fastgpu.sqlite"


def everything_fits(uow) -> None:
    """The books replayed from the first entry to the last, as an administrator checks them."""
    for report in (books.check_audit(uow, lambda *_: None), books.check_ledger(uow, lambda *_: None)):
        assert [str(fault) for fault in report.faults] == []


@pytest.fixture
async def world(database):
    """An open world with a price of 0.50 per GPU-hour and 100 credits for class cs101; consistent at the end."""
    world = World(database)
    await world.open()
    await world.seed()
    yield world
    await world.settle_down()
    await world.store.read(lambda uow: check_balanced(uow.transfers()))
    assert await find_problems(world.broker.runtime) == []
    await world.store.read(everything_fits)
    await world.close()


@pytest.fixture
async def statements(world, monkeypatch):
    """The world's writer under control, with no background round in between."""
    monkeypatch.setattr("fastgpu_hub.store.writer._IN_DOUBT_SECONDS", 0)  # the dead do not ask
    world.settings = type(world.settings)(reconcile_interval_ms=10**9)
    statements = Statements(world)
    await world.restart()
    yield statements
    statements.arm(0, "")
