"""The balanced, append-only ledger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.metering import Line

GRANTS = "site:grants"
REVENUE = "site:revenue"
_SITE = (GRANTS, REVENUE)


class LedgerError(Exception):
    """The ledger contradicts itself: an entry that is malformed, or sides that do not balance."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One balanced entry: ``amount_micros`` moves from the ``debit`` account to the ``credit`` account.

    ``kind`` is one of

    * ``grant``: from ``site:grants`` to an account, or from a class to a person, which is a teacher's gift;
    * ``charge``: from an account to ``site:revenue``;
    * ``refund``: from ``site:revenue`` back to the account; ``reverses`` is the charge's id, the line the charge's own;
    * ``expire``: what was left of a grant at its expiry, from the account back to ``site:grants``.

    Charges and refunds carry their line, workload, owner and GPU type, so quotas and receipts are sums over transfers.
    ``grant_id`` is the grant that a grant or refund became, or that expired.
    """

    id: int
    kind: str
    debit: str
    credit: str
    amount_micros: int
    at_ms: int
    workload_id: str | None = None
    owner: str | None = None
    gpu_type: str | None = None
    line: Line | None = None
    note: str = ""
    by: str = ""
    reverses: int | None = None
    grant_id: int | None = None


def charge_transfers(
    workload_id: str, owner: str, account: str, gpu_type: str, lines: Iterable[Line], at_ms: int
) -> list[Transfer]:
    """One charge per line, booked at ``at_ms``; the store gives the ids.

    Lines that cost nothing are booked too: their GPU time counts against quotas.
    """
    return [
        Transfer(
            id=0,
            kind="charge",
            debit=account,
            credit=REVENUE,
            amount_micros=line.amount_micros,
            at_ms=at_ms,
            workload_id=workload_id,
            owner=owner,
            gpu_type=gpu_type,
            line=line,
        )
        for line in lines
    ]


def grant_transfer(grant: Grant, giver: str | None = None) -> Transfer:
    """The entry of a grant: from the site (None), or from the class that gives of its own; the store gives the id.

    Raises ValueError when the giver is neither, or a class gives to anybody but a person.
    """
    giver = giver or GRANTS
    if not _may_give(giver, grant.account):
        raise ValueError(
            f"{giver} cannot give credit to {grant.account}: the site gives to accounts, a class to people"
        )
    return Transfer(
        id=0,
        kind="grant",
        debit=giver,
        credit=grant.account,
        amount_micros=grant.amount_micros,
        at_ms=grant.granted_ms,
        note=grant.note,
        by=grant.by,
        grant_id=grant.id or None,
    )


def refund_transfers(
    charges: Iterable[Transfer], at_ms: int, by: str, reason: str, grant_id: int | None = None
) -> list[Transfer]:
    """One refund per charge, each of the whole charge; the store gives the ids, and takes no second one for a charge.

    What they give back is granted anew, without expiry: that is the grant ``grant_id``, None when they give back
    nothing but GPU time. Raises ValueError for an entry that
    is not a booked charge or given twice, and for a refund without a name or a reason.
    """
    if not by or not reason:
        raise ValueError("a refund names who made it and why")
    refunds: dict[int, Transfer] = {}
    for charge in charges:
        if charge.kind != "charge" or charge.id < 1:
            raise ValueError(
                f"ledger entry {charge.id} ({charge.kind}) is not a booked charge, so it cannot be refunded"
            )
        if charge.id in refunds:
            raise ValueError(f"charge {charge.id} can be refunded only once")
        refunds[charge.id] = replace(
            charge,
            id=0,
            kind="refund",
            debit=REVENUE,
            credit=charge.debit,
            at_ms=at_ms,
            note=reason,
            by=by,
            reverses=charge.id,
            grant_id=grant_id,
        )
    return list(refunds.values())


def expire_transfer(grant: Grant, left_micros: int, at_ms: int) -> Transfer:
    """What was left of a grant when it expired goes back; the store gives the id. Nothing left is booked too.

    Raises ValueError when it has not expired at ``at_ms``, is not booked, or cannot have that much left.
    """
    if grant.id < 1 or grant.expires_ms is None or at_ms < grant.expires_ms:
        raise ValueError(f"grant {grant.id} has not expired")
    if not 0 <= left_micros <= grant.amount_micros:
        raise ValueError(f"{left_micros} micro-units cannot be left of a grant of {grant.amount_micros}")
    return Transfer(
        id=0,
        kind="expire",
        debit=grant.account,
        credit=GRANTS,
        amount_micros=left_micros,
        at_ms=at_ms,
        grant_id=grant.id,
    )


def balances(transfers: Iterable[Transfer]) -> dict[str, int]:
    """What each account has, in micro-units: credits minus debits. ``site:grants`` is minus all that was granted."""
    result: dict[str, int] = {}
    for transfer in transfers:
        result[transfer.debit] = result.get(transfer.debit, 0) - transfer.amount_micros
        result[transfer.credit] = result.get(transfer.credit, 0) + transfer.amount_micros
    return result


def check_balanced(transfers: Iterable[Transfer]) -> None:
    """Raises LedgerError naming the first entry that is malformed, or the sum by which the books do not balance.

    Well-formed is what :class:`Transfer` says: never negative, charges and refunds of exactly their line's amount; a
    charge is refunded at most once, to the account and with the line it was charged with; a grant expires at most once.
    Then what was granted equals what accounts have left plus the revenue. A refund whose charge is not among the
    entries is not compared with it, so a part of the ledger can be checked too.
    """
    entries = list(transfers)
    charges = {entry.id: entry for entry in entries if entry.kind == "charge"}
    refunded: set[int] = set()
    expired: set[int] = set()
    for entry in entries:
        fault = _fault(entry)
        if not fault and entry.kind == "refund":
            assert entry.reverses is not None
            fault = _refund_fault(entry, charges.get(entry.reverses), refunded)
            refunded.add(entry.reverses)
        elif not fault and entry.kind == "expire":
            assert entry.grant_id is not None
            fault = "its grant has expired before" if entry.grant_id in expired else ""
            expired.add(entry.grant_id)
        if fault:
            raise LedgerError(f"ledger entry {entry.id} ({entry.kind}, {entry.debit} to {entry.credit}): {fault}")
    difference = sum(balances(entries).values())
    if difference:
        raise LedgerError(f"debits and credits differ by {difference} micro-units")


def _may_give(giver: str, taker: str) -> bool:
    if giver.startswith("class:"):
        return taker.startswith("person:")
    return giver == GRANTS and taker not in _SITE


def _refund_fault(refund: Transfer, charge: Transfer | None, refunded: set[int]) -> str:
    if refund.reverses in refunded:
        return f"charge {refund.reverses} was refunded before"
    if charge is None:
        return ""
    same = ("amount_micros", "line", "workload_id", "owner", "gpu_type")
    differs = refund.credit != charge.debit or any(getattr(refund, name) != getattr(charge, name) for name in same)
    return f"it is not what charge {charge.id} charged" if differs else ""


def _fault(entry: Transfer) -> str:
    if entry.amount_micros < 0:
        return "its amount is negative"
    if (entry.kind == "refund") != (entry.reverses is not None):
        return "a refund, and nothing else, reverses a charge"
    if entry.kind == "grant":
        gives = _may_give(entry.debit, entry.credit)
        return "" if gives else "a grant goes from site:grants to an account, or from a class to a person"
    if entry.kind == "expire":
        back = entry.credit == GRANTS and entry.debit not in _SITE and entry.grant_id is not None
        return "" if back else "what expires goes from an account to site:grants and names its grant"
    if entry.kind not in ("charge", "refund"):
        return "there is no such kind"
    revenue, account = (entry.credit, entry.debit) if entry.kind == "charge" else (entry.debit, entry.credit)
    if revenue != REVENUE or account in _SITE:
        way = "from an account to site:revenue" if entry.kind == "charge" else "from site:revenue to an account"
        return f"a {entry.kind} goes {way}"
    if entry.line is None or entry.workload_id is None or entry.owner is None or entry.gpu_type is None:
        return f"a {entry.kind} carries its line, workload, owner and GPU type"
    return "" if entry.line.amount_micros == entry.amount_micros else "its amount is not its line's"
