"""Promotions, limits and requests in the words of the pages. Pure."""

from __future__ import annotations

from datetime import datetime

from fastgpu.formatting import format_amount, format_bytes, format_duration, format_money
from fastgpu.models import Ask, Explanation, Promotion, QuotaMetric, QuotaUse
from fastgpu.words import gpu_hours, quota_words

NEWS = {
    "ending": "ends soon",
    "stopped": "stopped",
    "soft_limit": "warning",
    "not_kept": "not kept",
    "late": "may be late",
    "price_changed": "new price",
    "answered": "answer",
}


def saving_words(promotion: Promotion, currency: str) -> str:
    """What a promotion gives: ``50 % off``, ``the first 2.00 GPU-h of each person are free`` …"""
    if promotion.percent_off is not None:
        text = f"{promotion.percent_off} % off"
    elif promotion.fixed_per_gpu_hour_micros is not None:
        text = f"{format_money(promotion.fixed_per_gpu_hour_micros, currency)} per GPU-hour"
    elif promotion.free_gpu_seconds is not None:
        text = f"the first {gpu_hours(promotion.free_gpu_seconds)} of each person free"
    else:
        days = promotion.credit_days
        valid = "" if days is None else f", valid for {days} day{'' if days == 1 else 's'}"
        text = f"{format_money(promotion.credit_micros or 0, currency)} of credit{valid}"
    types = f" on {', '.join(promotion.gpu_types)}" if promotion.gpu_types else ""
    return f"{text}{types}{', on top of another promotion' if promotion.stacks else ''}"


def audience_words(promotion: Promotion) -> str:
    """Whom a promotion is for, as those who may edit it see it."""
    names = [
        "new users" if entry == "new" else entry.replace(":", " ", 1).removeprefix("person ")
        for entry in promotion.audience
    ]
    return ", ".join(names) or "everyone"


def left_words(promotion: Promotion, currency: str) -> list[str]:
    """What is left of a promotion's caps; empty when it has none."""
    left = []
    if promotion.places_left is not None:
        left.append(f"{promotion.places_left} of {promotion.max_redemptions} places left")
    if promotion.budget_left_micros is not None and promotion.budget_micros is not None:
        money = format_amount(promotion.budget_left_micros), format_amount(promotion.budget_micros, currency)
        left.append(f"{money[0]} of {money[1]} left to take off")
    return left


def can_be_taken(promotion: Promotion) -> bool:
    """Whether the caller may take a place without a code: there are places to take, and they have none yet."""
    places = promotion.max_redemptions is not None or promotion.credit_micros is not None
    return places and promotion.eligible and not promotion.needs_code and not promotion.redeemed


def countdown_words(moment: datetime, now: datetime) -> str:
    """How long until an instant: ``in 3 h 12 min``; ``over`` when it has passed."""
    seconds = (moment - now).total_seconds()
    return f"in {format_duration(seconds)}" if seconds >= 1 else "over"


def unit_words(metric: QuotaMetric, currency: str) -> str:
    """The unit in which an amount of a limit is written."""
    if metric is QuotaMetric.concurrent_gpus:
        return "GPUs"
    if metric is QuotaMetric.artifact_bytes:
        return "GiB"
    return "GPU-hours" if metric is QuotaMetric.gpu_seconds else currency


def plain_amount(value: int, metric: QuotaMetric) -> str:
    """An amount as a form's field takes it."""
    if metric is QuotaMetric.concurrent_gpus:
        return str(value)
    if metric is QuotaMetric.artifact_bytes:
        return format_bytes(value)
    if metric is QuotaMetric.gpu_seconds:
        return format_money(-(-value * 1_000_000 // 3600))
    return format_money(value)


def ask_words(ask: Ask, currency: str) -> str:
    """What is asked for: ``2 GPUs more``, ``5.00 credits more``."""
    if ask.metric is QuotaMetric.spend_micros:
        return f"{format_money(ask.amount, currency)} more"
    return f"{quota_words(ask.metric, ask.amount, currency)} more"


def bar_words(quota: QuotaUse, currency: str) -> str:
    """A limit's bar for those who do not see it."""
    used, reserved, limit = (
        quota_words(quota.metric, value, currency) for value in (quota.used, quota.reserved, quota.limit)
    )
    return f"{used} used and {reserved} reserved of {limit}"


def bar(used: int, reserved: int, limit: int) -> dict[str, int]:
    """Where a bar's two parts begin and how wide they are, in thousandths of its width; what is taken can be seen."""
    whole = max(limit, used + reserved, 1)
    first = _visible(used, whole)
    second = min(_visible(reserved, whole), 1000 - first)
    return {"used": first, "reserved": second, "full": int(limit > 0 and used + reserved >= limit)}


def _visible(part: int, whole: int) -> int:
    return max(part * 1000 // whole, 8 if part else 0)


def ending_words(reason: Explanation | None) -> str:
    """Why a lease will end, in a few words; the explanation itself has the numbers."""
    if reason is None or reason.code == "time_limit":
        return "its time limit"
    if reason.code == "credit":
        return f"the credit of {reason.numbers.get('account', 'its account')} is used up"
    return "a limit is used up" if reason.code.startswith("quota_") else "it cannot be extended"


def ask_link(explanation: Explanation | None) -> str:
    """Query of the page that asks for more of what stood in the way; empty when that is not what helps."""
    if explanation is None:
        return ""
    quota_id, account = explanation.numbers.get("quota_id"), explanation.numbers.get("account")
    if explanation.code.startswith("quota_") and isinstance(quota_id, int) and explanation.code != "quota_credit_share":
        return f"limit={quota_id}"
    return f"account={account}" if explanation.code == "credit" and isinstance(account, str) else ""
