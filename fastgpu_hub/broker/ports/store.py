"""The store: one transaction per use case, committed in groups by a single writer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias, TypeVar

from fastgpu_hub.broker.ports.chain import Head
from fastgpu_hub.broker.ports.records import (
    Artifact,
    Ask,
    AuditEntry,
    AuditLink,
    Booked,
    Dependency,
    Hold,
    IdempotencyKey,
    Notice,
    Posting,
    PromotionCode,
    PromotionUse,
    Redemption,
    RunRecord,
    Workload,
    WorkloadEvent,
)
from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.ledger import Transfer
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.pricebook import PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Promotion
from fastgpu_hub.pricing.quotas import Extra, Quota, Scope, Totals

T = TypeVar("T")

# What was added up by, then amount_micros, gpu_ms, saved_micros and the number of lines.
UsageRow: TypeAlias = tuple[Any, int, int, int, int]


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
        array_id: str | None = None,
        one_of_array: bool = False,
        newest_first: bool = False,
        limit: int | None = None,
        offset: int = 0,
    ) -> list[Workload]:
        """Workloads matching every given filter, ordered by request time then id.

        ``one_of_array``: of each array the one that comes first in that order.
        """

    def add_event(self, event: WorkloadEvent) -> None: ...
    def events(self, workload_id: str) -> list[WorkloadEvent]: ...
    def save_run_record(self, record: RunRecord) -> None:
        """Insert or replace."""

    def run_record(self, workload_id: str) -> RunRecord | None: ...

    # jobs that belong together
    def add_dependencies(self, dependencies: Sequence[Dependency]) -> None: ...
    def needs(self, workload_ids: Sequence[str] | None = None) -> list[Dependency]:
        """What these workloads wait or waited for; without ids, what all queued ones do. In order of both ids."""

    def dependants(self, needs_id: str, *, ready: bool = False) -> list[Workload]:
        """Queued workloads that wait for a job; only those all of whose jobs have succeeded, when ``ready``."""

    def attempts(self, first_ids: Sequence[str]) -> list[Workload]:
        """All attempts of these jobs, each named by its first, in the order of attempts."""

    def array(self, array_id: str) -> list[Workload]:
        """All attempts of all jobs of an array, by index, then attempt."""

    def array_money(self, array_id: str) -> dict[str, tuple[int, int]]:
        """Micro-units charged (less refunds) and held for each attempt of an array's jobs."""

    # files that jobs left
    def add_artifacts(self, artifacts: Sequence[Artifact]) -> list[Artifact]:
        """Insert (their ids are ignored); returns them with their ids."""

    def artifacts(self, workload_id: str) -> list[Artifact]:
        """Every file ever kept of a workload, deleted ones too, in the order they were kept."""

    def artifact_bytes(self, scope: Scope) -> int:
        """Bytes of the kept files of a person, of what an account paid for, or of everybody."""

    def delete_artifacts(self, artifact_ids: Sequence[int], now_ms: int) -> None:
        """Mark them deleted, those that are not yet."""

    def artifacts_left(self, limit: int) -> list[Artifact]:
        """Deleted ones whose bytes the artifact store may still hold, oldest first."""

    def artifacts_gone(self, artifact_ids: Sequence[int]) -> None:
        """Their bytes are gone: they lie nowhere."""

    def artifacts_before(self, created_ms: int, limit: int) -> list[Artifact]:
        """Those kept before an instant and not deleted yet, oldest first."""

    def kept_by_job(self, owner: str, limit: int) -> list[tuple[str, int, int, int]]:
        """A person's kept files by job: its id, how many, their bytes, when the last was kept; the largest first."""

    def keeping(self, limit: int) -> list[Workload]:
        """Workloads whose outputs are still to be kept, by id."""

    def jobs_with_files(self, ended_before_ms: int, limit: int) -> list[Workload]:
        """Jobs that ended before an instant, whose folder is still there and holds nothing that is yet to be kept."""

    def files_removed(self, workload_ids: Sequence[str], now_ms: int) -> None:
        """The folders of these jobs are gone."""

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
        """Sum of charges, less refunds, whose line starts in ``[from_ms, until_ms)``."""

    def refunded(self, scope: Scope, from_ms: int | None = None, until_ms: int | None = None) -> Totals:
        """Sum of refunds whose line starts in ``[from_ms, until_ms)``."""

    def usage(
        self,
        by: Literal["owner", "gpu_type", "workload_id", "from_ms"],
        *,
        owner: str | None = None,
        accounts: Sequence[str] | None = None,
        from_ms: int | None = None,
        until_ms: int | None = None,
    ) -> Sequence[UsageRow]:
        """Charges, less refunds, whose line starts in ``[from_ms, until_ms)``, added up by one of their columns.

        Of everybody or of one ``owner``, charged to any or to these ``accounts``. In no order. Quick for whole months
        of the site's time zone by owner or GPU type, however many lines there are.
        """

    def rebuild_usage(self) -> None:
        """Forget the sums kept for ``charged`` and ``usage``; they are made again from the ledger.

        Every answer is exact meanwhile, only slower.
        """

    def lines_ending_after(self, scope: Scope, after_ms: int) -> list[Line]:
        """Charged lines, refunded ones left out, that end after an instant, in order of time."""

    def given(self, account: str, from_ms: int | None = None, until_ms: int | None = None) -> int:
        """Credit that the account itself gave to others in ``[from_ms, until_ms)``, in micro-units."""

    def expired(self, account: str) -> dict[int, int]:
        """Credit booked as expired, in micro-units, by grant."""

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
        """The newest version of every promotion, drafts and ended ones too, oldest promotion first."""

    def promotion_versions(self) -> list[Promotion]:
        """Every version of every promotion, in the order they were made."""

    def add_promotion(self, promotion: Promotion) -> Promotion:
        """Insert a version (its ``id`` is ignored; family 0 is a new promotion); returns it with id and family."""

    def promotion_names(self) -> dict[int, str]:
        """The name of every version there ever was, by its id."""

    def add_codes(self, codes: Sequence[PromotionCode]) -> None:
        """Insert codes. Raises ValueError naming one that exists already."""

    def code(self, code: str) -> PromotionCode | None: ...
    def codes(self, family: int) -> list[PromotionCode]: ...
    def add_redemption(self, redemption: Redemption) -> Redemption:
        """Insert (its ``id`` is ignored); returns it with its id."""

    def redemption_counts(self, owner: str) -> dict[int, tuple[int, int]]:
        """By promotion: how often the person redeemed it, and how often everybody did. Those never redeemed lack."""

    def promotion_use(self, families: Sequence[int], owner: str | None = None) -> dict[int, PromotionUse]:
        """What these promotions took off and the GPU time under them: charges less refunds, plus open holds."""

    def first_used_ms(self, owner: str) -> int | None:
        """When the person's first charged line began; None when there is none."""

    def quotas(self) -> list[Quota]: ...
    def add_quota(self, quota: Quota) -> Quota: ...
    def remove_quota(self, quota_id: int) -> Quota | None: ...
    def extras(self) -> list[Extra]: ...
    def add_extra(self, extra: Extra) -> Extra:
        """Insert (its ``id`` is ignored); returns it with its id."""

    def rules_version(self) -> str:
        """Another one, never used before, after every change of a price, promotion, quota or extra; "" at first."""

    # credit
    def add_grant(self, grant: Grant) -> Grant:
        """Insert (its ``id`` is ignored); returns it with its id. The ledger entry is the caller's."""

    def grants(self, account: str | None = None) -> list[Grant]:
        """Grants ever given, oldest first; of one account, or of all."""

    def expired_grants(self, now_ms: int) -> list[Grant]:
        """Grants that expired by now and whose expiry is not booked yet, oldest expiry first."""

    # asking for more, news
    def add_ask(self, ask: Ask) -> Ask:
        """Insert (its ``id`` is ignored); returns it with its id."""

    def save_ask(self, ask: Ask) -> None: ...
    def asks(self, *, owner: str | None = None, state: str | None = None) -> list[Ask]:
        """Requests for more matching every given filter, newest first."""

    def add_notice(self, notice: Notice) -> Notice:
        """Insert (its ``id`` is ignored); returns it with its id."""

    def notices(self, owner: str, after_id: int = 0, limit: int = 100) -> list[Notice]:
        """The person's notices after one, oldest first; the latest ``limit`` of them."""

    # idempotency, audit
    def idempotency_key(self, actor: str, key: str) -> IdempotencyKey | None: ...
    def add_idempotency_key(self, entry: IdempotencyKey) -> None: ...
    def forget_idempotency_keys(self, before_ms: int) -> int: ...
    def add_audit(self, entry: AuditEntry) -> None:
        """Append to the audit's chain (see ``chain``); id and hash are the store's to give."""

    def audit(
        self, limit: int = 100, *, before_id: int | None = None, actor: str = "", subject: str = ""
    ) -> list[AuditEntry]:
        """The latest entries, newest first: those before an id, of one actor, whose subject contains a text."""

    def audit_links(self, after_id: int = 0, limit: int | None = None) -> list[AuditLink]:
        """Entries as they are stored, in order of ids: at most ``limit`` after ``after_id``."""

    def audit_head(self) -> Head | None:
        """Where the chain ends by the note kept apart from it; None when there is none that can be read."""

    # replay: what there is, a slice at a time
    def workloads_after(self, after_id: str, limit: int) -> list[Workload]:
        """Workloads in order of their ids, as the database sorts them: at most ``limit`` after ``after_id``."""

    def workloads_of(self, workload_ids: Sequence[str]) -> list[Workload]: ...
    def events_of(self, workload_ids: Sequence[str]) -> list[WorkloadEvent]: ...
    def booked(self, workload_ids: Sequence[str]) -> list[Booked]:
        """All ledger entries about these workloads, in the order they were written."""

    def postings(self, after_id: int = 0, limit: int | None = None) -> list[Posting]:
        """What of each ledger entry moves money, in the order they were written: at most ``limit`` after an id."""

    def orphans(self, limit: int) -> list[int]:
        """Ids of charges and refunds whose workload there is not."""

    def rollup_faults(self, limit: int) -> list[str]:
        """Where sums that the store keeps are not what the ledger adds up to, one sentence each; reads all of it."""

    def extent(self) -> tuple[int, int, int]:
        """How much there is to check: workloads, the last ledger entry's id, the last audit entry's id."""

    # settings
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

    def at_hand(self, workload_id: str) -> Workload | None:
        """A live workload as it was last committed, where that is known without asking the database; on any thread."""

    async def close(self) -> None: ...
