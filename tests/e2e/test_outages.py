"""Crashes of the service while a job and a server run: nothing is lost, nothing is charged twice."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from fastgpu.errors import FastGPUError
from tools.student import Student


def service_pid(hub) -> int:
    found = [p.pid for p in hub.processes() if "fastgpu_hub.service" in " ".join(p.cmdline())]
    assert len(found) == 1
    return found[0]


def wait_for_service(client, seconds: float = 40) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            client.me()
            return
        except FastGPUError:
            assert time.monotonic() < deadline, "the service did not come back"
            time.sleep(0.2)


def test_a_service_killed_outright_comes_back_and_takes_up_job_and_server(hub, client_of):
    async def start() -> None:
        async with Student(hub.url, "alice", "fastgpu") as alice:
            await alice.sign_in()
            await alice.start_server({"gpu_type": "h100-80gb", "gpu_count": 1})

    asyncio.run(start())
    client = client_of("alice")
    job = client.submit(["sh", "-c", "echo one; sleep 8; echo two; exit 3"], "h100-80gb", 1, "5m")
    while job.refresh().state.value != "running":
        time.sleep(0.05)
    server = next(lease for lease in client.leases() if lease.job_id is None)
    os.kill(service_pid(hub), signal.SIGKILL)
    wait_for_service(client)
    after = job.wait(60).refresh()
    assert (after.state.value, after.exit_code) == ("failed", 3)
    assert job.logs() == "one\ntwo\n"
    receipt = client.receipt(job.id)
    seconds = (after.ended_at - after.started_at).total_seconds()
    assert receipt.total_micros == receipt.ledger_micros
    assert 8 <= seconds < 12
    charged_ms = sum((line.ends_at - line.starts_at).total_seconds() for line in receipt.lines)
    assert charged_ms == pytest.approx(seconds, abs=0.001)
    same = next(lease for lease in client.leases() if lease.job_id is None)
    assert (same.id, same.gpus, same.started_at) == (server.id, server.gpus, server.started_at)

    async def stop() -> None:
        async with Student(hub.url, "alice", "fastgpu") as alice:
            await alice.sign_in()
            await alice.stop_server()

    asyncio.run(stop())
    assert client.leases() == []


def test_a_server_killed_outright_gives_its_gpu_back_and_is_charged_until_then(hub, client_of):
    async def start() -> None:
        async with Student(hub.url, "bob", "fastgpu") as bob:
            await bob.sign_in()
            await bob.start_server({"gpu_type": "h100-80gb", "gpu_count": 1})

    asyncio.run(start())
    client = client_of("bob")
    lease = client.leases()[0]
    for process in hub.processes():
        if "singleuser" in " ".join(process.cmdline()):
            process.kill()
    deadline = time.monotonic() + 60
    while client.leases():
        assert time.monotonic() < deadline, "the lease was not released"
        time.sleep(0.3)
    receipt = client.receipt(lease.id)
    assert receipt.settled
    assert receipt.total_micros == receipt.ledger_micros > 0
