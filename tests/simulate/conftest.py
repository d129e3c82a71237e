"""Small traces, on disk and in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fastgpu_hub.simulate.workload import Job, Pool, Workload, workload

TRACE = """\
job_id,user,vc,gpu_num,cpu_num,state,submit_s,duration
11,ann,vc1,2,8,COMPLETED,0,100
12,bob,vc1,2,8,FAILED,10,50
13,ann,vc2,1,8,CANCELLED,10,7
14,ann,vc1,0,8,COMPLETED,11,5
15,bob,vc1,5,8,COMPLETED,12,5
16,bob,vc1,2,8,COMPLETED,12,30
"""
NODES = "vc,nodes,gpus_per_node\nvc1,2,2\nvc2,1,8\n"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """A trace in which one job needs no GPU and one never fits."""
    (tmp_path / "trace.csv").write_text(TRACE)
    return tmp_path / "trace.csv"


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    (tmp_path / "nodes.csv").write_text(NODES)
    return tmp_path / "nodes.csv"


@pytest.fixture
def work() -> Callable[..., Workload]:
    """Makes a workload of (user, GPUs, submission in s, run time in s) on one pool."""

    def make(*jobs: tuple[str, int, float, float], node_gpus: tuple[int, ...] = (4,)) -> Workload:
        made = [
            Job(str(place), user, "gpu", gpus, round(submit_s * 1000), round(run_s * 1000))
            for place, (user, gpus, submit_s, run_s) in enumerate(jobs)
        ]
        return workload("made up", made, [Pool("gpu", node_gpus)])

    return make
