"""What happened, what it costs and how long it takes, in words that every screen shares."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from fastgpu.models import Explanation, QuotaMetric, Rate, WhyStep
from fastgpu.view import Lens, explain
from fastgpu.words import price_words, quota_words, step_words, wait_words

NOON = datetime(2025, 11, 21, 12, 0, tzinfo=timezone.utc)
ASKED = {"gpu_type": "h100-80gb", "gpu_count": 2, "account": "class:cs101", "held_micros": 66_666}


@pytest.mark.parametrize(
    ("kind", "detail", "words"),
    [
        ("requested", ASKED, "Asked for 2 × h100-80gb, charged to class:cs101; 0.066666 credits reserved"),
        ("granted", {"gpus": ["GPU-1", "GPU-2"]}, "Got 2 GPUs: GPU-1, GPU-2"),
        ("started", {}, "Started; from here on it is charged"),
        ("renewed", {"until_ms": 1_763_726_400_000}, "Reserved money until 12:00"),
        ("stopping", {"code": "cancelled", "message": "Cancelled by alice."}, "Being stopped: Cancelled by alice."),
        ("retried", {"attempt": 2, "next_attempt": "j-1"}, "Is tried again: attempt 2, j-1"),
        ("ended", {"outcome": "timed_out", "exit_code": None}, "Ended: timed out"),
        ("ended", {"outcome": "failed", "exit_code": 1}, "Ended: failed, exit code 1"),
        ("moved_house", {"to": ["a", "b"]}, "moved house: to a b"),
    ],
)
def test_an_event_is_a_sentence_and_an_unknown_one_is_shown_as_it_is(
    kind: str, detail: dict[str, Any], words: str
) -> None:
    step = WhyStep(at=NOON, kind=kind, detail=detail)
    assert step_words(step, "credits", lambda when: f"{when:%H:%M}") == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(None, "not known"), (0, "none"), (45, "about 45 s"), (1551, "about 26 min")]
)
def test_a_wait_is_no_more_exact_than_it_is_known(seconds: int | None, words: str) -> None:
    assert wait_words(seconds) == words


def test_a_price_names_each_of_its_parts() -> None:
    mixed = Rate(per_gpu_hour_micros=500_000, per_task_hour_micros=100_000, per_start_micros=50_000)
    assert price_words(mixed, "credits") == (
        "0.50 credits/h per GPU + 0.10 credits/h per job or server + 0.05 credits per start"
    )
    assert price_words(Rate(), "credits") == "free of charge"


def test_when_it_changes_is_said_once() -> None:
    lens = Lens(NOON, timezone.utc)
    silent = Explanation(code="credit", message="No credit.", frees_at=NOON)
    assert explain(silent, lens) == "No credit. Changes today 12:00 UTC."
    told = Explanation(code="quota_spend", message="It resets on 2025-11-21 12:00 UTC.", frees_at=NOON)
    assert explain(told, lens) == "It resets on 2025-11-21 12:00 UTC."


def test_a_limit_speaks_in_its_own_unit() -> None:
    assert quota_words(QuotaMetric.concurrent_gpus, 1, "credits") == "1 GPU"
    assert quota_words(QuotaMetric.gpu_seconds, 67_800, "credits") == "18.83 GPU-h"
    assert quota_words(QuotaMetric.spend_micros, 1_234_999, "credits") == "1.23 credits"
