"""The balanced, append-only ledger."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fastgpu_hub.pricing.metering import Line

GRANTS = "site:grants"
REVENUE = "site:revenue"


class LedgerError(Exception):
    """The ledger contradicts itself: an entry that is malformed, or sides that do not balance."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """One balanced entry: ``amount_micros`` moves from the ``debit`` account to the ``credit`` account.

    ``kind`` is ``grant`` (from ``site:grants`` to the account) or ``charge`` (from the account to ``site:revenue``).
    Charges carry their line, workload, owner and GPU type, so quotas and receipts are sums over transfers.
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


def grant_transfer(account: str, amount_micros: int, at_ms: int, by: str, note: str = "") -> Transfer:
    """Credit given to an account; the store gives the id. Raises ValueError unless the amount is positive."""
    if amount_micros <= 0:
        raise ValueError("a grant gives more than nothing")
    return Transfer(
        id=0, kind="grant", debit=GRANTS, credit=account, amount_micros=amount_micros, at_ms=at_ms, by=by, note=note
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

    Well-formed: a grant from ``site:grants`` to an account, or a charge from an account to ``site:revenue`` that
    carries its workload and a line of exactly its amount; never negative. Then what was granted equals what accounts
    have left plus the revenue.
    """
    entries = list(transfers)
    for entry in entries:
        fault = _fault(entry)
        if fault:
            raise LedgerError(f"ledger entry {entry.id} ({entry.kind}, {entry.debit} to {entry.credit}): {fault}")
    difference = sum(balances(entries).values())
    if difference:
        raise LedgerError(f"debits and credits differ by {difference} micro-units")


def _fault(entry: Transfer) -> str:
    site = (GRANTS, REVENUE)
    if entry.amount_micros < 0:
        return "its amount is negative"
    if entry.kind == "grant":
        return (
            "" if entry.debit == GRANTS and entry.credit not in site else "a grant goes from site:grants to an account"
        )
    if entry.kind != "charge":
        return "there is no such kind"
    if entry.credit != REVENUE or entry.debit in site:
        return "a charge goes from an account to site:revenue"
    if entry.line is None or entry.workload_id is None or entry.owner is None or entry.gpu_type is None:
        return "a charge carries its line, workload, owner and GPU type"
    return "" if entry.line.amount_micros == entry.amount_micros else "its amount is not its line's"
