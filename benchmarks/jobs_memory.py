"""Does the service keep within bounds as records grow? Its memory with 100,000 ended jobs, beside the hub's own.

The records are those of one job that was requested, granted, run and charged through the broker's own steps, written
down again and again under other names and people. A hub with FastGPU is then started on that database, and both
processes are measured after the service has looked through its books for a while.

    python benchmarks/jobs_memory.py --jobs 100000 --json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from sqlalchemy import Connection, Table, text

from fastgpu import models
from fastgpu_hub.broker import lifecycle
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.ledger import grant_transfer
from fastgpu_hub.pricing.pricebook import Rate
from fastgpu_hub.store import open_store, tables
from fastgpu_hub.store.databases import database_of
from tools.running_hub import RunningHub

GPU_TYPE, ACCOUNT, PEOPLE = "h100-80gb", "class:cs101", 300
SECOND_MS = 1000
LOOK_SECONDS = 40  # two rounds of comparing, and the sums of usage following the ledger
CONFIG = f"""
from fastgpu_hub import setup_fastgpu
setup_fastgpu(c, port=FASTGPU_PORT, state_dir="state")
c.FastGPUService.probe = "simulated"
c.FastGPUService.simulated_gpus = {{"count": 8, "gpu_type": "{GPU_TYPE}"}}
"""


def one_job(uow: UnitOfWork, now_ms: int) -> str:
    """A job from its request to its end, in a class that has credit; its id."""
    uow.add_price(GPU_TYPE, Rate(2_500_000, 0, 1_000), now_ms - SECOND_MS, "benchmark")
    grant = uow.add_grant(Grant(0, ACCOUNT, 10**15, now_ms - SECOND_MS, by="benchmark"))
    uow.append([grant_transfer(grant)])
    wanted = models.JobSubmit(kind="command", argv=("python", "train.py", "--epochs", "20"), gpu_type=GPU_TYPE)
    settings, job_id = Settings(), "j-000000000000"
    workload = Workload(
        id=job_id,
        kind="job",
        owner="student000",
        account=ACCOUNT,
        classes=("cs101",),
        name="train",
        gpu_type=GPU_TYPE,
        gpu_count=1,
        state="queued",
        requested_ms=now_ms,
        time_limit_ms=wanted.time_limit_seconds * SECOND_MS,
        spec=wanted.model_dump(mode="json"),
    )
    lifecycle.request(uow, workload, now_ms, settings)
    lifecycle.grant(uow, job_id, ("GPU-0",), "localhost", True, now_ms + 100, settings)
    lifecycle.started(uow, job_id, now_ms + 200, 1234, settings)
    lifecycle.finish(uow, job_id, now_ms + 60 * SECOND_MS, "succeeded", settings, exit_code=0)
    return job_id


def again(connection: Connection, table: Table, job_id: str, jobs: int) -> None:
    """All rows of a table about the job, once more for each of so many others."""
    key = "id" if table is tables.workloads else "workload_id"
    columns = [column.name for column in table.c if column.name != "id" or key == "id"]
    other = {key: "printf('j-%012x', number)", "owner": f"printf('student%03d', number % {PEOPLE})"}
    values = ", ".join(other.get(name, f'"{name}"') for name in columns)
    names = ", ".join(f'"{name}"' for name in columns)
    connection.execute(
        text(
            "WITH RECURSIVE numbers(number) AS (SELECT 1 UNION ALL SELECT number + 1 FROM numbers WHERE number < :most)"
            f" INSERT INTO {table.name} ({names}) SELECT {values} FROM {table.name}, numbers WHERE {key} = :job"
        ),
        {"most": jobs - 1, "job": job_id},
    )


def fill(path: Path, jobs: int) -> None:
    """A database with so many ended jobs."""
    url, now_ms = f"sqlite:///{path}", time.time_ns() // 1_000_000 - 3600 * SECOND_MS
    store = open_store(url)
    job_id = asyncio.run(store.write(lambda uow: one_job(uow, now_ms)))
    asyncio.run(store.close())
    database = database_of(url, busy_timeout_seconds=5, readers=1)
    connection = database.connect_writer(1)
    with connection.begin():
        for table in (tables.workloads, tables.holds, tables.workload_events, tables.transfers):
            again(connection, table, job_id, jobs)
    connection.close()
    database.close()


def resident_mib(process: psutil.Process) -> float:
    """What a process has in memory now."""
    return float(process.memory_info().rss) / 2**20


def measure(jobs: int, look_seconds: float = LOOK_SECONDS) -> dict[str, Any]:
    """Memory of the service and of its hub, in MiB, with so many records of jobs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "state").mkdir(mode=0o700)
        fill(folder / "state" / "fastgpu.sqlite", jobs)
        with RunningHub(CONFIG, folder) as hub:
            hub_process = psutil.Process(hub.pid)
            service = next(
                child for child in hub_process.children(recursive=True) if "fastgpu_hub.service" in child.cmdline()
            )
            time.sleep(look_seconds)
            found = {"service_rss_mib": resident_mib(service), "hub_rss_mib": resident_mib(hub_process)}
            if "inconsistent" in hub.log_text():
                raise RuntimeError(f"the records do not fit together:\n{hub.log_text()[-2000:]}")
    return {"jobs": jobs, **{key: round(value, 1) for key, value in found.items()}}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Memory of the service with many job records, beside the hub's own.")
    parser.add_argument("--jobs", type=int, default=100_000, help="ended jobs in the database (default: 100000)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line")
    chosen = parser.parse_args()
    result = measure(chosen.jobs)
    print(
        f"with {result['jobs']} job records: service {result['service_rss_mib']} MiB, hub {result['hub_rss_mib']} MiB",
        flush=True,
    )
    if chosen.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
