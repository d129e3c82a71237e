"""Promotions, limits, credit, requests over HTTP: refusals have their status, hostile numbers are refused at once."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from fastgpu import models as m
from fastgpu_hub.service.seeds import apply_seeds, read_seeds

PROMOTION = {"name": "lab", "starts_at": "2025-01-01T00:00:00Z", "ends_at": "2090-01-01T00:00:00Z"}
HALF = {**PROMOTION, "percent_off": 50}
QUOTA = {"scope": "member", "name": "cs101", "metric": "gpu_seconds"}
GRANT = {"account": "person:alice", "amount_micros": 1}
NOT_WHOLE = (-1, 1.5, 2**63, 1e308, "١٠", "7", True, [], {})
NOT_POSITIVE = (*NOT_WHOLE, 0)

HOSTILE: list[tuple[str, dict[str, Any], str, tuple[Any, ...]]] = [
    ("promotions", PROMOTION, "percent_off", (*NOT_POSITIVE, 101)),
    ("promotions", PROMOTION, "fixed_per_gpu_hour_micros", NOT_WHOLE),
    ("promotions", PROMOTION, "free_gpu_seconds", NOT_POSITIVE),
    ("promotions", PROMOTION, "credit_micros", NOT_POSITIVE),
    ("promotions", {**PROMOTION, "credit_micros": 1}, "credit_days", NOT_POSITIVE),
    ("promotions", HALF, "max_redemptions", NOT_POSITIVE),
    ("promotions", HALF, "max_per_person", NOT_POSITIVE),
    ("promotions", HALF, "budget_micros", NOT_POSITIVE),
    ("promotions", HALF, "credit_days", (1,)),
    ("promotions", HALF, "credit_micros", (1,)),
    ("promotions", HALF, "time_zone", ("Mars/Olympus", "", "../etc/localtime")),
    ("promotions", HALF, "ends_at", ("2024-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", 1e300)),
    ("promotions", HALF, "audience", (["everyone"], ["class:"], [1])),
    ("promotions", HALF, "weekly", ([{"days": [7], "from_minute": 0, "to_minute": 1}],)),
    ("promotions/{coded}/codes", {}, "count", (*NOT_POSITIVE, 10_001)),
    ("promotions/{coded}/codes", {"count": 1}, "max_uses", NOT_POSITIVE),
    ("previews", {"promotion": HALF, "since": "2025-01-01T00:00:00Z"}, "until",
        ("2024-12-31T00:00:00Z", "2025-01-01T00:00:00Z", "2026-03-01T00:00:00Z")),
    ("redemptions", {}, "promotion_id", (-1, 0, 1.5, 1e308, True, "1")),
    ("redemptions", {}, "code", ("", "a b", "x" * 65, "ü", 7)),
    ("quotas", {**QUOTA}, "limit", NOT_WHOLE),
    ("quotas", {**QUOTA, "limit": 1, "window": "rolling"}, "rolling_seconds", (*NOT_POSITIVE, 366 * 86_400 + 1)),
    ("quotas", {**QUOTA, "metric": "credit_share_percent"}, "limit", (*NOT_POSITIVE, 101)),
    ("grants", {"account": "person:alice"}, "amount_micros", NOT_POSITIVE),
    ("grants", GRANT, "priority", (*NOT_POSITIVE, 256)),
    ("grants", GRANT, "rollover_percent", (*NOT_WHOLE, 101)),
    ("grants", GRANT, "expires_at", ("2024-01-01T00:00:00Z", "soon")),
    ("asks", {"account": "person:root", "reason": "x"}, "amount", NOT_POSITIVE),
    ("asks", {"reason": "x", "amount": 1}, "quota_id", (-1, 0, 1.5, 1e308, True, "1")),
    ("asks", {"account": "person:root", "amount": 1}, "reason", ("", "x" * 501, "a\nb", 7)),
    ("leases/{job}/refund", {"reason": "x"}, "charge_ids", ([0], [-1], [1.5], [True], ["1"], 7)),
]  # fmt: skip


@pytest.mark.slow
async def test_hostile_numbers_are_refused_clearly_within_a_tenth_of_a_second(service: Any) -> None:
    coded = await service.call("t-root", "POST", "api/promotions", json={**HALF, "code": "CODED"})
    known = {"coded": coded.json()["id"], "job": (await service.submit())["id"]}
    for path, body, field, values in HOSTILE:
        for value in values:
            sent = json.dumps({**body, field: value}).encode()
            headers = {"Content-Type": "application/json"}
            seconds = []
            for _ in range(2):  # the machine may be busy once
                began = time.monotonic()
                answer = await service.call(
                    "t-root", "POST", f"api/{path.format(**known)}", content=sent, headers=headers
                )
                seconds.append(time.monotonic() - began)
                assert answer.status_code == 422, (path, field, value, answer.text)
                error = m.ErrorAnswer.model_validate(answer.json()).error
                assert error.code == "invalid_request"
                assert error.message
                assert len(answer.text) < 1500
            assert min(seconds) < 0.1, (path, field, value, seconds)


async def test_numbers_in_the_address_that_nothing_has_are_not_found(service: Any) -> None:
    for number in ("0", "999", "999999999999999999"):
        for method, path in (
            ("POST", f"promotions/{number}/end"),
            ("POST", f"promotions/{number}/publish"),
            ("GET", f"promotions/{number}/codes"),
            ("DELETE", f"quotas/{number}"),
            ("POST", f"asks/{number}/withdraw"),
        ):
            assert (await service.call("t-root", method, f"api/{path}")).status_code == 404, path
    for number in ("-1", "1.5", "x", "9" * 19):
        assert (await service.call("t-root", "POST", f"api/promotions/{number}/end")).status_code == 404


async def test_too_many_wrong_codes_are_429_with_retry_after_and_frees_at(service: Any) -> None:
    for n in range(10):
        wrong = await service.call("t-bob", "POST", "api/redemptions", json={"code": f"GUESS-{n}"})
        assert (wrong.status_code, wrong.json()["error"]["code"]) == (403, "promo_code_wrong")
    quote = {"gpu_type": "h100-80gb", "promo_code": "GUESS"}
    job = {"kind": "command", "argv": ["true"], **quote}
    for token, method, path, body in (
        ("t-bob", "POST", "api/redemptions", {"code": "GUESS"}),
        ("t-bob", "POST", "api/quotes", quote),
        ("t-bob", "POST", "api/jobs", job),
        ("t-bob", "GET", "api/promotions?promo_code=GUESS", None),
        ("t-bob", "GET", "api/users/me/options?promo_code=GUESS", None),
        ("t-spawner", "GET", "api/users/bob/options?promo_code=GUESS", None),
        ("t-spawner", "POST", "api/users/bob/leases", quote),
    ):
        answer = await service.call(token, method, path, **({} if body is None else {"json": body}))
        assert answer.status_code == 429, (path, answer.text)
        error = m.ErrorAnswer.model_validate(answer.json()).error
        assert (error.code, error.frees_at is not None) == ("too_many_guesses", True)
        assert 590 <= int(answer.headers["Retry-After"]) <= 600
    assert (await service.call("t-alice", "POST", "api/quotes", json=quote)).status_code == 200


async def test_a_promotion_over_http_from_draft_to_redemption(service: Any) -> None:
    body = {**PROMOTION, "credit_micros": 2_000_000, "needs_code": True, "draft": True, "audience": ["class:cs101"]}
    draft = (await service.call("t-tina", "POST", "api/promotions", json=body)).json()
    path = f"api/promotions/{draft['id']}"
    assert (await service.call("t-theo", "POST", f"{path}/publish")).status_code == 404
    assert (await service.call("t-tina", "POST", f"{path}/publish")).json()["state"] == "live"
    again = await service.call("t-tina", "POST", f"{path}/publish")
    assert (again.status_code, again.json()["error"]["code"]) == (409, "promo_published")
    key = {"Idempotency-Key": "codes-1"}
    made = await service.call("t-tina", "POST", f"{path}/codes", json={"count": 2}, headers=key)
    assert made.status_code == 201
    same = await service.call("t-tina", "POST", f"{path}/codes", json={"count": 2}, headers=key)
    assert same.json() == made.json()
    listed = (await service.call("t-tina", "GET", f"{path}/codes")).json()
    assert {row["code"] for row in listed} == {row["code"] for row in made.json()}
    code = made.json()[0]["code"]
    taken = await service.call("t-alice", "POST", "api/redemptions", json={"code": code})
    redeemed = m.Redeemed.model_validate(taken.json())
    assert (taken.status_code, redeemed.granted_micros, redeemed.account) == (201, 2_000_000, "person:alice")
    used = await service.call("t-bob", "POST", "api/redemptions", json={"code": code})
    assert (used.status_code, used.json()["error"]["code"]) == (403, "promo_code_used")
    foreign = await service.call("t-carol", "POST", "api/redemptions", json={"code": made.json()[1]["code"]})
    wrong = await service.call("t-carol", "POST", "api/redemptions", json={"code": "AAAA"})
    assert (
        foreign.json()["error"]["message"].replace(made.json()[1]["code"], "AAAA") == wrong.json()["error"]["message"]
    )
    grants = (await service.call("t-alice", "GET", "api/grants?account=person:alice")).json()
    assert [(g["source"], g["left_micros"]) for g in grants] == [(f"promotion:{draft['id']}", 2_000_000)]
    audit = (await service.call("t-root", "GET", "api/audit?limit=100")).text
    assert code not in audit


async def test_a_request_over_http_is_answered_once(service: Any) -> None:
    quota = next(q for q in (await service.call("t-alice", "GET", "api/quotas")).json() if q["scope"] == "member")
    body = {"quota_id": quota["quota_id"], "amount": 1, "reason": "thesis"}
    asked = await service.call("t-alice", "POST", "api/asks", json=body)
    assert asked.status_code == 201
    again = await service.call("t-alice", "POST", "api/asks", json=body)
    assert (again.status_code, again.json()["error"]["code"]) == (409, "ask_open")
    path = f"api/asks/{asked.json()['id']}"
    foreign = await service.call("t-theo", "POST", f"{path}/approve", json={})
    missing = await service.call("t-theo", "POST", "api/asks/999/approve", json={})
    assert foreign.status_code == missing.status_code == 404
    assert foreign.json()["error"]["message"].replace(path.split("/")[-1], "999") == missing.json()["error"]["message"]
    assert (await service.call("t-tina", "POST", f"{path}/approve", json={})).json()["state"] == "approved"
    twice = await service.call("t-tina", "POST", f"{path}/decline", json={})
    assert (twice.status_code, twice.json()["error"]["code"]) == (409, "ask_answered")
    raised = next(q for q in (await service.call("t-alice", "GET", "api/quotas")).json() if q["scope"] == "member")
    assert (raised["limit"], raised["extra"]) == (quota["limit"] + 1, 1)
    listed = (await service.call("t-tina", "GET", "api/asks?state=approved")).json()
    assert [row["id"] for row in listed] == [asked.json()["id"]]
    assert (await service.call("t-tina", "GET", "api/asks?state=maybe")).status_code == 422


async def test_a_refund_over_http_happens_once(service: Any) -> None:
    job = await service.running(gpu_count=1, time_limit_seconds=600)
    service.engine.finish(job["id"])
    await service.call("t-alice", "GET", f"api/jobs/{job['id']}?wait_seconds=10&state=running")
    path = f"api/leases/{job['id']}/refund"
    refunded = await service.call("t-root", "POST", path, json={"reason": "node failed"})
    receipt = m.Receipt.model_validate(refunded.json())
    assert (receipt.total_micros, receipt.ledger_micros) == (0, 0)
    assert all(line.refunded for line in receipt.lines)
    twice = await service.call("t-root", "POST", path, json={"reason": "node failed"})
    assert (twice.status_code, twice.json()["error"]["code"]) == (409, "nothing_to_refund")
    line = {"reason": "node failed", "charge_ids": [receipt.lines[0].charge_id]}
    assert (await service.call("t-root", "POST", path, json=line)).json()["error"]["code"] == "already_refunded"
    assert (await service.call("t-root", "POST", "api/leases/j-0/refund", json=line)).status_code == 404


def test_seeds_take_a_budget_and_credit_as_decimal_text_and_free_time_as_a_duration() -> None:
    seeds = read_seeds(
        {
            "promotions": [
                {**HALF, "budget": "100.5"},
                {**PROMOTION, "credit": "2.50", "credit_days": 30, "code": "HELLO"},
                {**PROMOTION, "fixed_per_gpu_hour": "0.10", "draft": True},
                {**PROMOTION, "free_gpu_seconds": "10h", "audience": ["new"]},
            ],
            "quotas": [{**QUOTA, "limit": "40h", "window": "rolling", "rolling_seconds": "7d", "soft": True}],
            "grants": [{**GRANT, "priority": 10, "expires_at": "2090-01-01T00:00:00Z", "rollover_percent": 50}],
        }
    )
    wanted: list[Any] = [seed.wanted for seed in seeds]
    assert (wanted[0].limit, wanted[0].rolling_seconds, wanted[0].soft) == (144_000, 604_800, True)
    assert wanted[1].budget_micros == 100_500_000
    assert (wanted[2].credit_micros, wanted[2].credit_days) == (2_500_000, 30)
    assert (wanted[3].fixed_per_gpu_hour_micros, wanted[3].draft) == (100_000, True)
    assert wanted[4].free_gpu_seconds == 36_000
    assert wanted[5].rollover_percent == 50


@pytest.mark.parametrize("money", [0.5, "-1", "1e6", "many"])
def test_money_of_a_promotions_seed_is_read_strictly(money: Any) -> None:
    with pytest.raises(ValueError, match=r"promotions\[0\]"):
        read_seeds({"promotions": [{**HALF, "budget": money}]})


async def test_a_seeded_promotion_with_a_code_is_applied_once(service: Any) -> None:
    seeds = read_seeds({"promotions": [{**HALF, "code": "SEEDED"}]})
    assert [await apply_seeds(service.broker, seeds) for _ in range(2)] == [1, 0]
    quote = {"gpu_type": "h100-80gb", "duration_seconds": 3600, "promo_code": "seeded"}
    assert (await service.call("t-carol", "POST", "api/quotes", json=quote)).json()["max_micros"] == 250_000
