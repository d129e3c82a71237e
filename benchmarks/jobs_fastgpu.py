"""Jobs benchmark, our side: a real hub with its service, SQLite on disk, priced; asked over HTTP with the SDK."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jobs_notebooks import notebook

from fastgpu import GPUClient, Job
from tools.running_hub import RunningHub

GPU_TYPE, GPUS = "h100-80gb", 8
CREDIT_MICROS = 1_000_000_000
PER_START_MICROS = 1_000
SUBMITTERS = 4
POLL_SECONDS = 0.02
TIME_LIMIT = 60
CONFIG = f"""
from fastgpu_hub import setup_fastgpu
setup_fastgpu(c, port=FASTGPU_PORT, state_dir="state")
c.FastGPUService.probe = "simulated"
c.FastGPUService.simulated_gpus = {{"count": {GPUS}, "gpu_type": "{GPU_TYPE}"}}
c.FastGPUService.prices = [{{"gpu_type": "{GPU_TYPE}", "per_gpu_hour": "2.50", "per_start": "0.001"}}]
c.FastGPUService.grants = [{{"account": "class:cs101", "amount": "{CREDIT_MICROS // 1_000_000}"}}]
c.FastGPUService.quotas = [
    {{"scope": "class", "name": "cs101", "metric": "concurrent_gpus", "limit": {GPUS}}},
    {{"scope": "member", "name": "cs101", "metric": "gpu_seconds", "limit": "999h", "window": "week"}},
]
c.LocalEngine.job_users = "shared"
"""


class FastGPU:
    """Everything as it is used: each submission is priced, held, queued, committed, run, charged."""

    name = "FastGPU"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._hub = RunningHub(CONFIG, folder)
        self._notebooks = folder / "notebooks"
        self._notebooks.mkdir()
        self._numbers = itertools.count(1)
        self._cost = 0

    def __enter__(self) -> FastGPU:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._hub)
            except RuntimeError as error:
                raise RuntimeError(f"{error}:\n{self._hub.log_text()[-4000:]}") from error
            for path, body in (
                ("/users/alice", None),
                ("/groups/cs101", None),
                ("/groups/cs101/users", {"users": ["alice"]}),
            ):
                self._hub.api("POST", path, body)
            token = self._hub.api("POST", "/users/alice/tokens", {"note": "benchmark"}).body["token"]
            url = f"http://127.0.0.1:{self._hub.fastgpu_port}/services/fastgpu"
            self._clients = [stack.enter_context(GPUClient(url, token)) for _ in range(SUBMITTERS)]
            self._close = stack.pop_all().close
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def first_line(self) -> float:
        """Seconds from before a command is submitted until its first line has come through the log's stream."""
        return self._until_text(["echo", "x"])

    def first_cell(self) -> float:
        """The same for a notebook of two cells, sent along; the second cell is still to run when the line comes."""
        number = next(self._numbers)
        path = self._notebooks / f"n{number}.ipynb"
        path.write_text(json.dumps(notebook(f"print('first cell of {number}')")), encoding="utf-8")
        return self._until_text(path)

    def _until_text(self, script: Path | list[str]) -> float:
        client = self._clients[0]
        began = time.perf_counter()
        job = client.submit(script, GPU_TYPE, time_limit=TIME_LIMIT)
        for text in job.follow():
            if text:
                break
        seconds = time.perf_counter() - began
        job.wait(60)
        job.raise_for_failure()
        self._cost += job.refresh().cost_micros
        return seconds

    def jobs_per_s(self, count: int) -> float:
        """Trivial jobs of one GPU a second, from the first submission until the last has ended and is charged."""
        client = self._clients[0]
        began = time.perf_counter()
        with ThreadPoolExecutor(SUBMITTERS) as threads:
            submitted = list(threads.map(self._submit, range(count)))
        submitted[-1].wait()  # a long poll: looking all the time would take from the service what it needs
        while client.jobs("active", limit=1):
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
        self._check({job.id for job in submitted})
        return count / seconds

    def _submit(self, number: int) -> Job:
        return self._clients[number % SUBMITTERS].submit(["true"], GPU_TYPE, time_limit=TIME_LIMIT)

    def _check(self, ids: set[str]) -> None:
        """Raises SystemExit unless each of these jobs ran well, and the account paid what all of them cost."""
        client = self._clients[0]
        found = {job.id: job.snapshot for job in client.jobs("all", limit=1000) if job.id in ids}
        states = {job.state.value for job in found.values()}
        if len(found) != len(ids) or states != {"succeeded"}:
            raise SystemExit(f"FastGPU: of {len(ids)} jobs {len(found)} were found, their states: {sorted(states)}")
        costs = [job.cost_micros for job in found.values()]
        self._cost += sum(costs)
        [account] = [account for account in client.status().accounts if account.id == "class:cs101"]
        if min(costs) < PER_START_MICROS or (account.spent_micros, account.held_micros) != (self._cost, 0):
            raise SystemExit(f"FastGPU: the jobs cost {self._cost} micros, the account says {account!r}")
