"""Promise: a spot job that gives way saves, waits and goes on where it was. With real processes."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from fastgpu import models
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.broker import Broker
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.engines.local import LocalEngine
from fastgpu_hub.probes.simulated import SimulatedProbe
from fastgpu_hub.service.clock import SystemClock
from fastgpu_hub.store import open_store
from tests.jobs_only_hub import JobsOnlyHub

pytestmark = pytest.mark.slow
ALICE, BOB, ADMIN = Actor("alice"), Actor("bob"), Actor("root", admin=True)

TRAIN = """
import os, pathlib, signal, sys, time
saved = pathlib.Path(os.environ["FASTGPU_CHECKPOINT_DIR"]) / "epoch"
if saved.exists():
    print("goes on at", saved.read_text())
    sys.exit(0)
def save(*_):
    time.sleep(0.5)  # saving takes its time, within the grace
    saved.write_text("3")
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("trains", flush=True)
time.sleep(60)
"""


async def job(broker: Broker, actor: Actor, job_id: str) -> models.Job:
    found = await broker.job(actor, job_id)
    assert isinstance(found, models.Job), found
    return found


async def ended(broker: Broker, actor: Actor, job_id: str) -> models.Job:
    for _ in range(400):
        if (found := await job(broker, actor, job_id)).state.final:
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(found)


async def log_of(broker: Broker, job_id: str) -> str:
    found = await broker.job_log(ALICE, job_id, 0, 10**6)
    assert isinstance(found, tuple), found
    return found[0].decode()


async def submit(broker: Broker, actor: Actor, code: str, *, spot: bool) -> str:
    request = models.JobSubmit(
        kind="command", argv=(sys.executable, "-S", "-c", code), gpu_type="h100-80gb", gpu_count=2, spot=spot
    )
    found = await broker.submit_job(actor, request)
    assert isinstance(found, models.Job), found
    return found.id


async def test_a_spot_job_saves_gives_way_and_goes_on_where_it_was(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/fastgpu.sqlite")
    engine = LocalEngine(state_dir=str(tmp_path / "engine"), stop_jobs_on_exit=True)
    settings = Settings(stop_grace_seconds=10)
    broker = Broker(store, engine, SimulatedProbe(2), JobsOnlyHub(), SystemClock(), settings)
    await broker.start()
    try:
        await broker.set_price(ADMIN, models.PriceSet(gpu_type="h100-80gb", per_gpu_hour_micros=3_600_000_000))
        for name in ("alice", "bob"):
            await broker.grant(ADMIN, models.GrantSet(account=f"person:{name}", amount_micros=10**13))
        cheap = await submit(broker, ALICE, TRAIN, spot=True)
        while "trains" not in await log_of(broker, cheap):
            await asyncio.sleep(0.05)
        dear = await submit(broker, BOB, "print('hello')", spot=False)
        assert (await ended(broker, BOB, dear)).state is models.JobState.succeeded
        first = await ended(broker, ALICE, cheap)
        assert first.next_attempt is not None
        last = await ended(broker, ALICE, first.next_attempt)
        assert (last.state, await log_of(broker, last.id)) == (models.JobState.succeeded, "goes on at 3\n")
        events = {event.kind: event for event in await store.read(lambda uow: uow.events(cheap))}
        charged_ms = events["stopping"].at_ms - events["started"].at_ms
        assert first.cost_micros == charged_ms * 2 * 500  # half of 1 credit a GPU-second
        assert events["ended"].at_ms - events["stopping"].at_ms >= 500
    finally:
        await broker.close()
        await engine.close()
        await store.close()
