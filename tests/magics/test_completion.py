"""Completion answers at once, from what is known, and asks for the rest in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from fastgpu.client import GPUClient
from fastgpu.errors import Unavailable
from fastgpu_magics.completion import Known, candidates, fetch, make_matcher
from tests.sdk.fake_service import FakeService


@pytest.fixture
def known(service: FakeService, make_client: Callable[[], GPUClient]) -> Known:
    service.add_job()
    known = Known()
    assert known.claim_fetch()
    fetch(known, make_client)
    return known


@pytest.mark.parametrize(
    ("text", "is_cell", "offers", "typed"),
    [
        ("", False, {"status", "jobs", "why"}, ""),
        ("st", False, {"status"}, "st"),
        ("su", True, {"submit", "run"}, "su"),
        ("submit --g", True, {"--gpu", "--in", "--again"}, "--g"),
        ("submit --gpu ", True, {"h100-80gb", "a100-40gb"}, ""),
        ("submit --gpu a1", True, {"a100-40gb"}, "a1"),
        ("submit --account ", True, {"class:cs101"}, ""),
        ("submit --in x,da", True, {"data"}, "da"),
        ("submit --start ", True, {"now", "cheapest"}, ""),
        ("logs ", False, {"job-1"}, ""),
        ("cancel job-1 j", False, {"job-1"}, "j"),
        ("cost --by ", False, {"job", "gpu", "day", "person"}, ""),
    ],
)
def test_what_may_follow_is_offered(known: Known, text: str, is_cell: bool, offers: set[str], typed: str) -> None:
    found, fragment = candidates(text, is_cell, known, ["data", "_hidden"])
    assert offers <= set(found)
    assert fragment == typed
    assert "_hidden" not in found


@pytest.mark.parametrize("text", ["nonsense ", "jobs ", "submit --time ", "quote --by "])
def test_where_nothing_is_known_nothing_is_offered(known: Known, text: str) -> None:
    assert candidates(text, text.startswith("submit"), known, ["data"])[0] == []


def test_an_option_already_given_is_not_offered_again(known: Known) -> None:
    assert "--gpu" not in candidates("submit --gpu a100 --", True, known, [])[0]


@pytest.fixture
def complete(
    shell: InteractiveShell, known: Known, make_client: Callable[[], GPUClient]
) -> Iterator[Callable[[str], list[str]]]:
    shell.Completer.custom_matchers.append(make_matcher(shell, known, make_client))
    shell.Completer.use_jedi = False

    def complete(text: str) -> list[str]:
        with provisionalcompleter():
            return [each.text for each in shell.Completer.completions(text, len(text))]

    return complete


def test_the_shell_offers_ours_and_nothing_else(complete: Callable[[str], list[str]]) -> None:
    assert complete("%fastgpu qu") == ["quote", "quota"]
    assert complete("%%fastgpu submit --gpu a") == ["a100-40gb"]
    assert complete("%%fastgpu submit --ac") == ["--account"]
    assert complete("x = %fastgpu rec") == ["receipt"]
    assert "quote" not in complete("qu")


def test_the_cache_is_refreshed_once_a_minute_and_never_waited_for(
    shell: InteractiveShell, service: FakeService, make_client: Callable[[], GPUClient]
) -> None:
    clock = [0.0]
    known = Known(monotonic=lambda: clock[0])
    begun, go_on = threading.Event(), threading.Event()

    def slow_client() -> GPUClient:
        begun.set()
        assert go_on.wait(10)
        return make_client()

    matcher = make_matcher(shell, known, slow_client)

    class Context:
        text_until_cursor = "%%fastgpu submit --gpu "

    started = time.monotonic()
    first: Any = matcher(Context())  # type: ignore[arg-type]
    assert time.monotonic() - started < 0.15
    assert list(first["completions"]) == []
    assert begun.wait(10)
    assert not known.claim_fetch()
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "fastgpu-names":
            thread.join(10)
    second: Any = matcher(Context())  # type: ignore[arg-type]
    assert "h100-80gb" in [each.text for each in second["completions"]]
    clock[0] = 61.0
    assert known.claim_fetch()


def test_a_service_that_is_away_is_no_error_and_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def away() -> GPUClient:
        raise Unavailable("gone")

    known = Known()
    fetch(known, away)
    assert known.names("gpu") == ()
    assert capsys.readouterr() == ("", "")
