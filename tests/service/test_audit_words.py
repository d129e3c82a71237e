"""The audit page tells what was done in words, whatever version recorded it."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from fastgpu.models import AuditLine
from fastgpu_hub.service.pages.audit import action_words, change_words, subject_words

NOON = datetime(2025, 11, 21, 12, 0, tzinfo=timezone.utc)


def price(micros: int) -> dict[str, Any]:
    rate = {"per_gpu_hour_micros": micros}
    return {"id": 1, "gpu_type": "h100-80gb", "rate": rate, "valid_from": NOON.isoformat()}


UNTIL = "until 2025-11-21 12:00 UTC"


def promotion(percent: int) -> dict[str, Any]:
    times = {"starts_at": NOON.isoformat(), "ends_at": NOON.isoformat()}
    return {"id": 1, "name": "Night owls", "percent_off": percent, **times}


def quota(limit: int) -> dict[str, Any]:
    scope = {"scope": "site", "metric": "concurrent_gpus", "window": "always"}
    return {"quota_id": 1, "label": "site", **scope, "limit": limit, "used": 0, "reserved": 0, "left": limit}


@pytest.mark.parametrize(
    ("action", "before", "after", "words"),
    [
        ("set_price", price(500_000), price(250_000), "0.50 credits/h per GPU → 0.25 credits/h per GPU"),
        ("set_price", None, price(250_000), "0.25 credits/h per GPU"),
        ("set_quota", quota(2), quota(2), ""),
        ("remove_quota", quota(2), None, "was 2 GPUs"),
        ("grant", {"id": "a"}, {"id": "a", "granted_micros": 7_000_000}, "0.00 credits → 7.00 credits"),
        ("edit_promotion", promotion(50), promotion(20), f"50 % off, {UNTIL} → 20 % off, {UNTIL}"),
        ("refund", {"account": {}}, {"amount_micros": 1_500_000, "reason": "fan"}, "1.50 credits: fan"),
        ("refund", None, {"another": "version", "reason": "fan"}, ""),
        ("make_codes", None, {"count": 30, "max_uses": 1}, "30 codes"),
        ("stop", {"owner": "bob", "name": "train", "state": "running"}, None, "was running"),
        (
            "roles",
            {"admin": False, "teaches": ["cs101"]},
            {"admin": True, "teaches": []},
            "teacher of cs101 → administrator",
        ),
        ("roles", None, {"admin": False, "teaches": []}, "no special rights"),
        ("set_price", None, {"of": "another version"}, ""),
        ("unheard_of", None, None, ""),
    ],
)
def test_a_change_is_told_by_its_two_sides(
    action: str, before: dict[str, Any] | None, after: dict[str, Any] | None, words: str
) -> None:
    line = AuditLine(at=NOON, actor="root", action=action, subject="x", before=before, after=after)
    assert change_words(line, "credits") == words


def test_who_did_what_reads_as_a_sentence() -> None:
    stopped = AuditLine(at=NOON, actor="tina", action="stop", subject="j-1", before={"owner": "bob", "name": "train"})
    assert f"{action_words('stop')} {subject_words(stopped)}" == "stopped train of bob (j-1)"
    begun = AuditLine(at=NOON, actor="tina", action="add_promotion", subject="1", after={"name": "Night owls"})
    assert f"{action_words('add_promotion')} {subject_words(begun)}" == "set up the promotion Night owls (1)"
    ask = {"id": 4, "owner": "bob", "account": "person:bob", "label": "credit of person:bob", "amount": 2_000_000}
    ask |= {"reason": "thesis", "state": "open", "asked_at": NOON.isoformat()}
    given = AuditLine(at=NOON, actor="tina", action="ask_approved", subject="ask:4", before=ask, after=ask)
    assert f"{action_words('ask_approved')} {subject_words(given)}" == "gave more of credit of person:bob for bob"
    assert action_words("unheard_of") == "unheard of"
