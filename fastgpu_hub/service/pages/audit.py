"""Lines of the audit in words: what was done, to what, and what it changed. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from fastgpu.formatting import format_money
from fastgpu.models import Account, AuditLine, Price, Promotion, QuotaUse
from fastgpu.words import price_words, quota_words

_ACTIONS = {
    "set_price": "set the price of",
    "grant": "gave credit to",
    "add_promotion": "set up the promotion",
    "end_promotion": "ended the promotion",
    "set_quota": "set the limit",
    "remove_quota": "removed the limit",
    "stop": "stopped",
}


def action_words(action: str) -> str:
    """What was done, to be followed by its subject."""
    return _ACTIONS.get(action, action.replace("_", " "))


def subject_words(line: AuditLine) -> str:
    """To what it was done: promotions and jobs by their name, everything else as it was recorded."""
    known = line.after or line.before or {}
    if line.action in ("add_promotion", "end_promotion") and known.get("name"):
        return str(known["name"])
    if line.action == "stop" and known.get("name"):
        return f"{known['name']} of {known.get('owner')} ({line.subject})"
    return line.subject


def change_words(line: AuditLine, currency: str) -> str:
    """``0.50 credits/h per GPU → 0.25 credits/h per GPU``, one side alone where there is no other; empty for none."""
    try:
        before, after = (_value(line.action, side, currency) for side in (line.before, line.after))
    except ValidationError:  # recorded by another version: the page shows the record itself
        return ""
    if before and after:
        return "" if before == after else f"{before} → {after}"
    return after or (f"was {before}" if before else "")


def _value(action: str, side: dict[str, Any] | None, currency: str) -> str:
    if side is None:
        return ""
    match action:
        case "set_price":
            return price_words(Price.model_validate(side).rate, currency)
        case "grant":
            return format_money(Account.model_validate(side).granted_micros, currency)
        case "set_quota" | "remove_quota":
            quota = QuotaUse.model_validate(side)
            return quota_words(quota.metric, quota.limit, currency)
        case "add_promotion" | "end_promotion":
            return f"until {Promotion.model_validate(side).ends_at:%Y-%m-%d %H:%M} UTC"
    return str(side.get("state", ""))
