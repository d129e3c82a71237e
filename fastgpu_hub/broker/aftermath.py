"""What follows from a job's end, in the same transaction: its next attempt, or the end of those that waited for it."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, fields, replace
from typing import Any

from fastgpu_hub.broker import lifecycle, rules
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.attempts import attempts_left, interrupted, next_attempt, pause_ms
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.broker.waiting import STATES
from fastgpu_hub.pricing.explain import Explained, Refused


@dataclass(frozen=True, slots=True)
class Ended:
    """A job after its end, and whom else that concerns: who may start now or later, and who was cancelled."""

    job: Workload | None
    others: tuple[Workload, ...] = ()


def finish(
    uow: UnitOfWork,
    workload_id: str,
    at_ms: int,
    outcome: str,
    settings: Settings,
    *,
    now_ms: int,
    reason: Explained | None = None,
    exit_code: int | None = None,
    not_its_own: bool = False,
) -> Ended:
    """As ``lifecycle.finish``, with what follows from it. Idempotent.

    ``not_its_own``: what made the job fail was no doing of the job, so it is tried again if its owner asked for that.
    One that was interrupted for another goes back into the queue in any case.
    """
    job = uow.workload(workload_id)
    if job is None or job.state == "ended":
        return Ended(job, () if job is None else _concerned(uow, job))
    job = lifecycle.end(uow, job, at_ms, outcome, settings, reason=reason, exit_code=exit_code)
    again = None
    if interrupted(job) and outcome in ("cancelled", "lost"):
        job, again = _put_back(uow, job, now_ms, settings)
    elif not_its_own and job.stop_reason is None and attempts_left(job):
        job, again = _try_again(uow, job, now_ms, settings)
    cancelled: list[Workload] = []
    if again is None and job.outcome != "succeeded":
        cancelled = _cancel_dependants(uow, job, now_ms, settings)
    return Ended(job, (*_concerned(uow, job), *cancelled))


def _concerned(uow: UnitOfWork, job: Workload) -> tuple[Workload, ...]:
    """Those in the queue that a job's end lets go on: the next attempt, or what waited for this job alone."""
    if job.kind != "job":
        return ()
    if job.outcome == "succeeded":
        return tuple(uow.dependants(job.retry_of or job.id, ready=True))
    following = next_attempt(uow, job)
    return (following,) if following is not None and following.state == "queued" else ()


# ---------------------------------------------------------------- attempts


def _try_again(uow: UnitOfWork, job: Workload, now_ms: int, settings: Settings) -> tuple[Workload, Workload | None]:
    """The failed attempt, which says what follows it, and the next one if the money for it can be held."""
    of = job.attempt + attempts_left(job)
    pause = pause_ms(job.attempt - job.interruptions + 1)
    again = _next(uow, job, now_ms, not_before_ms=now_ms + pause)
    try:
        lifecycle.request(uow, again, now_ms, settings)
    except Refusal as error:
        job = _say(uow, job, f"It is not tried again: {error.refused.message}", error.refused.instead)
        return job, None
    lifecycle.note(uow, job.id, now_ms, "retried", attempt=again.attempt, next_attempt=again.id)
    said = f"Attempt {again.attempt} of {of}, {again.id}, starts in {pause // 1000} seconds at the earliest."
    return _say(uow, job, said), again


def _put_back(uow: UnitOfWork, job: Workload, now_ms: int, settings: Settings) -> tuple[Workload, Workload | None]:
    """The interrupted attempt, and the next one if the money for it can be held: no attempt is lost, and no time."""
    again = _next(uow, job, now_ms, not_before_ms=None, interruptions=job.interruptions + 1)
    try:
        lifecycle.request(uow, again, now_ms, settings)
    except Refusal as error:
        job = _say(uow, job, f"It cannot be put back: {error.refused.message}", error.refused.instead)
        return job, None
    lifecycle.note(uow, job.id, now_ms, "put_back", next_attempt=again.id)
    return _say(uow, job, f"It is {again.id} now."), again


def _next(uow: UnitOfWork, job: Workload, now_ms: int, **changes: Any) -> Workload:
    """The attempt after this one, as it was asked for."""
    return replace(
        job,
        id=f"j-{secrets.token_hex(6)}",
        state="queued",
        requested_ms=now_ms,
        retry_of=job.retry_of or job.id,
        attempt=job.attempt + 1,
        max_cost_micros=_left_of_max_cost(uow, job),
        **_FRESH,
        **changes,
    )


# What no attempt has in common with the one before.
_FRESH: dict[str, Any] = {
    field.name: field.default
    for field in fields(Workload)
    if field.name
    in (
        *("granted_ms", "billed_from_ms", "charged_until_ms", "ended_ms", "outcome", "exit_code", "gpu_uuids", "node"),
        *("pid", "simulated", "explanation", "stop_reason", "ending", "announced_minutes", "files_removed_ms"),
        *("artifacts", "artifacts_note"),
    )
}


def _left_of_max_cost(uow: UnitOfWork, job: Workload) -> int | None:
    """What the next attempt may cost, so that all together stay within what the owner allowed."""
    if job.max_cost_micros is None:
        return None
    charged = sum(entry.amount_micros for entry in uow.transfers(workload_id=job.id, kind="charge"))
    return max(0, job.max_cost_micros - charged)


def _say(uow: UnitOfWork, job: Workload, sentence: str, instead: str = "") -> Workload:
    """Add a sentence to how a job ended."""
    told = job.explanation or Explained(job.outcome or "lost", "")
    told = replace(told, message=f"{told.message} {sentence}".strip(), instead=instead or told.instead)
    said = replace(job, explanation=told)
    uow.save_workload(said)
    return said


# ---------------------------------------------------------------- those that waited for it


def _cancel_dependants(uow: UnitOfWork, job: Workload, now_ms: int, settings: Settings) -> list[Workload]:
    """Cancel what waited for a job that did not succeed, and what waited for those in turn; each owner is told once."""
    cancelled: list[Workload] = []
    told: set[tuple[str, str]] = set()
    failed = [job]
    while failed:
        cause = failed.pop(0)
        for waiting in uow.dependants(cause.retry_of or cause.id):
            reason = Explained(
                "dependency_failed",
                f"It waited for {cause.id}, which {STATES[cause.outcome or 'lost']}, so it was cancelled. "
                "Nothing was charged.",
                {"needs": cause.id},
                instead=f"Find out why with: why {cause.id}. Then submit both again.",
            )
            ended = lifecycle.end(uow, waiting, now_ms, "cancelled", settings, reason=reason)
            ended = replace(ended, explanation=reason)
            uow.save_workload(ended)
            whom = (waiting.owner, waiting.array_id or waiting.id)
            if whom not in told:
                told.add(whom)
                lifecycle.tell(uow, waiting, now_ms, "stopped", reason)
            cancelled.append(ended)
            failed.append(ended)
    return cancelled


# ---------------------------------------------------------------- cancelling


def cancel(uow: UnitOfWork, actor: Actor, job: Workload, now_ms: int, settings: Settings) -> Ended:
    """Cancel a job, or its latest attempt: at once while it waits, else by an order to stop. Told to its owner."""
    while (following := next_attempt(uow, job)) is not None:
        job = following
    own = job.owner == actor.name
    reason = Refused("cancelled", f"Cancelled by {'you' if own else actor.name}.")
    found = Ended(job)
    if job.state == "queued":
        found = finish(uow, job.id, now_ms, "cancelled", settings, now_ms=now_ms, reason=reason)
        if not own:
            lifecycle.tell(uow, job, now_ms, "stopped", reason)
    elif job.state == "stopping" and interrupted(job):  # it does not go back into the queue
        found = Ended(lifecycle.stop_for_good(uow, job, now_ms, reason, own_wish=own))
    elif job.state in ("granted", "running"):
        found = Ended(lifecycle.order_stop(uow, job.id, now_ms, reason, own_wish=own))
    if job.state != "ended" and not own:
        rules.audit_stop(uow, actor, job, now_ms)
    return found
