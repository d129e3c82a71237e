"""The API's operations: one function per row of ``routes.API``, each a thin call of the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from fastgpu.models import JobState, Receipt
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.archive import Content
from fastgpu_hub.broker.idempotency import IdempotencyClaim
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.service import receipts
from fastgpu_hub.service.routes import Health

if TYPE_CHECKING:
    from fastgpu_hub.broker.broker import Broker


@dataclass(frozen=True, slots=True)
class Call:
    """One checked request: who calls, the path's arguments, the query's values, the body, the idempotency claim."""

    broker: Broker
    actor: Actor
    path: dict[str, str] = field(default_factory=dict)
    query: dict[str, Any] = field(default_factory=dict)
    body: Any = None
    key: IdempotencyClaim | None = None

    @property
    def id(self) -> str:
        return self.path["id"]

    @property
    def number(self) -> int:
        return int(self.path["number"])

    @property
    def owner(self) -> str:
        """The person in the path; ``me`` is the caller."""
        return self.actor.name if self.path["owner"] == "me" else self.path["owner"]


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer that is not JSON."""

    data: bytes
    headers: dict[str, str] = field(default_factory=dict)


Result = BaseModel | Sequence[BaseModel] | Raw | Content | Refused | None
Endpoint = Callable[[Call], Awaitable[Result]]


async def me(call: Call) -> Result:
    return await call.broker.me(call.actor)


async def status(call: Call) -> Result:
    return await call.broker.status(call.actor)


async def options(call: Call) -> Result:
    return await call.broker.options(call.actor, call.owner, call.query["account"], call.query["promo_code"])


async def quote(call: Call) -> Result:
    return await call.broker.quote(call.actor, call.body)


async def start_plan(call: Call) -> Result:
    return await call.broker.start_plan(call.actor, call.body)


async def submit_job(call: Call) -> Result:
    return await call.broker.submit_job(call.actor, call.body, key=call.key)


async def jobs(call: Call) -> Result:
    query = call.query
    return await call.broker.jobs(
        call.actor,
        query["state"] == "active",
        query["limit"],
        query["owner"],
        query["account"],
        array=query["array"],
        one_of_array=query["of_arrays"] == "one",
    )


async def job(call: Call) -> Result:
    return await _changed(call, lambda: call.broker.job(call.actor, call.id), ())


async def cancel_job(call: Call) -> Result:
    return await call.broker.cancel_job(call.actor, call.id, key=call.key)


async def submit_array(call: Call) -> Result:
    return await call.broker.submit_array(call.actor, call.body, key=call.key)


async def array(call: Call) -> Result:
    return await call.broker.array(call.actor, call.id)


async def cancel_array(call: Call) -> Result:
    return await call.broker.cancel_array(call.actor, call.id, key=call.key)


async def job_log(call: Call) -> Result:
    """A long poll wakes at once when the job's state changes, and a moment after it printed."""
    loop = asyncio.get_running_loop()
    until = loop.time() + call.query["wait_seconds"]
    offset, limit_bytes = call.query["offset"], call.query["limit_bytes"]
    while True:
        found = await call.broker.job_log(call.actor, call.id, offset, limit_bytes)
        if isinstance(found, Refused):
            return found
        data, size, state = found
        left = until - loop.time()
        if data or left <= 0 or JobState(state).final:
            return Raw(data, {"X-Log-Size": str(size), "X-Job-State": JobState(state).value})
        await call.broker.log_grows(call.id, size, left)


async def job_metrics(call: Call) -> Result:
    return await call.broker.job_metrics(call.actor, call.id)


async def job_run(call: Call) -> Result:
    return await call.broker.run(call.actor, call.id)


async def job_files(call: Call) -> Result:
    return await call.broker.job_files(call.actor, call.id)


async def job_file(call: Call) -> Result:
    found = await call.broker.job_file(call.actor, call.id, call.path["path"])
    # Another person's file on the hub's own origin must never run as a page.
    return found if isinstance(found, Refused) else Raw(found, {"Content-Disposition": "attachment"})


async def kept_files(call: Call) -> Result:
    return await call.broker.kept_files(call.actor, call.query["limit"])


async def artifacts(call: Call) -> Result:
    return await call.broker.artifacts(call.actor, call.id)


async def artifact(call: Call) -> Result:
    return await call.broker.artifact(call.actor, call.id, call.path["path"])


async def keep_artifacts(call: Call) -> Result:
    return await call.broker.keep_artifacts(call.actor, call.id, call.body, key=call.key)


async def delete_artifacts(call: Call) -> Result:
    return await call.broker.delete_artifacts(call.actor, call.id)


async def delete_artifact(call: Call) -> Result:
    return await call.broker.delete_artifacts(call.actor, call.id, call.path["path"])


async def put_blob(call: Call) -> Result:
    return await call.broker.put_blob(call.actor, call.path["sha256"], call.body)


async def has_blob(call: Call) -> Result:
    if await call.broker.has_blob(call.actor, call.path["sha256"]):
        return None
    return Refused("not_found", "These bytes were not put yet.")


async def leases(call: Call) -> Result:
    return await call.broker.leases(call.actor)


async def lease(call: Call) -> Result:
    return await _changed(call, lambda: call.broker.lease(call.actor, call.id), ("queue_place", "explanation"))


async def request_lease(call: Call) -> Result:
    return await call.broker.request_lease(call.actor, call.owner, call.body, key=call.key)


async def lease_started(call: Call) -> Result:
    return await call.broker.lease_started(call.actor, call.id, call.body, key=call.key)


async def release_lease(call: Call) -> Result:
    return await call.broker.release_lease(call.actor, call.id, key=call.key)


async def receipt(call: Call) -> Result:
    found = await call.broker.receipt(call.actor, call.id)
    return found if isinstance(found, Refused) or call.query["format"] == "json" else _document(call, found)


def _document(call: Call, found: Receipt) -> Raw:
    kind, zone = call.query["format"], call.broker.settings.time_zone
    headers = {"Content-Type": receipts.FORMATS[kind]}
    if kind == "csv":
        headers["Content-Disposition"] = f'attachment; filename="receipt-{found.lease_id}.csv"'
        return Raw(receipts.as_csv(found).encode(), headers)
    if kind == "text":
        return Raw(receipts.as_text(found, zone).encode(), headers)
    return Raw(receipts.as_html(found, zone).encode(), {**headers, "Content-Security-Policy": receipts.HTML_POLICY})


async def why(call: Call) -> Result:
    return await call.broker.why(call.actor, call.id)


async def costs(call: Call) -> Result:
    return await call.broker.costs(call.actor, call.query["since"], call.query["by"])


async def notices(call: Call) -> Result:
    return await call.broker.notices(call.actor, call.query["after"], call.query["limit"])


async def promotions(call: Call) -> Result:
    return await call.broker.promotions(call.actor, call.query["promo_code"])


async def add_promotion(call: Call) -> Result:
    return await call.broker.add_promotion(call.actor, call.body, key=call.key)


async def edit_promotion(call: Call) -> Result:
    return await call.broker.edit_promotion(call.actor, call.number, call.body, key=call.key)


async def publish_promotion(call: Call) -> Result:
    return await call.broker.publish_promotion(call.actor, call.number, key=call.key)


async def end_promotion(call: Call) -> Result:
    return await call.broker.end_promotion(call.actor, call.number, key=call.key)


async def promotion_codes(call: Call) -> Result:
    return await call.broker.promotion_codes(call.actor, call.number)


async def make_codes(call: Call) -> Result:
    return await call.broker.make_codes(call.actor, call.number, call.body, key=call.key)


async def preview(call: Call) -> Result:
    return await call.broker.preview(call.actor, call.body)


async def redeem(call: Call) -> Result:
    return await call.broker.redeem(call.actor, call.body, key=call.key)


async def quotas(call: Call) -> Result:
    return await call.broker.quotas(call.actor)


async def add_quota(call: Call) -> Result:
    return await call.broker.add_quota(call.actor, call.body, key=call.key)


async def remove_quota(call: Call) -> Result:
    return await call.broker.remove_quota(call.actor, call.number)


async def prices(call: Call) -> Result:
    return await call.broker.prices(call.actor)


async def set_price(call: Call) -> Result:
    return await call.broker.set_price(call.actor, call.body, key=call.key)


async def grant(call: Call) -> Result:
    return await call.broker.grant(call.actor, call.body, key=call.key)


async def grants(call: Call) -> Result:
    return await call.broker.grants(call.actor, call.query["account"])


async def refund(call: Call) -> Result:
    return await call.broker.refund(call.actor, call.id, call.body, key=call.key)


async def asks(call: Call) -> Result:
    return await call.broker.asks(call.actor, call.query["state"])


async def ask(call: Call) -> Result:
    return await call.broker.ask(call.actor, call.body, key=call.key)


async def approve_ask(call: Call) -> Result:
    return await call.broker.approve_ask(call.actor, call.number, call.body, key=call.key)


async def decline_ask(call: Call) -> Result:
    return await call.broker.decline_ask(call.actor, call.number, call.body, key=call.key)


async def withdraw_ask(call: Call) -> Result:
    return await call.broker.withdraw_ask(call.actor, call.number, key=call.key)


async def class_report(call: Call) -> Result:
    return await call.broker.class_report(call.actor, call.path["name"])


async def inventory(call: Call) -> Result:
    return await call.broker.inventory(call.actor)


async def audit(call: Call) -> Result:
    query = call.query
    return await call.broker.audit(
        call.actor, query["limit"], query["before"], query["actor"] or "", query["subject"] or ""
    )


async def problems(call: Call) -> Result:
    return await call.broker.problems(call.actor)


async def health(_call: Call) -> Result:
    return Health(ok=True)


async def _changed(call: Call, look: Callable[[], Awaitable[Any]], watched: tuple[str, ...]) -> Result:
    """Long poll: the first look that differs from what the caller knows, or the last one when time is up.

    Differs means another state than ``state`` (without it: than at the first look) or another value of ``watched``.
    The wait is armed before each look, so a change in between is not missed.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + call.query["wait_seconds"]
    known_state, known_rest = call.query["state"], None
    while True:
        left = until - loop.time()
        waiting = asyncio.ensure_future(call.broker.wait_changed(call.id, left)) if left > 0 else None
        try:
            await asyncio.sleep(0)
            found = await look()
            if isinstance(found, Refused) or waiting is None:
                return found
            rest = tuple(getattr(found, name) for name in watched)
            known_state = known_state or found.state.value
            known_rest = rest if known_rest is None else known_rest
            if found.state.value != known_state or rest != known_rest:
                return found
            await waiting
        finally:
            if waiting is not None:
                waiting.cancel()


# Operations that a handler answers itself: they are about the service, not about GPUs, or have no one answer.
ELSEWHERE = {"openapi", "metrics", "events"}

ENDPOINTS: dict[str, Endpoint] = {
    endpoint.__name__: endpoint
    for endpoint in (
        *(me, status, options, quote, submit_job, jobs, job, cancel_job, job_log, job_files, job_file),
        *(submit_array, array, cancel_array, start_plan),
        *(job_metrics, job_run, kept_files, artifacts, artifact, keep_artifacts, delete_artifacts, delete_artifact),
        *(put_blob, has_blob, leases, lease, request_lease, lease_started, release_lease, receipt, why, costs, notices),
        *(promotions, add_promotion, edit_promotion, publish_promotion, end_promotion, promotion_codes, make_codes),
        *(preview, redeem, quotas, add_quota, remove_quota, prices, set_price, grant, grants, refund),
        *(asks, ask, approve_ask, decline_ask, withdraw_ask),
        *(class_report, inventory, audit, problems, health),
    )
}
