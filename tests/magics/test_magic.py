"""``%fastgpu``, the commands of one line, in a real shell; loading and unloading the extension."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from fastgpu_magics import load_ipython_extension, unload_ipython_extension
from tests.sdk.fake_service import FakeService

Run = Callable[[str], Any]
Refusal = Callable[..., str]


@pytest.mark.parametrize(
    ("line", "shows"),
    [
        ("", "FastGPU status of alice"),
        ("status", "H100 (simulated)"),
        ("top", "FastGPU status of alice"),
        ("quote --gpu a100 --count 2 --time 4h", "Quote: 2 × a100-40gb (simulated) for 4 h"),
        ("quote --gpu a100 --by '2030-01-31 18:00'", "Cheapest: "),
        ("when --gpu a100 --by '2030-01-31 18:00' --max-cost 5", "Thu 31 Jan 2030, 18:00 CET"),
        ("promos", "50 % off"),
        ("promos NIGHT", "50 % off"),
        ("quota", "40 GPU-hours per week"),
        ("jobs --all", "train.py"),
        ("cancel job-1", "cancelled"),
        ("cost --by day --since 2025-11-01", "Cost by day"),
        ("why job-1", "All 4 GPUs are in use."),
        ("why", "All 4 GPUs are in use."),
        ("receipt job-1", "receipt total == ledger total"),
        ("logs job-1", "epoch 1"),
        ("result job-1", "Job job-1 queued"),
        ("result job-1", "0.98 at step 1"),
        ("metrics job-1", "0.98 at step 1"),
    ],
)
def test_every_line_command_shows_itself_and_gives_plain_data(
    run: Run, service: FakeService, line: str, shows: str
) -> None:
    service.add_job()
    service.logs["job-1"] = b"epoch 1\n"
    shown = run(f"%fastgpu {line}")
    assert not shown.failed
    assert shows in repr(shown.value)
    plain = run(f"x = %fastgpu {line} --json\nx" if line else "x = %fastgpu --json\nx").value
    assert isinstance(plain, dict | list)
    json.dumps(plain)


def test_a_trailing_semicolon_silences_the_output(run: Run) -> None:
    quiet = run("%fastgpu status;")
    assert (quiet.value, quiet.out, quiet.outputs) == (None, "", [])


def test_in_a_notebook_answers_are_text_and_html(run: Run) -> None:
    bundle = run("%fastgpu quota").value._repr_mimebundle_()
    assert sorted(bundle) == ["text/html", "text/plain"]


def test_a_refusal_is_one_line_without_a_traceback(run: Run, service: FakeService) -> None:
    service.refuse(403, "quota_spend", "The class has spent its 100 credits.", instead="Ask your teacher.")
    refused = run("%fastgpu status")
    assert refused.failed
    assert (
        refused.err
        == "UsageError: The class has spent its 100 credits. Ask your teacher. [quota_spend, request r-42]\n"
    )


def test_why_without_an_id_tells_of_the_last_refusal(run: Run, service: FakeService) -> None:
    service.refuse(403, "credit", "You have 0.10 credits left.", numbers={"left_micros": 100_000})
    run("%fastgpu quota")
    shown = repr(run("%fastgpu why").value)
    assert "You have 0.10 credits left." in shown
    assert "left_micros" not in shown
    assert run("%fastgpu why --json").value["numbers"] == {"left_micros": 100_000}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nonsense", "unknown command nonsense; there are: status, top"),
        ("submit", "begin the cell with %%fastgpu submit"),
        ("jobs --moon 3", "unknown option --moon; it knows --all --array --help --json --limit"),
        ("logs", "required: ID"),
        ("cost --by moon", "--by"),
        ("cost --since soon", "cannot read 'soon' as a day"),
        ("quote --gpu h100", "could be several GPU types"),
        ("quote --gpu $nothing", "cannot fill in 'nothing': NameError"),
        ("logs 'x", "is left open"),
        ("why", "no job yet"),
    ],
)
def test_a_mistake_is_one_usage_error(refusal: Refusal, line: str, says: str) -> None:
    assert says in refusal(line)


def test_help_prints_and_does_not_exit(run: Run) -> None:
    for line, says in (("%fastgpu --help", "%%fastgpu run"), ("%fastgpu jobs --help", "--limit N")):
        shown = run(line)
        assert not shown.failed
        assert says in shown.out
    shown = run("%%fastgpu run --help\nx")
    assert "Interrupt once to cancel the job, twice to leave it" in " ".join(shown.out.split())


def test_names_and_expressions_are_filled_in_word_by_word(run: Run, service: FakeService) -> None:
    run("gpu = 'a100'; hours = {'a b': 2}; evil = '--json --count 5'")
    quote = run("%fastgpu quote --gpu $gpu --time {hours['a b'] * 2}h --promo {'X' if gpu else evil}").value
    assert quote.data["duration_seconds"] == 14400
    assert "$evil" not in refusal_of(run("%fastgpu quote --gpu '$gpu'"))


def refusal_of(ran: Any) -> str:
    assert ran.failed
    return str(ran.err)


def test_logs_follow_prints_to_the_end(run: Run, service: FakeService) -> None:
    service.add_job()
    assert run("%fastgpu logs job-1 -f").out == "now starting\nnow running\nnow succeeded\n"


def test_logs_follow_goes_on_after_the_service_was_away(run: Run, service: FakeService) -> None:
    service.add_job()
    answer, answered = service.answer, list[str]()

    def away_in_between(request: httpx.Request) -> httpx.Response:
        answered.append(request.url.path)
        if 3 <= len(answered) < 20:
            raise httpx.ConnectError("connection refused")
        return answer(request)

    service.answer = away_in_between  # type: ignore[method-assign]
    shown = run("%fastgpu logs job-1 -f")
    assert shown.out == "now starting\nnow running\nnow succeeded\n"
    assert "goes on here as soon as the service is back" in shown.err


def test_a_long_log_is_shown_from_its_end(run: Run, service: FakeService) -> None:
    service.add_job(state="succeeded", log_bytes=10**6)
    service.logs["job-1"] = b"x" * (10**6 - 3) + b"end"
    shown = run("%fastgpu logs job-1").value
    assert shown.shortened
    assert repr(shown).startswith("… earlier lines left out")
    assert repr(shown).endswith("end")
    assert len(repr(shown)) < 300_000


# ---------------------------------------------------------------- loading


def test_the_extension_loads_reloads_and_unloads(shell: InteractiveShell) -> None:
    load_ipython_extension(shell)
    load_ipython_extension(shell)
    assert len(shell.Completer.custom_matchers) == 1
    assert shell.find_line_magic("fastgpu")
    assert shell.find_cell_magic("fastgpu")
    unload_ipython_extension(shell)
    unload_ipython_extension(shell)
    assert shell.Completer.custom_matchers == []
    assert shell.find_line_magic("fastgpu") is None


def test_without_a_hub_the_magic_says_what_to_set(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTGPU_URL", raising=False)
    load_ipython_extension(shell)
    magic = shell.find_line_magic("fastgpu")
    with pytest.raises(UsageError, match="set FASTGPU_URL"):
        magic("status")
    unload_ipython_extension(shell)
