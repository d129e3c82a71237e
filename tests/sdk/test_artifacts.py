"""What a program and a shell do with kept files, sources and environments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fastgpu import cli
from fastgpu.aio import AsyncGPUClient
from fastgpu.client import GPUClient
from fastgpu.errors import InvalidRequest, NotAllowed, Removed
from fastgpu.formatting import parse_bytes
from fastgpu.models import QuotaMetric
from fastgpu.words import quota_words
from fastgpu_magics.arguments import CELL_COMMANDS
from fastgpu_magics.sending import prepare
from tests.sdk.fake_service import URL, FakeService

SENT = {
    "outputs": ["results/*.csv", "model/"],
    "sources": {"data/train.csv": "s3://course-data/train.csv"},
    "python": "torch",
    "lock": "requirements.txt",
}


@pytest.fixture
def lock(folder: Path) -> Path:
    (folder / "requirements.txt").write_text("numpy==2.1.0\n")
    return folder / "requirements.txt"


@pytest.mark.parametrize("written", ["requirements.txt", "./requirements.txt", "absolute"])
def test_a_submission_says_what_to_keep_and_fetch_and_brings_its_lock_file(
    client: GPUClient, service: FakeService, lock: Path, written: str
) -> None:
    client.submit(
        "train.py",
        "h100-80gb",
        outputs=["results/*.csv", "model/"],
        sources={"data/train.csv": "s3://course-data/train.csv"},
        python="torch",
        lock=str(lock) if written == "absolute" else written,
    )
    body = service.submissions[0]
    assert {name: body[name] for name in SENT} == SENT
    assert [entry["path"] for entry in body["inputs"]] == ["requirements.txt", "train.py"]
    assert b"numpy==2.1.0\n" in service.blobs.values()


async def test_the_async_client_says_the_same(service: FakeService, lock: Path) -> None:
    async with AsyncGPUClient(URL, "secret-token", transport=service.transport) as client:
        job = await client.submit("train.py", "h100-80gb", **SENT)
        body = service.submissions[0]
        assert {name: body[name] for name in SENT} == SENT
        service.kept[job.id] = {"a": b"1", "b": b"2"}
        assert [kept.path for kept in await client.artifacts(job.id)] == ["a", "b"]
        assert await client.read_artifact(job.id, "a") == b"1"
        await client.delete_artifacts(job.id, "a")
        assert (await client.kept_files())[0].files == 1
        assert (await client.keep_artifacts(job.id)).artifacts == "keeping"


def test_a_lock_file_that_is_not_there_is_named_before_anything_is_sent(client: GPUClient, folder: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"requirements\.txt"):
        client.submit("train.py", "h100-80gb", lock="requirements.txt")


def test_kept_files_are_listed_read_and_saved_and_none_outside_the_folder(
    client: GPUClient, service: FakeService, tmp_path: Path
) -> None:
    service.add_job()
    service.kept["job-1"] = {"out/ä ?.csv": b"1,2", "model.pt": b"w"}
    job = client.job("job-1")
    assert [(kept.path, kept.size_bytes) for kept in job.artifacts()] == [("out/ä ?.csv", 3), ("model.pt", 1)]
    assert client.read_artifact("job-1", "out/ä ?.csv") == b"1,2"
    saved = job.download_artifacts(tmp_path / "here")
    assert [path.relative_to(tmp_path).as_posix() for path in saved] == ["here/out/ä ?.csv", "here/model.pt"]
    assert saved[0].read_bytes() == b"1,2"
    assert job.download_artifact("model.pt", tmp_path) == tmp_path / "model.pt"
    for path in ("../up", "/abs", "a\\b"):
        with pytest.raises(NotAllowed, match="outside the folder"):
            job.download_artifact(path, tmp_path)


def test_deleting_and_keeping_again(client: GPUClient, service: FakeService) -> None:
    service.add_job()
    service.kept["job-1"] = {"a": b"1", "b": b"2"}
    client.delete_artifacts("job-1", "a")
    assert list(service.kept["job-1"]) == ["b"]
    client.delete_artifacts("job-1")
    assert service.kept["job-1"] == {}
    assert client.keep_artifacts("job-1", ["*.pt"]).artifacts == "keeping"
    assert json.loads(service.calls[-1].content) == {"outputs": ["*.pt"]}


def test_what_was_removed_is_an_error_that_says_when(client: GPUClient, service: FakeService) -> None:
    service.add_job()
    job = client.job("job-1")
    service.refuse(410, "removed", "The files and the log of job job-1 were removed on 2025-11-09 09:00 UTC.")
    with pytest.raises(Removed, match="removed on 2025-11-09"):
        job.logs()


# ---------------------------------------------------------------- the shell


@pytest.fixture
def run(client: GPUClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    monkeypatch.setattr(cli, "make_client", lambda: client)

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(list(words))
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def test_the_command_line_submits_with_outputs_sources_and_an_environment(
    run: Any, service: FakeService, lock: Path
) -> None:
    code, _, err = run(
        *("submit", "train.py", "--gpu", "a100", "--outputs", "results/*.csv", "--out-file", "model/"),
        *("--source", "data/train.csv=s3://course-data/train.csv", "--python", "torch", "--lock", "requirements.txt"),
    )
    assert code == 0, err
    body = service.submissions[0]
    assert {name: body[name] for name in SENT} == SENT
    assert run("submit", "train.py", "--gpu", "a100", "--source", "nonsense")[0] == 2


def test_artifacts_of_a_job_and_of_all_my_jobs_are_listed(run: Any, service: FakeService) -> None:
    note = {"code": "kept", "message": "Kept 2 files, 3 bytes."}
    service.add_job(name="mnist", artifacts="kept", artifacts_note=note)
    service.kept["job-1"] = {"out/a.csv": b"1,2", "b": b""}
    code, out, _ = run("artifacts", "job-1")
    assert code == 0
    for text in ("Kept 2 files, 3 bytes.", "out/a.csv", "3 B"):
        assert text in out
    assert json.loads(run("artifacts", "job-1", "--json")[1])[0]["path"] == "out/a.csv"
    code, out, _ = run("artifacts")
    assert (code, "mnist" in out) == (0, True)
    assert json.loads(run("artifacts", "--json")[1])[0]["size_bytes"] == 3
    assert "rm" in run("artifacts", "--help")[1]


def test_artifacts_are_saved_kept_and_deleted_from_the_shell(run: Any, service: FakeService, tmp_path: Path) -> None:
    service.add_job()
    service.kept["job-1"] = {"out/a.csv": b"1,2", "b": b"2"}
    code, _, err = run("artifacts", "get", "job-1", "out/a.csv", "--to", str(tmp_path))
    assert (code, (tmp_path / "out" / "a.csv").read_bytes()) == (0, b"1,2"), err
    assert run("artifacts", "rm", "job-1")[0] == 2  # says neither which nor all
    assert run("artifacts", "rm", "job-1", "b")[0] == 0
    assert list(service.kept["job-1"]) == ["out/a.csv"]
    assert run("artifacts", "rm", "job-1", "--all")[0] == 0
    assert service.kept["job-1"] == {}
    assert run("artifacts", "keep", "job-1", "*.pt")[0] == 0
    assert service.jobs["job-1"]["artifacts"] == "keeping"


# ---------------------------------------------------------------- the notebook


def test_a_cell_says_what_to_keep_and_fetch_and_the_same_cell_with_another_lock_is_another(lock: Path) -> None:
    def prepared(*words: str) -> Any:
        options = CELL_COMMANDS["submit"].parser.read(["--gpu", "a100", *words])
        return prepare("x = 1", options, {}, lock.parent)

    cell = prepared(
        *("--out-file", "results/*.csv", "--out-file", "model/", "--python", "torch", "--lock", "requirements.txt"),
        *("--source", "data/train.csv=s3://course-data/train.csv"),
    )
    body = cell.request("a100-40gb").model_dump(mode="json")
    assert {name: body[name] for name in SENT} == SENT
    assert "requirements.txt" in [upload.path for upload in cell.uploads]
    assert cell.fingerprint != prepared().fingerprint


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("5", 5), ("1KiB", 1024), ("1.5 GiB", 3 << 29), ("2 TB", 2 * 10**12), ("7mb", 7 * 10**6), (" 3 B ", 3)],
)
def test_a_written_size_is_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "-1", "1e3", "GiB", "1.GiB", "1 XB", "١", "1" * 20, "nan", "1,5 GiB"])
def test_a_size_that_cannot_be_read_is_refused_with_the_accepted_forms(text: str) -> None:
    with pytest.raises(ValueError, match="write for example 500MiB"):
        parse_bytes(text)


def test_a_bare_number_is_in_the_unit_that_is_asked_for() -> None:
    assert parse_bytes("1.5", "GiB") == 3 << 29
    assert quota_words(QuotaMetric.artifact_bytes, 3 << 29, "credits") == "1.5 GiB"
