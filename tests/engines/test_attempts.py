"""What an attempt finds of the one before, how long it has to end, and whose fault it is that it did not start."""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from fastgpu_hub.broker.ports.world import ENGINE_FAULT
from fastgpu_hub.engines import launching

SLOW_TO_END = """
import os, pathlib, signal, time
def stop(*_):
    for number in range(600):
        with pathlib.Path(os.environ['FASTGPU_CHECKPOINT_DIR'], 'saved').open('a') as file:
            file.write('x')
        time.sleep(.01)
signal.signal(signal.SIGTERM, stop)
print('ready', flush=True)
while True:
    time.sleep(.01)
"""


async def test_a_job_is_given_its_parameters_attempt_grace_and_checkpoint_folder(bench: Any) -> None:
    code = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('FASTGPU_')}))"
    launch = {"parameters": {"lr": "1e-3", "name": "résnet"}, "grace_ms": 1500, "checkpoint_id": "j0", "attempt": 2}
    found = json.loads(await bench.run(code, **launch))
    assert json.loads(found["FASTGPU_PARAMETERS"]) == {"lr": "1e-3", "name": "résnet"}
    assert (found["FASTGPU_ATTEMPT"], found["FASTGPU_GRACE_SECONDS"]) == ("2", "1.5")
    assert found["FASTGPU_CHECKPOINT_DIR"] == str(bench.folder / "checkpoints/j0")
    assert (bench.folder / "checkpoints/j0").stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
@pytest.mark.parametrize("grace_ms", [150, 900])
async def test_at_its_time_limit_a_job_has_the_grace_that_it_asked_for(bench: Any, grace_ms: int) -> None:
    await bench.start(SLOW_TO_END, time_limit_ms=400, grace_ms=grace_ms)
    running, exited = await bench.until("running"), await bench.until("exited")
    assert (exited.ending, exited.exit_code) == ("timed_out", 137)
    took_ms = exited.ended_ms - running.started_ms
    assert 400 + grace_ms <= took_ms < 400 + grace_ms + 500
    assert bench.engine.read_file("j1", "@checkpoints/saved")


@pytest.mark.slow
async def test_a_stop_gives_the_grace_that_it_names(bench: Any) -> None:
    await bench.start(SLOW_TO_END)
    await bench.until("running")
    await bench.log_has("ready")
    began = time.monotonic()
    await bench.engine.stop("j1", 0.6)
    exited = await bench.until("exited")
    assert (exited.ending, exited.exit_code) == ("stopped", 137)
    assert 0.6 <= time.monotonic() - began < 1.6


async def test_a_full_disk_is_the_engines_fault_and_a_wrong_program_the_jobs(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.start("", "own", argv=("no-such-program",))
    assert (await bench.until("exited", "own")).reason.code == "failed_to_start"
    await bench.start("", "input", inputs={"a": "0" * 64})
    assert (await bench.until("exited", "input")).reason.code == "failed_to_start"

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(launching, "prepare", full)
    await bench.start("", "engine")
    exited = await bench.until("exited", "engine")
    assert (exited.ending, exited.reason.code) == ("failed_to_start", ENGINE_FAULT)
    seen = await bench.engine.observe("engine")  # from its record
    assert seen.reason.code == ENGINE_FAULT


async def test_no_link_leads_out_of_the_checkpoint_folder(bench: Any, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    code = f"""
import os
folder = os.environ['FASTGPU_CHECKPOINT_DIR']
os.symlink({str(tmp_path / "secret")!r}, os.path.join(folder, 'link'))
os.symlink('/etc', os.path.join(folder, 'etc'))
open(os.path.join(folder, 'good'), 'w').write('good')
"""
    await bench.run(code)
    assert [entry.path for entry in bench.engine.files("j1")] == ["@checkpoints/good"]
    for path in ("@checkpoints/link", "@checkpoints/etc/passwd", "@checkpoints/../j1/good", "@checkpoints/"):
        assert bench.engine.read_file("j1", path) is None


@pytest.mark.parametrize("name", ["../jobs/j1", "..", "a/b", ".x"])
async def test_a_checkpoint_folder_that_is_no_name_is_refused(bench: Any, name: str) -> None:
    with pytest.raises(ValueError, match="not a lease id"):
        await bench.start("", checkpoint_id=name)
