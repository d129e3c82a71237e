"""The spawn page's form as HTML. Pure: what the service offers and what the fields show in, markup out.

Everything works without JavaScript: prices, waits and costs are in the page as the server knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from fastgpu.formatting import format_amount, format_bytes, format_date_time, format_money, one_line
from fastgpu.models import Account, Offer, Options, QuotaUse, Rate
from fastgpu.words import price_words, quota_words, wait_words
from fastgpu_hub.spawner.refusal import sentences

COST_HOURS = (1, 2, 4)
_TIME_LIMITS = (("", "no limit"), ("1h", "1 hour"), ("2h", "2 hours"), ("4h", "4 hours"), ("8h", "8 hours"))


@dataclass(frozen=True, slots=True)
class Row:
    """One GPU type on the page, every cell in words."""

    gpu_type: str
    label: str
    memory: str
    suited_for: str
    simulated: bool
    price: str
    list_price: str
    promotion: str
    until: str
    free: str
    wait: str
    costs: tuple[str, ...]
    allowed: bool
    why_not: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class Limit:
    """One quota: a meter (``used`` of ``limit``, in the quota's own unit) and the same in words."""

    label: str
    used: int
    limit: int
    words: str


def render_form(options: Options | None, shown: Mapping[str, str], *, trouble: str = "") -> str:
    """HTML of the options form, without the ``<form>`` element around it (the hub's page has it).

    ``shown`` are the fields' texts (:func:`~fastgpu_hub.spawner.options.shown_values`). Without ``options`` the form
    offers a server without a GPU and says ``trouble``.
    """
    rows = tuple(_row(offer, options.currency, shown) for offer in options.offers) if options else ()
    chosen = any(row.chosen for row in rows)
    wanted = shown.get("gpu_type", "")
    note = ""
    if wanted and not chosen and not trouble:
        row = next((row for row in rows if row.gpu_type == wanted), None)
        reason = row.why_not if row else "This hub does not offer it."
        note = f"{row.label if row else one_line(wanted)} cannot be chosen now. {reason}"
    return _template().render(
        trouble=one_line(trouble),
        note=note,
        rows=rows,
        no_gpu_chosen=not chosen,
        cost_hours=COST_HOURS,
        gpu_count=shown.get("gpu_count") or "1",
        most_gpus=max((offer.total for offer in options.offers), default=1) if options else 1,
        accounts=tuple((account.id, _account_words(account, options.currency)) for account in options.accounts)
        if options
        else (),
        account=shown.get("account", ""),
        promo_code=shown.get("promo_code", ""),
        promotions=tuple(_promotions(options)) if options else (),
        time_limit=shown.get("time_limit", ""),
        time_limits=_time_limits(shown.get("time_limit", "")),
        limits=tuple(_limit(quota, options.currency) for quota in options.quotas) if options else (),
        simulated=any(row.simulated for row in rows),
    )


@lru_cache(maxsize=1)
def _template() -> Template:
    folder = Path(__file__).parent / "templates"
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("spawn_form.html")


def _row(offer: Offer, currency: str, shown: Mapping[str, str]) -> Row:
    count = int(count_text) if (count_text := shown.get("gpu_count", "1")).isascii() and count_text.isdigit() else 1
    cheaper = offer.rate != offer.list_rate
    return Row(
        gpu_type=offer.gpu_type,
        label=one_line(offer.label) or offer.gpu_type,
        memory="memory not known" if offer.memory_bytes is None else f"{format_bytes(offer.memory_bytes)} memory",
        suited_for=one_line(offer.suited_for),
        simulated=offer.simulated,
        price=price_words(offer.rate, currency),
        list_price=price_words(offer.list_rate, currency) if cheaper else "",
        promotion=one_line(offer.promotion_name) if cheaper else "",
        until=_instant(offer.rate_until),
        free=f"{offer.free} of {offer.total} free",
        wait=_wait_words(offer),
        costs=tuple(
            format_money(cost_micros(offer.rate, min(max(count, 1), 1024), hours * 3600), currency)
            for hours in COST_HOURS
        ),
        allowed=offer.allowed,
        why_not=" ".join(sentences(offer.why_not)) if offer.why_not else ("" if offer.allowed else "Not allowed now."),
        chosen=offer.allowed and shown.get("gpu_type") == offer.gpu_type,
    )


def cost_micros(rate: Rate, gpu_count: int, seconds: int) -> int:
    """Cost of ``seconds`` at a constant rate: C = n · p · t, plus task time and start; each part rounded down."""
    return (
        gpu_count * rate.per_gpu_hour_micros * seconds // 3600
        + rate.per_task_hour_micros * seconds // 3600
        + rate.per_start_micros
    )


def _wait_words(offer: Offer) -> str:
    at_once = offer.free > 0 if offer.wait_seconds is None else offer.wait_seconds <= 0
    return "starts at once" if at_once else f"wait {wait_words(offer.wait_seconds)}"


def _account_words(account: Account, currency: str) -> str:
    left = (
        f"{format_amount(account.left_micros, currency)} left"
        if account.granted_micros or account.left_micros
        else "no credit"
    )
    return f"{one_line(account.id)} ({left})"


def _promotions(options: Options) -> list[str]:
    """Promotions a person can still reach, in words: not yet begun, or in need of a code."""
    told = []
    for promotion in options.promotions:
        if promotion.active and promotion.eligible:
            continue
        why = " ".join(sentences(promotion.why_not)) if promotion.why_not else ""
        when = f"until {_instant(promotion.ends_at)}"
        if promotion.starts_at > datetime.now(timezone.utc):
            when = f"from {_instant(promotion.starts_at)} {when}"
        told.append(f"{one_line(promotion.name)}: {when}.{f' {why}' if why else ''}")
    return told


def _limit(quota: QuotaUse, currency: str) -> Limit:
    words = f"{quota_words(quota.metric, quota.left, currency)} left"
    if quota.used:
        words += f", {quota_words(quota.metric, quota.used, currency)} used"
    if quota.reserved:
        words += f", {quota_words(quota.metric, quota.reserved, currency)} reserved"
    if quota.resets_at:
        words += f"; resets on {_instant(quota.resets_at)}"
    return Limit(one_line(quota.label), min(quota.used + quota.reserved, quota.limit), quota.limit, words)


def _time_limits(shown: str) -> tuple[tuple[str, str], ...]:
    if shown and shown not in dict(_TIME_LIMITS):
        return (*_TIME_LIMITS, (shown, shown))
    return _TIME_LIMITS


def _instant(when: datetime | None) -> str:
    """An absolute instant with its zone: the page may stay open for days, so never "tomorrow"."""
    return "" if when is None else format_date_time(when)
