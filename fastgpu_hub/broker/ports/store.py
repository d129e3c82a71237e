"""The store: one transaction per use case, committed in groups by a single writer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from fastgpu_hub.broker.ports.records import AuditEntry, Hold, IdempotencyKey, Workload, WorkloadEvent
from fastgpu_hub.pricing.ledger import Transfer
from fastgpu_hub.pricing.pricebook import PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Promotion
from fastgpu_hub.pricing.quotas import Quota, Scope, Totals

T = TypeVar("T")


class StoreUnavailable(Exception):
    """The database cannot answer now (locked, full, gone). Nothing was written; the same call may be repeated."""


class UnitOfWork(Protocol):
    """One transaction. Reads see its own writes; nothing is visible outside before the commit."""

    # workloads
    def add_workload(self, workload: Workload) -> None: ...
    def save_workload(self, workload: Workload) -> None: ...
    def workload(self, workload_id: str) -> Workload | None: ...
    def workloads(
        self,
        *,
        kind: str | None = None,
        owner: str | None = None,
        account: str | None = None,
        states: Sequence[str] | None = None,
        fingerprint: str | None = None,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[Workload]:
        """Workloads matching every given filter, ordered by request time then id."""

    def add_event(self, event: WorkloadEvent) -> None: ...
    def events(self, workload_id: str) -> list[WorkloadEvent]: ...

    # holds
    def add_hold(self, hold: Hold) -> Hold:
        """Insert with its open lines; returns it with its id. At most one open hold per workload (enforced)."""

    def save_hold(self, hold: Hold) -> None:
        """Replace lines and state of an *open* hold. Raises ValueError when it is already resolved."""

    def open_hold(self, workload_id: str) -> Hold | None: ...
    def open_holds(self) -> list[Hold]: ...
    def held(self, scope: Scope, from_ms: int | None = None, until_ms: int | None = None) -> Totals:
        """Sum of open hold lines that start in ``[from_ms, until_ms)``."""

    # ledger
    def append(self, transfers: Sequence[Transfer]) -> list[Transfer]:
        """Append-only; returns them with their ids."""

    def charged(self, scope: Scope, from_ms: int | None = None, until_ms: int | None = None) -> Totals:
        """Sum of charge transfers whose line starts in ``[from_ms, until_ms)``."""

    def granted(self, account: str) -> int: ...
    def transfers(
        self,
        *,
        workload_id: str | None = None,
        owner: str | None = None,
        account: str | None = None,
        kind: str | None = None,
        since_ms: int | None = None,
        after_id: int | None = None,
        limit: int | None = None,
    ) -> list[Transfer]:
        """Transfers matching every given filter, in the order they were written; those after ``after_id`` only."""

    def accounts(self) -> list[str]:
        """Every account that was ever granted credit or charged."""

    # rules
    def prices(self) -> list[PriceVersion]: ...
    def add_price(self, gpu_type: str, rate: Rate, valid_from_ms: int, created_by: str) -> PriceVersion: ...
    def promotions(self) -> list[Promotion]:
        """Promotions that were not removed."""

    def add_promotion(self, promotion: Promotion) -> Promotion:
        """Insert (its ``id`` is ignored); returns it with its id."""

    def end_promotion(self, promotion_id: int, at_ms: int) -> Promotion | None:
        """Make it end at ``at_ms`` if it would end later; None when there is none. Settled lines keep naming it."""

    def promotion_names(self) -> dict[int, str]: ...
    def quotas(self) -> list[Quota]: ...
    def add_quota(self, quota: Quota) -> Quota: ...
    def remove_quota(self, quota_id: int) -> Quota | None: ...

    # idempotency, audit, seeds
    def idempotency_key(self, actor: str, key: str) -> IdempotencyKey | None: ...
    def add_idempotency_key(self, entry: IdempotencyKey) -> None: ...
    def forget_idempotency_keys(self, before_ms: int) -> int: ...
    def add_audit(self, entry: AuditEntry) -> None: ...
    def audit(self, limit: int = 100) -> list[AuditEntry]: ...
    def setting(self, name: str) -> Any | None: ...
    def set_setting(self, name: str, value: Any) -> None:
        """A small JSON value under a name (what the configuration has seeded, for instance)."""


class Store(Protocol):
    """Runs use cases in transactions. All writes pass one writer, in order, committed in groups."""

    async def write(self, work: Callable[[UnitOfWork], T]) -> T:
        """Run ``work`` in order with all other writes; returns once its effect is durable.

        When ``work`` raises, its effect alone is rolled back and the exception comes out here.
        Raises StoreUnavailable when the database cannot commit; then nothing of the group was written.
        """

    async def read(self, work: Callable[[UnitOfWork], T]) -> T:
        """Run ``work`` on committed data; it must not write."""

    async def close(self) -> None: ...
