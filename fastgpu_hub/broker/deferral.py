"""Jobs that start later on purpose: planned when submitted, planned again when prices change, late ones announced."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from fastgpu import models
from fastgpu_hub.broker import promotion_rules, starts, views
from fastgpu_hub.broker.admission import Desired, Rules
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.lifecycle import held_by, note, tell, until_of, wish_of
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.pricing import metering
from fastgpu_hub.pricing.explain import Explained, Refused
from fastgpu_hub.pricing.money import format_money
from fastgpu_hub.pricing.quote import never_dearer, shifted
from fastgpu_hub.pricing.starts import Start, exact_cost
from fastgpu_hub.scheduling.overview import Overview

if TYPE_CHECKING:
    from fastgpu_hub.broker.runtime import Runtime

CHEAPEST = "cheapest"
LATE = "late"


def planned(
    uow: UnitOfWork, workload: Workload, request: models.JobSubmit, now_ms: int, wait_ms: int | None, settings: Settings
) -> Workload:
    """The workload with the start that its submission asks for, its quoted cost and the reason; as it is when that is
    now.

    ``wait_ms`` is how long its GPUs would be waited for now. Raises Refusal when no start fits the deadline, the limits
    or the most that it may cost, and for a start and a deadline that make no sense.
    """
    duration_ms = request.time_limit_seconds * 1000
    by_ms = None if request.by is None else views.milliseconds(request.by)
    if request.start == CHEAPEST:
        if request.start_at is not None:
            message = "A job starts when it is cheapest or at a given time, not both."
            raise Refusal(Refused("invalid_request", message, instead="Leave out start or start_at."))
        return _cheapest(uow, workload, by_ms, now_ms, wait_ms, settings)
    start_ms = now_ms if request.start_at is None else max(now_ms, views.milliseconds(request.start_at))
    if by_ms is not None:
        starts.check_deadline(by_ms, start_ms, duration_ms, settings)
    if start_ms == now_ms:
        return workload
    starts.check_deadline(start_ms + duration_ms, now_ms, duration_ms, settings)
    return _at(uow, workload, start_ms, now_ms, settings)


def _cheapest(
    uow: UnitOfWork, workload: Workload, by_ms: int | None, now_ms: int, wait_ms: int | None, settings: Settings
) -> Workload:
    duration_ms = workload.time_limit_ms or 0
    if by_ms is None:
        by_ms = starts.default_by_ms(now_ms, duration_ms)
    plan = starts.make(uow, wish_of(workload), duration_ms, by_ms, wait_ms, now_ms, settings)
    if plan.chosen is None:
        raise Refusal(_refused(plan.explained))
    workload = replace(workload, spec={**workload.spec, "by": views.at(by_ms).isoformat()})
    return _deferred(workload, plan, settings) if plan.deferred else workload


def _refused(explained: Explained) -> Refused:
    return Refused(explained.code, explained.message, explained.numbers, explained.frees_at_ms, explained.instead)


def _deferred(workload: Workload, plan: starts.Plan, settings: Settings) -> Workload:
    """The workload put off to a plan's chosen start."""
    assert plan.chosen is not None
    start = plan.chosen.start
    return replace(
        workload,
        not_before_ms=start.start_ms,
        quoted_micros=start.cost_micros,
        explanation=Explained(
            "deferred",
            f"Deferred to {starts.moment(start.start_ms, settings)} {starts.because(plan, settings)}",
            {**plan.explained.numbers, "by_ms": plan.by_ms},
            start.start_ms,
            "It keeps this price or gets a better one. To start it now, cancel it and submit it with --start now.",
        ),
    )


def _at(uow: UnitOfWork, workload: Workload, start_ms: int, now_ms: int, settings: Settings) -> Workload:
    """The workload put off to the instant that its owner chose."""
    duration_ms = workload.time_limit_ms or 0
    wanted = Desired(uow, Rules.load(uow), wish_of(workload), now_ms, settings)
    cost = metering.total_micros(wanted.lines(start_ms, start_ms + duration_ms))
    now = metering.total_micros(wanted.lines(now_ms, now_ms + duration_ms))
    costs = [format_money(micros, settings.currency) for micros in (cost, now)]
    return replace(
        workload,
        not_before_ms=start_ms,
        quoted_micros=cost,
        explanation=Explained(
            "deferred",
            f"Deferred to {starts.moment(start_ms, settings)}, as asked. It costs up to {costs[0]} then; starting now "
            f"would cost up to {costs[1]}.",
            {"start_ms": start_ms, "cost_micros": cost, "now_micros": now},
            start_ms,
            "It keeps this price or gets a better one. To start it now, cancel it and submit it with --start now.",
        ),
    )


def by_of(workload: Workload) -> int | None:
    """When a job is to have ended; None when its owner set no deadline."""
    text = workload.spec.get("by")
    return None if text is None else views.milliseconds(datetime.fromisoformat(str(text).replace("Z", "+00:00")))


# ---------------------------------------------------------------- planned again


def replan(uow: UnitOfWork, workload_id: str, now_ms: int, wait_ms: int | None, settings: Settings) -> bool:
    """Plan a deferred job again under the rules of now; whether that changed anything.

    It moves, or stays and gets a lower price, only where no part of the run costs more than it was quoted.
    """
    workload = uow.workload(workload_id)
    by_ms = None if workload is None else by_of(workload)
    if workload is None or by_ms is None or not waits_for_its_price(workload, now_ms):
        return False
    hold = held_by(uow, workload_id)
    uow.save_hold(replace(hold, lines=()))  # what is held for it shall not count against itself
    better = partial(_better, workload=workload, held=hold.lines)
    plan = starts.make(
        uow, wish_of(workload), workload.time_limit_ms or 0, by_ms, wait_ms, now_ms, settings, suits=better
    )
    if plan.chosen is None:
        uow.save_hold(hold)
        return False
    chosen = plan.chosen.start
    promotion_rules.take_places(uow, workload, chosen.lines, now_ms)
    uow.save_hold(replace(hold, lines=chosen.lines, until_ms=until_of(chosen.lines, hold.until_ms)))
    moved = _deferred(workload, plan, settings)
    if not plan.deferred:
        moved = replace(moved, not_before_ms=now_ms, explanation=None)
    uow.save_workload(replace(moved, quoted_micros=workload.quoted_micros))
    numbers = {"start_ms": chosen.start_ms, "cost_micros": chosen.cost_micros, "before_ms": workload.not_before_ms}
    note(uow, workload_id, now_ms, "replanned", **numbers, before_micros=metering.total_micros(hold.lines))
    return True


def _better(chosen: Start, workload: Workload, held: Sequence[metering.Line]) -> bool:
    exact = exact_cost(held)
    sooner = chosen.start_ms < (workload.not_before_ms or 0)
    if chosen.exact > exact or (chosen.exact == exact and not sooner):
        return False
    return never_dearer(chosen.lines, shifted(held, chosen.start_ms, [line.from_ms for line in chosen.lines]))


def waits_for_its_price(workload: Workload, now_ms: int) -> bool:
    """Whether a job is put off to a time at which it is cheaper."""
    return (
        workload.state == "queued"
        and workload.spec.get("start") == CHEAPEST
        and workload.not_before_ms is not None
        and workload.not_before_ms > now_ms
        and workload.attempt == 1
    )


def expected_wait_ms(queue: Overview, gpu_type: str) -> int | None:
    """How long one more GPU of a type would be waited for at most; None when that is unknown."""
    start_ms = queue.next_ms.get(gpu_type)
    return None if start_ms is None else max(0, start_ms - queue.at_ms)


# ---------------------------------------------------------------- too late


def late(workload: Workload, by_ms: int, queue: Overview) -> int | None:
    """When a job with a deadline starts, or started, if that is so late that it may miss it."""
    start_ms = _expected_start_ms(workload, queue)
    return start_ms if start_ms + (workload.time_limit_ms or 0) > by_ms else None


def _expected_start_ms(workload: Workload, queue: Overview) -> int:
    if workload.state != "queued":
        return workload.billed_from_ms or workload.granted_ms or queue.at_ms
    start = queue.starts.get(workload.id)
    return max(queue.at_ms, workload.not_before_ms or 0, start.likely_ms if start else 0)


def tell_late(
    uow: UnitOfWork,
    workload_id: str,
    start_ms: int,
    by_ms: int,
    reason: Explained | None,
    now_ms: int,
    settings: Settings,
) -> bool:
    """Tell a job's owner, once, that it may miss its deadline; whether that was done now."""
    workload = uow.workload(workload_id)
    if workload is None or workload.state == "ended" or _told(uow, workload):
        return False
    ends_ms = start_ms + (workload.time_limit_ms or 0)
    started = workload.state != "queued"
    when = f"{'it started' if started else 'it may only start'} {starts.moment(start_ms, settings)}"
    why = "" if reason is None or started else f" {reason.message}"
    numbers: dict[str, Any] = {"by_ms": by_ms, "start_ms": start_ms, "ends_ms": ends_ms}
    explained = Explained(
        LATE,
        f"“{workload.name}” may not end by {starts.moment(by_ms, settings)}: {when}, and may run until "
        f"{starts.moment(ends_ms, settings)}.{why}",
        numbers,
        instead="It runs all the same, at its price; cancel it if that is too late.",
    )
    tell(uow, workload, now_ms, LATE, explained, ends_ms)
    note(uow, workload_id, now_ms, LATE, **numbers)
    return True


def _told(uow: UnitOfWork, workload: Workload) -> bool:
    return any(event.kind == LATE for event in uow.events(workload.id))


# ---------------------------------------------------------------- at work


class Deferrals:
    """Plans deferred jobs again when rules change, and tells of late ones, in a running broker."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._planned_version: str | None = None
        self._told: set[str] = set()

    async def follow_rules(self) -> None:
        """Plan every deferred job again if rules changed since this was done last. Raises StoreUnavailable."""
        runtime, now_ms = self._runtime, self._runtime.clock.now_ms()
        version, queued = await runtime.store.read(lambda uow: (uow.rules_version(), uow.workloads(states=("queued",))))
        if version == self._planned_version:
            return
        for workload in queued:
            if not waits_for_its_price(workload, now_ms):
                continue
            wait_ms = expected_wait_ms(runtime.view, workload.gpu_type)
            work = partial(replan, workload_id=workload.id, now_ms=now_ms, wait_ms=wait_ms, settings=runtime.settings)
            with suppress(Refusal):  # then it stays as it is planned
                if await runtime.store.write(work):
                    await runtime.waiting.look(workload.id)
        self._planned_version = version

    async def tell_late(self, active: Sequence[Workload]) -> None:
        """Tell the owners of jobs that may miss their deadline, once each. Raises StoreUnavailable."""
        runtime = self._runtime
        self._told &= {workload.id for workload in active}
        deadlines = {
            workload.id: by_ms
            for workload in active
            if workload.id not in self._told and (by_ms := by_of(workload)) is not None
        }
        queue = runtime.view if deadlines else None
        for workload in active:
            by_ms = deadlines.get(workload.id)
            if queue is None or by_ms is None or (start_ms := late(workload, by_ms, queue)) is None:
                continue
            work = partial(
                tell_late,
                workload_id=workload.id,
                start_ms=start_ms,
                by_ms=by_ms,
                reason=queue.reasons.get(workload.id),
                now_ms=queue.at_ms,
                settings=runtime.settings,
            )
            if await runtime.store.write(work):
                runtime.news.told(workload.owner)
            self._told.add(workload.id)
