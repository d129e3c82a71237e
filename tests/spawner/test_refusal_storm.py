"""A thousand refused spawns through the hub's REST API, with the real service behind it: the hub shrugs them off.

``FASTGPU_REFUSALS=1000`` makes it a thousand; by default fewer, after a warm-up that memory is measured against.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.hub]

REFUSALS = int(os.environ.get("FASTGPU_REFUSALS", "200"))
WARM_UP = 100
AT_ONCE = 10
PEOPLE = [f"student-{n}" for n in range(AT_ONCE)]
LIGHT_SERVER = Path(__file__).parents[1] / "e2e" / "light_server.py"
CONFIG = f"""
import sys
from fastgpu_hub import setup_fastgpu
setup_fastgpu(c, port=FASTGPU_PORT, state_dir="state", admins=["boss"])
c.FastGPUService.probe = "simulated"
c.FastGPUService.default_price = {{"per_gpu_hour": "1"}}
c.JupyterHub.load_groups = {{"cs101": {{"users": {PEOPLE}}}}}
c.Spawner.cmd = [sys.executable, {str(LIGHT_SERVER)!r}]
c.Spawner.consecutive_failure_limit = 5
"""
# No credit; more GPUs than there are; GPUs that nobody has; nothing anybody could read.
WISHES = [
    ({"gpu_type": "h100-80gb", "gpu_count": 1}, 403, "credit"),
    ({"gpu_type": "h100-80gb", "gpu_count": 99}, 403, "99"),
    ({"gpu_type": "b200-192gb", "gpu_count": 1}, 403, "b200-192gb"),
    ({"gpu_type": "h100-80gb", "gpu_count": -1}, 422, "gpu_count"),
]
KEPT = ("api_tokens", "oauth_clients", "servers", "spawners")
BOOKS = ("workloads", "workload_events", "holds", "hold_lines", "transfers", "idempotency_keys")


def refuse(hub, count):
    """So many refused spawns, several at once; seconds that each took."""

    def of_one_person(name):
        took = []
        for number in range(count // AT_ONCE):
            wish, status, word = WISHES[number % len(WISHES)]
            began = time.monotonic()
            answer = hub.api("POST", f"/users/{name}/server", wish)
            took.append(time.monotonic() - began)
            assert answer.status == status, answer
            assert word in answer.body["message"], answer
        return took

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sorted(seconds for took in pool.map(of_one_person, PEOPLE) for seconds in took)


def rows(path, *tables):
    """How many rows tables of an SQLite file have."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in tables}


def answers_in(hub, seconds):
    began = time.monotonic()
    assert hub.api("GET", "/users").status == 200
    assert time.monotonic() - began < seconds


def test_refused_spawns_leave_the_hub_alive_prompt_and_without_a_trace(real_hub):
    hub = real_hub(CONFIG)
    service = next(p for p in hub.processes() if "fastgpu_hub.service" in p.cmdline())
    memory = {"hub": psutil.Process(hub.pid), "service": service}
    refuse(hub, WARM_UP)
    before = {name: process.memory_info().rss for name, process in memory.items()}
    kept, booked = rows(hub.folder / "hub.sqlite", *KEPT), rows(hub.folder / "state" / "fastgpu.sqlite", *BOOKS)

    began = time.monotonic()
    took = refuse(hub, REFUSALS)
    seconds = time.monotonic() - began
    answers_in(hub, 2)
    growth = {name: process.memory_info().rss - before[name] for name, process in memory.items()}
    print(
        f"{len(took)} refusals in {seconds:.1f} s, median {took[len(took) // 2]:.3f} s, slowest {took[-1]:.3f} s; "
        + ", ".join(f"{name} {grown / 2**20:+.1f} MiB" for name, grown in growth.items())
    )

    assert hub.process.poll() is None
    assert service.is_running()
    assert "consecutive spawn" not in hub.log_text()
    assert "Traceback" not in hub.log_text()
    assert rows(hub.folder / "hub.sqlite", *KEPT) == kept
    assert rows(hub.folder / "state" / "fastgpu.sqlite", *BOOKS) == booked
    assert booked["workloads"] == booked["holds"] == 0
    # An object kept per refusal (a spawner, a task, a traceback) is tens of KiB.
    assert all(grown < 10 * 2**20 + REFUSALS * 10 * 2**10 for grown in growth.values())
    # And the next one who may have a server gets it.
    assert hub.api("POST", f"/users/{PEOPLE[0]}/server", {"gpu_type": ""}).status in (201, 202)
    hub.wait_ready(PEOPLE[0])
    hub.api("DELETE", f"/users/{PEOPLE[0]}/server")
    hub.wait_gone(PEOPLE[0])
