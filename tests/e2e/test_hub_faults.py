"""The hub, its proxy, its service are killed: no healthy server is lost, no bill changes, nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import psutil
import pytest

from fastgpu import GPUClient, models, requests
from fastgpu.aio import AsyncGPUClient
from tools.running_hub import RunningHub, proxy_program

HERE = Path(__file__).parent
H100 = {"gpu_type": "h100-80gb", "gpu_count": 1}
GPUS = 210
MANY = 200  # more than are free while anybody has a server
STARTS = 200
CLEAN_SECONDS = 60

# Prices that change every five seconds, so that a bill has many lines, also from while the hub was away.
CONFIG = """
import sys
from pathlib import Path
from fastgpu_hub import setup_fastgpu
sys.path.insert(0, {here!r})
from pausing import HaltingSpawner
setup_fastgpu(c, port=FASTGPU_PORT, state_dir="state", spawner=HaltingSpawner, admins=["boss"],
              service_command=[sys.executable, str(Path({here!r}, "metered_service.py"))])
c.FastGPUService.probe = "simulated"
c.FastGPUService.simulated_gpus = {{"count": {gpus}, "gpu_type": "h100-80gb"}}
c.FastGPUService.default_price = {{"per_gpu_hour": "3.6"}}
c.FastGPUService.server_horizon_minutes = 2
c.FastGPUService.grants = [{{"account": "class:cs101", "amount": "1000"}}]
c.FastGPUService.promotions = [
    {{"name": f"wave {{start}}", "percent_off": 50, "starts_at": start, "ends_at": end}} for start, end in {waves}
]
c.JupyterHub.load_groups = {{"cs101": {{"users": {people}}}}}
c.JupyterHub.cleanup_servers = False
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 0, "slow_stop_timeout": 0}}
c.Spawner.cmd = [sys.executable, str(Path({here!r}, "light_server.py"))]
c.Spawner.poll_interval = 2
c.LocalProcessSpawner.term_timeout = 1
"""
RUNNING = [f"run-{n}" for n in range(7)]
PLAIN = ["plain-0", "plain-1"]
QUEUED = ["queued-0", "queued-1"]
STARTING = ["asked-0", "granted-0", "popened-0", "portless-0", "reported-0"]
STOPPING = ["deaf-0", "deaf-1", "dead-0", "released-0"]
OTHERS = ["proxied-0", "proxied-1", "steady-0", "late-0", "late-1", "patient-0", "next-0"]
PEOPLE = RUNNING + PLAIN + QUEUED + STARTING + STOPPING + OTHERS


def waves() -> list[tuple[str, str]]:
    began = datetime.now(timezone.utc)
    edges = [began + timedelta(seconds=10 * n) for n in range(40)]
    return [(edge.isoformat(), (edge + timedelta(seconds=5)).isoformat()) for edge in edges]


def until(check: Callable[[], Any], complaint: str | Callable[[], str], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, f"after {seconds} s: {complaint() if callable(complaint) else complaint}"
        time.sleep(0.1)
    return found


class Scene:
    """A hub with light servers; what its people, its administrator and the machine's process table say."""

    def __init__(self, hub: RunningHub) -> None:
        self.hub = hub
        self._clients: dict[str, GPUClient] = {}

    def client(self, name: str) -> GPUClient:
        if name not in self._clients:
            answer = self.hub.api("POST", f"/users/{name}/tokens", {})
            self._clients[name] = GPUClient(url=self.hub.service_url, token=answer.body["token"])
        return self._clients[name]

    def close(self) -> None:
        for client in self._clients.values():
            client.close()

    def ask(self, name: str, options: dict[str, Any]) -> None:
        assert self.hub.api("POST", f"/users/{name}/server", options).status in (201, 202)

    def start(self, *names: str, options: dict[str, Any] = H100) -> None:
        """Start servers at the same time, wait until the hub says that they are ready."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: self.ask(name, options), names))
        for name in names:
            self.hub.wait_ready(name, 60)

    def stop(self, *names: str) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: self.hub.api("DELETE", f"/users/{name}/server"), names))
        for name in names:
            self.hub.wait_gone(name, 60)

    def lease(self, name: str) -> models.Lease | None:
        leases = self.client(name).leases()
        assert len(leases) < 2
        return leases[0] if leases else None

    def processes(self, name: str) -> set[int]:
        """Process ids of everything that a person's servers started."""
        found = set()
        for process in self.hub.processes():
            try:
                if process.environ().get("JUPYTERHUB_USER") == name:
                    found.add(process.pid)
            except psutil.Error:
                continue
        return found

    def halted(self, name: str) -> bool:
        return (self.hub.folder / "halted" / name).exists()

    def through_proxy(self, name: str) -> bool:
        """Whether the person's server answers at its public address."""
        return f'"{name}"' in answer_of(f"{self.hub.url}/user/{name}/api/status")

    def pid_of(self, program: str) -> int:
        found = [p.pid for p in self.hub.processes() if any(part.endswith(program) for part in p.cmdline())]
        assert len(found) == 1
        return found[0]

    def service_answers(self) -> bool:
        return bool(answer_of(f"{self.hub.service_url}/health"))

    def failure(self, name: str) -> str:
        """Why a person's server did not start, in the words that they read."""
        request = urllib.request.Request(
            f"{self.hub.url}/hub/api/users/{name}/server/progress",
            headers={"Authorization": f"token {self.hub.token}"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return str(answer.read().decode())

    def held(self) -> int:
        """GPUs held by the administrator's list."""
        return sum(1 for row in self.client("boss").inventory() if row.state == "leased")

    def reserved_micros(self) -> int:
        accounts = self.client("run-0").status().accounts
        return next(account.held_micros for account in accounts if account.id == "class:cs101")

    def check_bill(self, lease: models.Lease) -> None:
        """An ended server's bill covers it from start to end, without gap or overlap, and is what the ledger booked."""
        client = self.client(lease.owner)
        ended, receipt = client.send(requests.lease(lease.id)), client.receipt(lease.id)
        assert receipt.settled
        assert receipt.total_micros == receipt.ledger_micros == sum(line.amount_micros for line in receipt.lines)
        assert ended.started_at == (lease.started_at or ended.started_at)
        if ended.started_at is None:
            assert receipt.lines == ()
            return
        lines = sorted(receipt.lines, key=lambda line: line.starts_at)
        edges = [ended.started_at, *[line.ends_at for line in lines[:-1]]]
        assert [line.starts_at for line in lines] == edges
        assert lines[-1].ends_at == ended.ended_at
        assert receipt.total_micros > 0


def answer_of(url: str) -> str:
    """Text of a good answer; the empty string when there is none."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    if proxy_program() is None:
        pytest.skip("configurable-http-proxy is not installed (npm install configurable-http-proxy)")
    config = CONFIG.format(here=str(HERE), gpus=GPUS, waves=waves(), people=PEOPLE)
    with RunningHub(config, tmp_path_factory.mktemp("hub")) as hub:
        hub.api("POST", "/users", {"usernames": ["boss"]})
        scene = Scene(hub)
        until(scene.service_answers, "the service does not answer", 60)
        yield scene
        scene.close()


@pytest.fixture(autouse=True)
def left_clean(scene: Scene) -> Iterator[None]:
    """Every test ends with nothing held, nothing reserved, no server's process."""
    yield
    active = {name for name in PEOPLE if scene.hub.server(name) is not None}
    scene.stop(*active)
    until(lambda: scene.held() == 0 and scene.reserved_micros() == 0, "GPUs or money stay held", CLEAN_SECONDS)
    assert not any(scene.processes(name) for name in PEOPLE)


def test_a_hub_killed_with_servers_in_every_state_loses_no_healthy_one_and_leaves_nothing_behind(scene):
    healthy, doomed = RUNNING + PLAIN, QUEUED + STARTING + STOPPING
    assert len(healthy + doomed) == 20
    scene.start(*RUNNING, *STOPPING)
    scene.start(*PLAIN, options={})
    for name in STARTING:
        scene.ask(name, H100)
    until(lambda: all(map(scene.halted, ("asked-0", "granted-0", "popened-0", "reported-0"))), "not halted")
    until(lambda: len(scene.processes("portless-0")) == 2, "no process without a port")
    for name in QUEUED:
        scene.ask(name, {"gpu_type": "h100-80gb", "gpu_count": MANY})
    until(lambda: all(scene.lease(name) for name in QUEUED), "not queued")
    leases = {name: scene.lease(name) for name in RUNNING + doomed}
    pids = {name: scene.processes(name) for name in healthy}
    assert {leases[name].state.value for name in QUEUED + STARTING} == {"queued", "granted", "running"}
    for name in STOPPING:
        scene.hub.api("DELETE", f"/users/{name}/server")
    until(lambda: scene.halted("dead-0") and scene.halted("released-0"), "not halted")
    assert all(scene.hub.server(name)["pending"] == "stop" for name in ("deaf-0", "deaf-1"))

    scene.hub.kill()
    time.sleep(6)  # longer than a price lasts
    scene.hub.start()
    began = time.monotonic()
    until(scene.service_answers, "the service does not answer")

    def left() -> list[str]:
        return [name for name in doomed if scene.hub.server(name) or scene.lease(name) or scene.processes(name)]

    until(lambda: not left(), lambda: f"something is left of {left()}", CLEAN_SECONDS)
    print(f"nothing left {time.monotonic() - began:.1f} s after the hub was back")
    assert scene.held() == len(RUNNING)
    for name in healthy:
        scene.hub.wait_ready(name, 10)
        assert scene.processes(name) == pids[name]
        assert scene.through_proxy(name)
    for name in RUNNING:
        before, after = leases[name], scene.lease(name)
        assert (after.id, after.started_at, after.gpus) == (before.id, before.started_at, before.gpus)
        assert after.state is models.LeaseState.running
    scene.stop(*healthy)
    for lease in leases.values():
        scene.check_bill(lease)


def test_a_proxy_killed_comes_back_with_its_routes_and_changes_no_bill(scene):
    names = ("proxied-0", "proxied-1")
    scene.start(*names)
    leases = [scene.lease(name) for name in names]
    pids = [scene.processes(name) for name in names]
    os.kill(scene.pid_of("configurable-http-proxy"), signal.SIGKILL)
    until(lambda: not scene.through_proxy(names[0]), "the proxy lives on")
    until(lambda: all(map(scene.through_proxy, names)), "the routes did not come back", 60)
    assert [scene.processes(name) for name in names] == pids
    for name, before in zip(names, leases, strict=True):
        after = scene.lease(name)
        assert (after.id, after.state, after.started_at) == (before.id, before.state, before.started_at)
    scene.stop(*names)
    for lease in leases:
        scene.check_bill(lease)


def test_a_service_killed_while_servers_start_costs_no_start_that_had_its_lease_and_leaks_nothing(scene):
    scene.start("steady-0")
    for name in ("late-0", "late-1"):
        scene.ask(name, H100)
    scene.ask("patient-0", {"gpu_type": "h100-80gb", "gpu_count": GPUS})
    until(lambda: scene.processes("late-0") and scene.processes("late-1"), "no processes")
    until(lambda: scene.lease("patient-0"), "not queued")
    names = ("steady-0", "late-0", "late-1", "patient-0")
    leases = {name: scene.lease(name) for name in names}
    assert leases["late-0"].started_at is None
    os.kill(scene.pid_of("metered_service.py"), signal.SIGKILL)
    scene.ask("next-0", H100)
    said = scene.failure("next-0")  # it came while nobody could take it
    assert "does not answer" in said
    assert "Nothing was charged" in said
    for name in ("late-0", "late-1"):
        scene.hub.wait_ready(name, 30)  # needs no service to come up
    until(scene.service_answers, "the service did not come back", 60)
    until(lambda: all(scene.lease(name).started_at for name in ("late-0", "late-1")), "starts not reported", 60)
    assert {name: scene.lease(name).id for name in names} == {name: leases[name].id for name in names}
    assert scene.lease("next-0") is None
    scene.stop("steady-0", "late-0", "late-1")
    scene.hub.wait_ready("patient-0", 60)
    scene.stop("patient-0")
    for lease in leases.values():
        scene.check_bill(lease)


async def start_many(url: str, spawner_token: str, count: int) -> None:
    """That many leases at once: asked for, waited for, reported as started, given back."""
    async with AsyncGPUClient(url=url, token=spawner_token) as spawner:

        async def one(number: int) -> None:
            request = models.LeaseRequest(**H100, server_name=f"s{number}")
            lease = await spawner.request_lease(PEOPLE[number % len(PEOPLE)], request)
            while lease.state is models.LeaseState.queued:
                lease = await spawner.lease(lease.id, wait_seconds=20, state=lease.state)
            assert (await spawner.lease_started(lease.id)).state is models.LeaseState.running
            await spawner.release_lease(lease.id)

        await asyncio.gather(*map(one, range(count)))


def test_the_service_stays_responsive_during_two_hundred_starts(scene):
    state = scene.hub.folder / "state"
    began = time.monotonic()
    asyncio.run(start_many(scene.hub.service_url, (state / "spawner-token").read_text().strip(), STARTS))
    ended = time.monotonic()
    samples = [tuple(map(float, line.split())) for line in (state / "lags").read_text().splitlines()]
    lags = [lag * 1000 for at, lag in samples if began <= at <= ended]
    assert len(lags) > 100
    p50, p99 = (statistics.quantiles(lags, n=100)[n - 1] for n in (50, 99))
    print(f"{STARTS} starts in {ended - began:.1f} s; lag p50 {p50:.1f}, p99 {p99:.1f}, most {max(lags):.1f} ms")
    assert p99 < 100
