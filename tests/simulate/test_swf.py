"""The Standard Workload Format: its conventions, and lines that are none."""

from __future__ import annotations

import lzma

import pytest

from fastgpu_hub.simulate.swf import read_swf
from fastgpu_hub.simulate.workload import TraceError

HEADER = "; Version: 2.2\n; MaxProcs: 10\n;\n"


def line(**changed: float) -> str:
    fields = {
        "job": 1, "submit": 0, "wait": 5, "run": 60, "allocated": 4, "cpu": -1, "memory": -1, "requested": 4,
        "limit": 100, "asked_memory": -1, "status": 1, "user": 7, "group": 1, "program": -1, "queue": 1,
        "partition": -1, "previous": -1, "think": -1,
    }  # fmt: skip
    return " ".join(str(value) for value in {**fields, **changed}.values()) + "\n"


@pytest.fixture
def swf(tmp_path):
    def write(*lines: str, header: str = HEADER):
        path = tmp_path / "log.swf"
        path.write_text(header + "".join(lines))
        return path

    return write


def test_size_and_limit_are_what_was_asked_for_and_a_job_never_outlives_its_limit(swf):
    path = swf(
        line(),
        line(job=2, requested=-1, allocated=3, submit=5),
        line(job=3, requested=2, allocated=8, submit=6, run=500),
        line(job=4, limit=-1, submit=7, run=500, user=-1, program=9),
    )
    work = read_swf(path)
    assert [(job.id, job.user, job.gpu_count, job.run_ms, job.limit_ms, job.name) for job in work.jobs] == [
        ("1", "7", 4, 60_000, 100_000, ""),
        ("2", "7", 3, 60_000, 100_000, ""),
        ("3", "7", 2, 100_000, 100_000, ""),
        ("4", "", 4, 500_000, None, "9"),
    ]
    assert work.gpus == 10
    assert work.pools[0].node_gpus == (10,)


def test_what_is_no_job_that_ran_is_left_out_and_counted(swf):
    path = swf(
        line(),
        line(job=2, requested=0, allocated=-1),
        line(job=3, run=-1),
        line(job=4, run=0, status=5),
        line(job=5, status=2),
        line(job=5, status=3),
        line(job=6, requested=11),
        line(job=7, status=5),
        line(job=8, run=0),
    )
    work = read_swf(path)
    assert [job.id for job in work.jobs] == ["1", "7", "8"]
    assert work.left_out == (
        "2 lines about a part of a job",
        "2 lines that never ran",
        "1 line without processors",
        "1 job that never fits into the pool",
    )


def test_the_number_of_processors_given_counts_more_than_the_header(swf):
    assert read_swf(swf(line()), 64).gpus == 64
    with pytest.raises(TraceError, match="give --processors"):
        read_swf(swf(line(), header="; nothing\n"))


@pytest.mark.parametrize("broken", ["1 2 3\n", "what is this\n", line(run="nan"), line(submit="inf")])
def test_a_line_that_is_none_is_named(broken, swf):
    with pytest.raises(TraceError, match=r"log\.swf, line 5: '.+'; it must be 18 numbers, -1 for unknown"):
        read_swf(swf(line(), broken))


def test_a_job_submitted_before_the_log_began_is_an_error(swf):
    with pytest.raises(TraceError, match="line 4: submitted at -5"):
        read_swf(swf(line(submit=-5)))


def test_packed_logs_are_read(swf, tmp_path):
    packed = tmp_path / "log.swf.xz"
    packed.write_bytes(lzma.compress(swf(line()).read_bytes()))
    assert len(read_swf(packed).jobs) == 1
    packed.write_bytes(packed.read_bytes()[:-20])
    with pytest.raises(TraceError, match="cannot be unpacked"):
        read_swf(packed)
