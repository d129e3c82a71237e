"""Credit of an account: grants and in which order they burn, and whether a wish can be paid.

Grants burn in order of time: what a second costs is taken from the grants valid then, by priority, then expiry, then
age. So a grant that expires pays only for time before it does, and leaving out something that was spent never makes
anything else unpayable.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fastgpu_hub.pricing import windows
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.money import MAX_MICROS, format_money


@dataclass(frozen=True, slots=True)
class Grant:
    """Credit given to an account, valid in ``[granted_ms, expires_ms)``; for good when ``expires_ms`` is None.

    The lower ``priority`` (1-255) burns first. ``rollover_percent`` of what is left at the expiry goes once into a new
    grant of the same length. ``source`` says what it came from, ``by`` who gave it. Raises ValueError for an account
    without name, numbers out of range, an expiry that is not after the beginning, and a roll-over without expiry.
    """

    id: int
    account: str
    amount_micros: int
    granted_ms: int
    priority: int = 100
    expires_ms: int | None = None
    rollover_percent: int = 0
    source: str = ""
    note: str = ""
    by: str = ""

    def __post_init__(self) -> None:
        if not self.account:
            raise ValueError("a grant is given to an account")
        _whole("a grant's amount, in micro-units,", self.amount_micros, 1, MAX_MICROS)
        _whole("the beginning of a grant", self.granted_ms, 0, windows.LATEST_MS)
        _whole("a grant's priority", self.priority, 1, 255)
        _whole("what is rolled over of a grant, in percent,", self.rollover_percent, 0, 100)
        if self.expires_ms is not None:
            _whole("the expiry of a grant", self.expires_ms, self.granted_ms + 1, windows.LATEST_MS)
        elif self.rollover_percent:
            raise ValueError("a grant that never expires has nothing to roll over")


def _whole(what: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{what} is a whole number from {least} to {most}, not {str(value)[:40]}")


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent and is held for time from ``from_ms`` up to the next of :func:`edges`; None: before them all.

    Raises ValueError for an amount that is negative.
    """

    from_ms: int | None
    amount_micros: int

    def __post_init__(self) -> None:
        if self.amount_micros < 0:
            raise ValueError("what was spent must not be negative")


@dataclass(frozen=True, slots=True)
class Burned:
    """What is left of each grant, by its id, and what no grant could pay, from which instant on."""

    left: dict[int, int]
    short_micros: int = 0
    short_from_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """An account in micro-units: granted, settled charges (a refund is a grant of its own), open holds.

    ``expired_micros`` is what was left of grants when they expired, ``given_micros`` what the account gave to others.
    ``expiring``: ``(expires_ms, left_micros)`` of what is still to expire, ascending.
    """

    granted_micros: int = 0
    spent_micros: int = 0
    held_micros: int = 0
    expired_micros: int = 0
    given_micros: int = 0
    expiring: tuple[tuple[int, int], ...] = ()

    @property
    def left_micros(self) -> int:
        """What may still be held. Never below zero as long as every hold passed :func:`check`."""
        taken = self.spent_micros + self.held_micros + self.expired_micros + self.given_micros
        return self.granted_micros - taken


def edges(grants: Iterable[Grant]) -> list[int]:
    """When grants begin and expire, ascending; nothing when none expires, for then dates do not matter."""
    known = list(grants)
    expiries = {grant.expires_ms for grant in known if grant.expires_ms is not None}
    return sorted(expiries | {grant.granted_ms for grant in known}) if expiries else []


def burn(grants: Iterable[Grant], spent: Iterable[Spent]) -> Burned:
    """Take what was spent from the grants: in order of time, each amount from those valid then.

    Of those the lowest priority number burns first, then the earliest expiry, then the oldest. Where no grant expires,
    dates do not matter. Leaving out spending, or splitting it between edges, never makes any of it short. Raises
    ValueError when two grants have one id.
    """
    ordered = sorted(
        grants,
        key=lambda grant: (
            grant.priority,
            windows.LATEST_MS + 1 if grant.expires_ms is None else grant.expires_ms,
            grant.granted_ms,
            grant.id,
        ),
    )
    left = {grant.id: grant.amount_micros for grant in ordered}
    if len(left) < len(ordered):
        raise ValueError("two grants have one id")
    dated = any(grant.expires_ms is not None for grant in ordered)
    short_micros, short_from_ms = 0, None
    for spending in sorted(spent, key=lambda spending: -1 if spending.from_ms is None else spending.from_ms):
        owed = spending.amount_micros
        for grant in ordered:
            if not dated or _valid(grant, spending.from_ms):
                taken = min(owed, left[grant.id])
                left[grant.id] -= taken
                owed -= taken
        if owed and not short_micros:
            short_from_ms = spending.from_ms
        short_micros += owed
    return Burned(left, short_micros, short_from_ms)


def _valid(grant: Grant, at_ms: int | None) -> bool:
    return at_ms is not None and grant.granted_ms <= at_ms and (grant.expires_ms is None or at_ms < grant.expires_ms)


def rolled_over(grant: Grant, left_micros: int) -> Grant | None:
    """The new grant for what rolls over when ``left_micros`` of a grant are left at its expiry, without id.

    It begins at the expiry, lasts as long as the grant did, burns with the same priority, and is not rolled over again.
    The share is rounded down to whole micro-units; None when that is nothing. Raises ValueError when more is left than
    was granted, or less than nothing.
    """
    if not 0 <= left_micros <= grant.amount_micros:
        raise ValueError(f"{left_micros} micro-units cannot be left of a grant of {grant.amount_micros}")
    amount = left_micros * grant.rollover_percent // 100
    if grant.expires_ms is None or amount == 0:
        return None
    ends_ms = min(2 * grant.expires_ms - grant.granted_ms, windows.LATEST_MS)
    if ends_ms <= grant.expires_ms:
        return None
    return replace(
        grant,
        id=0,
        amount_micros=amount,
        granted_ms=grant.expires_ms,
        expires_ms=ends_ms,
        rollover_percent=0,
        source=f"rollover:{grant.id}",
    )


def check(account: str, balance: Balance, wanted_micros: int, *, currency: str = "") -> Refused | None:
    """Why the account cannot pay ``wanted_micros`` more; None when it can. What costs nothing needs no credit.

    Whether what is left is valid at the time it would pay for is for :func:`burn` and :func:`too_late` to say.
    """
    left = balance.left_micros
    if wanted_micros <= 0 or wanted_micros <= left:
        return None
    return Refused(
        "credit",
        f"This may cost {format_money(wanted_micros, currency)} but {account} has only {format_money(left, currency)} "
        f"left ({_taken(balance, currency)}).",
        _numbers(account, balance, wanted_micros),
        instead="Ask for less time or fewer GPUs, charge another account, or ask for more credit.",
    )


def too_late(
    account: str,
    balance: Balance,
    burned: Burned,
    wanted_micros: int,
    *,
    short_before_micros: int = 0,
    currency: str = "",
    time_zone: str = "UTC",
) -> Refused | None:
    """Why credit that is left does not pay for a wish: it expires before all of the wish is over. None when it pays.

    ``burned`` is what :func:`burn` makes of all spending with the wish, ``short_before_micros`` what was short without
    it: an old shortage is not this wish's.
    """
    short = burned.short_micros - short_before_micros
    if wanted_micros <= 0 or short <= 0:
        return None
    has = f"{format_money(balance.left_micros, currency)} left ({_taken(balance, currency)})"
    missing = f"{format_money(short, currency)} would be missing"
    numbers = _numbers(account, balance, wanted_micros) | {"short_micros": short}
    instead = "Charge another account, or ask for more credit."
    expiring: list[str] = []
    if burned.short_from_ms is not None and not short_before_micros:
        since = windows.when(burned.short_from_ms, time_zone)
        missing += f" from {since} on"
        numbers["short_from_ms"] = burned.short_from_ms
        instead = f"Have it end by {since}, charge another account, or ask for more credit."
        expiring = [
            f"{format_money(left, currency)} of it expires on {windows.when(at_ms, time_zone)}"
            for at_ms, left in balance.expiring
            if at_ms <= burned.short_from_ms
        ]
    why = ", ".join(expiring) or "not all of it is valid at the time it would pay for"
    return Refused(
        "credit",
        f"This may cost {format_money(wanted_micros, currency)} and {account} has {has}, but {why}: {missing}.",
        numbers,
        instead=instead,
    )


def _taken(balance: Balance, currency: str) -> str:
    parts = [
        f"{format_money(balance.granted_micros, currency)} granted",
        f"{format_money(balance.spent_micros, currency)} spent",
        f"{format_money(balance.held_micros, currency)} held for running work",
    ]
    if balance.expired_micros:
        parts.append(f"{format_money(balance.expired_micros, currency)} expired")
    if balance.given_micros:
        parts.append(f"{format_money(balance.given_micros, currency)} given to others")
    return ", ".join(parts)


def _numbers(account: str, balance: Balance, wanted_micros: int) -> dict[str, int | str]:
    return {
        "account": account,
        "granted_micros": balance.granted_micros,
        "spent_micros": balance.spent_micros,
        "held_micros": balance.held_micros,
        "expired_micros": balance.expired_micros,
        "given_micros": balance.given_micros,
        "left_micros": balance.left_micros,
        "wanted_micros": wanted_micros,
    }
