"""Shepherds are forked by one process and take one job after the other: no job is lost by that, none runs twice."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from fastgpu_hub.engines import forking
from fastgpu_hub.engines.job_folder import JobFolder
from fastgpu_hub.engines.shepherd import process_table

JOBS = int(os.environ.get("FASTGPU_JOBS", "500"))
AT_ONCE = 16
WAITS = "import os, time; print('up', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)"


def shepherd_of(bench: Any, lease_id: str) -> int:
    record = JobFolder(bench.folder / "jobs" / lease_id).record("shepherd")
    assert record
    return int(record["pid"])


def alive(pid: int) -> bool:
    process = process_table().get(pid)
    return process is not None and not process.dead


async def gone(pid: int) -> None:
    while alive(pid):
        await asyncio.sleep(0.01)


async def test_one_shepherd_takes_one_job_after_the_other_and_keeps_nothing_of_it(bench: Any) -> None:
    show = "import os; print(sorted(os.listdir('/proc/self/fd'))[:3], os.environ['FASTGPU_LEASE_ID'], os.getcwd())"
    outputs = [await bench.run(show, f"j{number}") for number in range(1, 4)]
    assert outputs == [f"['0', '1', '2'] j{number} {bench.work(f'j{number}')}\n" for number in range(1, 4)]
    assert len({shepherd_of(bench, f"j{number}") for number in range(1, 4)}) == 1


async def test_what_a_job_left_running_is_gone_before_its_shepherd_has_another_one(bench: Any) -> None:
    stays = (
        "import os, time\nif os.fork() == 0:\n    os.setsid(); open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    )
    await bench.run(f"{stays}\nwhile not os.path.exists('pid'): time.sleep(0.01)", "j1")
    left = int((bench.work("j1") / "pid").read_text())
    assert not alive(left)
    assert await bench.run("print('next')", "j2") == "next\n"
    assert shepherd_of(bench, "j1") == shepherd_of(bench, "j2")


async def test_a_stop_of_a_job_that_has_just_ended_does_not_reach_the_next_one(bench: Any) -> None:
    await bench.run("print(1)", "j1")
    folder = JobFolder(bench.folder / "jobs" / "j1")
    folder.write("stop", {"grace_ms": 0})
    os.kill(shepherd_of(bench, "j1"), signal.SIGTERM)  # late: it has no job any more
    assert await bench.run("import time; time.sleep(0.2); print('whole')", "j2") == "whole\n"
    assert (await bench.until("exited", "j2")).exit_code == 0


async def test_an_idle_shepherd_that_was_killed_is_replaced(bench: Any) -> None:
    await bench.run("print(1)", "j1")
    first = shepherd_of(bench, "j1")
    os.kill(first, signal.SIGKILL)
    assert await bench.run("print(2)", "j2") == "2\n"
    assert shepherd_of(bench, "j2") != first


async def test_a_job_whose_shepherd_dies_before_it_begins_anything_gets_another_one(bench: Any) -> None:
    """Stopped before it can read the job, then killed: its message, and the lock with it, are gone."""
    await bench.run("print(1)", "j1")
    first = shepherd_of(bench, "j1")
    os.kill(first, signal.SIGSTOP)
    await bench.start("open('runs', 'a').write('x'); print('once')", "j2")
    await asyncio.sleep(0.1)
    assert JobFolder(bench.folder / "jobs" / "j2").locked()
    os.kill(first, signal.SIGKILL)
    exited = await bench.until("exited", "j2")
    assert (exited.exit_code, bench.log("j2")) == (0, "once\n")
    assert (bench.work("j2") / "runs").read_text() == "x"


@pytest.mark.slow
async def test_a_fork_server_killed_amid_starts_loses_and_doubles_nothing(bench: Any) -> None:
    """Again and again while jobs come; each runs exactly once, those that run go on."""
    await bench.start(WAITS, "long")
    await bench.log_has("up", "long")
    names = [f"k{number}" for number in range(40)]
    for count, name in enumerate(names):
        await bench.start("open('runs', 'a').write('x'); print('once')", name)
        if count % 4 == 0:
            for line in bench.engine.shepherds._idle:
                line.close()  # each has to be forked
            bench.engine.shepherds._idle.clear()
            await asyncio.sleep(0)
            if (server := bench.engine.shepherds.fork_server) is not None:
                os.kill(server, signal.SIGKILL)
    for name in names:
        exited = await bench.until("exited", name)
        assert (exited.ending, exited.exit_code, bench.log(name)) == ("exit", 0, "once\n"), name
        assert (bench.work(name) / "runs").read_text() == "x"
    (bench.work("long") / "go").touch()
    assert (await bench.until("exited", "long")).exit_code == 0


async def test_no_shepherd_at_all_is_told_as_no_fault_of_the_job(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def main():\n    raise SystemExit(1)\n")
    monkeypatch.setattr(forking.shepherd, "__file__", str(broken))
    monkeypatch.setattr("fastgpu_hub.engines.watching.POLL_SECONDS", 0.01)
    await bench.engine.close()
    await bench.open()
    await bench.start("print('never')")
    exited = await bench.until("exited")
    assert (exited.ending, exited.reason.code) == ("failed_to_start", "engine_fault")
    assert exited.reason.message == "Its supervising process could not be started."
    assert bench.log() == ""


async def test_shepherds_outlive_the_service_with_their_jobs_and_end_without(bench: Any) -> None:
    await bench.start(WAITS, "j1")
    await bench.log_has("up", "j1")
    await bench.run("print(2)", "j2")
    busy, idle, server = shepherd_of(bench, "j1"), shepherd_of(bench, "j2"), bench.engine.shepherds.fork_server
    await bench.engine.close()
    await gone(idle)
    await gone(server)
    assert alive(busy)
    await bench.open()
    (bench.work("j1") / "go").touch()
    assert (await bench.until("exited", "j1")).exit_code == 0
    await gone(busy)


async def test_a_shepherd_whose_folder_was_removed_does_not_wait_for_it(bench: Any) -> None:
    await bench.start(WAITS, "j1")
    await bench.log_has("up", "j1")
    shepherd, root = shepherd_of(bench, "j1"), (await bench.until("running", "j1")).pid
    await bench.engine.close()
    shutil.rmtree(bench.folder / "jobs" / "j1")
    os.kill(root, signal.SIGKILL)
    await asyncio.wait_for(gone(shepherd), 5)
    await bench.open()


async def test_whoever_waits_for_output_hears_of_it_at_once(bench: Any) -> None:
    """Also who waits since before there is a job, and of a job from before a restart."""
    heard = asyncio.Event()
    stop = bench.engine.on_log("j1", heard.set)
    await bench.start(f"{WAITS}\nprint('more', flush=True); time.sleep(60)")
    await asyncio.wait_for(heard.wait(), 5)
    await bench.log_has("up")
    stop()
    await bench.restart()
    heard.clear()
    stop = bench.engine.on_log("j1", heard.set)
    began = time.monotonic()
    (bench.work() / "go").touch()
    await asyncio.wait_for(heard.wait(), 5)
    assert time.monotonic() - began < 2
    await bench.log_has("more")
    stop()
    heard.clear()
    assert bench.engine._log_news._followed == {}
    await bench.engine.stop("j1", 0)
    await bench.until("exited")
    assert not heard.is_set()


@pytest.mark.slow
async def test_many_jobs_lose_no_line_and_leave_no_zombie(bench: Any) -> None:
    """500 of them; as many as FASTGPU_JOBS says."""
    slots = asyncio.Semaphore(AT_ONCE)
    code = "i=0; while [ $i -lt 20 ]; do echo $0 line $i; i=$((i+1)); done; (sleep 0; echo $0 last) & wait"

    async def one(name: str) -> None:
        async with slots:
            await bench.start("", name, argv=("/bin/sh", "-c", code, name))
            exited = await bench.until("exited", name)
        assert (exited.ending, exited.exit_code) == ("exit", 0)
        assert bench.log(name) == "".join(f"{name} line {n}\n" for n in range(20)) + f"{name} last\n"
        bench.seen = [seen for seen in bench.seen if seen.lease_id != name]

    await asyncio.gather(*[one(f"m{number}") for number in range(JOBS)])
    ours = {os.getpid(), bench.engine.shepherds.fork_server}
    assert [pid for pid, process in process_table().items() if process.dead and process.parent in ours] == []
    assert len([p for p in process_table().values() if p.parent in ours]) <= forking.MOST_IDLE + 1
