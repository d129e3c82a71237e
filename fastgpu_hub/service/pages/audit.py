"""Lines of the audit in words: what was done, to what, and what it changed. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from fastgpu.formatting import format_money
from fastgpu.models import Account, Ask, AuditLine, CodesSet, Price, Promotion, QuotaUse
from fastgpu.words import price_words, quota_words
from fastgpu_hub.service.pages.words import ask_words, saving_words

_ACTIONS = {
    "set_price": "set the price of",
    "grant": "gave credit to",
    "refund": "refunded",
    "add_promotion": "set up the promotion",
    "edit_promotion": "changed the promotion",
    "publish_promotion": "published the promotion",
    "restore_promotion": "restored the promotion",
    "end_promotion": "ended the promotion",
    "make_codes": "made codes for promotion",
    "set_quota": "set the limit",
    "remove_quota": "removed the limit",
    "ask": "asked for more of",
    "ask_approved": "gave more of",
    "ask_declined": "declined more of",
    "ask_withdrawn": "no longer asks for more of",
    "stop": "stopped",
    "roles": "changed the rights of",
}
_ASKS = ("ask", "ask_approved", "ask_declined", "ask_withdrawn")


def action_words(action: str) -> str:
    """What was done, to be followed by its subject."""
    return _ACTIONS.get(action, action.replace("_", " "))


def subject_words(line: AuditLine) -> str:
    """To what it was done: promotions, jobs and requests by their name, everything else as it was recorded."""
    known = line.after or line.before or {}
    if line.action.endswith("_promotion") and known.get("name"):
        return f"{known['name']} ({line.subject})"
    if line.action == "stop" and known.get("name"):
        return f"{known['name']} of {known.get('owner')} ({line.subject})"
    if line.action in _ASKS and known.get("label"):
        of = "" if line.action == "ask" else f" for {known.get('owner')}"
        return f"{known['label']}{of}"
    return line.subject


def change_words(line: AuditLine, currency: str) -> str:
    """``0.50 credits/h per GPU → 0.25 credits/h per GPU``, one side alone where there is no other; empty for none."""
    try:
        before, after = (_value(line.action, side, currency) for side in (line.before, line.after))
    except (ValidationError, KeyError, TypeError):  # recorded by another version: the page shows the record itself
        return ""
    if before and after:
        return "" if before == after else f"{before} → {after}"
    return after or (f"was {before}" if before else "")


def _value(action: str, side: dict[str, Any] | None, currency: str) -> str:
    if side is None:
        return ""
    if action.endswith("_promotion"):
        promotion = Promotion.model_validate(side)
        return f"{saving_words(promotion, currency)}, until {promotion.ends_at:%Y-%m-%d %H:%M} UTC"
    if action in _ASKS:
        ask = Ask.model_validate(side)
        return ask_words(ask, currency) if ask.state == "open" else ask.state
    match action:
        case "set_price":
            return price_words(Price.model_validate(side).rate, currency)
        case "grant":
            return format_money(Account.model_validate(side).granted_micros, currency)
        case "refund":
            reason = side.get("reason")
            return f"{format_money(side['amount_micros'], currency)}: {reason}" if reason else ""
        case "make_codes":
            return f"{CodesSet.model_validate(side).count} codes"
        case "roles":
            rights = ["administrator"] * bool(side["admin"]) + [f"teacher of {name}" for name in side["teaches"]]
            return ", ".join(rights) or "no special rights"
        case "set_quota" | "remove_quota":
            quota = QuotaUse.model_validate(side)
            return quota_words(quota.metric, quota.limit, currency)
    return str(side.get("state", ""))
