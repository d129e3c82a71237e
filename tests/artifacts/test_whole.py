"""From a source over an environment to a kept file, with real processes and a real S3 server."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest

from fastgpu import models
from fastgpu_hub.artifacts import JobFiles
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.broker import Broker
from fastgpu_hub.engines.local import LocalEngine
from fastgpu_hub.probes.simulated import SimulatedProbe
from fastgpu_hub.service.clock import SystemClock
from fastgpu_hub.store import open_store
from tests.jobs_only_hub import JobsOnlyHub

pytestmark = pytest.mark.slow
ALICE, ADMIN = Actor("alice"), Actor("root", admin=True)

TRAIN = """
import greeting, json, pathlib
rows = pathlib.Path('data/train.csv').read_text().splitlines()
pathlib.Path('model').mkdir()
pathlib.Path('model/weights.json').write_text(json.dumps({'rows': len(rows), 'by': greeting.TEXT}))
pathlib.Path('scratch').write_text('not kept')
print('trained')
"""
EVALUATE = "import pathlib; print('got', pathlib.Path('in/weights.json').read_text())"


async def ended(broker: Broker, job_id: str) -> models.Job:
    for _ in range(600):
        job = await broker.job(ALICE, job_id)
        assert isinstance(job, models.Job)
        if job.state.final and job.artifacts != "keeping":
            return job
        await asyncio.sleep(0.05)
    raise AssertionError(job)


async def submit(broker: Broker, code: str, files: dict[str, str] | None = None, **more: Any) -> str:
    inputs = []
    for path, text in {"main.py": code, **(files or {})}.items():
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        assert await broker.put_blob(ALICE, sha256, [text.encode()]) is None
        inputs.append({"path": path, "sha256": sha256, "size_bytes": len(text)})
    fields = {"kind": "script", "argv": ["main.py"], "gpu_type": "h100-80gb", "inputs": inputs, **more}
    job = await broker.submit_job(ALICE, models.JobSubmit.model_validate(fields))
    assert isinstance(job, models.Job), job
    return job.id


async def test_a_job_fetches_trains_in_its_environment_and_the_next_one_goes_on_from_what_it_kept(
    tmp_path: Path, s3_server: dict[str, Any], web: Any, make_wheel: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    data, wheels = tmp_path / "data", tmp_path / "wheels"
    data.mkdir()
    (data / "train.csv").write_text("1,2\n3,4\n")
    make_wheel(wheels, "greeting", "1.0", "TEXT = 'hello'\n")
    address = web(data)
    files = JobFiles(
        artifacts_url=f"s3://class/{tmp_path.name}", artifacts_options=s3_server, source_prefixes=[f"{address}/"]
    )
    engine = LocalEngine(
        state_dir=str(tmp_path / "engine"), pip_options=["--no-index", f"--find-links={wheels}"], stop_jobs_on_exit=True
    )
    store = open_store(f"sqlite:///{tmp_path}/fastgpu.sqlite")
    broker = Broker(store, engine, SimulatedProbe(2), JobsOnlyHub(), SystemClock(), files=files)
    await broker.start()
    try:
        await broker.set_price(ADMIN, models.PriceSet(gpu_type="h100-80gb", per_start_micros=1000))
        await broker.grant(ADMIN, models.GrantSet(account="person:alice", amount_micros=10**9))
        first = await submit(
            broker,
            TRAIN,
            {"requirements.txt": "greeting==1.0\n"},
            lock="requirements.txt",
            sources={"data/train.csv": f"{address}/train.csv"},
            outputs=["model/"],
        )
        job = await ended(broker, first)
        log = (await broker.job_log(ALICE, first, 0, 10**6))[0].decode()  # type: ignore[index]
        assert (job.state.value, job.artifacts) == ("succeeded", "kept"), log
        assert "[fastgpu] preparing environment … " in log
        assert log.endswith("trained\n")
        kept = await broker.artifacts(ALICE, first)
        assert [(each.path, each.size_bytes) for each in kept] == [("model/weights.json", 26)]  # type: ignore[union-attr]
        steps = {event.kind: event.at_ms for event in await store.read(lambda uow: uow.events(first))}
        assert steps["started"] > steps["granted"]  # what was made and fetched in between is not on the bill
        second = await submit(
            broker, EVALUATE, sources={"in/weights.json": f"artifact:{first}/model/weights.json"}, after=[first]
        )
        job = await ended(broker, second)
        log = (await broker.job_log(ALICE, second, 0, 10**6))[0].decode()  # type: ignore[index]
        assert (job.state.value, log) == ("succeeded", 'got {"rows": 2, "by": "hello"}\n')
        third = await submit(broker, EVALUATE, sources={"in/weights.json": f"{address}/none"})
        job = await ended(broker, third)
        assert (job.state.value, job.cost_micros) == ("failed", 0)
    finally:
        await broker.close()
        await engine.close()
        await store.close()
        files.close()
    ours = "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith(("fastgpu", "traitlets"))
    )
    assert s3_server["secret"] not in ours + repr(files) + str(files.__dict__.get("_made"))
    assert s3_server["key"] not in ours
