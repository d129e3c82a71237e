"""The command line: what it prints, draws and refuses."""

from __future__ import annotations

import builtins
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fastgpu_hub.scheduling.policies import POLICIES
from fastgpu_hub.simulate import planner, plots
from fastgpu_hub.simulate.commands import app

KEYS = [
    "jobs", "mean_jct_s", "mean_queue_s", "p50_queue_s", "p99_queue_s", "p999_queue_s", "max_queue_s",
    "mean_bounded_slowdown", "max_user_bounded_slowdown", "utilisation", "predictor_spearman", "jobs_per_cpu_s",
]  # fmt: skip


@pytest.fixture
def run():
    def run(*words: object):
        return CliRunner().invoke(app, [str(word) for word in words])

    return run


def test_as_json_the_last_line_is_one_object_with_every_figure(run, trace, nodes):
    done = run("--trace", trace, "--nodes", nodes, "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout.splitlines()[-1])
    assert list(found)[: len(KEYS)] == KEYS
    assert found["jobs"] == 4
    assert found["mean_jct_s"] == pytest.approx((100 + 50 + 7 + 30 + found["mean_queue_s"] * 4) / 4)
    assert done.stderr.splitlines() == [
        "Left out: 1 job without GPU",
        "Left out: 1 job that never fits into the pool",
    ]


def test_policies_and_an_oracle_can_be_chosen(run, trace, nodes):
    for policy in POLICIES:
        done = run("--trace", trace, "--nodes", nodes, "--policy", policy, "--oracle", "--json")
        assert json.loads(done.stdout)["predictor_spearman"] is None
    done = run("--trace", trace, "--nodes", nodes, "--policies", "all", "--json")
    assert list(json.loads(done.stdout)) == list(POLICIES)
    shown = run("--trace", trace, "--nodes", nodes, "--policies", "all").stdout
    rows = [line.split() for line in shown.splitlines()]
    assert [row[0] for row in rows if row and row[0] in POLICIES] == list(POLICIES)


def test_people_get_a_list_of_figures(run, trace, nodes):
    shown = run("--trace", trace, "--nodes", nodes, "--policy", "fifo").stdout
    assert "4 jobs of trace.csv on 12 GPUs in 2 pools, policy fifo" in shown
    for text in ("mean time in the queue, s", "jobs simulated per CPU second", "GPU time in use", "80 % interval"):
        assert text in shown


def test_a_log_in_the_standard_format_is_replayed(run, tmp_path):
    (tmp_path / "a.swf").write_text("1 0 -1 60 2 -1 -1 2 100 -1 1 7 1 -1 1 -1 -1 -1\n")
    found = json.loads(run("--swf", tmp_path / "a.swf", "--processors", 4, "--json").stdout)
    assert (found["jobs"], found["mean_jct_s"]) == (1, 60)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "name a trace"),
        (("--trace", "x.csv"), "name a trace"),
        (("--swf", "x.swf", "--nodes", "n.csv"), "name a trace"),
        (("--trace", "absent.csv", "--nodes", "absent.csv"), "absent.csv: cannot be read"),
        (("--policy", "best"), "there is no policy 'best'; use one of "),
        (("--policies", "fifo,best"), "there is no policy 'best'"),
        (("--plot", "x.pdf"), "ends in .svg or .png"),
        (("--plot", "no/such/x.svg"), "there is no folder"),
        (("--plot", "x.svg", "--policies", "all"), "--plot draws one policy"),
        (("plan", "--price", "cheap"), "--price 'cheap': write an amount"),
        (("class-day", "--gpus", "4", "--out", "no/such.csv"), "cannot be written"),
    ],
)
def test_what_cannot_be_simulated_is_refused_in_a_sentence(run, words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*words)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_matplotlib_a_drawing_says_what_to_install(run, monkeypatch, tmp_path):
    real = builtins.__import__

    def absent(name, *more):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", absent)
    done = run("--plot", tmp_path / "x.svg")
    assert done.exit_code == 2
    assert "pip install 'fastgpu-hub[plots]'" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", plots.KINDS)
def test_drawings_are_made_and_the_same_input_gives_the_same_bytes(run, trace, nodes, tmp_path, kind):
    first, second = (tmp_path / f"{name}{kind}" for name in "ab")
    for path in (first, second):
        assert run("--trace", trace, "--nodes", nodes, "--plot", path).exit_code == 0
    assert first.read_bytes() == second.read_bytes()
    if kind == ".svg":
        text = first.read_text()
        for label in ("jobs waiting", "GPUs in use, %", "the 80 % interval, %"):
            assert label in text
    oracle = tmp_path / f"c{kind}"
    assert run("--trace", trace, "--nodes", nodes, "--oracle", "--plot", oracle).exit_code == 0
    assert oracle.stat().st_size < first.stat().st_size


def test_a_class_day_tells_notebooks_and_jobs_apart_and_can_be_replayed(run, tmp_path):
    out = tmp_path / "day.csv"
    done = run("class-day", "--students", 30, "--gpus", 8, "--out", out)
    assert done.exit_code == 0
    assert "jobs of a day of 30 students (seed 1) on 8 GPUs" in done.stdout
    rows = {words[0]: words for line in done.stdout.splitlines() if (words := line.split())}
    assert {"server", "job"} <= set(rows)
    (tmp_path / "nodes.csv").write_text("vc,nodes,gpus_per_node\ngpu,1,8\n")
    again = json.loads(run("--trace", out, "--nodes", tmp_path / "nodes.csv", "--json").stdout)
    first = json.loads(run("class-day", "--students", 30, "--gpus", 8, "--json").stdout)
    assert {**again, "jobs_per_cpu_s": 0} == {**first, "jobs_per_cpu_s": 0}


PLAN = ("plan", "--students", 20, "--days", 2, "--price", "2.50", "--hours", 10)


def test_a_plan_is_printed_and_given_as_data(run):
    shown = run(*PLAN).stdout
    assert "cost of a day" in shown
    found = json.loads(run(*PLAN, "--json").stdout)
    answer = found["gpus_for_every_day"]
    assert f"20 students need {answer} GPU" in shown
    row = next(trial for trial in found["trials"] if trial["gpus"] == answer)
    assert row["cost_micros"] == planner.cost_micros(answer, 2_500_000, 10)
    assert min(row["shares_met"]) >= 0.95


@pytest.mark.slow
def test_a_plan_is_drawn(run, tmp_path):
    assert run(*PLAN, "--plot", tmp_path / "plan.svg").exit_code == 0
    text = (tmp_path / "plan.svg").read_text()
    assert "cost of 10 hours" in text
    assert "minutes in the queue" in text


def test_the_program_starts_without_jupyterhub_and_says_what_it_does():
    code = (
        "import runpy, sys; sys.argv = ['simulate', '--help']\n"
        "sys.modules['jupyterhub'] = None\n"
        "runpy.run_module('fastgpu_hub.simulate', run_name='__main__')"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in ("--trace", "--swf", "class-day", "plan"):
        assert word in done.stdout
