"""What administrators see and set: prices, GPUs, promotions, credit, limits, requests, consistency, audit."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from fastgpu.models import Price
from fastgpu_hub.service.pages import forms
from fastgpu_hub.service.pages.visit import Done, Page, Visit, must

AUDIT_SHOWN = 10
AUDIT_PAGE = 50
GRANTS_SHOWN = 15


async def admin_page(visit: Visit) -> Page:
    """Price book, GPUs and holders, promotions, credit, limits, requests, consistency, the latest of the audit."""
    broker, actor = visit.broker, visit.actor
    return Page(
        "admin.html",
        {
            "prices": price_states(must(await broker.prices(actor)), visit.now),
            "settings": broker.settings,
            "inventory": must(await broker.inventory(actor)),
            "promotions": must(await broker.managed_promotions(actor)),
            "grants": must(await broker.latest_grants(actor, GRANTS_SHOWN)),
            "refunds": must(await broker.latest_grants(actor, GRANTS_SHOWN, refunds=True)),
            "quotas": must(await broker.quotas(actor)),
            "asks": must(await broker.asks(actor, "open")),
            "audit": must(await broker.audit(actor, AUDIT_SHOWN)),
            "problems": must(await broker.problems(actor)),
            "checked": broker.checked(),
        },
    )


def price_states(prices: Iterable[Price], now: datetime) -> list[tuple[str, Price]]:
    """Each price version with ``now``, ``to come`` or ``before``; by GPU type, the latest first."""
    newest_first = sorted(prices, key=lambda price: (price.valid_from, price.id), reverse=True)
    found: list[tuple[str, Price]] = []
    in_force: set[str] = set()
    for price in newest_first:
        state = "to come" if price.valid_from > now else "before" if price.gpu_type in in_force else "now"
        if state == "now":
            in_force.add(price.gpu_type)
        found.append((state, price))
    return sorted(found, key=lambda row: (row[1].gpu_type, row[0] != "now"))


async def set_list_price(visit: Visit) -> Done:
    """Set a price, now or from an instant on."""
    must(await visit.broker.set_price(visit.actor, forms.price(visit.form, visit.time_zone), key=visit.key))
    return Done("admin", "price-set")


async def account_page(visit: Visit) -> Page:
    """One account's credit, grant by grant."""
    account = visit.form.get("account", "").strip()
    if account and not account.startswith(("class:", "person:")):
        account = f"person:{account}"
    found = must(await visit.broker.account(visit.actor, account))
    return Page("account.html", {"account": found, "grants": must(await visit.broker.grants(visit.actor, account))})


async def give_credit(visit: Visit) -> Done:
    """Give credit of the site to an account."""
    must(await visit.broker.grant(visit.actor, forms.grant(visit.form, visit.time_zone), key=visit.key))
    return Done("admin", "credit-given")


async def set_any_quota(visit: Visit) -> Done:
    """Set a limit of any scope."""
    must(await visit.broker.add_quota(visit.actor, forms.quota(visit.form, visit.time_zone), key=visit.key))
    return Done("admin", "quota-set")


async def remove_any_quota(visit: Visit) -> Done:
    """Lift a limit."""
    must(await visit.broker.remove_quota(visit.actor, visit.number))
    return Done("admin", "quota-removed")


async def audit_page(visit: Visit) -> Page:
    """Who changed what: a page of it, by a person, about a subject."""
    by, subject, before = (visit.form.get(name, "").strip() for name in ("actor", "subject", "before"))
    before_id = int(before) if before.isascii() and before.isdigit() and len(before) < 18 else None
    found = must(await visit.broker.audit(visit.actor, AUDIT_PAGE + 1, before_id, by, subject))
    more = found[AUDIT_PAGE - 1].id if len(found) > AUDIT_PAGE else None
    filters = {"by": by, "subject": subject, "before_id": before_id}
    return Page("audit.html", {"audit": found[:AUDIT_PAGE], "older_than": more, **filters})
