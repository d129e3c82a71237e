"""A program for test_outages_kills: a broker that meters all the time, killed with SIGKILL and started again.

``killed_service.py URL ROUNDS SEED`` forks one service per round over the same database and kills it at a random
moment, then lets a last one come to its end. Its clock runs a thousand times too fast, so that every round starts,
settles, renews and finishes. What engine and hub know, and what callers were told, are facts: the service writes each
to a pipe in one piece, the parent keeps them, and the next service begins with them. All are printed, one JSON list a
line.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import random
import select
import signal
import sys
import threading
import time
import traceback
import zlib

from fastgpu import models
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.broker import Broker
from fastgpu_hub.broker.idempotency import IdempotencyClaim
from fastgpu_hub.broker.ports.world import GpuDevice, GpuSample, HubUser, Observation, Reported
from fastgpu_hub.broker.reconcile import find_problems
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.pricing.pricebook import Rate
from fastgpu_hub.store import open_store

H100 = "h100-80gb"
START_MS = 1_760_000_400_000
SPEED = 1000  # milliseconds of the services' clock per real one
GPUS, CLIENTS = 6, 4
PRICE_EVERY_MS = 5_000_000
STEPS = 60  # prices known in advance
SPAWNER = Actor("fastgpu-spawner", spawner=True, kind="service")


def fate(name: str) -> int:
    """What happens to a workload is in its name: the same whenever it is asked for."""
    return zlib.crc32(name.encode())


class Clock(threading.local):
    """Runs on while no service does. ``told_ms`` is what this thread has heard last."""

    began = time.monotonic_ns()
    told_ms = START_MS

    def now_ms(self) -> int:
        self.told_ms = START_MS + (time.monotonic_ns() - self.began) * SPEED // 1_000_000
        return self.told_ms


class Facts:
    """What is true outside of the service, by kind and name; ``tell`` adds a fact that outlives it."""

    def __init__(self) -> None:
        self.sink = -1
        self.known: dict[tuple[str, str], list] = {}

    def tell(self, kind: str, name: str, *values) -> None:
        line = json.dumps([kind, name, *values]).encode() + b"\n"
        assert len(line) <= select.PIPE_BUF  # written whole or not at all, whenever the kill comes
        os.write(self.sink, line)
        self.take([kind, name, *values])

    def take(self, fact: list) -> None:
        self.known[fact[0], fact[1]] = fact[2:]

    def get(self, kind: str, name: str) -> list | None:
        return self.known.get((kind, name))


class Engine:
    """Jobs without a process: each ends by itself after a time that is in its name, at its limit, or when stopped."""

    def __init__(self, facts: Facts, clock: Clock) -> None:
        self._facts, self._clock, self._notify = facts, clock, None

    def ends(self, lease_id: str) -> tuple[int, str]:
        """When a job that was started ends, and how."""
        started_ms, limit_ms = self._facts.get("ran", lease_id)
        ends = [(started_ms + 20_000 + fate(lease_id) % 400_000, "exit"), (started_ms + limit_ms, "timed_out")]
        return min(ends + [(stopped[0], "stopped") for stopped in [self._facts.get("halted", lease_id)] if stopped])

    def _seen(self, lease_id: str) -> Observation:
        now_ms, ran = self._clock.now_ms(), self._facts.get("ran", lease_id)
        if ran is None:
            return Observation(lease_id, "absent", now_ms)
        started_ms, (ended_ms, ending) = ran[0], self.ends(lease_id)
        if ended_ms > now_ms:
            return Observation(lease_id, "running", now_ms, started_ms=started_ms, pid=1)
        return Observation(
            lease_id, "exited", now_ms, started_ms=started_ms, ended_ms=ended_ms, exit_code=0, ending=ending
        )

    def _watch(self, lease_id: str) -> None:
        seen = self._seen(lease_id)
        self._notify(seen)
        if seen.state == "running":
            asyncio.get_running_loop().call_later(0.005, self._watch_end, lease_id)

    def _watch_end(self, lease_id: str) -> None:
        seen = self._seen(lease_id)
        if seen.state == "exited":
            self._notify(seen)
        else:
            asyncio.get_running_loop().call_later(0.005, self._watch_end, lease_id)

    async def open(self, notify):
        self._notify = notify
        seen = [self._seen(name) for kind, name in list(self._facts.known) if kind == "ran"]
        for each in seen:
            if each.state == "running":
                self._watch_end(each.lease_id)
        return seen

    async def start(self, launch) -> None:
        if self._facts.get("ran", launch.lease_id) is None:
            self._facts.tell("ran", launch.lease_id, self._clock.now_ms(), launch.time_limit_ms)
            asyncio.get_running_loop().call_soon(self._watch, launch.lease_id)

    async def stop(self, lease_id: str, grace_seconds: float) -> None:
        now_ms = self._clock.now_ms()
        if self._facts.get("ran", lease_id) and self.ends(lease_id)[0] > now_ms:
            self._facts.tell("halted", lease_id, now_ms)

    async def observe(self, lease_id: str) -> Observation:
        return self._seen(lease_id)

    def has_blob(self, sha256: str) -> bool:
        return True

    def environment_names(self) -> tuple[str, ...]:
        return ()

    def log_size(self, lease_id: str) -> int:
        return 0

    def read_log(self, lease_id: str, offset: int, limit_bytes: int) -> bytes:
        return b""

    def metrics(self, lease_id: str) -> Reported:
        return Reported()

    def progress(self, lease_id: str) -> None:
        return None

    def root_pids(self, lease_id: str) -> list[int]:
        return []

    async def close(self) -> None:
        pass


class Hub:
    """Servers are there from their request until they are down; the answer takes a moment, and may be old by then."""

    def __init__(self, facts: Facts, clock: Clock) -> None:
        self._facts, self._clock = facts, clock

    async def user(self, name: str) -> HubUser:
        return HubUser(name, ("cs101",))

    async def server_active(self, owner: str, server_name: str) -> bool:
        asked_ms = self._clock.told_ms  # the broker looks at its clock and asks
        active = self._facts.get("down", server_name) is None
        await asyncio.sleep(0.002)
        if active:
            self._facts.tell("checked", server_name, asked_ms)
        return active

    async def stop_server(self, owner: str, server_name: str) -> None:
        if self._facts.get("down", server_name) is None:
            self._facts.tell("down", server_name, self._clock.now_ms())


class Probe:
    """Six GPUs, always well."""

    def devices(self):
        return [GpuDevice(f"GPU-{i}", i, "H100 80GB", H100) for i in range(GPUS)]

    def sample(self, root_pids):
        return {device.uuid: GpuSample(device.uuid, 0, 7) for device in self.devices()}


class Noting:
    """The store; tells of each row that a write has acknowledged."""

    def __init__(self, store, facts: Facts) -> None:
        self._store, self._facts, self.read = store, facts, store.read

    async def write(self, work):
        noted: list[tuple] = []

        class Unit:
            def __init__(self, uow) -> None:
                self._uow = uow

            def __getattr__(self, name):
                return getattr(self._uow, name)

            def append(self, transfers):
                written = self._uow.append(transfers)
                noted.extend(
                    ("row", str(t.id), t.workload_id, t.line.from_ms, t.amount_micros) for t in written if t.line
                )
                return written

            def add_event(self, event):
                self._uow.add_event(event)
                noted.append(("event", f"{event.workload_id} {event.kind} {event.at_ms}"))

            def set_setting(self, name, value):
                self._uow.set_setting(name, value)
                noted.append(("beat", name))

        result = await self._store.write(lambda uow: work(Unit(uow)))
        for fact in noted:
            self._facts.tell(*fact)
        return result


class Callers:
    """People with jobs and servers, who repeat under the same key what they got no answer to."""

    def __init__(self, broker: Broker, facts: Facts, clock: Clock, last: bool) -> None:
        self.broker, self.facts, self.clock, self.last = broker, facts, clock, last

    def now(self, who: str) -> str:
        """The name of what this caller is at, and whether there is a next one."""
        count = self.facts.get("done", who)
        return f"{who}-{count[0] if count else 0}"

    def done(self, who: str) -> None:
        count = self.facts.get("done", who)
        self.facts.tell("done", who, count[0] + 1 if count else 1)

    async def jobs(self, who: str) -> None:
        actor = Actor(who, classes=("cs101",))
        while not self.last or self.facts.get("asking", self.now(who)) is not None:
            name = self.now(who)
            asked = self.facts.get("asked", name)
            if asked is None:
                self.facts.tell("asking", name)
                limit = 60 + fate(name) % 600
                request = models.JobSubmit(
                    name=name, kind="command", argv=("true",), gpu_type=H100, time_limit_seconds=limit
                )
                job = await self.broker.submit_job(actor, request, key=claim(f"ask-{name}"))
                self.facts.tell("asked", name, job.id)
            else:
                job = await self.broker.job(actor, asked[0])
            if fate(name) % 4 == 0:
                await asyncio.sleep(0.02)
                await self.broker.cancel_job(actor, job.id, key=claim(f"cancel-{name}"))
            while not job.state.final:
                await self.broker.wait_changed(job.id, 0.05)
                job = await self.broker.job(actor, job.id)
            self.facts.tell("ended", job.id, job.cost_micros)
            self.done(who)

    async def servers(self, who: str) -> None:
        while not self.last or self.facts.get("asking", self.now(who)) is not None:
            name = self.now(who)
            asked = self.facts.get("asked", name)
            if asked is None:
                self.facts.tell("asking", name)
                request = models.LeaseRequest(gpu_type=H100, server_name=name)
                lease = await self.broker.request_lease(SPAWNER, who, request, key=claim(f"ask-{name}"))
                self.facts.tell("asked", name, lease.id)
            else:
                lease = await self.broker.lease(SPAWNER, asked[0])
            while lease.state is models.LeaseState.queued:
                await self.broker.wait_changed(lease.id, 0.05)
                lease = await self.broker.lease(SPAWNER, lease.id)
            if self.facts.get("up", lease.id) is None:
                self.facts.tell("up", lease.id, self.clock.now_ms())
            if self.facts.get("started", lease.id) is None:
                lease = await self.broker.lease_started(
                    SPAWNER, lease.id, models.LeaseStarted(), key=claim(f"up-{name}")
                )
                self.facts.tell("started", lease.id, self.clock.now_ms())
            down_ms = self.facts.get("up", lease.id)[0] + 60_000 + fate(name) % 4_000_000
            await asyncio.sleep(max(0, down_ms - self.clock.now_ms()) / 1000 / SPEED)
            if self.facts.get("down", name) is None:
                self.facts.tell("down", name, self.clock.now_ms())
            if fate(name) % 2:  # its end is reported; else it is noticed
                await self.broker.release_lease(SPAWNER, lease.id, key=claim(f"down-{name}"))
                self.facts.tell("released", lease.id)
            while (lease := await self.broker.lease(SPAWNER, lease.id)).state is not models.LeaseState.released:
                await self.broker.wait_changed(lease.id, 0.05)
            self.facts.tell("ended", lease.id, lease.cost_micros, self.clock.now_ms())
            self.done(who)


def claim(name: str) -> IdempotencyClaim:
    return IdempotencyClaim(name, "/", "a" * 64)


async def serve(url: str, facts: Facts, clock: Clock, last: bool) -> None:
    """One life of the service: until it is killed, or, for the last one, until everything has come to its end."""
    store = open_store(url, writer_wait_seconds=20)
    settings = Settings(server_horizon_ms=3_600_000, reconcile_interval_ms=20)
    broker = Broker(Noting(store, facts), Engine(facts, clock), Probe(), Hub(facts, clock), clock, settings)
    await broker.start()
    facts.tell("ready", "")
    callers = Callers(broker, facts, clock, last)
    await asyncio.gather(
        *(callers.jobs(f"job{i}") for i in range(CLIENTS)), *(callers.servers(f"srv{i}") for i in range(CLIENTS))
    )
    await asyncio.sleep(0.2)  # some more rounds of comparing
    problems = [str(problem) for problem in await find_problems(broker.runtime)]
    await broker.close()
    await store.close()
    facts.tell("problems", "", problems)


async def seed(url: str) -> None:
    """Credit for ever, and a price that changes all the time."""

    def price(uow):
        for step in range(STEPS):
            uow.add_price(H100, Rate(500_000 + step % 2 * 100_000), START_MS - 1000 + step * PRICE_EVERY_MS, "root")

    facts, clock = Facts(), Clock()
    store = open_store(url)
    await store.write(price)
    broker = Broker(store, Engine(facts, clock), Probe(), Hub(facts, clock), clock)
    await broker.start()
    await broker.grant(Actor("root", admin=True), models.GrantSet(account="class:cs101", amount_micros=10**12))
    await broker.close()
    await store.close()


def one_round(url: str, facts: Facts, clock: Clock, kill_after: float | None, early: bool) -> list[bytes]:
    """Fork a service, kill it some seconds after it is ready (or was forked); what it told."""
    source, sink = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(source)
        facts.sink = sink
        try:
            asyncio.run(serve(url, facts, clock, kill_after is None))
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    os.close(sink)
    told = b""
    deadline = None if kill_after is None or not early else time.monotonic() + kill_after
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([source], [], [], left)[0]:
            os.kill(child, signal.SIGKILL)
            deadline = None
        chunk = os.read(source, 1 << 20)
        told += chunk
        if not chunk:
            break
        if deadline is None and kill_after is not None and b'"ready"' in chunk:
            deadline = time.monotonic() + kill_after
    _, status = os.waitpid(child, 0)
    os.close(source)
    expected = 0 if kill_after is None else -signal.SIGKILL
    assert os.waitstatus_to_exitcode(status) == expected, f"the service ended by itself: {status}"
    lines = told.splitlines(keepends=True)
    assert all(line.endswith(b"\n") for line in lines)
    for line in lines:
        facts.take(json.loads(line))
    return lines


def main() -> None:
    """Seed, kill, end."""
    url, rounds, chance = sys.argv[1], int(sys.argv[2]), random.Random(int(sys.argv[3]))
    asyncio.run(seed(url))
    facts, clock = Facts(), Clock()
    gc.freeze()  # children share what was imported
    for _ in range(rounds):
        early = chance.random() < 0.2
        lines = one_round(url, facts, clock, chance.uniform(0, 0.25), early)
        sys.stdout.write(b"".join(lines).decode() + '["killed", ""]\n')
    sys.stdout.write(b"".join(one_round(url, facts, clock, None, False)).decode())
    for kind, name in list(facts.known):
        if kind == "ran":
            print(json.dumps(["finished", name, facts.get("ran", name)[0], Engine(facts, clock).ends(name)[0]]))


main()
