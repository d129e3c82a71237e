"""What a person sees and does for themselves: their GPUs, credit, limits, promotions, requests and receipts."""

from __future__ import annotations

from datetime import timedelta
from zoneinfo import ZoneInfo

from fastgpu.models import QuotaMetric
from fastgpu_hub.service import receipts
from fastgpu_hub.service.pages import forms
from fastgpu_hub.service.pages.visit import Done, Page, Visit, must

JOBS_SHOWN = 25
COST_DAYS = 14
NEWS_SHOWN = 50
ASKS_SHOWN = 5


async def home_page(visit: Visit) -> Page:
    """My GPUs: what runs, waits, is left and was spent."""
    broker, actor = visit.broker, visit.actor
    status = must(await broker.status(actor))
    since = (status.now - timedelta(days=COST_DAYS)).replace(hour=0, minute=0, second=0, microsecond=0)
    news = must(await broker.notices(actor, 0, NEWS_SHOWN))
    asks = [ask for ask in must(await broker.asks(actor)) if ask.owner == actor.name]
    return Page(
        "home.html",
        {
            "status": status,
            "jobs": must(await broker.jobs(actor, False, JOBS_SHOWN, actor.name, None)),
            "costs": must(await broker.costs(actor, since, "day")),
            "use": {reading.gpu.uuid: reading for reading in status.gpus},
            "news": [notice for notice in reversed(news) if notice.at > status.now - timedelta(days=1)],
            "grants": {account.id: must(await broker.grants(actor, account.id)) for account in status.accounts},
            "asks": [ask for ask in asks if ask.state == "open"][:ASKS_SHOWN],
        },
    )


async def redeem_promotion(visit: Visit) -> Done:
    """Take a place in a promotion."""
    taken = must(await visit.broker.redeem(visit.actor, forms.redeem(visit.form), key=visit.key))
    return Done("", "redeemed-credit" if taken.granted_micros else "redeemed")


# ---------------------------------------------------------------- asking for more


async def asks_page(visit: Visit) -> Page:
    """Ask for more, see what became of it, and answer others."""
    broker, actor = visit.broker, visit.actor
    status = must(await broker.status(actor))
    asks = must(await broker.asks(actor))
    limits = [quota for quota in status.quotas if quota.metric is not QuotaMetric.credit_share_percent]
    about = ""
    if "limit" in visit.form:
        about = f"limit:{visit.form['limit']}"
    elif "account" in visit.form:
        about = f"account:{visit.form['account']}"
    return Page(
        "asks.html",
        {
            "limits": limits,
            "accounts": status.accounts,
            "about": about,
            "own": [ask for ask in asks if ask.owner == actor.name],
            "to_answer": [ask for ask in asks if ask.decidable],
        },
    )


async def ask_for_more(visit: Visit) -> Done:
    """Ask for more of a limit or of credit."""
    status = must(await visit.broker.status(visit.actor))
    metrics = {quota.quota_id: quota.metric.value for quota in status.quotas}
    must(await visit.broker.ask(visit.actor, forms.ask(visit.form, metrics), key=visit.key))
    return Done("asks", "asked")


async def withdraw_own_ask(visit: Visit) -> Done:
    """Take one's own request back."""
    must(await visit.broker.withdraw_ask(visit.actor, visit.number, key=visit.key))
    return Done("asks", "ask-withdrawn")


async def answer_ask(visit: Visit) -> Done:
    """Answer a request from the page of requests."""
    return Done("asks", await answered(visit))


async def answered(visit: Visit) -> str:
    """Give or decline what was asked for; the notice that tells which."""
    broker, actor, number = visit.broker, visit.actor, visit.number
    known = next((ask for ask in must(await broker.asks(actor)) if ask.id == number), None)
    metric = QuotaMetric.spend_micros if known is None else known.metric
    wanted = forms.decision(visit.form, metric.value, visit.time_zone)
    if visit.form.get("decision") == "approve":
        must(await broker.approve_ask(actor, number, wanted, key=visit.key))
        return "ask-approved"
    must(await broker.decline_ask(actor, number, wanted, key=visit.key))
    return "ask-declined"


# ---------------------------------------------------------------- receipts


async def receipt_page(visit: Visit) -> Page:
    """All lines of one lease and their sum."""
    receipt = must(await visit.broker.receipt(visit.actor, visit.path["id"]))
    why = must(await visit.broker.why(visit.actor, visit.path["id"]))
    told = receipts.itemised(receipt, ZoneInfo(visit.time_zone))
    return Page("receipt.html", {"receipt": receipt, "told": told, "why": why})


async def refund_lease(visit: Visit) -> Done:
    """Give back what was charged for a lease, all of it or the ticked lines."""
    lease_id = visit.path["id"]
    must(await visit.broker.refund(visit.actor, lease_id, forms.refund(visit.form), key=visit.key))
    return Done(f"receipts/{lease_id}", "refunded")
