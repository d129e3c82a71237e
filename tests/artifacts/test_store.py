"""One contract for every place where artifacts may lie: a local folder, fsspec's memory, a real S3 server."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastgpu_hub.artifacts import JobFiles
from fastgpu_hub.artifacts.places import place_of
from fastgpu_hub.broker.ports.files import FilesUnavailable

SECRET = "canary-of-the-secret-key"


@pytest.fixture(params=["folder", "memory", pytest.param("s3", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[JobFiles]:
    settings: dict[str, Any] = {"artifacts_url": str(tmp_path / "kept")}
    if request.param == "memory":
        settings = {"artifacts_url": f"memory://{tmp_path.name}"}
    if request.param == "s3":
        options = request.getfixturevalue("s3_server")
        settings = {"artifacts_url": f"s3://class/{tmp_path.name}/", "artifacts_options": options}
    store = JobFiles(**settings)
    store.check()
    yield store
    store.close()
    del store
    gc.collect()  # what was not closed complains here


def put(store: JobFiles, path: str, data: bytes, job: str = "j-1", owner: str = "alice") -> str:
    url = store.url_of(owner, job, path)
    store.put(url, io.BytesIO(data), len(data))
    return url


def read(store: JobFiles, url: str) -> bytes:
    with store.open(url) as file:
        return file.read()


@pytest.mark.parametrize("data", [b"", b"1,2\n", bytes(range(256)) * 10_000], ids=["empty", "small", "2.5 MB"])
def test_what_is_put_is_read_again(store: JobFiles, data: bytes) -> None:
    assert read(store, put(store, "out/a.bin", data)) == data


def test_putting_again_replaces(store: JobFiles) -> None:
    put(store, "a", b"first and longer")
    url = put(store, "a", b"second")
    assert read(store, url) == b"second"


def test_what_was_removed_is_gone_and_removing_it_again_is_no_fault(store: JobFiles) -> None:
    url, other = put(store, "a", b"1"), put(store, "b", b"2")
    store.remove(url)
    store.remove(url)
    with pytest.raises(FileNotFoundError):
        store.open(url)
    assert read(store, other) == b"2"


@pytest.mark.parametrize("said", [3, 5])
def test_a_file_that_is_not_as_long_as_it_was_is_not_kept(store: JobFiles, said: int) -> None:
    url = store.url_of("alice", "j-1", "growing")
    with pytest.raises(ValueError, match=f"it was {said} bytes"):
        store.put(url, io.BytesIO(b"1234"), said)
    with pytest.raises(FileNotFoundError):
        store.open(url)


HOSTILE = [
    "plain.txt", "with space.txt", "a*b?[c].txt", "%2e%2e", "~root", "-rf", ".hidden", "ünïcödé.csv", "x" * 255,
    "\N{RIGHT-TO-LEFT OVERRIDE}gpj.exe", "::chain", "a#b", "a&b=c", "$(touch x)", "deep/" * 30 + "file", "quote'\"",
]  # fmt: skip


def test_any_name_is_kept_under_its_own_address(store: JobFiles) -> None:
    urls = {path: put(store, path, path.encode()) for path in HOSTILE}
    assert len(set(urls.values())) == len(HOSTILE)
    assert {path: read(store, url).decode() for path, url in urls.items()} == {path: path for path in HOSTILE}


def test_two_people_and_two_jobs_never_share_an_address(store: JobFiles) -> None:
    urls = [put(store, "a", f"{n}".encode(), job, owner) for n, (job, owner) in enumerate(
        [("j-1", "alice"), ("j-2", "alice"), ("j-1", "bob"), ("j-1", "al/ice"), ("j-1", "../bob")]
    )]  # fmt: skip
    assert [read(store, url) for url in urls] == [b"0", b"1", b"2", b"3", b"4"]


def test_no_address_leaves_the_store() -> None:
    for owner in ("..", "a/../..", "", ".", "/etc", "a\\b", "\0"):
        for path in ("..", "../x", "a/../../x", "/etc/passwd", "", "\0"):
            parts = place_of(owner, "j-1", path).split("/")
            assert not {"", ".", ".."} & set(parts), (owner, path, parts)
            assert all("\0" not in part and "\\" not in part for part in parts)


def test_a_name_that_looks_like_a_hash_is_not_taken_for_one() -> None:
    hashed = place_of("alice", "j-1", "a?b").rpartition("/")[2]
    assert place_of("alice", "j-1", hashed) != place_of("alice", "j-1", "a?b")


def test_a_local_store_leaves_no_empty_folders(tmp_path: Path) -> None:
    store = JobFiles(artifacts_url=str(tmp_path / "kept"))
    store.check()
    store.remove(put(store, "a/b/c", b"1"))
    assert list((tmp_path / "kept").iterdir()) == []


def test_a_full_or_closed_folder_is_unavailable_not_a_crash(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = JobFiles(artifacts_url=str(tmp_path / "file" / "kept"))
    with pytest.raises(FilesUnavailable, match="cannot write"):
        put(store, "a", b"1")


@pytest.mark.slow
@pytest.mark.parametrize("wrong", ["bucket", "endpoint"])
def test_no_key_is_in_what_an_s3_store_complains_of(
    s3_server: dict[str, Any], wrong: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = dict(s3_server)
    if wrong == "endpoint":
        options["endpoint_url"] = "http://127.0.0.1:9"
        options["config_kwargs"] = {"retries": {"max_attempts": 0}, "connect_timeout": 1}
    store = JobFiles(artifacts_url="s3://nowhere/x" if wrong == "bucket" else "s3://class/x", artifacts_options=options)
    try:
        with caplog.at_level("INFO"), pytest.raises(FilesUnavailable) as caught:
            put(store, "a", b"1")
    finally:
        store.close()
    assert SECRET not in str(caught.value) + caplog.text
    assert options["key"] not in str(caught.value) + caplog.text


def test_no_key_is_in_what_any_error_says() -> None:
    from fastgpu_hub.artifacts.places import secrets_in, without

    options = {"key": "AKIA1234", "secret": SECRET, "endpoint_url": "http://minio:9000", "deep": [{"token": "t0ken"}]}
    said = without(f"bad: AKIA1234 {SECRET} t0ken at http://minio:9000", secrets_in(options))
    assert said == "bad: *** *** *** at http://minio:9000"


def test_an_address_that_cannot_be_used_is_named_at_the_start() -> None:
    with pytest.raises(ValueError, match="nosuch"):
        JobFiles(artifacts_url="nosuch://x").check()
