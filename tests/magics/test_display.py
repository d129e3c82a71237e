"""Every answer as text and as HTML, compared whole with golden files; names are escaped, numbers said in words.

To accept a wanted change run with the environment variable ``FASTGPU_ACCEPT_GOLDEN=1`` and look at the difference.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timezone
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fastgpu import rule_views, run_views, start_views, views
from fastgpu.client import GPUClient
from fastgpu.console import show
from fastgpu.models import Explanation, Job, JobFile, Receipt
from fastgpu.view import Bar, Lens, Table, View
from fastgpu_magics.display import ShownLog, output_bundle, plain_outputs, to_html, to_text
from fastgpu_magics.meter import meter_view
from tests.sdk.fake_service import FakeService, at

NOW = datetime(2025, 11, 21, 17, 0, tzinfo=timezone.utc)
LENS = Lens(NOW, timezone.utc)
GOLDEN = Path(__file__).parent / "golden"
HOSTILE = "<script>alert('x')</script> & \"<b>\""

VIEWS: dict[str, Callable[[GPUClient], View]] = {
    "status": lambda client: views.status(client.status(), LENS),
    "gpus": lambda client: views.offers(client.options(), LENS),
    "quote": lambda client: views.quote(client.quote("h100-80gb"), LENS),
    "when": lambda client: start_views.start_plan(client.when("h100-80gb", by=NOW), LENS),
    "jobs": lambda client: views.jobs([job.snapshot for job in client.jobs()], LENS),
    "job": lambda client: views.job(client.get_job_status("job-1"), LENS),
    "job_with_page": lambda client: views.job(client.get_job_status("job-1"), LENS, client.page("jobs/job-1")),
    "metrics": lambda client: run_views.metrics("job-1", client.job_metrics("job-1"), LENS),
    "promos": lambda client: rule_views.promotions(client.promotions(), "credits", LENS),
    "quota": lambda client: rule_views.quotas(client.quotas(), "credits", LENS),
    "cost": lambda client: views.costs(client.costs(), LENS),
    "why": lambda client: views.why(client.why("job-1"), LENS),
    "receipt": lambda client: views.receipt(client.receipt("job-1"), LENS),
    "files": lambda client: views.files("job-1", [JobFile(path="out/a b.pkl", size_bytes=2048)], LENS),
    "meter": lambda client: meter_view(client.status(), LENS, "Not updated: gone."),
    "refusal": lambda client: views.explanation(
        Explanation(code="credit", message="No credit.", numbers={"left": 0}, frees_at=at(60)), LENS
    ),
}


def plain_terminal(view: View) -> str:
    stream = StringIO()
    show(view, Console(file=stream, width=300, highlight=False, markup=False, emoji=False))
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize(("kind", "render"), [("txt", to_text), ("html", to_html)])
def test_an_answer_renders_as_its_golden_file(
    name: str, kind: str, render: Callable[[View], str], make_client: Callable[[], GPUClient], service: FakeService
) -> None:
    service.add_job(state="running", progress=0.4, started_at=at(-5), name=HOSTILE)
    service.add_job("job-2", state="queued", queue_place=3, eta_end=None)
    with make_client() as client:
        rendered = render(VIEWS[name](client)) + "\n"
    golden = GOLDEN / f"{name}.{kind}"
    if os.environ.get("FASTGPU_ACCEPT_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(rendered, encoding="utf-8")
    assert rendered == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", VIEWS)
def test_a_terminal_says_the_same_words(name: str, make_client: Callable[[], GPUClient], service: FakeService) -> None:
    service.add_job(name=HOSTILE, progress=0.4)
    with make_client() as client:
        view = VIEWS[name](client)
    said = plain_terminal(view)
    for row in (row for table in view.tables for row in table.rows):
        assert all((cell.text if isinstance(cell, Bar) else cell) in said for cell in row)
    assert all(note in said for note in view.notes)


@pytest.mark.parametrize("width", [76, 80, 100, 300])
def test_no_terminal_is_too_narrow_to_see_every_word(
    width: int, make_client: Callable[[], GPUClient], service: FakeService
) -> None:
    service.add_job("j-0123456789ab", state="succeeded", name="a training with a long name " * 3, ended_at=at(0))
    with make_client() as client:
        view = views.jobs([job.snapshot for job in client.jobs("all")], LENS)
    stream = StringIO()
    show(view, Console(file=stream, width=width, highlight=False, markup=False, emoji=False))
    assert all(len(line) <= width for line in stream.getvalue().splitlines())
    words = ("j-0123456789ab", "succeeded", "h100-80gb", "(simulated)", "training", "0.07")
    assert all(word in stream.getvalue() for word in words)


class Tags(HTMLParser):
    """Collects tags and attributes, and checks that tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, Any]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


ALLOWED = {"div", "p", "strong", "small", "table", "caption", "thead", "tbody", "tr", "th", "td", "progress"}


@settings(deadline=None)
@given(st.text(), st.text(), st.floats(0, 1))
def test_no_text_can_become_markup_and_html_says_what_text_says(name: str, value: str, fraction: float) -> None:
    table = Table((name, "n"), ((value, Bar(fraction, name)),), caption=value)
    view = View(name, NOW, ((name, value),), (table, Table((name,), (), empty=value)), (value,))
    tags = Tags()
    html = to_html(view)
    tags.feed(html)
    assert tags.tags <= ALLOWED
    assert tags.attributes <= {"class", "max", "value", "style"}
    assert "as of 2025-11-21 17:00:00 UTC" in html


def test_hostile_names_are_escaped_everywhere(make_client: Callable[[], GPUClient], service: FakeService) -> None:
    service.add_job(name=HOSTILE, account=f"class:{HOSTILE}", promotion_name=HOSTILE, owner=HOSTILE)
    with make_client() as client:
        for make_view in VIEWS.values():
            assert "<script" not in to_html(make_view(client))
    assert "<script" not in ShownLog("job-1", HOSTILE, shortened=False)._repr_mimebundle_()["text/html"]


def test_simulated_gpus_are_called_so_on_every_screen(
    make_client: Callable[[], GPUClient], service: FakeService
) -> None:
    service.add_job()
    with make_client() as client:
        for name in ("status", "gpus", "quote", "jobs", "job", "meter"):
            assert "(simulated)" in to_text(VIEWS[name](client))


def test_a_receipt_that_differs_from_the_ledger_says_so(make_client: Callable[[], GPUClient]) -> None:
    with make_client() as client:
        receipt = client.receipt("job-1")
    wrong = Receipt.model_validate({**receipt.model_dump(), "ledger_micros": 1, "settled": False})
    text = to_text(views.receipt(wrong, LENS))
    assert "The ledger says 0.000001 credits: tell your administrator." in text
    assert "receipt total == ledger total" not in text
    assert "still runs" in text


def test_a_device_that_does_not_tell_is_a_dash_never_zero(make_client: Callable[[], GPUClient]) -> None:
    with make_client() as client:
        use = client.status().gpus[0]
    silent = use.model_copy(
        update={"utilisation_percent": None, "memory_used_bytes": None, "memory_total_bytes": None, "lost": True}
    )
    [row] = views.gpu_use([silent]).rows
    assert row[1:] == ("lost", "— of —", "—", "—")


@pytest.mark.parametrize(
    ("state", "more", "words"),
    [
        ("queued", {"queue_place": 2}, "queued, place 2"),
        ("failed", {"exit_code": 3}, "failed, exit code 3"),
        ("timed_out", {}, "timed out"),
    ],
)
def test_a_state_is_said_in_words(service: FakeService, state: str, more: dict[str, Any], words: str) -> None:
    assert views.job_state(Job.model_validate(service.add_job(state=state, **more))) == words


def test_outputs_are_told_in_words_or_joined_into_a_bundle() -> None:
    error = {"output_type": "error", "traceback": ["\x1b[31mZeroDivisionError\x1b[0m", "bad"]}
    assert plain_outputs(error) == "ZeroDivisionError\nbad\n"
    assert output_bundle(error) is None
    shown = {"output_type": "execute_result", "data": {"text/plain": ["a", "b"], "application/json": {"k": ["v"]}}}
    assert plain_outputs(shown) == "ab\n"
    assert output_bundle(shown) == ({"text/plain": "ab", "application/json": {"k": ["v"]}}, {})
