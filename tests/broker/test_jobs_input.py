"""Promise 26: what a job may bring along."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgpu_hub.broker.jobs_input import (
    MAX_ENVIRONMENT_BYTES,
    check_arguments,
    check_environment,
    check_input_paths,
    check_job_input,
)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "PATH",
            "PYTHONPATH",
            "PYTHONHOME",
            "HOME",
            "USER",
            "NVIDIA_VISIBLE_DEVICES",
        ),
        *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "JUPYTERHUB_API_TOKEN", "FASTGPU_LEASE_ID", "FASTGPU_TOKEN"),
        *("", "1A", "A B", "A=B", "A-B", "Ä", "A\n", "A\0", "x" * 129),
    ],
)
def test_a_variable_that_could_steer_what_is_not_the_job_s_is_refused(name: str) -> None:
    refused = check_environment({"FINE": "1", name: "x"})
    assert refused is not None
    assert refused.code == "invalid_request"
    assert len(refused.message) < 200


def test_ordinary_variables_pass() -> None:
    assert (
        check_environment({"SEED": "1", "_x": "", "WANDB_MODE": "offline", "OMP_NUM_THREADS": "4", "T": "ä=\n"}) is None
    )
    assert check_environment({}) is None


def test_values_that_no_process_can_be_given_are_refused() -> None:
    assert check_environment({"A": "x\0y"}) is not None
    assert check_environment({"A": "\ud800"}) is not None
    refused = check_environment({"A": "x" * MAX_ENVIRONMENT_BYTES})
    assert refused is not None
    assert refused.numbers["limit_bytes"] == MAX_ENVIRONMENT_BYTES


@pytest.mark.parametrize(
    "path",
    [
        *(
            "",
            "/",
            "/etc/passwd",
            "..",
            "../a",
            "a/..",
            "a/../b",
            ".",
            "./a",
            "a/.",
            "a//b",
            "a/",
            "a\\b",
            "..\\a",
            "a\0b",
        ),
        *("a\nb", "a\x7fb", "\ud800", "x" * 256, "/".join("a" * 40), "/".join(["b" * 200] * 6)),
    ],
)
def test_a_path_that_is_not_plain_and_relative_is_refused(path: str) -> None:
    refused = check_input_paths(["fine.py", path])
    assert refused is not None
    assert refused.message.isprintable()


def test_paths_in_each_other_s_way_are_refused() -> None:
    assert check_input_paths(["a", "a"]) is not None
    assert check_input_paths(["a/b", "a"]) is not None
    assert check_input_paths(["a", "a/b/c"]) is not None
    assert check_input_paths(["a/b", "a/c", "ab", "ä b", "..a", "%2e%2e", "~", "-x"]) is None


@given(st.text(max_size=60))
def test_every_path_that_passes_stays_in_its_folder(path: str) -> None:
    if check_input_paths([path]) is None:
        assert os.path.normpath(os.path.join("/job/folder", path)) == f"/job/folder/{path}"
        assert os.path.normpath(os.path.join("/job/folder", path)).startswith("/job/folder/")


def test_arguments_are_plain_and_name_something_to_run() -> None:
    assert check_arguments("script", ("train.py", "--lr", "1", "")) is None
    assert check_arguments("command", ("nvidia-smi", "-L")) is None
    assert check_arguments("command", ()) is not None
    assert check_arguments("command", ("",)) is not None
    assert check_arguments("script", ("-c", "import os")) is not None
    assert check_arguments("notebook", ("--help",)) is not None
    assert check_arguments("command", ("echo", "x\0y")) is not None
    assert check_arguments("command", ("echo", "x" * 300_000)) is not None


def test_the_first_refusal_of_a_job_is_told() -> None:
    assert check_job_input("script", ("a.py",), {"A": "1"}, ["a.py"]) is None
    refused = check_job_input("script", ("a.py",), {"PATH": "/tmp"}, ["../a.py"])
    assert refused is not None
    assert "PATH" in refused.message
