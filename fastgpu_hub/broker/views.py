"""Records to wire models. Pure given what was read; one bill for every surface."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import TypeVar

from pydantic import BaseModel

from fastgpu import models
from fastgpu_hub.broker.attempts import next_attempt
from fastgpu_hub.broker.bars import Told
from fastgpu_hub.broker.endings import ending_of, started_words
from fastgpu_hub.broker.held import GpusHeld
from fastgpu_hub.broker.ports.records import AuditEntry, Hold, Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.ports.world import GpuDevice, GpuSample, physical_uuids
from fastgpu_hub.broker.sweeps import parameters_of
from fastgpu_hub.broker.waiting import hindrance, of_its_array
from fastgpu_hub.pricing import metering
from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.scheduling.eta import Start
from fastgpu_hub.scheduling.prediction import Prediction

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Live:
    """What is true now and stands in no table: queue places, reasons, estimates, readings, devices, GPUs held."""

    now_ms: int
    currency: str
    devices: Mapping[str, GpuDevice] = field(default_factory=dict)
    places: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, Explained] = field(default_factory=dict)
    starts: Mapping[str, Start] = field(default_factory=dict)
    runs: Mapping[str, Prediction] = field(default_factory=dict)
    progress: Mapping[str, Told] = field(default_factory=dict)
    log_bytes: Mapping[str, int] = field(default_factory=dict)
    held: GpusHeld = field(default_factory=GpusHeld)
    time_zone: str = "UTC"


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


def why_now(uow: UnitOfWork, workload: Workload, live: Live) -> Explained:
    """Why the workload is where it is."""
    if workload.state == "queued":
        if (kept_out := hindrance(uow, workload, live.now_ms)) is not None:
            return kept_out.reason
        reason = live.waiting.get(workload.id) or Explained("admitting", "Being placed in the queue.")
        return of_its_array(reason, workload)
    if workload.state == "ended" and workload.explanation is not None:
        return workload.explanation
    if workload.state == "stopping" and workload.stop_reason is not None:
        return workload.stop_reason
    if workload.state == "granted":
        return Explained("starting", "Its GPUs are reserved; it is starting. Billing begins when it runs.")
    running = f"Running with {workload.gpu_count} x {workload.gpu_type}; billed while it runs."
    return Explained("running", f"{started_words(workload, live.time_zone)} {running}".strip())


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
        "CUDA_VISIBLE_DEVICES": ",".join(physical_uuids(workload.gpu_uuids)),
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
        explanation=explanation(why_now(uow, workload, live)),
        requested_at=at(workload.requested_ms),
        eta_start=instant(_eta_start(workload, live)),
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
    told = live.progress.get(workload.id)
    start = _starts(workload, live)
    end = _eta_end(workload, start, told, live)
    following = next_attempt(uow, workload)
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
        progress=told.fraction if told else None,
        progress_from=None if told is None else "report" if told.reported else "output",
        queue_place=live.places.get(workload.id),
        eta_start=instant(start[0] if start else None),
        eta_start_early=instant(start[1] if start else None),
        eta_start_late=instant(start[2] if start else None),
        eta_end=instant(end[0] if end else None),
        eta_end_early=instant(end[1] if end else None),
        eta_end_late=instant(end[2] if end else None),
        cost_micros=money.cost_micros,
        held_micros=money.held_micros,
        rate_per_hour_micros=money.rate_per_hour_micros,
        promotion_name=names.get(money.promotion_id or 0, ""),
        currency=live.currency,
        lease_id=workload.id,
        ends_at=instant(money.ends_ms),
        ending=None if money.ending is None else explanation(money.ending),
        explanation=explanation(why_now(uow, workload, live)),
        log_bytes=live.log_bytes.get(workload.id, 0),
        artifacts=workload.artifacts,  # type: ignore[arg-type]
        artifacts_note=None if workload.artifacts_note is None else explanation(workload.artifacts_note),
        files_removed_at=instant(workload.files_removed_ms),
        array_id=workload.array_id,
        array_index=workload.array_index,
        parameters=dict(parameters_of(workload.spec)),
        attempt=workload.attempt,
        retry_of=workload.retry_of,
        next_attempt=None if following is None else following.id,
        after=tuple(workload.spec.get("after", ())),
        not_before=instant(workload.not_before_ms),
        spot=workload.spot_percent_off is not None,
        interruptions=workload.interruptions,
        simulated=is_simulated(workload, live),
    )


def _eta_start(workload: Workload, live: Live) -> int | None:
    start = _starts(workload, live) if workload.state == "queued" else None
    return start[0] if start else None


def _starts(workload: Workload, live: Live) -> Ends | None:
    """When one that waits will probably start, with bounds, in its turn or as it was planned; when another did."""
    if workload.state != "queued":
        at_ms = workload.billed_from_ms
        return None if at_ms is None else (at_ms, at_ms, at_ms)
    start, planned_ms = live.starts.get(workload.id), workload.not_before_ms
    if start is not None:
        return start.likely_ms, start.early_ms, start.late_ms
    if planned_ms is not None and planned_ms > live.now_ms:
        return planned_ms, planned_ms, planned_ms
    return None


Ends = tuple[int, int, int]


def _eta_end(workload: Workload, start: Ends | None, told: Told | None, live: Live) -> Ends | None:
    """When it will probably end, with bounds: by what the job tells, else by how long such jobs have run.

    ``start`` is when it starts or did, with bounds. Never later than its time limit allows.
    """
    if workload.state == "ended" or start is None or workload.time_limit_ms is None:
        return None
    likely_ms, early_ms, late_ms = start
    limit_ms, now_ms = workload.time_limit_ms, live.now_ms
    latest_ms = likely_ms + limit_ms
    if told is not None and told.fraction > 0 and workload.state != "queued":
        if told.seconds_left is not None:
            end_ms = now_ms + told.seconds_left * 1000
        else:
            end_ms = likely_ms + (now_ms - likely_ms) * 1_000_000 // max(1, int(told.fraction * 1_000_000))
        end_ms = min(latest_ms, end_ms)
        return end_ms, end_ms, latest_ms
    run = live.runs.get(workload.id)
    if run is None:
        return latest_ms, latest_ms, late_ms + limit_ms

    def end(begin_ms: int, run_ms: int) -> int:
        return max(now_ms, begin_ms + min(run_ms, limit_ms))

    return end(likely_ms, run.likely_ms), end(early_ms, run.low_ms), end(late_ms, run.high_ms)


def placed(answer: M, workload: Workload, live: Live) -> M:
    """The answer to a request that has joined the queue since, with its place there."""
    start = _starts(workload, live)
    told: dict[str, object] = {"queue_place": live.places.get(workload.id), "eta_start": instant(start and start[0])}
    if (reason := live.waiting.get(workload.id)) is not None:
        told["explanation"] = explanation(of_its_array(reason, workload))
    if isinstance(answer, models.Job):
        end = _eta_end(workload, start, None, live)
        told |= _range("eta_start", start) | _range("eta_end", end)
    return answer.model_copy(update=told)


def _range(name: str, instants: Ends | None) -> dict[str, object]:
    likely_ms, early_ms, late_ms = instants or (None, None, None)
    return {name: instant(likely_ms), f"{name}_early": instant(early_ms), f"{name}_late": instant(late_ms)}


def why(uow: UnitOfWork, workload: Workload, live: Live, sooner: Iterable[Explained] = ()) -> models.Why:
    """The explanation with the recorded history, and what would start it sooner."""
    return models.Why(
        id=workload.id,
        state=workload.outcome or workload.state,
        explanation=explanation(why_now(uow, workload, live)),
        history=tuple(models.WhyStep(at=at(e.at_ms), kind=e.kind, detail=e.detail) for e in uow.events(workload.id)),
        currency=live.currency,
        sooner=tuple(explanation(option) for option in sooner),
        run=_run(live.runs.get(workload.id)) if workload.state != "ended" else None,
    )


def _run(run: Prediction | None) -> models.RunEstimate | None:
    if run is None:
        return None
    return models.RunEstimate(
        low_seconds=run.low_ms // 1000, likely_seconds=run.likely_ms // 1000, high_seconds=-(-run.high_ms // 1000)
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
