"""What the store keeps: frozen records, one per row. Instants are UTC milliseconds, money is micro-units."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fastgpu_hub.pricing.explain import Explained
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
    stop.
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
    """Who changed which rule or stopped whom: before and after as plain data."""

    at_ms: int
    actor: str
    action: str
    subject: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
