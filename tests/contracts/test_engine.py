"""What every engine keeps, whatever it runs jobs on. Each engine comes with a driver that says what its jobs do."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fastgpu_hub.broker.ports.world import Engine, FileEntry, Launch, Observation, Reported
from fastgpu_hub.engines.fake import FakeEngine
from fastgpu_hub.engines.local import LocalEngine

# Follows orders that arrive as files in its working folder.
OBEDIENT_JOB = """
import os, pathlib, sys, time
print('hello', flush=True)
while True:
    for order in pathlib.Path('.').glob('*.order'):
        text = order.read_text()
        order.unlink()
        if order.stem == 'exit':
            sys.exit(int(text))
        elif order.stem == 'progress':
            pathlib.Path(os.environ['FASTGPU_PROGRESS_FILE']).write_text(text)
        elif order.stem == 'checkpoint':
            pathlib.Path(os.environ['FASTGPU_CHECKPOINT_DIR'], 'epoch.pt').write_text(text)
        elif order.stem == 'metric':
            with open(os.environ['FASTGPU_METRICS_FILE'], 'a') as file:
                file.write(text)
        elif order.stem == 'file':
            pathlib.Path('out').mkdir()
            pathlib.Path('out/result.txt').write_text(text)
    time.sleep(0.005)
"""


class Driver:
    """An open engine, what it has reported, and how to make its jobs do something."""

    engine: Engine

    def __init__(self) -> None:
        self.seen: list[Observation] = []
        self._news = asyncio.Event()

    def notify(self, observation: Observation) -> None:
        self.seen.append(observation)
        self._news.set()

    async def until(self, lease_id: str, state: str) -> Observation:
        while True:
            for observation in self.seen:
                if (observation.lease_id, observation.state) == (lease_id, state):
                    return observation
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 20)

    def launch(self, lease_id: str = "lease1", **changes: Any) -> Launch:
        values: dict[str, Any] = {
            "lease_id": lease_id,
            "owner": "alice",
            "kind": "command",
            "argv": (sys.executable, "-S", "-c", OBEDIENT_JOB),
            "gpu_uuids": ("GPU-1", "GPU-2"),
            "time_limit_ms": 60_000,
        }
        return Launch(**values | changes)

    async def order(self, lease_id: str, what: str, text: str) -> None:
        raise NotImplementedError

    async def let_time_pass(self, milliseconds: int) -> None:
        raise NotImplementedError


class FakeDriver(Driver):
    def __init__(self) -> None:
        super().__init__()
        self.now_ms = 1_000_000
        self.engine = self.fake = FakeEngine(lambda: self.now_ms)

    async def until(self, lease_id: str, state: str) -> Observation:
        if state == "running" and not self.fake.log_size(lease_id):
            self.fake.write_log(lease_id, b"hello\n")
        return await super().until(lease_id, state)

    async def order(self, lease_id: str, what: str, text: str) -> None:
        if what == "exit":
            self.fake.finish(lease_id, int(text))
        elif what == "progress":
            self.fake.set_progress(lease_id, float(text))
        elif what == "checkpoint":
            self.fake.put_checkpoint(lease_id, "epoch.pt", text.encode())
        elif what == "metric":
            self.fake.log_metric(lease_id, **json.loads(text))
        else:
            self.fake.put_file(lease_id, "out/result.txt", text.encode())

    async def let_time_pass(self, milliseconds: int) -> None:
        self.now_ms += milliseconds
        self.fake.tick()


class LocalDriver(Driver):
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.engine = LocalEngine(state_dir=str(folder), stop_grace_seconds=0.2, stop_jobs_on_exit=True)

    async def order(self, lease_id: str, what: str, text: str) -> None:
        order = self.folder / "jobs" / lease_id / "work" / f"{what}.order"
        order.with_suffix(".new").write_text(text)
        order.with_suffix(".new").rename(order)
        while order.exists():
            await asyncio.sleep(0.005)

    async def let_time_pass(self, milliseconds: int) -> None:
        await asyncio.sleep(milliseconds / 1000)


@pytest.fixture(params=["fake", "local"])
async def driver(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Driver]:
    driver = FakeDriver() if request.param == "fake" else LocalDriver(tmp_path)
    assert await driver.engine.open(driver.notify) == []
    yield driver
    await driver.engine.close()


async def eventually(value: Any, expected: Any) -> None:
    for _ in range(1000):
        if value() == expected:
            return
        await asyncio.sleep(0.01)
    assert value() == expected


async def test_a_job_runs_and_ends_with_its_exit_code(driver: Driver) -> None:
    await driver.engine.start(driver.launch())
    running = await driver.until("lease1", "running")
    assert running.started_ms is not None
    assert (await driver.engine.observe("lease1")).state == "running"
    await driver.order("lease1", "exit", "7")
    exited = await driver.until("lease1", "exited")
    assert (exited.exit_code, exited.ending, exited.reason) == (7, "exit", None)
    assert exited.started_ms == running.started_ms
    assert exited.ended_ms is not None
    assert exited.started_ms <= exited.ended_ms <= exited.at_ms
    again = await driver.engine.observe("lease1")
    assert (again.state, again.exit_code, again.ended_ms) == ("exited", 7, exited.ended_ms)
    assert [observation.state for observation in driver.seen] == ["running", "exited"]


async def test_a_job_at_its_time_limit_is_ended(driver: Driver) -> None:
    await driver.engine.start(driver.launch(time_limit_ms=150))
    running = await driver.until("lease1", "running")
    await driver.let_time_pass(150)
    exited = await driver.until("lease1", "exited")
    assert exited.ending == "timed_out"
    assert exited.reason is not None
    assert exited.reason.code == "time_limit"
    assert (exited.ended_ms or 0) - (running.started_ms or 0) >= 150


async def test_a_stop_ends_a_job_once_however_often_it_is_asked(driver: Driver) -> None:
    await driver.engine.start(driver.launch())
    await driver.until("lease1", "running")
    await driver.engine.stop("lease1", 5)
    await driver.engine.stop("lease1", 5)
    exited = await driver.until("lease1", "exited")
    assert (exited.ending, exited.exit_code) == ("stopped", 143)
    await driver.engine.stop("lease1", 5)
    assert [observation.state for observation in driver.seen] == ["running", "exited"]


async def test_a_stop_right_after_the_start_ends_the_job_too(driver: Driver) -> None:
    await driver.engine.start(driver.launch())
    await driver.engine.stop("lease1", 5)
    assert (await driver.until("lease1", "exited")).ending == "stopped"


async def test_starting_twice_is_one_job(driver: Driver) -> None:
    launch = driver.launch()
    await asyncio.gather(driver.engine.start(launch), driver.engine.start(launch))
    await driver.until("lease1", "running")
    await driver.engine.start(launch)
    await driver.order("lease1", "exit", "0")
    await driver.until("lease1", "exited")
    await driver.engine.start(launch)
    await asyncio.sleep(0.1)
    assert [observation.state for observation in driver.seen] == ["running", "exited"]
    assert driver.engine.read_log("lease1", 0, 1000) == b"hello\n"


async def test_an_unknown_lease_is_absent(driver: Driver) -> None:
    assert (await driver.engine.observe("nobody")).state == "absent"
    await driver.engine.stop("nobody", 1)
    assert driver.seen == []
    assert driver.engine.log_size("nobody") == 0
    assert driver.engine.read_log("nobody", 0, 10) == b""
    assert driver.engine.progress("nobody") is None
    assert driver.engine.files("nobody") == []
    assert driver.engine.read_file("nobody", "a") is None
    assert driver.engine.root_pids("nobody") == []


async def test_the_log_is_read_from_an_offset(driver: Driver) -> None:
    await driver.engine.start(driver.launch())
    await driver.until("lease1", "running")
    await eventually(lambda: driver.engine.log_size("lease1"), 6)
    assert driver.engine.read_log("lease1", 0, 4) == b"hell"
    assert driver.engine.read_log("lease1", 4, 100) == b"o\n"
    assert driver.engine.read_log("lease1", 6, 100) == b""


async def test_progress_is_what_the_job_reports(driver: Driver) -> None:
    await driver.engine.start(driver.launch())
    await driver.until("lease1", "running")
    assert driver.engine.progress("lease1") is None
    await driver.order("lease1", "progress", "0.25")
    await eventually(lambda: driver.engine.progress("lease1"), 0.25)


async def test_figures_come_as_the_job_wrote_them(driver: Driver) -> None:
    await driver.engine.start(driver.launch())
    await driver.until("lease1", "running")
    assert driver.engine.metrics("lease1") == driver.engine.metrics("nobody") == Reported()
    for step in range(2):
        await driver.order("lease1", "metric", json.dumps({"name": "loss", "value": 0.5, "step": step}) + "\n")
    await eventually(lambda: driver.engine.metrics("lease1").data.count(b"\n"), 2)
    reported = driver.engine.metrics("lease1")
    assert reported.size_bytes == len(reported.data)
    assert [json.loads(line)["step"] for line in reported.data.splitlines()] == [0, 1]


async def test_inputs_come_and_files_stay(driver: Driver) -> None:
    data = b"x" * 100_000
    sha256 = hashlib.sha256(data).hexdigest()
    assert not driver.engine.has_blob(sha256)
    await driver.engine.put_blob(sha256, [data[:10], data[10:]])
    assert driver.engine.has_blob(sha256)
    await driver.engine.start(driver.launch(inputs={"data/in.bin": sha256}))
    await driver.until("lease1", "running")
    assert driver.engine.read_file("lease1", "data/in.bin") == data
    await driver.order("lease1", "file", "42")
    await driver.order("lease1", "exit", "0")
    await driver.until("lease1", "exited")
    assert driver.engine.files("lease1") == [FileEntry("data/in.bin", len(data)), FileEntry("out/result.txt", 2)]
    assert driver.engine.read_file("lease1", "out/result.txt") == b"42"
    assert driver.engine.read_file("lease1", "out/nothing.txt") is None


async def test_save_points_are_there_for_every_attempt_and_listed_with_each(driver: Driver) -> None:
    await driver.engine.start(driver.launch())
    await driver.until("lease1", "running")
    await driver.order("lease1", "checkpoint", "epoch 3")
    await driver.order("lease1", "exit", "1")
    await driver.until("lease1", "exited")
    await driver.engine.start(driver.launch("lease2", checkpoint_id="lease1", attempt=2))
    await driver.engine.start(driver.launch("lease3"))
    for lease_id in ("lease2", "lease3"):
        await driver.until(lease_id, "running")
    for lease_id, expected in (("lease1", b"epoch 3"), ("lease2", b"epoch 3"), ("lease3", None)):
        assert driver.engine.read_file(lease_id, "@checkpoints/epoch.pt") == expected
        listed = [FileEntry("@checkpoints/epoch.pt", 7)] if expected else []
        assert driver.engine.files(lease_id) == listed
    await asyncio.to_thread(driver.engine.remove_jobs, ["lease1"])
    assert driver.engine.read_file("lease2", "@checkpoints/epoch.pt") == b"epoch 3"


async def test_bytes_under_a_wrong_hash_are_refused(driver: Driver) -> None:
    sha256 = hashlib.sha256(b"right").hexdigest()
    with pytest.raises(ValueError, match="SHA-256"):
        await driver.engine.put_blob(sha256, [b"wrong"])
    assert not driver.engine.has_blob(sha256)


async def test_a_job_whose_input_is_missing_does_not_start(driver: Driver) -> None:
    await driver.engine.start(driver.launch(inputs={"train.py": "0" * 64}))
    exited = await driver.until("lease1", "exited")
    assert (exited.ending, exited.started_ms, exited.exit_code) == ("failed_to_start", None, None)
    assert exited.reason is not None
    assert "'train.py'" in exited.reason.message
    assert (await driver.engine.observe("lease1")).ending == "failed_to_start"


async def test_jobs_are_independent(driver: Driver) -> None:
    for lease_id in ("a", "b", "c"):
        await driver.engine.start(driver.launch(lease_id))
    for lease_id in ("a", "b", "c"):
        await driver.until(lease_id, "running")
    await driver.order("b", "exit", "3")
    assert (await driver.until("b", "exited")).exit_code == 3
    assert (await driver.engine.observe("a")).state == "running"
    assert (await driver.engine.observe("c")).state == "running"


async def test_a_closed_engine_starts_nothing(driver: Driver) -> None:
    await driver.engine.close()
    with pytest.raises(RuntimeError, match="not open"):
        await driver.engine.start(driver.launch())


async def test_a_file_is_opened_to_be_read_piece_by_piece(driver: Driver) -> None:
    await driver.engine.start(driver.launch())
    await driver.until("lease1", "running")
    await driver.order("lease1", "file", "42 is the answer")
    await eventually(lambda: driver.engine.read_file("lease1", "out/result.txt"), b"42 is the answer")
    file = driver.engine.open_file("lease1", "out/result.txt")
    assert file is not None
    with file:
        assert (file.read(2), file.read(100)) == (b"42", b" is the answer")
    for path in ("out/none", "../records", "/etc/passwd", "out"):
        assert driver.engine.open_file("lease1", path) is None
    assert driver.engine.open_file("lease9", "out/result.txt") is None


async def test_bytes_that_are_written_lie_under_their_hash_and_of_a_broken_write_nothing_does(driver: Driver) -> None:
    def write(file: Any) -> None:
        file.write(b"fetched ")
        file.write(b"data")

    def broken(file: Any) -> None:
        file.write(b"half")
        raise OSError("the line is cut")

    sha256 = await asyncio.to_thread(driver.engine.add_blob, write)
    assert sha256 == hashlib.sha256(b"fetched data").hexdigest()
    assert driver.engine.has_blob(sha256)
    with pytest.raises(OSError, match="the line is cut"):
        await asyncio.to_thread(driver.engine.add_blob, broken)
    assert not driver.engine.has_blob(hashlib.sha256(b"half").hexdigest())


async def test_an_ended_job_is_removed_with_its_log_and_one_that_lives_is_not(driver: Driver) -> None:
    for lease_id in ("lease1", "lease2"):
        await driver.engine.start(driver.launch(lease_id))
        await driver.until(lease_id, "running")
        await driver.order(lease_id, "file", "42")
        await eventually(lambda lease_id=lease_id: driver.engine.read_file(lease_id, "out/result.txt"), b"42")
    await driver.order("lease1", "exit", "0")
    await driver.until("lease1", "exited")
    for _ in range(2):  # again, after it was interrupted
        await asyncio.to_thread(driver.engine.remove_jobs, ["lease1", "lease2", "lease9"], ["lease1"])
    assert (driver.engine.files("lease1"), driver.engine.log_size("lease1")) == ([], 0)
    assert (await driver.engine.observe("lease1")).state == "absent"
    assert driver.engine.read_file("lease2", "out/result.txt") == b"42"
    assert (await driver.engine.observe("lease2")).state == "running"


async def test_only_bytes_that_nobody_names_and_that_are_old_are_swept(driver: Driver) -> None:
    hashes = [await asyncio.to_thread(driver.engine.add_blob, lambda file, n=n: file.write(b"%d" % n)) for n in (1, 2)]
    now_ms = (await driver.engine.observe("lease1")).at_ms
    assert driver.engine.sweep_blobs([hashes[0]], now_ms - 60_000) == 0
    assert driver.engine.sweep_blobs([hashes[0]], now_ms + 60_000) == 1
    assert [driver.engine.has_blob(sha256) for sha256 in hashes] == [True, False]
