"""The Python a job runs on: a listed environment, or one made from its lock file, once for all who bring the same."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fastgpu_hub.engines.job_folder import JobFolder

pytestmark = pytest.mark.slow


@pytest.fixture
def wheels(tmp_path: Path, make_wheel: Any) -> Path:
    folder = tmp_path / "wheels"
    make_wheel(folder, "greeting", "1.0", "TEXT = 'hello from the lock file'\n")
    make_wheel(folder, "greeting", "2.0", "TEXT = 'hello from the second one'\n")
    return folder


@pytest.fixture
async def locked(bench: Any, wheels: Path) -> Any:
    """A bench whose engine installs from the wheels alone; ``bench.locked(lock)`` runs a job with that lock file."""
    await bench.engine.close()
    bench.settings |= {"pip_options": ["--no-index", f"--find-links={wheels}"]}
    await bench.open()

    async def start(
        lock: str, lease_id: str = "j1", code: str = "import greeting; print(greeting.TEXT)", **more: Any
    ) -> None:
        inputs = {}
        for path, text in (("requirements.txt", lock), ("main.py", code)):
            sha256 = hashlib.sha256(text.encode()).hexdigest()
            await bench.engine.put_blob(sha256, [text.encode()])
            inputs[path] = sha256
        values = {"kind": "script", "argv": ("main.py",), "inputs": inputs, "lock": "requirements.txt", **more}
        await bench.start("", lease_id, **values)

    bench.locked = start
    return bench


def made(bench: Any) -> list[Path]:
    return sorted((bench.folder / "environments").glob("*/complete.json"))


async def test_a_job_runs_on_what_its_lock_file_pins_and_its_log_tells_how_long_that_took(locked: Any) -> None:
    await locked.locked("greeting==1.0\n")
    ended = await locked.until("exited")
    log = locked.log()
    assert ended.exit_code == 0, log
    lines = log.splitlines()
    assert lines[0] == "[fastgpu] preparing environment from requirements.txt (1 packages) …"
    assert "Successfully installed greeting-1.0" in log
    assert lines[-2].startswith("[fastgpu] preparing environment … ")
    assert lines[-2].endswith(" s")
    assert lines[-1] == "hello from the lock file"
    assert made(locked)[0].stat().st_ctime * 1000 <= ended.started_ms  # made before the start, so not billed


async def test_the_same_lock_file_is_installed_once_also_by_jobs_that_come_together(locked: Any) -> None:
    for number in range(3):
        await locked.locked("greeting==1.0\n", f"j{number}")
    for number in range(3):
        assert (await locked.until("exited", f"j{number}")).exit_code == 0
    assert len(made(locked)) == 1
    built = made(locked)[0].stat().st_ino
    await locked.locked("# the same\ngreeting == 1.0", "j9")
    assert (await locked.until("exited", "j9")).exit_code == 0
    assert locked.log("j9") == "hello from the lock file\n"
    assert made(locked)[0].stat().st_ino == built
    await locked.locked("greeting==2.0\n", "j10")
    assert (await locked.until("exited", "j10")).exit_code == 0
    assert locked.log("j10").endswith("hello from the second one\n")
    assert len(made(locked)) == 2


async def test_a_lock_file_that_cannot_be_installed_fails_the_job_with_the_last_lines(locked: Any) -> None:
    await locked.locked("nosuch==1.0\n")
    ended = await locked.until("exited")
    assert (ended.ending, ended.started_ms) == ("failed_to_start", None)
    assert "No matching distribution found for nosuch==1.0" in ended.reason.message
    assert "No matching distribution found for nosuch==1.0" in locked.log()
    assert made(locked) == []
    assert list((locked.folder / "environments").iterdir()) == []
    began = time.monotonic()
    await locked.locked("nosuch==1.0\n", "j2")
    assert "No matching distribution" in (await locked.until("exited", "j2")).reason.message
    assert time.monotonic() - began < 1  # remembered for a while


async def test_a_wrong_hash_is_not_installed(locked: Any) -> None:
    await locked.locked(f"greeting==1.0 --hash=sha256:{'0' * 64}\n")
    ended = await locked.until("exited")
    assert ended.ending == "failed_to_start"
    assert "THESE PACKAGES DO NOT MATCH THE HASHES" in locked.log()


async def test_options_in_a_lock_file_never_reach_pip(locked: Any) -> None:
    await locked.locked("-r /etc/shadow\n")
    ended = await locked.until("exited")
    assert "holds the option '-r /etc/shadow'" in ended.reason.message
    assert "root:" not in ended.reason.message + locked.log()


async def test_no_code_of_a_package_runs_while_it_is_installed(
    locked: Any, wheels: Path, tmp_path: Path, make_wheel: Any
) -> None:
    trap = f"open({str(tmp_path / 'ran')!r}, 'a').write('x')"
    make_wheel(wheels, "trap", "1.0", trap, **{"trap.pth": f"import sys; {trap}\n"})
    source = wheels / "sdist-1.0.tar.gz"
    source.write_bytes(b"not a wheel")
    await locked.locked("trap==1.0\n", code="import trap")
    while not made(locked):
        assert not (tmp_path / "ran").exists()
        await asyncio.sleep(0.02)
    assert not (tmp_path / "ran").exists() or JobFolder(locked.folder / "jobs/j1").record("started")
    assert (await locked.until("exited")).exit_code == 0
    assert (tmp_path / "ran").exists()
    await locked.locked("sdist==1.0\n", "j2")
    assert (await locked.until("exited", "j2")).ending == "failed_to_start"


async def test_a_job_stopped_while_its_environment_is_made_never_starts_and_the_making_ends(
    locked: Any, tmp_path: Path
) -> None:
    await _slow_pip(locked, tmp_path)
    await locked.locked("greeting==1.0\n")
    await locked.log_has("installing slowly")
    await locked.engine.stop("j1", 0)
    ended = await locked.until("exited")
    assert (ended.ending, ended.started_ms) == ("stopped", None)
    for _ in range(200):
        if not list((locked.folder / "environments").iterdir()):
            break
        await asyncio.sleep(0.01)
    assert list((locked.folder / "environments").iterdir()) == []
    assert not _alive(int((tmp_path / "pid").read_text()))


async def _slow_pip(bench: Any, tmp_path: Path) -> None:
    """Instead of venv and pip a program that says something and then hangs."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\necho installing slowly\nexec sleep 60\n")
    python.chmod(0o755)
    await bench.engine.close()
    await bench.open(python=str(python))


def _alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False


async def test_a_service_that_closes_leaves_the_making_to_the_next_one(locked: Any, tmp_path: Path) -> None:
    await _slow_pip(locked, tmp_path)
    await locked.locked("greeting==1.0\n")
    await locked.log_has("installing slowly")
    began = time.monotonic()
    await locked.engine.close()
    assert time.monotonic() - began < 5
    assert not _alive(int((tmp_path / "pid").read_text()))
    await locked.open()
    assert (await locked.engine.observe("j1")).state == "absent"
    await locked.locked("greeting==1.0\n")
    assert (await locked.until("exited")).exit_code == 0
    assert locked.log().count("hello from the lock file") == 1


async def test_making_that_takes_too_long_fails_the_job(locked: Any, tmp_path: Path) -> None:
    locked.settings["environment_seconds"] = 1
    await _slow_pip(locked, tmp_path)
    await locked.locked("greeting==1.0\n")
    ended = await locked.until("exited")
    assert ended.reason.message == "The environment was not ready after 1 seconds."


async def test_the_event_loop_answers_while_environments_are_made(locked: Any) -> None:
    lags = []

    async def watch() -> None:
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.01)
            lags.append(time.monotonic() - began - 0.01)

    watching = asyncio.create_task(watch())
    await locked.locked("greeting==1.0\n")
    await locked.until("exited")
    watching.cancel()
    assert sorted(lags)[int(len(lags) * 0.99)] < 0.1


async def test_environments_used_longest_ago_make_room_and_one_in_use_stays(locked: Any) -> None:
    await locked.locked("greeting==1.0\n", code="import time; time.sleep(30)")
    await locked.until("running")
    used = made(locked)[0]
    size = int(used.read_text().split(":")[1].split(",")[0])
    old = locked.folder / "environments" / ("0" * 32)
    shutil.copytree(used.parent, old, symlinks=True)
    for marker in made(locked):
        os.utime(marker, (1, 1))
    await locked.engine.close()
    await locked.open(max_environment_bytes=size * 2 + size // 2)
    await locked.locked("greeting==2.0\n", "j2")
    assert (await locked.until("exited", "j2")).exit_code == 0
    assert not old.exists()
    assert used.exists()
    await locked.engine.close()
    await locked.open(max_environment_bytes=1000)
    await locked.locked("greeting==1.0\ngreeting==1.0 ; python_version < '4'\n", "j3")
    assert "at most 1000 are kept" in (await locked.until("exited", "j3")).reason.message


async def test_a_listed_environment_is_chosen_by_its_name(bench: Any, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.symlink_to(sys.executable)
    await bench.engine.close()
    await bench.open(environments={"torch": str(other)})
    assert list(bench.engine.environment_names()) == ["torch"]
    data = b"import sys; print(sys.orig_argv[0])"
    sha256 = hashlib.sha256(data).hexdigest()
    await bench.engine.put_blob(sha256, [data])
    script = {"kind": "script", "argv": ("main.py",), "inputs": {"main.py": sha256}}
    assert await bench.run("", "j1", **script, python="torch") == f"{other}\n"
    assert await bench.run("", "j2", **script) == f"{sys.executable}\n"
    await bench.start("", "j3", **script, python="gone")
    assert "no environment 'gone' any more" in (await bench.until("exited", "j3")).reason.message


async def test_a_notebook_without_its_runner_in_the_lock_file_is_told_what_is_missing(locked: Any) -> None:
    await locked.locked("greeting==1.0\n", kind="notebook", argv=("main.ipynb",))
    assert "does not bring fastgpu-hub" in (await locked.until("exited")).reason.message
