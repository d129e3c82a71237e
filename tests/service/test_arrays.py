"""Arrays over HTTP: one POST, all or nothing, once per key."""

from __future__ import annotations

from typing import Any

JOB = {
    "kind": "command",
    "argv": ["train", "{lr}"],
    "gpu_type": "h100-80gb",
    "time_limit_seconds": 600,
    "name": "train",
}
SWEEP = {**JOB, "sweep": {"lr": ["1e-3", "1e-4"], "seed": ["1", "2"]}, "max_running": 1}


async def post(service: Any, body: Any, key: str | None = None, token: str = "t-alice") -> Any:
    headers = {} if key is None else {"Idempotency-Key": key}
    return await service.call(token, "POST", "api/arrays", json=body, headers=headers)


async def test_an_array_is_posted_listed_followed_and_cancelled(service: Any) -> None:
    answer = await post(service, SWEEP)
    assert answer.status_code == 201
    array = answer.json()
    assert (array["size"], array["parameters"], array["max_running"]) == (4, SWEEP["sweep"], 1)
    assert [job["parameters"] for job in array["jobs"]][1] == {"lr": "1e-3", "seed": "2"}
    listed = (await service.call("t-alice", "GET", f"api/jobs?array={array['id']}")).json()
    assert {job["array_index"] for job in listed} == {0, 1, 2, 3}
    assert len((await service.call("t-alice", "GET", "api/jobs?of_arrays=one")).json()) == 1
    first = array["jobs"][0]["id"]
    await service.call("t-alice", "GET", f"api/jobs/{first}?wait_seconds=5&state=queued")
    await service.call("t-alice", "GET", f"api/jobs/{first}?wait_seconds=5&state=starting")
    service.engine.finish(first)
    ended = await service.call("t-alice", "GET", f"api/jobs/{first}?wait_seconds=5&state=running")
    assert ended.json()["state"] == "succeeded"
    found = (await service.call("t-alice", "GET", f"api/arrays/{array['id']}")).json()
    assert found["counts"]["succeeded"] == 1
    cancelled = (await service.call("t-alice", "POST", f"api/arrays/{array['id']}/cancel", json={})).json()
    assert cancelled["counts"]["cancelled"] >= 2


async def test_one_key_is_one_array(service: Any) -> None:
    answers = [await post(service, SWEEP, "k1") for _ in range(3)]
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert all(len(answer.json()["jobs"]) == 4 for answer in answers)
    assert len((await service.call("t-alice", "GET", "api/jobs")).json()) == 4
    assert (await post(service, {**SWEEP, "name": "other"}, "k1")).status_code == 409


HOSTILE: list[tuple[dict[str, Any], str]] = [
    ({"sweep": {}}, "needs a sweep"),
    ({"sweep": {"lr": []}}, "lr"),
    ({"sweep": {"l r": ["1"]}}, "l r"),
    ({"sweep": {"lr": ["1\n2"]}}, "control"),
    ({"sweep": {"lr": ["x" * 1001]}}, "1000"),
    ({"sweep": {"lr": [1]}}, "string"),
    ({"sweep": {"a": [str(i) for i in range(1000)], "b": ["1", "2"]}}, "2000 jobs"),
    ({"max_running": 0}, "max_running"),
    ({"max_running": True}, "max_running"),
    ({"retries": 11}, "retries"),
    ({"retries": 1.5}, "retries"),
    ({"after": ["../x"]}, "after"),
    ({"grace_seconds": 601}, "grace_seconds"),
    ({"grace_seconds": 300}, "120"),
]


async def test_a_hostile_array_is_a_clear_422(service: Any) -> None:
    for change, says in HOSTILE:
        answer = await post(service, {**SWEEP, **change})
        assert answer.status_code == 422, change
        assert says in str(answer.json()["error"])
    assert (await service.call("t-alice", "GET", "api/jobs")).json() == []


async def test_a_sweep_is_not_posted_as_one_job(service: Any) -> None:
    for body in (SWEEP, {**JOB, "max_running": 2}):
        answer = await service.call("t-alice", "POST", "api/jobs", json=body)
        assert answer.status_code == 422
        assert "api/arrays" in answer.json()["error"]["instead"]


async def test_an_array_that_does_not_fit_says_how_many_would(service: Any) -> None:
    answer = await post(service, {**SWEEP, "time_limit_seconds": 400_000})
    error = answer.json()["error"]
    assert answer.status_code == 403
    assert (error["numbers"]["jobs"], error["numbers"]["would_fit"]) == (4, 3)


async def test_waiting_for_what_has_failed_is_a_conflict(service: Any) -> None:
    job = await service.running()
    service.engine.finish(job["id"], 1)
    await service.call("t-alice", "GET", f"api/jobs/{job['id']}?wait_seconds=5&state=running")
    answer = await service.call("t-alice", "POST", "api/jobs", json={**JOB, "argv": ["t"], "after": [job["id"]]})
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "dependency_failed")
