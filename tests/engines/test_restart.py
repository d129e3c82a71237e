"""A restart of the service, or of the machine, loses no job and takes none for stopped that is not."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

from fastgpu_hub.engines.job_folder import JobFolder
from fastgpu_hub.engines.shepherd import process_table

WAITS = """
import os, sys, time
print('ready', flush=True)
while not os.path.exists('go'):
    time.sleep(0.01)
print('went', flush=True)
sys.exit(4)
"""


async def test_a_running_job_is_adopted_with_its_exit_code(bench: Any) -> None:
    await bench.start(WAITS)
    running = await bench.until("running")
    known = await bench.restart()
    assert (known.state, known.started_ms, known.pid) == ("running", running.started_ms, running.pid)
    assert bench.engine.root_pids("j1") == [running.pid]
    (bench.work() / "go").touch()
    exited = await bench.until("exited")
    assert (exited.exit_code, exited.ending, exited.started_ms) == (4, "exit", running.started_ms)
    assert bench.log() == "ready\nwent\n"


async def test_an_adopted_job_can_be_stopped(bench: Any) -> None:
    await bench.start(WAITS)
    await bench.until("running")
    await bench.restart()
    await bench.engine.stop("j1", 5)
    assert (await bench.until("exited")).ending == "stopped"


async def test_a_job_that_ended_while_the_service_was_away_is_reported_on_opening(bench: Any) -> None:
    await bench.start(WAITS)
    await bench.log_has("ready")

    def meanwhile() -> None:
        (bench.work() / "go").touch()
        while JobFolder(bench.folder / "jobs/j1").record("exit") is None:
            time.sleep(0.01)
        time.sleep(0.05)

    known = await bench.restart(meanwhile)
    assert (known.state, known.exit_code, known.ending) == ("exited", 4, "exit")
    assert known.ended_ms < known.at_ms
    await asyncio.sleep(0.05)
    assert bench.seen == []


async def test_the_time_limit_holds_while_the_service_is_away(bench: Any) -> None:
    await bench.start(WAITS, time_limit_ms=300)
    await bench.until("running")

    def meanwhile() -> None:
        while JobFolder(bench.folder / "jobs/j1").record("exit") is None:
            time.sleep(0.01)
        time.sleep(0.05)

    assert (await bench.restart(meanwhile)).ending == "timed_out"


async def test_an_adopted_job_is_not_started_again(bench: Any) -> None:
    await bench.start(WAITS)
    await bench.log_has("ready")
    await bench.restart()
    await bench.start(WAITS)
    (bench.work() / "go").touch()
    await bench.until("exited")
    await bench.start(WAITS)
    await asyncio.sleep(0.1)
    assert bench.log() == "ready\nwent\n"


async def test_a_job_that_ran_when_the_machine_was_restarted_is_known_gone(bench: Any) -> None:
    await bench.start(WAITS)
    await bench.until("running")
    folder = JobFolder(bench.folder / "jobs" / "j1")
    shepherd = folder.record("shepherd")
    assert shepherd

    def meanwhile() -> None:
        os.kill(shepherd["pid"], signal.SIGKILL)
        while (process := process_table().get(shepherd["pid"])) is not None and not process.dead:
            time.sleep(0.01)
        folder.write("shepherd", shepherd | {"boot_id": "an earlier boot"})
        os.utime(folder.path / "records", (2_000_000, 2_000_000))

    await bench.restart(meanwhile)
    exited = await bench.until("exited")
    assert (exited.ending, exited.ended_ms) == ("killed", 2_000_000_000)
    assert exited.reason.message == "The machine was restarted while the job ran."


async def test_a_start_that_was_cut_off_before_anything_ran_is_absent_and_can_be_repeated(bench: Any) -> None:
    folder = bench.folder / "jobs" / "j1"
    (folder / "work" / "data").mkdir(parents=True)
    (folder / "work" / "data" / "half").write_text("half an input")
    JobFolder(folder).write("launch", {"argv": ["/bin/false"]})
    cut_off = '\nshepherd {"pid": 1, "start_ti'  # the machine went away while this was written
    (folder / "records").write_text((folder / "records").read_text() + cut_off)
    await bench.engine.close()
    await bench.open()
    assert bench.known == []
    assert (await bench.engine.observe("j1")).state == "absent"
    assert await bench.run("import os; print(os.listdir())") == "[]\n"


async def test_jobs_can_be_stopped_with_the_service(bench: Any) -> None:
    await bench.engine.close()
    await bench.open(stop_jobs_on_exit=True)
    await bench.start(WAITS)
    pid = (await bench.until("running")).pid
    await bench.engine.close()
    assert pid not in process_table()
    assert JobFolder(bench.folder / "jobs" / "j1").record("exit")["ending"] == "stopped"  # type: ignore[index]


async def test_closing_while_a_job_is_being_started_does_not_lose_it(bench: Any) -> None:
    await bench.start(WAITS)
    known = await bench.restart()
    assert known.state in ("starting", "running")
    assert known.state == "running" or await bench.until("running")
    (bench.work() / "go").touch()
    assert (await bench.until("exited")).exit_code == 4
