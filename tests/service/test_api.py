from __future__ import annotations

import asyncio
import hashlib
import json
import time
from typing import Any

import pytest

from fastgpu import models as m
from fastgpu_hub.broker.ports.store import StoreUnavailable


def error_of(answer: Any) -> m.ErrorAnswer:
    """Every refusal has the same shape and the request id of its header."""
    found = m.ErrorAnswer.model_validate(answer.json())
    assert found.request_id == answer.headers["X-Request-Id"]
    assert found.error.message
    return found


async def test_a_job_goes_from_submission_to_a_receipt_that_adds_up(service: Any) -> None:
    me = m.Me.model_validate((await service.call("t-alice", "GET", "api/me")).json())
    assert (me.name, me.classes, me.admin) == ("alice", ("cs101",), False)
    job = await service.running(gpu_count=1, time_limit_seconds=600)
    assert (job["owner"], job["account"], job["simulated"]) == ("alice", "class:cs101", True)
    service.engine.finish(job["id"])
    ended = await service.call("t-alice", "GET", f"api/jobs/{job['id']}?wait_seconds=10&state=running")
    assert ended.json()["state"] == "succeeded"
    receipt = m.Receipt.model_validate((await service.call("t-alice", "GET", f"api/leases/{job['id']}/receipt")).json())
    assert receipt.total_micros == receipt.ledger_micros == sum(line.amount_micros for line in receipt.lines)
    why = (await service.call("t-alice", "GET", f"api/leases/{job['id']}/why")).json()
    assert why["id"] == job["id"]
    log = await service.call("t-alice", "GET", f"api/jobs/{job['id']}/log?offset=0&limit_bytes=100")
    assert log.status_code == 200
    assert log.headers["X-Job-State"] == "succeeded"
    assert log.headers["X-Log-Size"] == str(len(log.content))
    assert (await service.call("t-alice", "GET", f"api/jobs/{job['id']}/files")).json() == []
    listed = (await service.call("t-alice", "GET", "api/jobs?state=all&limit=5")).json()
    assert [row["id"] for row in listed] == [job["id"]]
    assert (await service.call("t-alice", "GET", "api/jobs?state=active")).json() == []
    report = (await service.call("t-alice", "GET", "api/costs?since=2024-01-01T00:00:00%2B00:00&by=job")).json()
    assert report["settled_micros"] == receipt.ledger_micros


async def test_a_server_gets_its_lease_through_the_spawner_only(service: Any) -> None:
    body = {"gpu_type": "h100-80gb", "gpu_count": 1}
    refused = await service.call("t-alice", "POST", "api/users/alice/leases", json=body)
    assert refused.status_code == 403
    answer = await service.call(
        "t-spawner", "POST", "api/users/alice/leases", json=body, headers={"Idempotency-Key": "a"}
    )
    assert answer.status_code == 201, answer.text
    lease = answer.json()
    again = await service.call(
        "t-spawner", "POST", "api/users/alice/leases", json=body, headers={"Idempotency-Key": "a"}
    )
    assert again.json()["id"] == lease["id"]
    other = {**body, "gpu_count": 2}
    mismatch = await service.call(
        "t-spawner", "POST", "api/users/alice/leases", json=other, headers={"Idempotency-Key": "a"}
    )
    assert (mismatch.status_code, error_of(mismatch).error.code) == (409, "idempotency_mismatch")
    granted = await service.call("t-spawner", "GET", f"api/leases/{lease['id']}?wait_seconds=10&state=queued")
    assert granted.json()["state"] == "granted"
    started = await service.call("t-spawner", "POST", f"api/leases/{lease['id']}/started", json={"pid": 1})
    assert started.json()["state"] == "running", started.text
    assert [row["id"] for row in (await service.call("t-alice", "GET", "api/leases")).json()] == [lease["id"]]
    ended = await service.call("t-spawner", "POST", f"api/leases/{lease['id']}/release", json={})
    assert ended.json()["state"] == "released"


async def test_a_long_poll_wakes_at_the_change_and_not_before(service: Any) -> None:
    job = await service.running()
    poll = asyncio.ensure_future(service.call("t-alice", "GET", f"api/jobs/{job['id']}?wait_seconds=20&state=running"))
    await asyncio.sleep(0.3)
    assert not poll.done()
    began = time.monotonic()
    service.engine.finish(job["id"])
    assert (await poll).json()["state"] == "succeeded"
    assert time.monotonic() - began < 2
    began = time.monotonic()
    same = await service.call("t-alice", "GET", f"api/jobs/{job['id']}?wait_seconds=1&state=succeeded")
    assert same.json()["state"] == "succeeded"
    assert 0.9 < time.monotonic() - began < 3


async def test_input_bytes_are_kept_under_their_hash_and_no_other(service: Any) -> None:
    data = b"x" * 3_000_000
    name = hashlib.sha256(data).hexdigest()
    assert (await service.call("t-alice", "HEAD", f"api/blobs/{name}")).status_code == 404
    assert (await service.call("t-alice", "PUT", f"api/blobs/{name}", content=data)).status_code == 204
    assert (await service.call("t-alice", "HEAD", f"api/blobs/{name}")).status_code == 204
    wrong = await service.call("t-alice", "PUT", f"api/blobs/{'0' * 64}", content=data)
    assert (wrong.status_code, error_of(wrong).error.code) == (422, "invalid_request")


async def test_an_upload_cut_off_in_the_middle_gives_its_place_back(service: Any) -> None:
    host, port = service.url.split("/")[2].split(":")
    for _ in range(5):
        _, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"PUT /services/fastgpu/api/blobs/{'0' * 64} HTTP/1.1\r\nHost: {host}\r\nAuthorization: token t-alice\r\n"
        )
        writer.write(head.encode() + b"Content-Length: 1000000\r\n\r\npart")
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()
        await writer.wait_closed()
    data = b"whole"
    name = hashlib.sha256(data).hexdigest()
    assert (await service.call("t-alice", "PUT", f"api/blobs/{name}", content=data)).status_code == 204


HOSTILE_BODIES = [
    (b'{"gpu_type": "h100-80gb", "gpu_count": NaN}', "NaN"),
    (b'{"gpu_type": "h100-80gb", "gpu_count": -Infinity}', "Infinity"),
    (b'{"gpu_type": "h100-80gb", "gpu_count": 1e999}', "1e999"),
    (b'{"gpu_type": "h100-80gb", "gpu_count": 1, "gpu_count": 2}', "gpu_count"),
    (b'{"gpu_type": "h100-80gb", "gpu_count": 0}', "gpu_count"),
    (b'{"gpu_type": "h100-80gb", "gpu_count": -1}', "gpu_count"),
    (b'{"gpu_type": "h100-80gb", "gpu_count": 1.5}', "gpu_count"),
    (b'{"gpu_type": "h100-80gb", "gpu_count": true}', "gpu_count"),
    (b'{"gpu_type": "h100-80gb", "gpu_count": "2"}', "gpu_count"),
    (b'{"gpu_type": "h100-80gb", "gpu_count": 9223372036854775808}', "gpu_count"),
    (b'{"gpu_type": "h100-80gb", "gpu_count": ' + b"9" * 5000 + b"}", "number"),
    (b'{"gpu_type": "h100-80gb", "duration_seconds": 1e308}', "duration_seconds"),
    ('{"gpu_type": "h100-80gb", "gpu_count": "١٠"}'.encode(), "gpu_count"),
    (b'{"gpu_type": "a\\u0000b"}', "NUL"),
    (b'{"gpu_type": "\\ud800"}', "half a character"),
    (b'{"gpu_type": "' + b"x" * 900_000 + b'"}', "gpu_type"),
    (b'{"gpu_type": "h100-80gb", "owner": "bob"}', "owner"),
    (b'{"gpu_type": "h100-80gb", "starts_at": "2030-01-01T00:00:00"}', "starts_at"),
    (b'{"gpu_type": "h100-80gb", "starts_at": "9999-12-31T23:59:59-23:59"}', "starts_at"),
    (b'{"gpu_type": "h100-80gb", "starts_at": 1e300}', "starts_at"),
    (b"{", "JSON"),
    (b"[]", "JSON object"),
    (b'{"gpu_type": "\xff"}', "UTF-8"),
    (b"[" * 200_000, "nested"),
    (b"{}", "gpu_type"),
]


async def test_hostile_numbers_and_text_are_refused_clearly_and_fast(service: Any) -> None:
    json_type = {"Content-Type": "application/json"}
    await service.call("t-alice", "GET", "api/me")
    for body, names in HOSTILE_BODIES:
        began = time.monotonic()
        answer = await service.call("t-alice", "POST", "api/quotes", content=body, headers=json_type)
        assert time.monotonic() - began < 0.5, body[:100]
        assert answer.status_code == 422, answer.text
        assert names in error_of(answer).error.message, body[:100]
        assert len(answer.text) < 1500


HOSTILE_QUERIES = [
    "limit=0", "limit=-1", "limit=1.5", "limit=1e3", "limit=%D9%A1", "limit=99999999999999999999",
    "limit=1&limit=2",         "state=nope", "account=nobody", "owner=%00", "owner=%FF", "unknown=1",
]  # fmt: skip


async def test_hostile_query_values_are_refused_clearly(service: Any) -> None:
    for query in HOSTILE_QUERIES:
        answer = await service.call("t-root", "GET", f"api/jobs?{query}")
        assert (answer.status_code, error_of(answer).error.code) == (422, "invalid_request"), query


async def test_a_token_in_the_address_is_refused_and_signs_nobody_in(service: Any) -> None:
    answer = await service.call(None, "GET", "api/me?token=t-alice")
    assert (answer.status_code, error_of(answer).error.code) == (401, "not_signed_in")
    answer = await service.call(None, "GET", "api/me?token=t-alice", headers={"Sec-Fetch-Mode": "websocket"})
    assert answer.status_code == 401
    answer = await service.call("t-alice", "GET", "api/me?token=t-alice")
    assert answer.status_code == 422


async def test_too_large_wrong_type_wrong_method_wrong_address_all_explain_themselves(service: Any) -> None:
    json_type = {"Content-Type": "application/json"}
    large = await service.call("t-alice", "POST", "api/quotes", content=b" " * (1024 * 1024 + 1), headers=json_type)
    assert (large.status_code, error_of(large).error.code) == (413, "too_large")

    async def endless() -> Any:
        for _ in range(40):
            yield b" " * 65536

    chunked = await service.call("t-alice", "POST", "api/quotes", content=endless(), headers=json_type)
    assert (chunked.status_code, error_of(chunked).error.code) == (413, "too_large")
    plain = await service.call("t-alice", "POST", "api/quotes", content=b"{}", headers={"Content-Type": "text/plain"})
    assert (plain.status_code, error_of(plain).error.code) == (415, "media_type")
    deleted = await service.call("t-alice", "DELETE", "api/me")
    assert (deleted.status_code, error_of(deleted).error.code) == (405, "method_not_allowed")
    assert deleted.headers["Allow"] == "GET"
    missing = await service.call("t-alice", "GET", "api/nothing")
    assert (missing.status_code, error_of(missing).error.code) == (404, "not_found")
    for path in ("api/jobs/%00", "api/classes/%0a", "api/jobs/%ff", "api/promotions/x/end"):
        assert (await service.call("t-root", "GET", path)).status_code in (404, 405, 422)


async def test_an_outage_of_the_database_or_hub_is_503_with_retry_after(service: Any, monkeypatch: Any) -> None:
    async def out(_work: Any) -> Any:
        raise StoreUnavailable("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(service.broker.store, "read", out)
        answer = await service.call("t-alice", "GET", "api/prices")
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        assert error_of(answer).error.code == "unavailable"
    service.hub.down = True
    answer = await service.call("t-spawner", "GET", "api/users/alice/options")
    assert (answer.status_code, error_of(answer).error.code) == (503, "unavailable")
    service.auth.down = True
    answer = await service.call("t-alice", "GET", "api/me")
    assert (answer.status_code, error_of(answer).error.code) == (503, "unavailable")
    assert "Retry-After" in answer.headers


async def test_what_nobody_foresaw_is_a_500_that_tells_only_its_request_id(
    service: Any, monkeypatch: Any, caplog: Any
) -> None:
    async def broken(_actor: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(service.broker, "me", broken)
    answer = await service.call("t-alice", "GET", "api/me")
    assert answer.status_code == 500
    assert "secret detail" not in answer.text
    assert error_of(answer).request_id in caplog.text


async def test_logs_hold_the_request_id_but_no_token_and_no_query(service: Any, caplog: Any) -> None:
    caplog.set_level("DEBUG")
    answer = await service.call("t-alice", "GET", "api/promotions?promo_code=CANARY-1")
    await service.call("canary-token-2", "GET", "api/me")
    await service.call(None, "GET", "api/me?token=canary-token-3")
    ours = "\n".join(record.getMessage() for record in caplog.records if record.name != "httpx")
    assert answer.headers["X-Request-Id"] in ours
    for canary in ("CANARY-1", "canary-token-2", "canary-token-3", "t-alice"):
        assert canary not in ours


async def test_every_answer_carries_the_security_headers(service: Any) -> None:
    for token, path in (
        ("t-alice", "api/me"),
        (None, "api/me"),
        ("t-alice", "nothing"),
        ("t-alice", ""),
        (None, "health"),
    ):
        headers = (await service.call(token, "GET", path)).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert "Server" not in headers


async def test_a_file_of_a_job_never_opens_as_a_page(service: Any) -> None:
    job = await service.running()
    service.engine.put_file(job["id"], "a/<x>.html", b"<script>1</script>")
    answer = await service.call("t-alice", "GET", f"api/jobs/{job['id']}/files/a/%3Cx%3E.html")
    assert answer.content == b"<script>1</script>"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment"
    assert "sandbox" in answer.headers["Content-Security-Policy"]
    assert (await service.call("t-alice", "GET", f"api/jobs/{job['id']}/files/%2e%2e/secret")).status_code == 404


async def test_metrics_count_requests_and_show_the_brokers_gauges(service: Any) -> None:
    await service.call("t-alice", "GET", "api/me")
    await service.submit()
    text = (await service.call("t-metrics", "GET", "metrics")).text
    assert 'fastgpu_http_requests_total{method="GET",route="api/me",status="200"} 1.0' in text
    assert "fastgpu_workloads_live" in text
    assert "fastgpu_http_request_seconds_bucket" in text


async def test_a_teacher_rules_over_the_members_of_their_class_only(service: Any) -> None:
    quota = {"scope": "member", "name": "cs101", "metric": "gpu_seconds", "limit": 3600, "window": "day"}
    made = await service.call("t-tina", "POST", "api/quotas", json=quota)
    assert made.status_code == 201, made.text
    assert (await service.call("t-theo", "POST", "api/quotas", json=quota)).status_code == 403
    mine = (await service.call("t-alice", "GET", "api/quotas")).json()
    assert made.json()["quota_id"] in [row["quota_id"] for row in mine]
    assert (await service.call("t-theo", "DELETE", f"api/quotas/{made.json()['quota_id']}")).status_code == 404
    assert (await service.call("t-tina", "DELETE", f"api/quotas/{made.json()['quota_id']}")).status_code == 204


async def test_a_refusal_names_the_limit_and_its_numbers(service: Any) -> None:
    body = {"kind": "command", "argv": ["true"], "gpu_type": "h100-80gb", "gpu_count": 4, "time_limit_seconds": 3600}
    answer = await service.call(
        "t-carol", "POST", "api/jobs", json={**body, "account": "person:carol", "time_limit_seconds": 36000}
    )
    assert answer.status_code == 403, answer.text
    error = error_of(answer).error
    assert error.code == "credit"
    assert error.numbers


def test_json_is_read_the_same_however_deep_the_trouble() -> None:
    from fastgpu_hub.service.wire import Refusal, parse_json

    assert parse_json(b'{"a": [1, 2.5, "\xc3\xa4", null]}') == {"a": [1, 2.5, "ä", None]}
    nested = json.dumps({"a": [{"b": {"c": "\u0000"}}]}).encode()
    with pytest.raises(Refusal):
        parse_json(nested)
    with pytest.raises(Refusal):
        parse_json(b'{"a": {"b": 1, "b": 2}}')
