"""FastGPULocalSpawner with real processes: none survives a stop, whatever it did to hide."""

from __future__ import annotations

import asyncio
import os
import sys

import psutil
import pytest

from fastgpu_hub.spawner import FastGPULocalSpawner
from fastgpu_hub.spawner.processes import marked
from fastgpu_hub.spawner.readiness import ServerExited

pytestmark = pytest.mark.slow  # each starts real processes

# A "single-user server" that hides children: a session of its own (as kernels have), a double fork whose parent is
# gone, and one that ignores SIGTERM.
SERVER = """
import http.server, os, signal, subprocess, sys
sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
subprocess.Popen(sleep, start_new_session=True)
if os.fork() == 0:
    subprocess.Popen(sleep, start_new_session=True)
    os._exit(0)
os.wait()
stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", stubborn], start_new_session=True)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *args): pass
port = int(os.environ["JUPYTERHUB_SERVICE_URL"].split(":")[2].split("/")[0])
http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


class LocalServer(FastGPULocalSpawner):
    def _client(self):
        return self.service


@pytest.fixture
async def local_server(service, hub_user, hub_place, tmp_path):
    made = []

    def make(script=SERVER, user_options=None):
        spawner = LocalServer(
            user=hub_user,
            hub=hub_place,
            api_token="secret",
            cmd=[sys.executable, "-c", script],
            home_dir=str(tmp_path),
            interrupt_timeout=2,
        )
        spawner.service = service
        spawner.user_options = user_options or {}
        made.append(spawner)
        return spawner

    yield make
    for spawner in made:
        await spawner.end_workload()


async def test_a_stop_ends_every_process_the_server_started(local_server, service):
    spawner = local_server(user_options={"gpu_type": "h100-80gb"})
    await spawner.start()
    processes = marked(spawner.server_mark)
    assert len(processes) == 4
    assert ("started", "lease-1", spawner.pid) in service.calls
    still_alive_at_release = []
    release = service.release_lease

    async def note(lease_id):
        still_alive_at_release.extend(marked(spawner.server_mark))
        return await release(lease_id)

    service.release_lease = note
    await spawner.stop()
    await asyncio.wait(set(spawner._endings.values()), timeout=10)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)
    assert service.released() == ["lease-1"]
    assert still_alive_at_release == []


async def test_a_crashed_server_takes_its_children_with_it(local_server):
    spawner = local_server()
    await spawner.start()
    processes = marked(spawner.server_mark)
    os.kill(spawner.pid, 9)
    await asyncio.to_thread(psutil.Process(spawner.pid).wait)
    assert await spawner.poll() is not None
    await asyncio.wait(set(spawner._endings.values()), timeout=15)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


async def test_a_restarted_hub_still_ends_the_whole_tree(local_server):
    first = local_server()
    await first.start()
    processes = marked(first.server_mark)
    state = first.get_state()
    second = local_server()
    second.load_state(state)
    assert await second.poll() is None
    second.proc = first.proc  # a new hub's init would reap; here this process is the parent
    await second.stop()
    await asyncio.wait(set(second._endings.values()), timeout=15)
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in processes)


async def test_the_servers_processes_see_no_gpu_without_a_lease(local_server):
    spawner = local_server()
    await spawner.start()
    assert psutil.Process(spawner.pid).environ()["CUDA_VISIBLE_DEVICES"] == ""


async def test_a_server_that_exits_at_once_is_told_at_once(local_server):
    with pytest.raises(ServerExited, match="status 7"):
        await local_server("raise SystemExit(7)").start()


async def test_marks_tell_servers_apart(local_server):
    first, second = local_server(), local_server()
    await first.start()
    await second.start()
    await first.stop()
    await asyncio.wait(set(first._endings.values()), timeout=15)
    assert marked(first.server_mark) == []
    assert len(marked(second.server_mark)) == 4
