"""Limits in words: what they limit, what is used of them and comes back, and what to do instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastgpu_hub.pricing import windows
from fastgpu_hub.pricing.money import format_money

if TYPE_CHECKING:
    from fastgpu_hub.pricing.quotas import Quota, QuotaState

CONCURRENT_GPUS = "concurrent_gpus"
GPU_SECONDS = "gpu_seconds"
SPEND_MICROS = "spend_micros"
CREDIT_SHARE = "credit_share_percent"
ARTIFACT_BYTES = "artifact_bytes"


def over(state: QuotaState, wanted: int, currency: str = "") -> str:
    """That a wish is more than is left of a limit, with all numbers; of a soft limit a warning."""
    quota = state.quota
    used, reserved, left = (_amount(quota, value, currency) for value in (state.used, state.reserved, state.left))
    taken = f"{used} used, {reserved} reserved"
    if quota.metric == CREDIT_SHARE:
        taken += f", {_amount(quota, state.credit_micros, currency)} to share"
    return (
        f"{'Careful: this' if quota.soft else 'This'} needs {_amount(quota, wanted, currency, up=True)}, but the limit "
        f"“{label(quota, currency)}” has only {left} left ({taken}).{_comes_back(state, currency)}"
        f"{' It only warns: nothing is refused.' if quota.soft else ''}"
    )


def _comes_back(state: QuotaState, currency: str) -> str:
    quota = state.quota
    if state.resets_ms is not None:
        ends = "It applies until" if quota.window == "term" else "It resets on"
        return f" {ends} {windows.when(state.resets_ms, quota.time_zone)}."
    if not state.comes_back:
        return ""
    steps = (
        f"{_amount(quota, amount, currency)} by {windows.when(at_ms, quota.time_zone)}"
        for at_ms, amount in state.comes_back
    )
    return f" Of what is used comes back: {', '.join(steps)}."


def instead(state: QuotaState, wanted: int, frees_ms: int | None, currency: str = "") -> str:
    """What to do instead of asking for more than is left."""
    quota, fits_alone = state.quota, wanted <= state.limit
    smallest_shown = 36 if quota.metric == GPU_SECONDS else 1  # a hundredth of a GPU-hour
    left = _amount(quota, state.left, currency)
    verb = "keep" if quota.metric == ARTIFACT_BYTES else "ask for"
    choices = [f"{verb} at most {left}"] if state.left >= smallest_shown else []
    if frees_ms is not None:
        choices.append(f"wait until {windows.when(frees_ms, quota.time_zone)}")
    elif fits_alone and quota.metric == CONCURRENT_GPUS:
        choices.append("wait until running work gives GPUs back")
    elif quota.metric == ARTIFACT_BYTES:
        choices.append("delete kept files that are not needed any more" if fits_alone else "have the limit raised")
    elif fits_alone and (quota.metric == CREDIT_SHARE or quota.window == "rolling"):
        choices.append("wait until running work has ended")
    else:
        choices.append("have the limit raised")
    text = ", or ".join(choices)
    return f"To stay within it, {text}." if quota.soft else f"{text[0].upper()}{text[1:]}."


def label(quota: Quota, currency: str = "") -> str:
    """A limit for people: ``class cs101: 40 GPU-hours per week``."""
    who = {
        "site": "everyone together",
        "class": f"class {quota.name}",
        "member": f"each member of class {quota.name}",
        "person": quota.name,
    }[quota.scope]
    of_type = f" of {quota.gpu_type}" if quota.gpu_type else ""
    if quota.metric == CONCURRENT_GPUS:
        amount, period = f"{_gpus(quota.limit)}{of_type} at once", ""
    elif quota.metric == CREDIT_SHARE:
        amount, period = f"{quota.limit} % of the credit left at once", ""
    elif quota.metric == ARTIFACT_BYTES:
        amount, period = f"{format_bytes(quota.limit)} of kept files", ""
    else:
        on_type = f" on {quota.gpu_type}" if quota.gpu_type and quota.metric == SPEND_MICROS else of_type
        amount = _amount(quota, quota.limit, currency).replace(".00 GPU-hours", " GPU-hours") + on_type
        period = " in total" if quota.window == "always" else f" per {quota.window}"
    if quota.window == "rolling":
        period = f" in any {_length(quota.rolling_ms or 0)}"
    elif quota.window == "term":
        begins = windows.when(quota.starts_ms or 0, quota.time_zone).removesuffix(f" {quota.time_zone}")
        period = f" from {begins} to {windows.when(quota.ends_ms or 0, quota.time_zone)}"
    return f"{who}: {amount}{period}{' (warns only)' if quota.soft else ''}"


def _length(ms: int) -> str:
    """A length in the largest unit that there are two of, and that it is a whole number of: ``24 hours``."""
    for unit, unit_ms in (("days", 86_400_000), ("hours", 3_600_000), ("minutes", 60_000), ("seconds", 1000)):
        if ms % unit_ms == 0 and ms > unit_ms:
            return f"{ms // unit_ms} {unit}"
    return f"{ms} milliseconds"


def _amount(quota: Quota, value: int, currency: str, *, up: bool = False) -> str:
    if quota.metric == CONCURRENT_GPUS:
        return _gpus(value)
    if quota.metric in (SPEND_MICROS, CREDIT_SHARE):
        return format_money(value, currency)
    if quota.metric == ARTIFACT_BYTES:
        return format_bytes(value, up=up)
    hundredths = -(-value // 36) if up else value // 36
    whole, rest = divmod(hundredths, 100)
    return f"{whole}.{rest:02d} GPU-hours"


def format_bytes(size: int, *, up: bool = False) -> str:
    """A size for people, ``1.5 GiB``: rounded down, or ``up``, to a tenth of its unit."""
    for unit, width in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 1 << width:
            whole, tenth = divmod(-(-size * 10 >> width) if up else size * 10 >> width, 10)
            return f"{whole}.{tenth} {unit}" if tenth else f"{whole} {unit}"
    return f"{size} byte{'s' * (size != 1)}"


def _gpus(count: int) -> str:
    return f"{count} GPU" if count == 1 else f"{count} GPUs"
