"""A workload as the scheduler and the engine are told of it."""

from __future__ import annotations

from fastgpu_hub.broker.admission import Rules, concurrent_limits
from fastgpu_hub.broker.lifecycle import customer_of
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.world import Launch
from fastgpu_hub.scheduling.policies import Want


def want_of(workload: Workload, rules: Rules, now_ms: int) -> Want:
    """The workload as the scheduler sees it."""
    limits = concurrent_limits(rules, customer_of(workload), workload.gpu_type, now_ms)
    return Want(
        workload.id,
        workload.owner,
        workload.gpu_type,
        workload.gpu_count,
        workload.requested_ms,
        limits,
        workload.time_limit_ms,
    )


def ends_ms(workload: Workload) -> int | None:
    """When a workload that has its GPUs ends at the latest; None when that is open."""
    if workload.time_limit_ms is None:
        return None
    return (workload.billed_from_ms or workload.granted_ms or workload.requested_ms) + workload.time_limit_ms


def launch_of(workload: Workload) -> Launch:
    """The job as the engine is told to start it."""
    spec = workload.spec
    return Launch(
        lease_id=workload.id,
        owner=workload.owner,
        kind=spec["kind"],
        argv=tuple(spec["argv"]),
        gpu_uuids=workload.gpu_uuids,
        time_limit_ms=workload.time_limit_ms or 0,
        inputs={entry["path"]: entry["sha256"] for entry in spec.get("inputs", ())},
        environment=spec.get("environment", {}),
        simulated=workload.simulated,
    )
