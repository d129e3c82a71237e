"""Kept files over HTTP: streamed whole, whatever their size; gone ones say since when; no path reads anything else."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import quote

import httpx
import pytest

pytestmark = pytest.mark.slow  # a service each


async def kept(service: Any, files: dict[str, bytes], outputs: tuple[str, ...] = ("**",)) -> str:
    """A job of alice that ended, with these files kept."""
    job_id: str = (await service.running("t-alice", outputs=list(outputs)))["id"]
    for path, data in files.items():
        service.engine.put_file(job_id, path, data)
    service.engine.finish(job_id)
    for _ in range(500):
        job = (await service.call("t-alice", "GET", f"api/jobs/{job_id}")).json()
        if job["artifacts"] == "kept":
            return job_id
        await asyncio.sleep(0.01)
    raise AssertionError(job)


async def test_a_kept_file_comes_whole_and_never_as_a_page(service: Any) -> None:
    data = bytes(range(256)) * 20_000  # several parts
    job_id = await kept(service, {"out/model.bin": data, "page.html": b"<script>alert(1)</script>", "empty": b""})
    answer = await service.call("t-alice", "GET", f"api/jobs/{job_id}/artifacts/out/model.bin")
    assert answer.content == data
    assert answer.headers["Content-Length"] == str(len(data))
    page = await service.call("t-alice", "GET", f"api/jobs/{job_id}/artifacts/page.html")
    assert page.headers["Content-Type"] == "application/octet-stream"
    assert page.headers["Content-Disposition"] == "attachment"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert (await service.call("t-alice", "GET", f"api/jobs/{job_id}/artifacts/empty")).content == b""
    listed = (await service.call("t-alice", "GET", f"api/jobs/{job_id}/artifacts")).json()
    assert [(each["path"], each["size_bytes"]) for each in listed] == [
        ("empty", 0),
        ("out/model.bin", len(data)),
        ("page.html", 25),
    ]
    mine = (await service.call("t-alice", "GET", "api/artifacts")).json()
    assert [(each["job_id"], each["files"], each["size_bytes"]) for each in mine] == [(job_id, 3, len(data) + 25)]


async def test_who_hangs_up_within_a_file_leaves_nothing_open(service: Any) -> None:
    job_id = await kept(service, {"big": b"x" * (8 << 20)})
    headers = {"Authorization": "token t-alice"}
    address = f"{service.url}api/jobs/{job_id}/artifacts/big"
    async with service.client.stream("GET", address, headers=headers) as answer:
        async for _ in answer.aiter_bytes():
            break
    again = await service.call("t-alice", "GET", f"api/jobs/{job_id}/artifacts/big")
    assert len(again.content) == 8 << 20


async def test_a_deleted_file_is_gone_since_a_date_and_deleting_it_again_is_no_fault(service: Any) -> None:
    job_id = await kept(service, {"a": b"1", "b": b"2"})
    path = f"api/jobs/{job_id}/artifacts"
    assert (await service.call("t-alice", "DELETE", f"{path}/a")).status_code == 204
    assert (await service.call("t-alice", "DELETE", f"{path}/a")).status_code == 204
    gone = await service.call("t-alice", "GET", f"{path}/a")
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "removed")
    assert [each["path"] for each in (await service.call("t-alice", "GET", path)).json()] == ["b"]
    assert (await service.call("t-alice", "DELETE", path)).status_code == 204
    assert (await service.call("t-alice", "GET", path)).json() == []
    assert (await service.call("t-alice", "DELETE", f"{path}/never")).status_code == 404


WRITTEN = [
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/x",
    "%252e%252e/x",
    "%2fetc%2fpasswd",
    "a%00",
    "a%0a",
    "%ff",
    "~",
    "*",
    "a%2f..%2fa",
]


async def test_no_written_path_reads_anything_but_what_was_kept(service: Any) -> None:
    job_id = await kept(service, {"a": b"1"})
    for path in WRITTEN:
        raw = f"/services/fastgpu/api/jobs/{job_id}/artifacts/{path}".encode()
        address = httpx.URL(service.url).copy_with(raw_path=raw)
        answer = await service.client.get(address, headers={"Authorization": "token t-alice"})
        assert answer.status_code in (400, 404, 422), (path, answer.text)


async def test_a_name_of_any_letters_comes_back_under_its_own_name(service: Any) -> None:
    names = ["ü ñ.csv", "a?b#c.txt", "100%.txt", "a+b&c=d", "quote\"'.txt"]
    job_id = await kept(service, {name: name.encode() for name in names})
    for name in names:
        answer = await service.call("t-alice", "GET", f"api/jobs/{job_id}/artifacts/{quote(name, safe='')}")
        assert answer.content == name.encode(), name


async def test_outputs_can_be_kept_after_the_end_by_other_patterns(service: Any) -> None:
    job_id = await kept(service, {"a.csv": b"1", "b.txt": b"2"}, outputs=("*.csv",))
    body = {"outputs": ["*.txt"]}
    answer = await service.call("t-alice", "POST", f"api/jobs/{job_id}/artifacts", json=body)
    assert (answer.status_code, answer.json()["artifacts"]) == (200, "keeping")
    for _ in range(500):
        listed = (await service.call("t-alice", "GET", f"api/jobs/{job_id}/artifacts")).json()
        if [each["path"] for each in listed] == ["b.txt"]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(listed)


async def test_a_limit_on_kept_files_is_set_seen_and_asked_for_more_of_in_bytes(service: Any) -> None:
    limit = {"scope": "member", "name": "cs101", "metric": "artifact_bytes", "limit": 5 << 30}
    set_ = await service.call("t-tina", "POST", "api/quotas", json=limit)
    assert (set_.status_code, set_.json()["label"]) == (201, "each member of class cs101: 5 GiB of kept files")
    mine = (await service.call("t-alice", "GET", "api/quotas")).json()
    quota = next(row for row in mine if row["metric"] == "artifact_bytes")
    ask = {"quota_id": quota["quota_id"], "amount": 1 << 30, "reason": "checkpoints of the thesis"}
    asked = await service.call("t-alice", "POST", "api/asks", json=ask)
    assert asked.status_code == 201, asked.text
    approved = await service.call("t-tina", "POST", f"api/asks/{asked.json()['id']}/approve", json={})
    assert approved.status_code == 200, approved.text
    mine = (await service.call("t-alice", "GET", "api/quotas")).json()
    quota = next(row for row in mine if row["metric"] == "artifact_bytes")
    assert (quota["limit"], quota["extra"], quota["left"]) == (6 << 30, 1 << 30, 6 << 30)
    for wrong in ({"gpu_type": "h100-80gb"}, {"window": "day"}, {"window": "rolling", "rolling_seconds": 3600}):
        refused = await service.call("t-tina", "POST", "api/quotas", json={**limit, **wrong})
        assert refused.status_code == 422, refused.text
    page = await service.call("t-alice", "GET", "")
    assert "5 GiB of kept files" in page.text
