"""``%%fastgpu``, a cell sent off as a job in a real shell, and what the notebook shows of that job."""

from __future__ import annotations

import hashlib
import json
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from fastgpu.models import Job
from fastgpu_magics.handle import NotebookJob, Outputs, ProgressLine, Result
from fastgpu_magics.transfer import load_inputs
from tests.sdk.fake_service import FakeService, at

pytestmark = pytest.mark.slow  # a shell each

Run = Callable[[str], Any]
Refusal = Callable[..., str]


def test_a_submitted_cell_travels_verbatim_with_its_variables(run: Run, service: FakeService, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2")
    run("lr = 0.1\ndata = [1, 2]")
    cell = "# fit it\n!nvidia-smi\nloss = sum(data) * lr  # 'quotes' and \\n\n"
    sent = run(
        "%%fastgpu submit --gpu a100 --count 2 --time 45m --max-cost 2.50 --account class:cs101 "
        f"--in lr,data --out loss --files *.csv --promo NIGHT\n{cell}"
    )
    assert not sent.failed
    assert isinstance(sent.value, NotebookJob)
    [body] = service.submissions
    assert (body["kind"], body["argv"], body["name"]) == ("notebook", ["cell.ipynb"], "fit it")
    assert (body["gpu_type"], body["gpu_count"], body["time_limit_seconds"]) == ("a100-40gb", 2, 2700)
    assert (body["max_cost_micros"], body["promo_code"], body["again"]) == (2_500_000, "NIGHT", False)
    files = {each["path"]: service.blobs[each["sha256"]] for each in body["inputs"]}
    assert sorted(files) == ["a.csv", "cell.ipynb", "inputs.pkl"]
    notebook = nbformat.reads(files["cell.ipynb"].decode(), as_version=4)
    nbformat.validate(notebook)
    assert [each.source for each in notebook.cells] == [cell]
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    assert notebook.metadata["fastgpu"] == {"inputs": ["lr", "data"], "outputs": ["loss"], "python": python}
    (tmp_path / "inputs.pkl").write_bytes(files["inputs.pkl"])
    loaded: dict[str, Any] = {}
    load_inputs(loaded, str(tmp_path / "inputs.pkl"))
    assert loaded == {"lr": 0.1, "data": [1, 2]}


@pytest.mark.parametrize(
    ("line", "cell", "says"),
    [
        ("submit --gpu a100", "print(model)", "the cell uses `model` of this notebook: add `--in model`"),
        ("submit --gpu a100 --in model", "print(model, lr)", "add `--in model,lr`"),
        ("submit --gpu a100", "json.dumps(1)", "write `import json` in the cell or add `--in json`"),
        ("submit --gpu a100", "print(unheard_of)", "bound neither in it nor in this notebook"),
        ("submit --gpu a100", "def f(:", "does not parse"),
        ("submit --gpu a100", "  \n", "the cell is empty"),
        ("submit --gpu a100 --in gone", "x = 1", "there is no variable `gone`"),
        ("submit --gpu a100 --in gen", "x = gen", "`gen` is or holds a generator"),
        ("submit --gpu a100 --files *.nope", "x = 1", "no file matches"),
        ("submit --gpu a100 --time soon", "x = 1", "cannot read 'soon' as a duration"),
        ("submit --gpu a100 --max-cost 1e9", "x = 1", "as an amount"),
        ("submit --gpu a100 --count 0", "x = 1", "at least 1"),
        ("submit --gpu a100 --begin now", "x = 1", "unknown option --begin; it knows --account --after --again"),
        ("submit --gpu a100 --sweep lr=1,2", "x = 1", "unknown option --sweep"),
        ("submit --gpu a100 stray", "x = 1", "unknown argument stray"),
        ("status", "x = 1", "status takes no cell: write %fastgpu status"),
        ("", "x = 1", "which command? There are: submit, run"),
    ],
)
def test_a_cell_that_would_fail_is_refused_before_anything_is_held(
    refusal: Refusal, shell: InteractiveShell, service: FakeService, line: str, cell: str, says: str
) -> None:
    shell.run_cell("import json; model = 1; lr = 2; gen = (i for i in [])")
    assert says in refusal(line, cell)
    assert service.submissions == []
    assert service.blobs == {}


def test_a_file_with_a_name_the_job_needs_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    (tmp_path / "result.ipynb").write_text("{}")
    assert "a name the job needs itself" in refusal("submit --gpu a100 --files *.ipynb", "x = 1")


def test_an_identical_cell_has_the_same_fingerprint_and_again_is_passed_on(run: Run, service: FakeService) -> None:
    run("%%fastgpu submit --gpu a100\nx = 1")
    run("%%fastgpu submit --gpu a100 --again\nx = 1\n\n")
    run("%%fastgpu submit --gpu a100 --time 2h\nx = 1")
    run("%%fastgpu submit --gpu a100\nx = 2")
    prints = [body["fingerprint"] for body in service.submissions]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3
    assert [body["again"] for body in service.submissions] == [False, True, False, False]


def test_a_duplicate_refused_by_the_service_says_again(refusal: Refusal, service: FakeService) -> None:
    answer = service.answer

    def duplicate(request: Any) -> Any:
        if request.method == "POST" and request.url.path.endswith("api/jobs"):
            service.refuse(
                409, "duplicate", "The same cell is active as job-9.", instead="Add --again to run it twice."
            )
        return answer(request)

    service.answer = duplicate  # type: ignore[method-assign]
    text = refusal("submit --gpu a100", "x = 1")
    assert text == "The same cell is active as job-9. Add --again to run it twice. [duplicate, request r-42]"


def test_a_dry_run_shows_cost_and_cargo_and_submits_nothing(run: Run, service: FakeService) -> None:
    run("data = list(range(1000))")
    shown = run("%%fastgpu submit --gpu a100 --in data --dry-run\nlen(data)").value
    text = repr(shown)
    assert "Dry run, nothing was submitted" in text
    assert "variable data" in text
    assert "0.42 credits" in text
    assert set(shown.data) == {"quote", "variables", "files"}
    assert (service.submissions, service.blobs) == ([], {})


def test_a_cell_can_wait_for_the_cheapest_start_or_for_an_instant(run: Run, service: FakeService) -> None:
    run("%%fastgpu submit --gpu a100 --start cheapest --by '2030-01-31 18:00' --max-cost 5\nx = 1")
    run("%%fastgpu submit --gpu a100 --start '2030-01-31 18:00'\nx = 1")
    sent = [(body["start"], body["start_at"], body["by"]) for body in service.submissions]
    assert sent == [("cheapest", None, "2030-01-31T18:00:00+01:00"), ("now", "2030-01-31T18:00:00+01:00", None)]
    shown = run("%%fastgpu submit --gpu a100 --start cheapest --by '2030-01-31 18:00' --dry-run\nx = 1").value
    assert "Cheapest: " in repr(shown)
    assert len(service.submissions) == 2


def test_a_deadline_that_is_past_is_refused_with_what_it_was_read_as(refusal: Refusal, service: FakeService) -> None:
    text = refusal("submit --gpu a100 --by '2020-01-31 18:00'", "x = 1")
    assert "was read as Fri 31 Jan 2020, 18:00 CET, which is past" in text
    assert service.submissions == []


def test_json_of_a_submission_is_the_job(run: Run) -> None:
    assert run("%%fastgpu submit --gpu a100 --json\nx = 1").value["state"] == "queued"


def test_the_fingerprint_is_a_sha256_of_cell_and_options(run: Run, service: FakeService) -> None:
    run("%%fastgpu submit --gpu a100\nx = 1")
    assert len(service.submissions[0]["fingerprint"]) == hashlib.sha256().digest_size * 2


# ---------------------------------------------------------------- the job in a notebook


def test_a_job_shows_a_live_bundle_and_a_truthful_snapshot(run: Run, service: FakeService) -> None:
    job = run("%%fastgpu submit --gpu a100 --name '<script>alert(1)</script>'\nx = 1").value
    bundle = job._repr_mimebundle_()
    assert bundle["application/vnd.fastgpu.job+json"] == {"id": "job-1", "path": "api/jobs/job-1"}
    assert "<script>" not in bundle["text/html"]
    assert "&lt;script&gt;" in bundle["text/html"]
    assert " UTC</small>" in bundle["text/html"]
    assert "queued" in bundle["text/plain"]


def test_a_job_still_shows_itself_when_the_service_is_away(run: Run, service: FakeService) -> None:
    job = run("%%fastgpu submit --gpu a100\nx = 1").value
    job._seen -= 10
    service.failures = [httpx.ConnectError("down")] * 5
    assert "queued" in job._repr_mimebundle_()["text/plain"]


def executed(*outputs: dict[str, Any]) -> bytes:
    cell = {"cell_type": "code", "id": "cell", "metadata": {}, "source": "x", "execution_count": 1, "outputs": outputs}
    return json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


PRINTED = {"output_type": "stream", "name": "stdout", "text": ["printed\n"]}
PLOT = {
    "output_type": "display_data",
    "data": {"image/png": "aGk=", "text/html": ["<b>", "plot</b>"], "text/plain": "<Figure>"},
    "metadata": {},
}


def test_outputs_of_ones_own_job_are_shown_as_the_notebook_would(run: Run, service: FakeService) -> None:
    service.add_job(state="succeeded")
    service.files["job-1"]["result.ipynb"] = executed(PRINTED, PLOT)
    shown = run("%fastgpu result job-1")
    assert isinstance(shown.value, Result)
    assert shown.out.endswith("printed\n")
    first, *rest = shown.outputs
    for words in ("Job job-1 succeeded", "0.07 credits", "0.98 at step 1", "63 % busy on average", "/jobs/job-1"):
        assert words in first.data["text/plain"]
    assert "accuracy &lt;b&gt;" in first.data["text/html"]
    assert [output.data["text/html"] for output in rest] == ["<b>plot</b>"]
    assert run("r = %fastgpu result job-1\nr.outputs").value == (PRINTED, PLOT)


def test_outputs_of_another_persons_job_are_words_only(run: Run, service: FakeService) -> None:
    service.add_job(state="succeeded", owner="mallory")
    service.files["job-1"]["result.ipynb"] = executed(PRINTED, PLOT)
    shown = run("%fastgpu result job-1")
    assert shown.out.endswith("printed\n<Figure>\n")
    assert ["Job job-1 succeeded" in output.data["text/plain"] for output in shown.outputs] == [True]
    assert isinstance(shown.value.outputs, Outputs)
    assert not shown.value.outputs.trusted


def test_saved_variables_are_pulled_by_name_and_never_from_strangers(run: Run, service: FakeService) -> None:
    service.add_job(state="succeeded")
    service.files["job-1"] = {
        "out/outputs.json": json.dumps({"python": "3.11", "outputs": {"loss": 5}}).encode(),
        "out/loss.pkl": pickle.dumps(0.5),
    }
    result = run("%fastgpu result job-1").value
    assert (result.names, result["loss"], result.job.pull("loss")) == (("loss",), 0.5, 0.5)
    service.jobs["job-1"]["owner"] = "mallory"
    refused = run("r = %fastgpu result job-1\nr['loss']")
    assert refused.failed
    assert "belongs to mallory" in refused.out + refused.err


def test_run_prints_the_log_and_brings_the_variables(run: Run, service: FakeService, shell: InteractiveShell) -> None:
    files = {
        "out/outputs.json": json.dumps({"python": "3.11", "outputs": {"loss": 5}}).encode(),
        "out/loss.pkl": pickle.dumps(0.5),
        "result.ipynb": executed(PRINTED, PLOT),
    }
    service.files["job-1"] = files
    ran = run("%%fastgpu run --gpu a100 --out loss\nloss = 0.5")
    assert not ran.failed
    assert ran.out.startswith("now starting\nnow running\nnow succeeded\n")
    assert "printed" not in ran.out
    assert [output.data["text/html"] for output in ran.outputs] == ["<b>plot</b>"]
    assert shell.user_ns["loss"] == 0.5
    assert ran.value.snapshot.state.value == "succeeded"


def test_run_of_a_failing_cell_is_a_usage_error_that_names_the_job(run: Run, service: FakeService) -> None:
    service.path_of_states = ["queued", "running", "failed"]
    ran = run("%%fastgpu run --gpu a100\n1/0")
    assert ran.failed
    assert ran.err.startswith("UsageError: Job job-1: it failed with exit code 1. See %fastgpu logs job-1")
    assert ran.err.count("\n") == 1


def test_interrupting_run_once_cancels_twice_detaches(
    run: Run, service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(job: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(service, "_advance", interrupted)
    once = run("%%fastgpu run --gpu a100\nx = 1")
    assert "interrupt again to detach" in once.err
    assert service.jobs["job-1"]["state"] == "cancelled"
    assert "Job job-1: it was cancelled" in once.err

    answer = service._jobs

    def never_cancels(request: Any, path: str) -> Any:
        if path.endswith("/cancel"):
            raise KeyboardInterrupt
        return answer(request, path)

    monkeypatch.setattr(service, "_jobs", never_cancels)
    twice = run("%%fastgpu run --gpu a100\nx = 2")
    assert "Detached from job job-2" in twice.err
    assert not twice.failed
    assert twice.value.id == "job-2"


# ---------------------------------------------------------------- progress while a job runs


def test_progress_is_shown_after_two_seconds_and_only_when_it_says_something_new(
    service: FakeService, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    line = ProgressLine(in_place=False, monotonic=lambda: clock[0])
    service.add_job(queue_place=3, explanation={"code": "capacity", "message": "All GPUs are in use."})
    queued = Job.model_validate(service.jobs["job-1"])
    line.tick(queued)
    clock[0] = 2.0
    line.tick(queued)
    line.tick(queued)
    line.tick(Job.model_validate(service.add_job(state="running", started_at=at(0), progress=0.4)))
    told = capsys.readouterr()
    assert told.out == ""
    first, second = told.err.splitlines()
    assert first.startswith("Job job-1 on h100-80gb (simulated): queued, place 3 · All GPUs are in use. · ends about ")
    assert second.startswith("Job job-1 on h100-80gb (simulated): running · 40 % · ends about ")


def test_in_a_notebook_progress_is_one_line_updated_in_place(shell: InteractiveShell, service: FakeService) -> None:
    clock = [2.0]
    line = ProgressLine(in_place=True, monotonic=lambda: clock[0])
    clock[0] = 4.0
    with capture_output() as captured:
        line.tick(Job.model_validate(service.add_job(progress=0.1)))
        line.tick(Job.model_validate(service.add_job(progress=0.2)))
    first, second = captured._outputs
    assert first["transient"] == second["transient"]
    assert (first["update"], second["update"]) == (False, True)
    assert "20 %" in second["data"]["text/plain"]
