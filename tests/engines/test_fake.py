"""The fake engine does what it is told, on the clock it is given, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from fastgpu_hub.broker.ports.world import Launch, Observation
from fastgpu_hub.engines.fake import FakeEngine


def launch(lease_id: str, time_limit_ms: int = 1000) -> Launch:
    return Launch(lease_id, "alice", "command", ("true",), ("GPU-1",), time_limit_ms)


async def test_a_job_waits_to_be_run_when_told_so() -> None:
    seen: list[Observation] = []
    engine = FakeEngine(lambda: 5, auto_run=False)
    await engine.open(seen.append)
    await engine.start(launch("a"))
    await asyncio.sleep(0)
    assert seen == []
    assert (await engine.observe("a")).state == "starting"
    engine.run("a")
    engine.lose_sight("a")
    engine.kill("a")
    await asyncio.sleep(0)
    assert [(o.state, o.at_ms, o.started_ms) for o in seen] == [
        ("running", 5, 5),
        ("unknown", 5, 5),
        ("exited", 5, 5),
    ]
    assert [o.lease_id for o in await engine.open(seen.append)] == ["a"]
    assert [started.lease_id for started in engine.launches] == ["a"]


async def test_only_the_jobs_whose_time_is_up_end_with_the_clock() -> None:
    now = 0
    engine = FakeEngine(lambda: now)
    await engine.open(lambda _: None)
    await engine.start(launch("short", 10))
    await engine.start(launch("long", 20))
    now = 10
    engine.tick()
    assert (await engine.observe("short")).ending == "timed_out"
    assert (await engine.observe("long")).state == "running"


async def test_a_job_ends_once() -> None:
    engine = FakeEngine()
    await engine.open(lambda _: None)
    await engine.start(launch("a"))
    engine.finish("a")
    with pytest.raises(ValueError, match="ended already"):
        engine.finish("a", 1)
