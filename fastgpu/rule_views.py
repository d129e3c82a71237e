"""What answers about promotions, limits and credit say to a person. Pure, as ``views``."""

from __future__ import annotations

from collections.abc import Sequence

from fastgpu import models
from fastgpu.formatting import NO_VALUE, format_amount, format_duration, format_money, one_line
from fastgpu.view import Bar, Cell, Lens, Table, View, explain
from fastgpu.words import quota_words


def promotions(answer: Sequence[models.Promotion], currency: str, lens: Lens) -> View:
    """Each promotion's saving, whether it is on and for me, and its absolute end."""
    rows = tuple(
        (
            one_line(promotion.name),
            _discount(promotion, currency),
            one_line(", ".join(promotion.gpu_types)) or "all GPU types",
            _left(promotion, currency),
            _when(promotion, lens),
            lens.at(promotion.ends_at),
            "yes" if promotion.eligible else explain(promotion.why_not, lens) if promotion.why_not else "no",
        )
        for promotion in answer
    )
    columns = ("promotion", "saving", "GPU types", "left", "now", "ends", "for me")
    return View("Promotions", lens.now, tables=(Table(columns, rows),))


def _discount(promotion: models.Promotion, currency: str) -> str:
    code = ", with a code" if promotion.needs_code and not promotion.redeemed else ""
    if promotion.percent_off is not None:
        on_top = " on top of others" if promotion.stacks else ""
        return f"{promotion.percent_off} % off{on_top}{code}"
    if promotion.credit_micros is not None:
        return f"{format_money(promotion.credit_micros, currency)} of credit{code}"
    if promotion.free_gpu_seconds is not None:
        left = promotion.free_left_seconds
        of_it = "" if left is None else f", {format_duration(left)} of it left for you"
        return f"the first {format_duration(promotion.free_gpu_seconds)} of GPU time free{of_it}{code}"
    return f"{format_money(promotion.fixed_per_gpu_hour_micros or 0, currency)} per GPU-hour{code}"


def _left(promotion: models.Promotion, currency: str) -> str:
    parts = []
    if promotion.places_left is not None:
        parts.append(f"{promotion.places_left} of {promotion.max_redemptions} places")
    if promotion.budget_left_micros is not None:
        parts.append(f"{format_amount(promotion.budget_left_micros, currency)} of its budget")
    return ", ".join(parts) or NO_VALUE


def redeemed(answer: models.Redeemed, currency: str, lens: Lens) -> View:
    """What redeeming a promotion gave."""
    promotion = answer.promotion
    facts: list[tuple[str, Cell]] = [
        ("promotion", one_line(promotion.name)),
        ("gives", _discount(promotion, currency)),
        ("ends", lens.at(promotion.ends_at)),
    ]
    if answer.granted_micros:
        given = f"{format_money(answer.granted_micros, currency)} for {one_line(answer.account)}"
        facts.append(("credit", given))
    return View("Redeemed", lens.now, tuple(facts))


def _when(promotion: models.Promotion, lens: Lens) -> str:
    change = lens.at(promotion.changes_at) if promotion.changes_at else ""
    if promotion.active:
        return f"on, until {change}" if change and promotion.changes_at != promotion.ends_at else "on"
    return f"off, begins {change}" if change else "over"


def quotas(answer: Sequence[models.QuotaUse], currency: str, lens: Lens) -> View:
    """Used, reserved and left of each limit, and when how much comes back."""
    return View("Quotas", lens.now, tables=(quota_table(answer, currency, lens),))


def quota_table(answer: Sequence[models.QuotaUse], currency: str, lens: Lens, caption: str = "") -> Table:
    """Used, reserved and left of each limit, and when how much comes back."""
    rows = tuple(
        (
            one_line(quota.label),
            Bar(
                (quota.used + quota.reserved) / quota.limit if quota.limit else 1.0,
                quota_words(quota.metric, quota.used, currency),
            ),
            quota_words(quota.metric, quota.reserved, currency),
            quota_words(quota.metric, quota.left, currency),
            _comes_back(quota, currency, lens),
        )
        for quota in answer
    )
    columns = ("limit", "used", "reserved", "left", "comes back")
    return Table(columns, rows, frozenset({2, 3}), caption, empty="no limits")


def _comes_back(quota: models.QuotaUse, currency: str, lens: Lens) -> str:
    if quota.resets_at:
        return f"all of it {lens.at(quota.resets_at)}"
    steps = (f"{quota_words(quota.metric, step.amount, currency)} {lens.at(step.at)}" for step in quota.comes_back)
    return "; ".join(steps) or ("never" if quota.window == "always" and quota.used else NO_VALUE)


# ---------------------------------------------------------------- credit, requests for more


def account_table(accounts: Sequence[models.Account], currency: str, lens: Lens) -> Table:
    """Each account's credit, and what of it expires next."""
    rows = tuple(
        (
            one_line(account.id),
            *(
                format_amount(micros)
                for micros in (account.granted_micros, account.spent_micros, account.held_micros, account.left_micros)
            ),
            _expiry(account, lens),
        )
        for account in accounts
    )
    columns = ("account", "granted", "spent", "reserved", "left", "expires")
    return Table(columns, rows, frozenset({1, 2, 3, 4}), f"Accounts, in {currency}")


def _expiry(account: models.Account, lens: Lens) -> str:
    if account.expires_at is None:
        return NO_VALUE
    return f"{format_amount(account.expires_micros)} {lens.at(account.expires_at)}"


def grants(answer: Sequence[models.Grant], currency: str, lens: Lens) -> View:
    """Credit given, newest first."""
    rows = tuple(
        (
            one_line(grant.account),
            format_money(grant.amount_micros, currency),
            format_amount(grant.left_micros, currency),
            lens.at(grant.expires_at) if grant.expires_at else "never",
            one_line(grant.note or grant.source or "-"),
            one_line(grant.by),
        )
        for grant in answer
    )
    columns = ("account", "granted", "left", "expires", "for", "by")
    return View("Credit", lens.now, tables=(Table(columns, rows, frozenset({1, 2}), empty="no credit was granted"),))


def asks(answer: Sequence[models.Ask], lens: Lens) -> View:
    """Requests for more and their answers."""
    rows = tuple(
        (
            str(ask.id),
            one_line(ask.owner),
            one_line(ask.label),
            quota_words(ask.metric, ask.amount, ask.currency),
            one_line(ask.reason),
            ask.state,
            one_line(ask.answer),
        )
        for ask in answer
    )
    columns = ("id", "who", "of", "more", "why", "state", "answer")
    empty = "nobody asked for more"
    return View("Requests for more", lens.now, tables=(Table(columns, rows, frozenset({3}), empty=empty),))
