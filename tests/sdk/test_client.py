"""What a student's program may rely on: right calls, one effect per submission, errors that say what to do."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import timedelta, timezone
from pathlib import Path

import httpx
import pytest

import fastgpu
from fastgpu.client import GPUClient
from fastgpu.errors import (
    Conflict,
    FastGPUError,
    InvalidRequest,
    NotAllowed,
    NotFound,
    NotSignedIn,
    QuotaError,
    Unavailable,
)
from fastgpu.models import JobState
from tests.sdk.fake_answers import NOW
from tests.sdk.fake_service import URL, FakeService


def test_readme_example_submits_a_script_and_follows_it(client: GPUClient, service: FakeService, folder: Path) -> None:
    job = client.submit("train.py", "h100-80gb", 1, "2h")
    assert client.get_job_status(job.id).state is JobState.queued
    [body] = service.submissions
    assert body["argv"] == ["train.py"]
    assert (body["kind"], body["time_limit_seconds"], body["gpu_count"]) == ("script", 7200, 1)
    digest = hashlib.sha256(b"print('hello')\n").hexdigest()
    assert body["inputs"] == [{"path": "train.py", "sha256": digest, "size_bytes": 15}]
    assert service.blobs == {digest: b"print('hello')\n"}


def test_only_files_that_were_named_are_uploaded(client: GPUClient, service: FakeService, folder: Path) -> None:
    for name in ("secret.txt", "data/a.csv", "data/deep/b.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    client.submit("train.py", "h100-80gb", files=["data/**/*.csv"])
    assert [each["path"] for each in service.submissions[0]["inputs"]] == ["data/a.csv", "data/deep/b.csv", "train.py"]


def test_bytes_the_service_holds_are_not_sent_again(client: GPUClient, service: FakeService, folder: Path) -> None:
    client.submit("train.py", "h100-80gb")
    client.submit("train.py", "h100-80gb", again=True)
    assert len([call for call in service.calls if call.method == "PUT"]) == 1


def test_every_option_of_a_submission_arrives(client: GPUClient, service: FakeService, folder: Path) -> None:
    client.submit(
        "train.py",
        "h100-80gb",
        2,
        "45m",
        args=["--epochs", "3"],
        env={"SEED": "1"},
        name="mnist",
        account="class:cs101",
        promo_code="NIGHT",
        max_cost="2.50",
        again=True,
        idempotency_key="my-key",
    )
    body = service.submissions[0]
    assert body["argv"] == ["train.py", "--epochs", "3"]
    assert (body["max_cost_micros"], body["promo_code"], body["environment"]) == (2_500_000, "NIGHT", {"SEED": "1"})
    assert (body["name"], body["account"], body["again"]) == ("mnist", "class:cs101", True)
    assert service.sent("POST", "api/jobs")[0].headers["Idempotency-Key"] == "my-key"


def test_a_command_is_a_list_of_words_and_a_notebook_is_a_notebook(
    client: GPUClient, service: FakeService, folder: Path
) -> None:
    (folder / "a.ipynb").write_text("{}")
    client.submit(["nvidia-smi", "-L"], "h100-80gb")
    client.submit("a.ipynb", "h100-80gb")
    assert [(body["kind"], body["argv"]) for body in service.submissions] == [
        ("command", ["nvidia-smi", "-L"]),
        ("notebook", ["a.ipynb"]),
    ]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"script": "gone.py"}, "cannot read gone.py"),
        ({"script": "train.sh"}, "neither a .py nor an .ipynb"),
        ({"files": ["*.csv"]}, "no file matches '*.csv'"),
        ({"files": ["../*"]}, "lies outside"),
        ({"time_limit": "soon"}, "cannot read 'soon' as a duration"),
        ({"max_cost": 2.5}, "write an amount as text"),
        ({"max_cost": "-1"}, "cannot read '-1' as an amount"),
        ({"gpu_count": 0}, "gpu_count"),
        ({"gpu_type": "H 100"}, "gpu_type"),
        ({"account": "cs101"}, "account"),
    ],
)
def test_a_wrong_argument_is_one_sentence_and_sends_nothing(
    client: GPUClient, service: FakeService, folder: Path, change: dict[str, object], says: str
) -> None:
    (folder.parent / "outside.txt").write_text("x")
    arguments = {"script": "train.py", "gpu_type": "h100-80gb", **change}
    with pytest.raises(InvalidRequest) as caught:
        client.submit(**arguments)  # type: ignore[arg-type]
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert service.submissions == []


def test_every_post_carries_a_fresh_key(client: GPUClient, service: FakeService) -> None:
    client.quote("h100-80gb")
    client.quote("h100-80gb")
    keys = [call.headers["Idempotency-Key"] for call in service.sent("POST", "api/quotes")]
    assert len(set(keys)) == 2


def test_a_post_is_repeated_with_the_same_key_after_a_cut_connection_and_a_503(
    client: GPUClient, service: FakeService, slept: list[float]
) -> None:
    service.failures = [httpx.ConnectError("refused"), httpx.ReadError("cut"), httpx.Response(503)]
    client.grant("class:cs101", "10")
    posts = service.sent("POST", "api/grants")
    assert len(posts) == 4
    assert len({call.headers["Idempotency-Key"] for call in posts}) == 1
    assert slept == sorted(slept)


def test_it_gives_up_after_four_repetitions_and_says_what_to_do(client: GPUClient, service: FakeService) -> None:
    service.failures = [httpx.ConnectError("connection refused")] * 9
    with pytest.raises(Unavailable) as caught:
        client.status()
    assert len(service.calls) == 5
    assert "does not answer (connection refused)" in str(caught.value)
    assert "Check FASTGPU_URL" in str(caught.value)


def test_retry_after_is_respected_and_a_long_one_is_reported_instead_of_slept(
    client: GPUClient, service: FakeService, slept: list[float]
) -> None:
    service.failures = [httpx.Response(503, headers={"Retry-After": "7"})]
    client.me()
    assert slept == [7.0]
    service.failures = [httpx.Response(503, headers={"Retry-After": "600"})]
    with pytest.raises(Unavailable, match="try again in 10 min"):
        client.me()
    assert slept == [7.0]


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (401, "not_signed_in", NotSignedIn),
        (403, "not_allowed", NotAllowed),
        (403, "quota_gpu_hours", QuotaError),
        (403, "credit", QuotaError),
        (403, "max_cost", QuotaError),
        (404, "not_found", NotFound),
        (409, "duplicate", Conflict),
        (422, "invalid_request", InvalidRequest),
        (500, "internal", FastGPUError),
    ],
)
def test_a_refusal_becomes_its_error_with_explanation_and_request_id(
    client: GPUClient, service: FakeService, status: int, code: str, kind: type[FastGPUError]
) -> None:
    service.refuse(status, code, "Not\nthis time.", numbers={"left": 0}, instead="Ask for less.")
    with pytest.raises(FastGPUError) as caught:
        client.status()
    assert type(caught.value) is kind
    assert caught.value.explanation is not None
    assert caught.value.explanation.numbers == {"left": 0}
    assert str(caught.value) == f"Not this time. Ask for less. [{code}, request r-42]"


def test_a_refusal_says_when_it_frees_up(client: GPUClient, service: FakeService) -> None:
    service.refuse(403, "quota_spend", "Spent.", frees_at=(NOW + timedelta(days=4000)).isoformat())
    with pytest.raises(QuotaError, match=r"Spent\. Frees up \w{3} \d+ \w{3} 2036"):
        client.status()


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (httpx.Response(401), NotSignedIn, "FASTGPU_TOKEN"),
        (httpx.Response(403, html="<h1>no</h1>"), NotAllowed, "may not"),
        (httpx.Response(404, html="<h1>hub</h1>"), Unavailable, "/services/fastgpu"),
        (httpx.Response(302, headers={"Location": "/hub/login"}), Unavailable, "/services/fastgpu"),
        (httpx.Response(200, html="<h1>login</h1>"), Unavailable, "/services/fastgpu"),
        (httpx.Response(200, json={"name": 3}), Unavailable, "/services/fastgpu"),
        (httpx.Response(500, text="oops"), FastGPUError, "administrator"),
    ],
)
def test_an_answer_that_is_not_the_services_own_says_what_to_check(
    client: GPUClient, service: FakeService, answer: httpx.Response, kind: type[FastGPUError], says: str
) -> None:
    service.failures = [answer]
    with pytest.raises(kind, match=says):
        client.me()


@pytest.mark.parametrize("url", ["", "hub.example.org", "ftp://x/", "http://"])
def test_a_bad_address_is_refused_with_what_to_set(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTGPU_URL", raising=False)
    with pytest.raises(Unavailable, match="FASTGPU_URL"):
        GPUClient(url, "t")


def test_without_a_token_it_says_where_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FASTGPU_TOKEN", "JUPYTERHUB_API_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(NotSignedIn, match="FASTGPU_TOKEN"):
        GPUClient(URL)


def test_address_and_token_come_from_the_servers_environment(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTGPU_URL", URL + "/")
    monkeypatch.delenv("FASTGPU_TOKEN", raising=False)
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "of-the-server")
    with GPUClient(transport=service.transport) as client:
        client.me()
        assert "of-the-server" not in repr(client) + repr(vars(client)["_connection"])
    assert service.calls[0].headers["Authorization"] == "token of-the-server"
    assert service.calls[0].url == f"{URL}/api/me"


def test_teacher_and_administrator_calls_send_whole_units_as_micros(client: GPUClient, service: FakeService) -> None:
    client.set_price("h100-80gb", "0.42", per_start="0.1")
    client.set_quota("member", "gpu_seconds", 3600, name="cs101", window="week")
    client.add_promotion("Night", NOW, NOW + timedelta(days=1), percent_off=50)
    client.end_promotion(7)
    client.grant("class:cs101", "100", note="winter")
    client.remove_quota(1)
    assert client.class_report("cs101").name == "cs101"
    assert client.inventory()[0].state == "leased"
    assert client.audit()[0].actor == "root"
    bodies = {call.url.path.rpartition("/api/")[2]: json.loads(call.content or b"{}") for call in service.calls}
    assert bodies["prices"]["per_gpu_hour_micros"] == 420_000
    assert bodies["prices"]["per_start_micros"] == 100_000
    assert (
        bodies["grants"].items() >= {"account": "class:cs101", "amount_micros": 100_000_000, "note": "winter"}.items()
    )
    assert bodies["quotas"]["scope"] == "member"


def test_promotions_are_edited_published_coded_and_previewed(client: GPUClient, service: FakeService) -> None:
    window = (NOW, NOW + timedelta(days=1))
    assert client.edit_promotion(7, "Night", *window, percent_off=60).version == 2
    assert client.publish_promotion(7).id == 7
    assert client.make_codes(7, 1)[0].code == client.codes(7)[0].code
    preview = client.preview_promotion(NOW - timedelta(days=7), NOW, "Night", *window, percent_off=60)
    assert preview.saved_micros == preview.charged_micros - preview.would_be_micros
    assert all(call.headers.get("idempotency-key") for call in service.calls if call.method == "POST")


def test_more_is_asked_for_decided_and_refunded(client: GPUClient) -> None:
    assert client.redeem("K7QF-9M2X-4TRW").granted_micros == 250_000
    assert client.grants()[0].left_micros == 1_250_000
    assert client.ask(36_000, "the final project", quota_id=1).state == "open"
    assert [client.approve(9).state, client.decline(9).state, client.withdraw(9).state] == [
        "approved",
        "declined",
        "withdrawn",
    ]
    assert client.asks("open")[0].reason == "the final project"
    assert client.refund("job-1", "the node was down").lease_id == "job-1"
    assert client.problems()[0].sentence
    assert client.written_receipt("job-1", "csv") == "as csv\n"


def test_reading_calls_answer_with_models(client: GPUClient) -> None:
    assert client.status().user == "alice"
    assert client.options().offers[0].gpu_type == "h100-80gb"
    assert client.promotions("CODE")[0].percent_off == 50
    assert client.quotas()[0].left == 100_800
    assert client.costs(NOW.astimezone(timezone.utc), "gpu").by == "gpu"
    assert client.receipt("job-1").settled
    assert client.why("job-1").explanation.code == "capacity"
    assert client.leases()[0].id == "job-1"
    assert client.prices()[0].id == 3


def test_a_strange_id_stays_one_segment_of_the_path(client: GPUClient, service: FakeService) -> None:
    with pytest.raises(NotFound):
        client.get_job_status("../../hub/api?x=1#")
    assert service.calls[0].url.raw_path == b"/services/fastgpu/api/jobs/..%2F..%2Fhub%2Fapi%3Fx%3D1%23"


def test_importing_the_package_loads_neither_http_nor_models() -> None:
    script = "import sys, fastgpu; print([m for m in ('httpx', 'pydantic', 'typer', 'rich') if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"


def test_every_exported_name_exists() -> None:
    assert all(getattr(fastgpu, name) is not None for name in fastgpu.__all__)
    assert set(fastgpu.__all__) <= set(dir(fastgpu))
    with pytest.raises(AttributeError):
        fastgpu.nothing  # noqa: B018
