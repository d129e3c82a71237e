"""What the store keeps: frozen records, one per row. Instants are UTC milliseconds, money is micro-units."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.pricing.ledger import Transfer
from fastgpu_hub.pricing.metering import Line


@dataclass(frozen=True, slots=True)
class Workload:
    """A job or a notebook server that asks for GPUs, with its lease: one row from the request to the end.

    ``id`` is the lease id too (a workload has exactly one lease). ``kind`` is ``job`` or ``server``. ``state``:
    ``queued -> granted -> running -> stopping -> ended``; ``outcome`` is set when ended (``succeeded``, ``failed``,
    ``cancelled``, ``timed_out``, ``lost`` for jobs; ``released``, ``cancelled`` for servers). ``classes`` are the
    owner's classes when the request was made (they decide who a promotion is for). ``spec`` is the job's
    JobSubmit as plain data. ``billed_from_ms`` is when the engine confirmed the start, ``charged_until_ms`` up to where
    the ledger has closed intervals, ``ended_ms`` the last evidence that it ran. ``stop_reason`` explains an ordered
    stop. ``ending`` says why its hold cannot be extended, when that is so, and ``announced_minutes`` what warning was
    given last. ``files_removed_ms`` is when its folder and log went. ``artifacts``: ``keeping`` (its outputs are being
    copied to the artifact store), ``kept`` or ``failed``, with ``artifacts_note``; None where it has none to keep.
    ``spot_percent_off`` is how much cheaper it was sold as a spot job (None: it is none), ``interruptions`` how often
    earlier attempts were interrupted for another.
    """

    id: str
    kind: str
    owner: str
    account: str
    classes: tuple[str, ...]
    name: str
    gpu_type: str
    gpu_count: int
    state: str
    requested_ms: int
    server_name: str | None = None
    time_limit_ms: int | None = None
    promo_code: str | None = None
    max_cost_micros: int | None = None
    spec: dict[str, Any] = field(default_factory=dict)
    fingerprint: str | None = None
    granted_ms: int | None = None
    billed_from_ms: int | None = None
    charged_until_ms: int | None = None
    ended_ms: int | None = None
    outcome: str | None = None
    exit_code: int | None = None
    gpu_uuids: tuple[str, ...] = ()
    node: str = ""
    pid: int | None = None
    simulated: bool = False
    explanation: Explained | None = None
    stop_reason: Explained | None = None
    ending: Explained | None = None
    announced_minutes: int | None = None
    array_id: str | None = None
    array_index: int | None = None
    retry_of: str | None = None
    attempt: int = 1
    not_before_ms: int | None = None
    quoted_micros: int | None = None
    spot_percent_off: int | None = None
    interruptions: int = 0
    files_removed_ms: int | None = None
    artifacts: str | None = None
    artifacts_note: Explained | None = None


@dataclass(frozen=True, slots=True)
class Dependency:
    """A job that starts only when another has succeeded."""

    workload_id: str
    needs_id: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that a job left, in the artifact store.

    ``url`` is where the store finds it, empty once nothing lies there any more. ``deleted_ms`` is when somebody, or its
    age, deleted it: from then on it counts for nothing, and the store removes its bytes when it can.
    """

    id: int
    workload_id: str
    owner: str
    path: str
    size_bytes: int
    url: str
    created_ms: int
    deleted_ms: int | None = None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is kept of a job's run beside its charges, as plain data.

    ``metrics`` is as ``metrics.kept`` makes it, ``gpu_use`` as ``History.plain``; ``progress`` is what it reported
    last. Saved now and then while it runs, and with its end.
    """

    workload_id: str
    metrics: tuple[dict[str, Any], ...] = ()
    gpu_use: dict[str, Any] | None = None
    progress: float | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Money reserved for a workload; its open lines are the charges to come. Resolved (settled or voided) once.

    ``state`` is ``open`` or ``settled`` (all or part was charged, the rest given back) or ``voided`` (nothing was).
    """

    id: int
    workload_id: str
    owner: str
    account: str
    gpu_type: str
    created_ms: int
    until_ms: int
    lines: tuple[Line, ...]
    state: str = "open"
    resolved_ms: int | None = None


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A claimed key: whose, for which route, the body's hash, and the first answer (status and JSON text)."""

    actor: str
    key: str
    route: str
    body_sha256: str
    created_ms: int
    status: int
    answer: str


@dataclass(frozen=True, slots=True)
class WorkloadEvent:
    """Evidence about a workload, append-only: ``requested granted started renewed stopping exited released …``."""

    workload_id: str
    at_ms: int
    kind: str
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who changed which rule or stopped whom: before and after as plain data. The store gives ``id`` and ``sha256``."""

    at_ms: int
    actor: str
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    id: int = 0
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class AuditLink:
    """An audit entry exactly as it is stored: what its place in the chain is computed from (see ``chain``)."""

    id: int
    at_ms: int
    actor: str
    action: str
    subject: str
    before: str | None
    after: str | None
    sha256: str


class Booked(NamedTuple):
    """A ledger entry with what is kept beside its line to be added up: GPU time, and what promotions took off."""

    transfer: Transfer
    gpu_ms: int
    saved_micros: int


class Posting(NamedTuple):
    """What of a ledger entry moves money between accounts. ``from_ms`` is the time that it pays for, where it does."""

    id: int
    kind: str
    debit: str
    credit: str
    amount_micros: int
    at_ms: int
    from_ms: int | None
    grant_id: int | None
    workload_id: str | None


@dataclass(frozen=True, slots=True)
class PromotionCode:
    """A code that redeems a promotion, folded to capitals; ``uses`` counts its redemptions, ``max_uses`` None: any."""

    code: str
    family: int
    max_uses: int | None
    created_ms: int
    created_by: str
    uses: int = 0


@dataclass(frozen=True, slots=True)
class Redemption:
    """A person took one of a promotion's places, for good."""

    id: int
    family: int
    owner: str
    account: str
    code: str | None
    at_ms: int


@dataclass(frozen=True, slots=True)
class PromotionUse:
    """What a promotion has taken off prices and how much GPU time ran under it, settled and held together."""

    saved_micros: int = 0
    gpu_ms: int = 0


@dataclass(frozen=True, slots=True)
class Ask:
    """Somebody asks for more: of a limit (``quota_id``, in its metric's unit) or of an account's credit (micro-units).

    ``state``: ``open``, ``approved``, ``declined`` or ``withdrawn``.
    """

    id: int
    owner: str
    account: str
    quota_id: int | None
    amount: int
    reason: str
    state: str
    asked_ms: int
    decided_ms: int | None = None
    decided_by: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a person should know now: ``ending``, ``stopped``, ``soft_limit``, ``price_changed``, ``answered``,
    ``not_kept``, ``late``.

    ``ends_ms`` is when the workload ends, where it does.
    """

    id: int
    owner: str
    at_ms: int
    kind: str
    explanation: Explained
    workload_id: str | None = None
    ends_ms: int | None = None
