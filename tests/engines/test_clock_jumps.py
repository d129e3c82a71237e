"""Promise 11: how long a job ran is counted by the clock that nobody sets."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from fastgpu_hub.engines import forking, shepherd, watching

HOUR_MS, DAY_MS = 3_600_000, 86_400_000


@pytest.mark.parametrize("jump_ms", [-HOUR_MS, DAY_MS], ids=["back-an-hour", "forward-a-day"])
async def test_a_clock_set_while_a_job_runs_changes_nothing_of_its_length(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump_ms: int
) -> None:
    """The shepherd, and later the service, find the wall clock elsewhere as soon as there is a file ``jumped``."""
    jumped, program = tmp_path / "jumped", tmp_path / "shepherd_here.py"
    program.write_text(
        f"import os, runpy, sys, time\n"
        f"real = time.time_ns\n"
        f"time.time_ns = lambda: real() + {jump_ms * 10**6} * os.path.exists({str(jumped)!r})\n"
        f"globals().update(runpy.run_path({shepherd.__file__!r}))\n"
    )
    monkeypatch.setattr(forking.shepherd, "__file__", str(program))
    await bench.engine.close()
    await bench.open()
    await bench.start("import time; print('here', flush=True); time.sleep(0.5)")
    started = await bench.until("running")
    await bench.log_has("here")
    jumped.touch()
    monkeypatch.setattr(watching, "wall_ms", lambda: shepherd.wall_ms() + jump_ms)
    await asyncio.sleep(0.1)
    seen = await bench.engine.observe("j1")
    assert 0 <= seen.at_ms - seen.started_ms < 10_000
    ended = await bench.until("exited")
    assert ended.started_ms == started.started_ms
    assert 500 <= ended.ended_ms - ended.started_ms < 10_000
