"""Which files a pattern means."""

from __future__ import annotations

import time

import pytest

from fastgpu_hub.broker.outputs import check_outputs, matching, over_caps
from fastgpu_hub.broker.ports.world import FileEntry

PATHS = ("@checkpoints/epoch.pt", "a.txt", "out/a.csv", "out/b/c.csv", "out/b/d.txt", "deep/x/y/z.pt", "[odd].txt")
FILES = [FileEntry(path, 10) for path in PATHS]


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [
        ("a.txt", ["a.txt"]),
        ("*.txt", ["a.txt", "[odd].txt"]),
        ("out", ["out/a.csv", "out/b/c.csv", "out/b/d.txt"]),
        ("out/", ["out/a.csv", "out/b/c.csv", "out/b/d.txt"]),
        ("out/*.csv", ["out/a.csv"]),
        ("out/**/*.csv", ["out/a.csv", "out/b/c.csv"]),
        ("**/*.csv", ["out/a.csv", "out/b/c.csv"]),
        ("deep/**/z.pt", ["deep/x/y/z.pt"]),
        ("deep/*/z.pt", []),
        ("**", list(PATHS[1:])),
        ("*", list(PATHS[1:])),
        ("?.txt", ["a.txt"]),
        ("[ab].txt", ["a.txt"]),
        ("[[]odd].txt", ["[odd].txt"]),
        ("A.TXT", []),
        ("ut", []),
        ("out/b/c.csv/more", []),
        ("@checkpoints", ["@checkpoints/epoch.pt"]),
        ("@checkpoints/*.pt", ["@checkpoints/epoch.pt"]),
        ("**/epoch.pt", []),
    ],
)
def test_a_pattern_means_files_as_in_a_shell_and_a_folder_all_that_is_in_it(pattern: str, meant: list[str]) -> None:
    assert [file.path for file in matching([pattern], FILES)] == meant


def test_a_file_that_two_patterns_mean_is_there_once() -> None:
    assert [file.path for file in matching(["out/a.csv", "**/*.csv", "out"], FILES)].count("out/a.csv") == 1


def test_no_pattern_takes_for_ever() -> None:
    hostile = ["*a" * 100 + "b", "**/" * 16 + "x", "[" * 200, "*" * 250 + "!"]
    files = [FileEntry("a" * 250, 1), FileEntry("/".join("a" * 32), 1)] * 50
    began = time.perf_counter()
    assert matching(hostile, files) == []
    assert time.perf_counter() - began < 0.5


@pytest.mark.parametrize("pattern", ["..", "a/../b", "/a", "a//b", "", "a\\b", "a\0", "a\nb", "x/" * 40, "\ud800"])
def test_a_pattern_that_can_mean_no_file_of_a_job_is_refused(pattern: str) -> None:
    refused = check_outputs([pattern])
    assert refused is not None
    assert refused.code == "invalid_request"


def test_caps_are_told_with_their_numbers() -> None:
    assert over_caps(FILES, 7, 70) is None
    many = over_caps(FILES, 6, 70)
    assert many is not None
    assert (many.message, many.numbers["files"]) == ("The outputs are 7 files; at most 6 of one job are kept.", 7)
    large = over_caps(FILES, 7, 69)
    assert large is not None
    assert large.message == "The outputs are 70 bytes; at most 69 bytes of one job are kept."
