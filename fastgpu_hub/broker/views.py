"""Records to wire models. Pure given what was read; one bill for every surface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone

from fastgpu import models
from fastgpu_hub.broker.endings import ending_of
from fastgpu_hub.broker.held import GpusHeld
from fastgpu_hub.broker.ports.records import AuditEntry, Hold, Workload, WorkloadEvent
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.ports.world import GpuDevice, GpuSample
from fastgpu_hub.pricing import metering
from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.pricing.ledger import Transfer
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.pricebook import PriceVersion, Rate


@dataclass(frozen=True, slots=True)
class Live:
    """What is true now and stands in no table: queue places, reasons, estimates, readings, devices, GPUs held."""

    now_ms: int
    currency: str
    devices: Mapping[str, GpuDevice] = field(default_factory=dict)
    places: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, Explained] = field(default_factory=dict)
    starts_ms: Mapping[str, int | None] = field(default_factory=dict)
    progress: Mapping[str, float] = field(default_factory=dict)
    log_bytes: Mapping[str, int] = field(default_factory=dict)
    held: GpusHeld = field(default_factory=GpusHeld)


def instant(ms: int | None) -> datetime | None:
    """Milliseconds since the epoch as an aware UTC datetime."""
    return None if ms is None else at(ms)


def at(ms: int) -> datetime:
    """As ``instant``, for one that is there."""
    return datetime.fromtimestamp(ms // 1000, timezone.utc).replace(microsecond=ms % 1000 * 1000)


def milliseconds(moment: datetime) -> int:
    """Milliseconds since the epoch of an aware datetime, rounded down; within the years that ``at`` can tell."""
    delta = moment.replace(tzinfo=None) - datetime(1970, 1, 1) - (moment.utcoffset() or timedelta())
    ms = (delta.days * 86_400 + delta.seconds) * 1000 + delta.microseconds // 1000
    return min(max(ms, -62_135_596_800_000), 253_402_300_799_999)


def explanation(explained: Explained) -> models.Explanation:
    """The structured explanation as it crosses the wire."""
    return models.Explanation(
        code=explained.code,
        message=explained.message,
        numbers=explained.numbers,
        frees_at=instant(explained.frees_at_ms),
        instead=explained.instead,
    )


@dataclass(frozen=True, slots=True)
class Bill:
    """What a workload costs: settled in the ledger, running in the open interval, still held, its rate now."""

    settled_micros: int
    running_micros: int
    held_micros: int
    rate_per_hour_micros: int
    funded_until_ms: int | None
    promotion_id: int | None
    ends_ms: int | None = None
    ending: Explained | None = None

    @property
    def cost_micros(self) -> int:
        """Cost so far: settled plus the open interval."""
        return self.settled_micros + self.running_micros


def bill(uow: UnitOfWork, workload: Workload, now_ms: int) -> Bill:
    """The one function behind every running cost shown anywhere."""
    booked = uow.transfers(workload_id=workload.id)
    settled = sum(t.amount_micros if t.kind == "charge" else -t.amount_micros for t in booked)
    hold = uow.open_hold(workload.id)
    if hold is None:
        return Bill(settled, 0, 0, 0, None, None)
    running = 0
    if workload.billed_from_ms is not None:
        running = metering.total_micros(metering.charge(hold.lines, now_ms)[0])
    return Bill(
        settled,
        running,
        metering.total_micros(hold.lines),
        metering.hourly_rate_micros(hold.lines, now_ms),
        hold.until_ms,
        _promotion_now(hold, now_ms),
        *_ends(workload, hold),
    )


def _ends(workload: Workload, hold: Hold) -> tuple[int | None, Explained | None]:
    ends = ending_of(workload, hold) if workload.state == "running" else None
    return (None, None) if ends is None else ends


def _promotion_now(hold: Hold, now_ms: int) -> int | None:
    for line in hold.lines:
        if line.promotion_id is not None and line.from_ms <= now_ms < line.until_ms:
            return line.promotion_id
    return None


def state_of_lease(workload: Workload) -> models.LeaseState:
    """Lease state of a workload."""
    if workload.state == "ended":
        return models.LeaseState.released if workload.granted_ms is not None else models.LeaseState.cancelled
    return models.LeaseState.running if workload.state == "stopping" else models.LeaseState(workload.state)


def state_of_job(workload: Workload) -> models.JobState:
    """Job state of a workload."""
    if workload.state == "ended":
        return models.JobState(workload.outcome or "lost")
    return models.JobState.starting if workload.state == "granted" else models.JobState(workload.state)


def why_now(workload: Workload, live: Live) -> Explained:
    """Why the workload is where it is."""
    if workload.state == "queued":
        return live.waiting.get(workload.id) or Explained("admitting", "Being placed in the queue.")
    if workload.state == "ended" and workload.explanation is not None:
        return workload.explanation
    if workload.state == "stopping" and workload.stop_reason is not None:
        return workload.stop_reason
    if workload.state == "granted":
        return Explained("starting", "Its GPUs are reserved; it is starting. Billing begins when it runs.")
    return Explained("running", f"Running with {workload.gpu_count} x {workload.gpu_type}; billed while it runs.")


def gpus(workload: Workload, live: Live) -> tuple[models.Gpu, ...]:
    """Devices of a workload's lease."""
    return tuple(gpu(live.devices[uuid]) for uuid in workload.gpu_uuids if uuid in live.devices)


def gpu(device: GpuDevice) -> models.Gpu:
    """A device."""
    return models.Gpu(
        uuid=device.uuid,
        index=device.index,
        name=device.name,
        gpu_type=device.gpu_type,
        memory_bytes=device.memory_bytes,
        node=device.node,
        simulated=device.simulated,
    )


def gpu_use(device: GpuDevice, sample: GpuSample) -> models.GpuUse:
    """A reading."""
    return models.GpuUse(
        gpu=gpu(device),
        sampled_at=at(sample.at_ms),
        utilisation_percent=sample.utilisation_percent,
        memory_used_bytes=sample.memory_used_bytes,
        memory_total_bytes=sample.memory_total_bytes,
        power_watts=sample.power_watts,
        temperature_celsius=sample.temperature_celsius,
        lost=sample.lost,
    )


def lease_environment(workload: Workload) -> dict[str, str]:
    """Variables that give a server exactly its leased GPUs."""
    variables = {
        "CUDA_VISIBLE_DEVICES": ",".join(workload.gpu_uuids),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "FASTGPU_LEASE_ID": workload.id,
    }
    return {**variables, "FASTGPU_SIMULATED": "1"} if workload.simulated else variables


def lease(uow: UnitOfWork, workload: Workload, live: Live, names: Mapping[int, str]) -> models.Lease:
    """A workload as a lease."""
    money = bill(uow, workload, live.now_ms)
    return models.Lease(
        id=workload.id,
        owner=workload.owner,
        server_name=workload.server_name,
        job_id=workload.id if workload.kind == "job" else None,
        account=workload.account,
        gpu_type=workload.gpu_type,
        gpu_count=workload.gpu_count,
        state=state_of_lease(workload),
        gpus=gpus(workload, live),
        environment=lease_environment(workload) if workload.state in ("granted", "running") else {},
        queue_place=live.places.get(workload.id),
        explanation=explanation(why_now(workload, live)),
        requested_at=at(workload.requested_ms),
        eta_start=instant(live.starts_ms.get(workload.id)) if workload.state == "queued" else None,
        granted_at=instant(workload.granted_ms),
        started_at=instant(workload.billed_from_ms),
        ended_at=instant(workload.ended_ms),
        rate_per_hour_micros=money.rate_per_hour_micros,
        cost_micros=money.cost_micros,
        held_micros=money.held_micros,
        funded_until=instant(money.funded_until_ms),
        ends_at=instant(money.ends_ms),
        ending=None if money.ending is None else explanation(money.ending),
        promotion_name=names.get(money.promotion_id or 0, ""),
        currency=live.currency,
        simulated=is_simulated(workload, live),
    )


def is_simulated(workload: Workload, live: Live) -> bool:
    """True when its GPUs are simulated, or will be: while it waits, its GPU type decides."""
    if workload.gpu_uuids:
        return workload.simulated
    return any(device.simulated for device in live.devices.values() if device.gpu_type == workload.gpu_type)


def job(uow: UnitOfWork, workload: Workload, live: Live, names: Mapping[int, str]) -> models.Job:
    """A workload as a job."""
    money = bill(uow, workload, live.now_ms)
    progress = live.progress.get(workload.id)
    start_ms = live.starts_ms.get(workload.id) if workload.state == "queued" else workload.billed_from_ms
    return models.Job(
        id=workload.id,
        name=workload.name,
        kind=str(workload.spec.get("kind", "")),
        owner=workload.owner,
        account=workload.account,
        gpu_type=workload.gpu_type,
        gpu_count=workload.gpu_count,
        time_limit_seconds=(workload.time_limit_ms or 0) // 1000,
        state=state_of_job(workload),
        submitted_at=at(workload.requested_ms),
        started_at=instant(workload.billed_from_ms),
        ended_at=instant(workload.ended_ms),
        exit_code=workload.exit_code,
        progress=progress,
        queue_place=live.places.get(workload.id),
        eta_start=instant(start_ms),
        eta_end=instant(_eta_end(workload, start_ms, progress, live.now_ms)),
        cost_micros=money.cost_micros,
        held_micros=money.held_micros,
        rate_per_hour_micros=money.rate_per_hour_micros,
        promotion_name=names.get(money.promotion_id or 0, ""),
        currency=live.currency,
        lease_id=workload.id,
        ends_at=instant(money.ends_ms),
        ending=None if money.ending is None else explanation(money.ending),
        explanation=explanation(why_now(workload, live)),
        log_bytes=live.log_bytes.get(workload.id, 0),
        simulated=is_simulated(workload, live),
    )


def _eta_end(workload: Workload, start_ms: int | None, progress: float | None, now_ms: int) -> int | None:
    """From the progress the job reports, else its time limit (the latest end)."""
    if workload.state == "ended" or start_ms is None or workload.time_limit_ms is None:
        return None
    latest_ms = start_ms + workload.time_limit_ms
    if progress is None or not 0 < progress <= 1 or workload.state == "queued":
        return latest_ms
    thousandths = max(1, int(progress * 1000))
    return min(latest_ms, start_ms + (now_ms - start_ms) * 1000 // thousandths)


def charge_line(
    line: Line, names: Mapping[int, str], charge_id: int | None = None, *, refunded: bool = False
) -> models.ChargeLine:
    """A priced interval; quantities in seconds, rounded down (amounts come from milliseconds)."""
    seconds = (line.until_ms - line.from_ms) * (line.gpu_count if line.unit == "gpu_hour" else 1) // 1000
    return models.ChargeLine.model_validate(
        {
            "unit": line.unit,
            "starts_at": at(line.from_ms),
            "ends_at": at(line.until_ms),
            "gpu_count": line.gpu_count,
            "quantity": 1 if line.unit == "start" else seconds,
            "rate_micros": line.rate_micros,
            "list_rate_micros": line.list_rate_micros,
            "amount_micros": line.amount_micros,
            "price_id": line.price_id,
            "promotion_id": line.promotion_id,
            "promotion_name": names.get(line.promotion_id or 0, ""),
            "stacked_promotion_id": line.stacked_promotion_id,
            "stacked_promotion_name": names.get(line.stacked_promotion_id or 0, ""),
            "charge_id": charge_id,
            "refunded": refunded,
        }
    )


def receipt(
    workload: Workload, booked: Sequence[Transfer], ledger_micros: int, names: Mapping[int, str], currency: str
) -> models.Receipt:
    """All settled lines of a lease, each with whether it was refunded."""
    refunded = {t.reverses for t in booked if t.reverses is not None}
    charges = [(t.id, t.line) for t in booked if t.kind == "charge" and t.line is not None]
    kept = [line for charge_id, line in charges if charge_id not in refunded]
    total = metering.total_micros(kept)
    return models.Receipt(
        lease_id=workload.id,
        workload_id=workload.id,
        name=workload.name,
        owner=workload.owner,
        account=workload.account,
        gpu_type=workload.gpu_type,
        lines=tuple(charge_line(line, names, id_, refunded=id_ in refunded) for id_, line in charges),
        total_micros=total,
        ledger_micros=ledger_micros,
        saved_micros=max(0, metering.list_micros(kept) - total),
        refunded_micros=sum(line.amount_micros for charge_id, line in charges if charge_id in refunded),
        currency=currency,
        settled=workload.state == "ended",
        simulated=workload.simulated,
    )


def rate(value: Rate) -> models.Rate:
    """A price."""
    return models.Rate(
        per_gpu_hour_micros=value.per_gpu_hour_micros,
        per_task_hour_micros=value.per_task_hour_micros,
        per_start_micros=value.per_start_micros,
    )


def price(version: PriceVersion) -> models.Price:
    """A price version."""
    return models.Price(
        id=version.id,
        gpu_type=version.gpu_type,
        rate=rate(version.rate),
        valid_from=at(version.valid_from_ms),
        created_by=version.created_by,
    )


def why(workload: Workload, events: Iterable[WorkloadEvent], live: Live) -> models.Why:
    """The explanation with the recorded history."""
    return models.Why(
        id=workload.id,
        state=workload.outcome or workload.state,
        explanation=explanation(why_now(workload, live)),
        history=tuple(models.WhyStep(at=at(e.at_ms), kind=e.kind, detail=e.detail) for e in events),
        currency=live.currency,
    )


def audit_line(entry: AuditEntry) -> models.AuditLine:
    """One line of the audit."""
    return models.AuditLine(
        id=entry.id,
        sha256=entry.sha256,
        at=at(entry.at_ms),
        actor=entry.actor,
        action=entry.action,
        subject=entry.subject,
        before=entry.before,
        after=entry.after,
    )
