"""Fetching by address: from below what the administrator lists, and from nowhere else, whatever the other side says."""

from __future__ import annotations

import gc
import io
import os
from pathlib import Path
from typing import Any

import pytest
from traitlets import TraitError

from fastgpu_hub.artifacts import JobFiles, sources
from fastgpu_hub.broker.ports.files import CannotFetch


def fetch(files: JobFiles, address: str, limit: int = 10**6, go_on: Any = lambda: True) -> bytes:
    into = io.BytesIO()
    size = files.fetch(address, into, limit, go_on)
    files.close()
    gc.collect()
    assert size == len(into.getvalue())
    return into.getvalue()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "train.csv").write_bytes(b"1,2,3\n" * 100_000)
    (folder / "sub" / "with space.csv").write_bytes(b"x")
    (tmp_path / "secret.txt").write_bytes(b"not for students")
    return folder


def test_a_file_comes_over_http_as_it_lies_there(web: Any, data: Path) -> None:
    url = web(data)
    files = JobFiles(source_prefixes=[f"{url}/"])
    assert fetch(files, f"{url}/train.csv") == (data / "train.csv").read_bytes()
    assert fetch(files, f"{url}/sub/with%20space.csv") == b"x"


def test_what_is_not_there_is_said_to_be_not_there(web: Any, data: Path) -> None:
    url = web(data)
    with pytest.raises(CannotFetch, match="There is nothing at"):
        fetch(JobFiles(source_prefixes=[f"{url}/"]), f"{url}/none.csv")


def test_more_than_the_limit_is_not_fetched_to_its_end(web: Any, data: Path) -> None:
    url = web(data)
    with pytest.raises(CannotFetch, match="larger than the 1000 bytes"):
        fetch(JobFiles(source_prefixes=[f"{url}/"]), f"{url}/train.csv", limit=1000)


def test_fetching_stops_when_it_is_not_to_go_on(web: Any, data: Path) -> None:
    url = web(data)
    with pytest.raises(CannotFetch, match="too long"):
        fetch(JobFiles(source_prefixes=[f"{url}/"]), f"{url}/train.csv", go_on=lambda: False)


def test_a_redirect_is_followed_within_the_prefixes_and_no_further(web: Any, data: Path, tmp_path: Path) -> None:
    inner = web(tmp_path)
    moved = {"/moved": "/train.csv", "/out": f"{inner}/secret.txt", "/file": "file:///etc/passwd", "/up": "/../x"}
    url = web(data, moved)
    files = JobFiles(source_prefixes=[f"{url}/"])
    assert fetch(files, f"{url}/moved")[:5] == b"1,2,3"
    for path in ("/out", "/file"):
        with pytest.raises(CannotFetch):
            fetch(files, f"{url}{path}")


def test_a_name_that_resolves_to_this_machine_is_fetched_only_where_a_prefix_says_so(
    web: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import aiohttp

    async def resolve(self: Any, host: str, port: int = 0, family: Any = 0) -> list[dict[str, Any]]:
        return [{"hostname": host, "host": "127.0.0.1", "port": port, "family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    port = web(data).rpartition(":")[2]
    with pytest.raises(CannotFetch):
        fetch(
            JobFiles(source_prefixes=[f"http://data.example.org:{port}/"]), f"http://data.example.org:{port}/train.csv"
        )
    local = f"http://localhost:{port}/"
    assert fetch(JobFiles(source_prefixes=[local]), f"{local}train.csv")[:5] == b"1,2,3"


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "169.254.169.254", "::1", "fe80::1%eth0", "0.0.0.0", "::ffff:127.0.0.1"]
)
def test_addresses_of_this_machine_and_of_its_networks_own_services_are_known(address: str) -> None:
    assert sources._local_address(address)
    assert not sources._local_address("192.0.2.7") or address


def test_a_listed_folder_gives_its_files_and_no_link_leads_out_of_it(data: Path, tmp_path: Path) -> None:
    files = JobFiles(source_prefixes=[f"file://{data}/"])
    assert fetch(files, f"file://{data}/sub/with space.csv".replace(" ", "%20")) == b"x"
    (data / "link").symlink_to(tmp_path / "secret.txt")
    (data / "away").symlink_to(tmp_path)
    os.mkfifo(data / "pipe")
    for path in ("link", "away/secret.txt", "sub", "none"):
        with pytest.raises(CannotFetch):
            fetch(files, f"file://{data}/{path}")
    with pytest.raises(CannotFetch, match="is not a file"):
        fetch(files, f"file://{data}/pipe")


@pytest.mark.slow
def test_a_file_comes_from_a_bucket_with_the_keys_of_its_protocol(s3_server: dict[str, Any]) -> None:
    store = JobFiles(artifacts_url="s3://class/lectures", artifacts_options=s3_server)
    store.put("s3://class/lectures/a.csv", io.BytesIO(b"1,2"), 3)
    store.close()
    files = JobFiles(source_prefixes=["s3://class/lectures/"], source_options={"s3": s3_server})
    assert fetch(files, "s3://class/lectures/a.csv") == b"1,2"
    with pytest.raises(CannotFetch, match="There is nothing at"):
        fetch(files, "s3://class/lectures/none.csv")
    with pytest.raises(CannotFetch, match="not below any"):
        fetch(files, "s3://class/private/a.csv")


@pytest.mark.parametrize(
    "address",
    [
        "https://data.example.org.evil.com/courses/x",
        "https://data.example.org/coursesevil/x",
        "https://data.example.org/courses/../private/x",
        "https://data.example.org/courses/%2e%2e/private/x",
        "https://data.example.org/courses/%252e%252e/private/x",
        "https://user@data.example.org/courses/x",
        "https://data.example.org\\@evil.com/courses/x",
        "https://data.example.org/courses/x#y",
        "http://data.example.org/courses/x",
        "https://data.example.org:8443/courses/x",
        "simplecache::https://data.example.org/courses/x",
        "https://data.example.org/courses/a b",
        "https://data.example.org/courses/a\nb",
        "https://[::1/courses/x",
        "/etc/passwd",
        "file:///etc/passwd",
        "local:///etc/passwd",
        "memory://x",
        "",
    ],
)
def test_an_address_that_only_looks_allowed_is_refused(address: str) -> None:
    files = JobFiles(source_prefixes=["https://data.example.org/courses/"])
    refused = files.check_source(address)
    assert refused is not None
    assert "https://data.example.org/courses/" in refused.instead
    with pytest.raises(CannotFetch):
        files.fetch(address, io.BytesIO(), 10, lambda: True)


def test_what_is_below_a_prefix_is_allowed_and_by_default_nothing_is() -> None:
    address = "https://DATA.example.org/courses/cs101/train.csv?version=3"
    assert JobFiles(source_prefixes=["https://data.example.org/courses/"]).check_source(address) is None
    assert JobFiles().check_source(address) is not None


@pytest.mark.parametrize("prefix", ["https://data.example.org", "data/", "https:///x/", "s3://", "file://../x/"])
def test_a_prefix_that_would_allow_more_than_it_says_is_refused_at_the_start(prefix: str) -> None:
    with pytest.raises(TraitError, match="source_prefixes"):
        JobFiles(source_prefixes=[prefix])
