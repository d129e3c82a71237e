"""Answers in words, the same on every screen: prices, waits, quota amounts, what happened to a job. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

from fastgpu import models
from fastgpu.formatting import (
    NO_VALUE,
    format_amount,
    format_bytes,
    format_duration,
    format_money,
    format_rate,
    one_line,
)


def price_words(rate: models.Rate, currency: str) -> str:
    """A price: ``0.50 credits/h per GPU + 0.10 credits per start``; ``free of charge`` when it is nothing."""
    parts = []
    if rate.per_gpu_hour_micros:
        parts.append(f"{format_rate(rate.per_gpu_hour_micros, currency)} per GPU")
    if rate.per_task_hour_micros:
        parts.append(f"{format_rate(rate.per_task_hour_micros, currency)} per job or server")
    if rate.per_start_micros:
        parts.append(f"{format_money(rate.per_start_micros, currency)} per start")
    return " + ".join(parts) or "free of charge"


def wait_words(seconds: int | None) -> str:
    """An expected wait: ``none``, ``about 26 min``, ``not known``; from a minute on rounded up to minutes."""
    if seconds is None:
        return "not known"
    if seconds <= 0:
        return "none"
    return f"about {format_duration(seconds if seconds < 60 else -(-seconds // 60) * 60)}"


def gpu_hours(seconds: int) -> str:
    """GPU-seconds as GPU-hours: two decimals, rounded down."""
    hundredths = seconds * 100 // 3600
    return f"{hundredths // 100}.{hundredths % 100:02d} GPU-h"


def quota_words(metric: models.QuotaMetric, value: int, currency: str) -> str:
    """A quota's number in its unit: ``2 GPUs``, ``18.83 GPU-h``, ``0.42 credits``, ``1.5 GiB``."""
    if metric is models.QuotaMetric.concurrent_gpus:
        return f"{value} GPU{'' if value == 1 else 's'}"
    if metric is models.QuotaMetric.artifact_bytes:
        return format_bytes(value)
    return gpu_hours(value) if metric is models.QuotaMetric.gpu_seconds else format_amount(value, currency)


def step_words(step: models.WhyStep, currency: str, at: Callable[[datetime], str]) -> str:
    """What happened, as a sentence without its instant; ``at`` writes another instant it may name.

    A kind of event that this version does not know yet is shown as it is.
    """
    detail = step.detail
    match step.kind:
        case "requested":
            gpus = f"{detail.get('gpu_count')} × {detail.get('gpu_type')}"
            held = detail.get("held_micros")
            reserved = f"; {format_money(held, currency)} reserved" if isinstance(held, int) else ""
            return one_line(f"Asked for {gpus}, charged to {detail.get('account')}{reserved}")
        case "deferred" if detail.get("message"):
            return one_line(str(detail["message"]))
        case "replanned" if isinstance(start := detail.get("start_ms"), int):
            cost = _instead(detail.get("cost_micros"), detail.get("before_micros"), currency)
            return f"Planned anew: to start {_at(start, at)} for {cost}"
        case "quote_kept":
            return f"Priced again: {_instead(detail.get('held_micros'), detail.get('quoted_micros'), currency)} at most"
        case "late" if isinstance(start := detail.get("start_ms"), int):
            return f"Its owner was told that it may miss its deadline: it may only start {_at(start, at)}"
        case "granted":
            names = detail.get("gpus") or []
            return one_line(f"Got {len(names)} GPU{'' if len(names) == 1 else 's'}: {', '.join(map(str, names))}")
        case "started":
            return "Started; from here on it is charged"
        case "renewed" if isinstance(until := detail.get("until_ms"), int):
            return f"Reserved money until {at(datetime.fromtimestamp(until // 1000, timezone.utc))}"
        case "announced" if isinstance(ends := detail.get("ends_ms"), int):
            return f"Its owner was told that it ends {at(datetime.fromtimestamp(ends // 1000, timezone.utc))}"
        case "repriced" if isinstance(held := detail.get("held_micros"), int):
            return f"The price changed; {format_money(held, currency)} reserved now"
        case "stopping" if detail.get("message"):
            return one_line(f"Being stopped: {detail['message']}")
        case "retried":
            return one_line(f"Is tried again: attempt {detail.get('attempt')}, {detail.get('next_attempt')}")
        case "put_back":
            return one_line(f"Went back into the queue as {detail.get('next_attempt')}")
        case "ended":
            code = detail.get("exit_code")
            outcome = str(detail.get("outcome") or "released").replace("_", " ")
            return one_line(f"Ended: {outcome}{'' if code is None else f', exit code {code}'}")
    shown = ", ".join(f"{name} {_plain(value)}" for name, value in detail.items())
    return one_line(f"{step.kind.replace('_', ' ')}{f': {shown}' if shown else ''}") or NO_VALUE


def _at(ms: int, at: Callable[[datetime], str]) -> str:
    return at(datetime.fromtimestamp(ms // 1000, timezone.utc))


def _instead(micros: int | None, planned_micros: int | None, currency: str) -> str:
    """An amount, and the planned one where that was another: ``0.40 instead of 0.48 credits``, ``0.48 credits``."""
    planned = format_money(planned_micros or 0, currency)
    return (
        f"{planned}, as planned," if micros == planned_micros else f"{format_money(micros or 0)} instead of {planned}"
    )


def _plain(value: Any) -> str:
    return " ".join(str(item) for item in value) if isinstance(value, list) else str(value)


def array_words(array: models.JobArray) -> str:
    """How far an array is: ``8 jobs: 3 succeeded, 2 running, 3 waiting``."""
    waiting = {models.JobState.queued: "waiting", models.JobState.timed_out: "reached the time limit"}
    parts = [
        f"{array.counts[state]} {waiting.get(state, state.value)}" for state in _BY_NEWS if array.counts.get(state)
    ]
    return f"{array.size} job{'' if array.size == 1 else 's'}: {', '.join(parts)}"


_BY_NEWS = (
    *(models.JobState.succeeded, models.JobState.failed, models.JobState.timed_out, models.JobState.lost),
    *(models.JobState.cancelled, models.JobState.stopping, models.JobState.running, models.JobState.starting),
    models.JobState.queued,
)
