"""The balanced, append-only ledger."""

from __future__ import annotations

from dataclasses import dataclass

from fastgpu_hub.pricing.metering import Line

GRANTS = "site:grants"
REVENUE = "site:revenue"


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
