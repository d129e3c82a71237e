"""Traces as CSV: what is read, what is left out and counted, what is refused with file and line."""

from __future__ import annotations

import gzip
import lzma
import re

import pytest

from fastgpu_hub.simulate.csv_trace import read_nodes, read_trace
from fastgpu_hub.simulate.workload import TraceError


def test_a_trace_is_read_and_what_cannot_run_is_left_out_and_counted(trace, nodes):
    work = read_trace(trace, nodes)
    assert [(job.id, job.user, job.pool, job.gpu_count, job.submit_ms, job.run_ms) for job in work.jobs] == [
        ("11", "ann", "vc1", 2, 0, 100_000),
        ("12", "bob", "vc1", 2, 10_000, 50_000),
        ("13", "ann", "vc2", 1, 10_000, 7_000),
        ("16", "bob", "vc1", 2, 12_000, 30_000),
    ]
    assert work.left_out == ("1 job without GPU", "1 job that never fits into the pool")
    assert {pool.name: pool.node_gpus for pool in work.pools} == {"vc1": (2, 2), "vc2": (8,)}
    assert work.gpus == 12


def test_what_is_not_known_at_submission_is_not_read(trace, nodes):
    """The state tells how a job ended: with another one nothing is different."""
    before = read_trace(trace, nodes)
    trace.write_text(trace.read_text().replace("COMPLETED", "FAILED"))
    assert read_trace(trace, nodes) == before


def test_user_and_cluster_may_be_missing(tmp_path):
    (tmp_path / "t.csv").write_text("job_id,gpu_num,submit_s,duration\na,1,5,2.5\n")
    (tmp_path / "n.csv").write_text("nodes,gpus_per_node\n1,4\n")
    (job,) = read_trace(tmp_path / "t.csv", tmp_path / "n.csv").jobs
    assert (job.user, job.run_ms, job.submit_ms) == ("", 2500, 5000)


def test_jobs_of_the_same_second_keep_the_order_of_the_file_and_others_are_sorted(tmp_path, nodes):
    lines = ["c,x,vc1,1,9,1", "b,x,vc1,1,3,1", "a,x,vc1,1,3,1", "d,x,vc1,1,3,1"]
    (tmp_path / "t.csv").write_text("\n".join(["job_id,user,vc,gpu_num,submit_s,duration", *lines]))
    assert [job.id for job in read_trace(tmp_path / "t.csv", nodes).jobs] == ["b", "a", "d", "c"]


def test_a_requested_time_ends_a_job_as_it_did_in_reality(tmp_path, nodes):
    (tmp_path / "t.csv").write_text("job_id,vc,gpu_num,submit_s,duration,limit_s\na,vc1,1,0,100,60\nb,vc1,1,0,9,\n")
    jobs = read_trace(tmp_path / "t.csv", nodes).jobs
    assert [(job.run_ms, job.limit_ms) for job in jobs] == [(60_000, 60_000), (9_000, None)]


def test_compressed_files_and_those_of_spreadsheets_are_read(trace, nodes, tmp_path):
    plain = read_trace(trace, nodes)
    data = b"\xef\xbb\xbf" + trace.read_bytes().replace(b"\n", b"\r\n")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "trace.csv.xz").write_bytes(lzma.compress(data))
    (tmp_path / "x" / "trace.csv.gz").write_bytes(gzip.compress(data))
    for name in ("trace.csv.xz", "trace.csv.gz"):
        assert read_trace(tmp_path / "x" / name, nodes).jobs == plain.jobs


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("1,u,vc1,two,0,5", r"line 2: gpu_num is 'two'; it must be a whole number of at least 0"),
        ("1,u,vc1,1.5,0,5", r"line 2: gpu_num is '1.5'; it must be a whole number"),
        ("1,u,vc1,-1,0,5", r"line 2: gpu_num is '-1'"),
        ("1,u,vc1,1,nan,5", r"line 2: submit_s is 'nan'; it must be a number"),
        ("1,u,vc1,1,0,inf", r"line 2: duration is 'inf'"),
        ("1,u,vc1,1,0,-5", r"line 2: duration is '-5'"),
        ("1,u,vc1,1,0", r"line 2: duration is ''"),
        ("1,u,vc1,1,0,1e300", r"line 2: duration is '1e300'"),
        ("1,u,vc9,1,0,5", r"line 2: virtual cluster 'vc9' is not in .*nodes\.csv; it must be one of vc1, vc2"),
        ("1,u,,1,0,5", r"line 2: no virtual cluster; it must be one of vc1, vc2"),
    ],
)
def test_a_bad_row_is_named_with_its_line_and_what_belongs_there(line, says, tmp_path, nodes):
    (tmp_path / "t.csv").write_text(f"job_id,user,vc,gpu_num,submit_s,duration\n{line}\n")
    with pytest.raises(TraceError, match=re.escape(str(tmp_path / "t.csv")) + ", " + says):
        read_trace(tmp_path / "t.csv", nodes)


def test_a_file_that_is_none_is_refused_in_a_sentence(tmp_path, trace, nodes):
    with pytest.raises(TraceError, match="cannot be read"):
        read_trace(tmp_path / "absent.csv", nodes)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TraceError, match="no column job_id, gpu_num, submit_s, duration; the first line must name"):
        read_trace(tmp_path / "t.csv", nodes)
    (tmp_path / "t.csv.xz").write_bytes(b"this is not xz")
    with pytest.raises(TraceError, match="not readable"):
        read_trace(tmp_path / "t.csv.xz", nodes)
    (tmp_path / "t.csv").write_text("job_id,vc,gpu_num,submit_s,duration\n1,vc1,16,0,5\n")
    with pytest.raises(TraceError, match="no job to simulate; left out: 1 job that never fits into the pool"):
        read_trace(tmp_path / "t.csv", nodes)


def test_nodes_are_counted_and_must_be_some(tmp_path):
    file = tmp_path / "n.csv"
    file.write_text("vc,nodes,gpus_per_node\na,1,8\nb,2,4\na,1,4\n")
    assert {name: pool.node_gpus for name, pool in read_nodes(file).items()} == {"a": (8, 4), "b": (4, 4)}
    file.write_text("vc,nodes,gpus_per_node\na,0,8\n")
    with pytest.raises(TraceError, match="line 2: 0 nodes of 8 GPUs; it must be at least one node"):
        read_nodes(file)
    file.write_text("vc,nodes,gpus_per_node\n")
    with pytest.raises(TraceError, match="no nodes"):
        read_nodes(file)
