"""Promise 17: whatever a job does to its processes, none survives its end, and none is left as a zombie."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from fastgpu_hub.engines import forking, job_folder
from fastgpu_hub.engines.shepherd import process_table

pytestmark = pytest.mark.slow  # many processes, or every step of a life: too long for the quick run

# Starts processes that try to stay: each detaches in another way, ignores SIGTERM and writes its pid.
CLINGERS = """
import os, signal, sys, time

def cling(name):
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    open('new-' + name, 'w').write(str(os.getpid()))
    os.rename('new-' + name, name + '.pid')
    while True:
        time.sleep(60)

if os.fork() == 0:
    cling('child')
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        cling('daemon')
    os._exit(0)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        code = "import os, signal, time; signal.signal(15, signal.SIG_IGN); " \\
               "open('x', 'w').write(str(os.getpid())); os.rename('x', 'exec.pid'); time.sleep(60)"
        os.execve(sys.executable, [sys.executable, '-S', '-c', code], {})
    os._exit(0)
if os.fork() == 0:
    os.setpgid(0, 0)
    cling('group')
"""
CLINGING = CLINGERS + "cling('root')\n"
LEAVING = CLINGERS + "while len([n for n in os.listdir() if n.endswith('.pid')]) < 4: time.sleep(0.01)\nsys.exit(5)\n"


async def pids(folder: Path, count: int) -> list[int]:
    found: dict[str, int] = {}
    for _ in range(1000):
        names = os.listdir(folder) if folder.is_dir() else []  # noqa: ASYNC240
        found = {name: int((folder / name).read_text()) for name in names if name.endswith(".pid")}
        if len(found) == count:
            return list(found.values())
        await asyncio.sleep(0.01)
    raise AssertionError(f"only {sorted(found)}")


def alive(found: list[int]) -> list[int]:
    """Those that still run. A dead one that its parent (the machine's init) has yet to collect does not."""
    table = process_table()
    return [pid for pid in found if pid in table and not table[pid].dead]


def zombie_children() -> list[int]:
    return [pid for pid, process in process_table().items() if process.parent == os.getpid() and process.dead]


def shepherd_pid(bench: Any) -> int:
    record = job_folder.JobFolder(bench.folder / "jobs" / "j1").record("shepherd")
    assert record
    return int(record["pid"])


def shepherds(bench: Any) -> list[int]:
    """Children of the fork server, the dead among them too."""
    server = bench.engine.shepherds.fork_server
    return [pid for pid, process in process_table().items() if process.parent == server]


async def test_none_survives_a_stop(bench: Any) -> None:
    await bench.start(CLINGING)
    found = await pids(bench.work(), 5)
    assert alive(found) == found
    began = time.monotonic()
    await bench.engine.stop("j1", 0.3)
    exited = await bench.until("exited")
    assert time.monotonic() - began >= 0.3
    assert alive(found) == []
    assert (exited.ending, exited.exit_code) == ("stopped", 128 + signal.SIGKILL)


async def test_a_second_stop_may_shorten_the_grace(bench: Any) -> None:
    await bench.start(CLINGING)
    await pids(bench.work(), 5)
    await bench.engine.stop("j1", 3600)
    await bench.engine.stop("j1", 0)
    assert (await bench.until("exited")).ending == "stopped"


async def test_none_survives_the_time_limit(bench: Any) -> None:
    await bench.start(CLINGING, time_limit_ms=1500)
    found = await pids(bench.work(), 5)
    exited = await bench.until("exited")
    assert alive(found) == []
    assert exited.ending == "timed_out"
    assert "[fastgpu] stopped at its time limit of 1.5 seconds" in bench.log()


async def test_what_the_command_leaves_behind_ends_with_it(bench: Any) -> None:
    await bench.start(LEAVING)
    found = await pids(bench.work(), 4)
    exited = await bench.until("exited")
    assert alive(found) == []
    assert (exited.ending, exited.exit_code) == ("exit", 5)


async def test_a_job_may_clean_up_in_its_grace(bench: Any) -> None:
    code = """
import signal, sys, time
signal.signal(15, lambda *_: (print('saved', flush=True), sys.exit(0)))
print('ready', flush=True)
time.sleep(60)
"""
    await bench.start(code)
    await bench.log_has("ready")
    await bench.engine.stop("j1", 10)
    exited = await bench.until("exited")
    assert (exited.ending, exited.exit_code) == ("stopped", 0)
    assert bench.log() == "ready\nsaved\n"


async def test_a_stopped_process_is_ended_too(bench: Any) -> None:
    await bench.start("import os, signal; print('x', flush=True); os.kill(os.getpid(), signal.SIGSTOP)")
    await bench.log_has("x")
    await bench.engine.stop("j1", 0.2)
    assert (await bench.until("exited")).ending == "stopped"


async def test_a_killed_shepherd_takes_its_job_with_it(bench: Any) -> None:
    await bench.start(CLINGING)
    found = await pids(bench.work(), 5)
    os.kill(shepherd_pid(bench), signal.SIGKILL)
    exited = await bench.until("exited")
    assert alive(found) == []
    assert (exited.ending, exited.exit_code) == ("killed", None)
    assert exited.reason.message == "The job's supervising process was killed."
    assert zombie_children() == []


async def test_a_shepherd_killed_while_the_service_was_away_is_noticed(bench: Any) -> None:
    await bench.start(CLINGING)
    found = await pids(bench.work(), 5)
    shepherd = shepherd_pid(bench)

    def kill() -> None:
        os.kill(shepherd, signal.SIGKILL)
        while alive([shepherd]):
            time.sleep(0.01)

    known = await bench.restart(kill)
    assert known.state == "unknown"
    assert (await bench.until("exited")).ending == "killed"
    assert alive(found) == []


async def test_a_job_counts_as_running_until_its_processes_are_known_gone(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [None, None, False]
    monkeypatch.setattr(job_folder.orphans, "end_all", lambda marks: answers.pop(0))
    monkeypatch.setattr("fastgpu_hub.engines.watching.RETRY_SECONDS", 0.05)
    await bench.start("import time; time.sleep(60)")
    await bench.until("running")
    os.kill(shepherd_pid(bench), signal.SIGKILL)
    await bench.until("exited")
    assert [observation.state for observation in bench.seen] == ["running", "unknown", "exited"]
    assert bench.seen[1].reason.code == "cannot_tell"


# Is never found under the pid it had a moment ago.
COMET = """
import os
os.setsid() if os.fork() == 0 else os._exit(0)
open('new', 'w').write(str(os.getpid())); os.rename('new', 'comet.pid')
while True:
    if os.fork():
        os._exit(0)
"""


async def test_a_process_that_forks_and_leaves_all_the_time_is_caught(bench: Any) -> None:
    await bench.start(COMET)
    (session,) = await pids(bench.work(), 1)
    await bench.engine.stop("j1", 0)
    await bench.until("exited")
    for _ in range(20):
        assert session not in {process.session for process in process_table().values()}


async def test_root_pids_are_the_command_and_its_daemons(bench: Any) -> None:
    await bench.start(CLINGING)
    found = await pids(bench.work(), 5)
    running = await bench.until("running")
    roots = bench.engine.root_pids("j1")
    assert running.pid in roots
    assert {int((bench.work() / f"{name}.pid").read_text()) for name in ("daemon", "exec")} < set(roots)
    assert set(roots) < set(found)


async def test_without_pidfd_the_end_is_found_by_polling(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", missing)
    assert await bench.run("print('done')") == "done\n"
    await bench.start("import time; time.sleep(60)", "j2")
    await bench.until("running", "j2")
    await bench.engine.stop("j2", 1)
    assert (await bench.until("exited", "j2")).ending == "stopped"
    assert zombie_children() == []


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
async def test_no_zombie_and_no_open_file_after_many_jobs(
    bench: Any, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(forking, "IDLE_SECONDS", 0.5)
    open_files = len(os.listdir("/proc/self/fd"))
    for first in range(0, count, 20):
        names = [f"job{number}" for number in range(first, first + 20)]
        for name in names:
            await bench.start("", name, argv=("/bin/true",))
        for name in names:
            assert (await bench.until("exited", name)).exit_code == 0
    assert zombie_children() == []
    idle = shepherds(bench)
    assert alive(idle) == idle
    assert len(idle) <= forking.MOST_IDLE
    while shepherds(bench):
        await asyncio.sleep(0.01)
    assert len(os.listdir("/proc/self/fd")) == open_files
