"""A workload as the scheduler and the engine are told of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fastgpu_hub.broker.admission import CONCURRENT, Rules, concurrent_limits
from fastgpu_hub.broker.attempts import may_be_interrupted
from fastgpu_hub.broker.lifecycle import customer_of
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.world import Launch
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.broker.sweeps import parameters_of
from fastgpu_hub.broker.waiting import ARRAY_LIMIT
from fastgpu_hub.scheduling.policies import Want


def want_of(workload: Workload, rules: Rules, now_ms: int) -> Want:
    """The workload as the scheduler sees it."""
    limits = concurrent_limits(rules, customer_of(workload), workload.gpu_type, now_ms)
    if workload.array_id is not None and (most := workload.spec.get("max_running")):
        limits = (*limits, (f"{ARRAY_LIMIT}{workload.array_id}", most * workload.gpu_count))
    return Want(
        workload.id,
        workload.owner,
        workload.gpu_type,
        workload.gpu_count,
        max(workload.requested_ms, workload.not_before_ms or 0),  # whoever is put off does not wait for GPUs meanwhile
        limits,
        workload.time_limit_ms,
        account=workload.account,
        kind="job" if workload.kind == "job" else "server",
        similar=similar(workload),
        batch=workload.array_id or "",
        spot=may_be_interrupted(workload),
    )


def weights_of(rules: Rules) -> dict[str, float]:
    """What accounts are entitled to in comparison: classes by how many GPUs they may have at once, 1 on average."""
    limits: dict[str, int] = {}
    for quota in rules.quotas:
        if quota.scope == "class" and quota.metric == CONCURRENT and not quota.soft:
            account = f"class:{quota.name}"
            limits[account] = max(1, quota.limit, limits.get(account, 0))
    mean = sum(limits.values()) / max(1, len(limits))
    return {account: limit / mean for account, limit in limits.items()}


def similar(workload: Workload) -> str:
    """What a workload runs, the same for those that probably run about equally long."""
    if workload.kind != "job":
        return workload.kind
    return f"{workload.spec.get('kind', '')}:{workload.name}"


def ends_ms(workload: Workload) -> int | None:
    """When a workload that has its GPUs ends at the latest; None when that is open."""
    if workload.time_limit_ms is None:
        return None
    return (workload.billed_from_ms or workload.granted_ms or workload.requested_ms) + workload.time_limit_ms


def launch_of(workload: Workload, settings: Settings, fetched: Mapping[str, str] = MappingProxyType({})) -> Launch:
    """The job as the engine is told to start it, with the inputs that were fetched for it: SHA-256 by path."""
    spec = workload.spec
    return Launch(
        lease_id=workload.id,
        owner=workload.owner,
        kind=spec["kind"],
        argv=tuple(spec["argv"]),
        gpu_uuids=workload.gpu_uuids,
        time_limit_ms=workload.time_limit_ms or 0,
        inputs={entry["path"]: entry["sha256"] for entry in spec.get("inputs", ())} | dict(fetched),
        environment=spec.get("environment", {}),
        simulated=workload.simulated,
        python=spec.get("python"),
        lock=spec.get("lock"),
        parameters=dict(parameters_of(spec)),
        grace_ms=None if spec.get("grace_seconds") is None else grace_ms(workload, settings),
        checkpoint_id=workload.retry_of or workload.id,
        attempt=workload.attempt,
    )


def grace_ms(workload: Workload, settings: Settings) -> int:
    """How long after the order to stop a workload is killed."""
    asked = workload.spec.get("grace_seconds")
    seconds = settings.stop_grace_seconds if asked is None else min(asked, settings.max_grace_seconds)
    return int(seconds * 1000)
