"""Jobs come in: checked, priced, their money held, queued. One at a time, or all of an array at once."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastgpu import models
from fastgpu_hub.broker import deferral, dependencies, fetching, lifecycle, reports, starts, sweeps, views
from fastgpu_hub.broker.actors import Actor, can_be_stored, not_allowed, not_found
from fastgpu_hub.broker.admission import Rules, Wish
from fastgpu_hub.broker.desk import M
from fastgpu_hub.broker.idempotency import IdempotencyClaim, Refusal
from fastgpu_hub.broker.jobs_input import check_job_input
from fastgpu_hub.broker.lifecycle import ACTIVE
from fastgpu_hub.broker.office import Office
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.waiting import Hindrance, hindrance
from fastgpu_hub.pricing.explain import Refused


@dataclass(frozen=True, slots=True)
class Admitted:
    """A workload that was written, the rules it was admitted under, and what keeps it out of the queue, if anything."""

    workload: Workload
    rules: Rules
    hindrance: Hindrance | None = None


class Intake(Office):
    """The broker's side that takes requests in."""

    async def start_plan(self, actor: Actor, request: models.StartPlanRequest) -> models.StartPlan | Refused:
        """When a request costs least: starts up to a deadline, and the one to choose."""
        if refused := await self._try_code(actor.name, actor.classes, request.promo_code) or reports.capacity_refusal(
            self.runtime.state.inventory, request.gpu_type, request.gpu_count
        ):
            return refused
        info = reports.type_info(self.runtime.gpus.devices.values(), request.gpu_type)
        duration_ms, wait_ms = request.duration_seconds * 1000, self._wait_ms(request.gpu_type)

        def look(uow: UnitOfWork) -> models.StartPlan:
            now_ms, customer = self.clock.now_ms(), self._customer(actor.name, actor.classes, request.account)
            wish = Wish(
                customer,
                request.gpu_type,
                request.gpu_count,
                request.promo_code,
                request.max_cost_micros,
                self._spot(request.spot),
            )
            by_ms = starts.default_by_ms(now_ms, duration_ms)
            if request.by is not None:
                by_ms = views.milliseconds(request.by)
            plan = starts.make(uow, wish, duration_ms, by_ms, wait_ms, now_ms, self.settings)
            return starts.view(plan, wish, duration_ms, self.settings, simulated=info.simulated)

        return await self._read(look)

    async def submit_job(
        self, actor: Actor, request: models.JobSubmit, *, key: IdempotencyClaim | None = None
    ) -> models.Job | Refused:
        """Admit a job and queue it."""
        if request.sweep or request.max_running is not None:
            return Refused(
                "invalid_request",
                "A sweep makes an array of jobs, not one.",
                instead="Send it to POST api/arrays (submit with array=, or --array).",
            )
        if refused := await self._refused_at_once(actor, request):
            return refused
        admitted: list[Admitted] = []

        def admit(uow: UnitOfWork) -> models.Job:
            needs = self._needed(uow, actor, request)
            workload = self._wanted(uow, actor, request)
            self._admit(uow, [workload], needs, admitted)
            return views.job(uow, workload, self._live_of_new(), uow.promotion_names())

        answer = await self._write(actor, key, models.Job, admit)
        return await self._queued(answer, admitted, self._job_view)

    async def _refused_at_once(self, actor: Actor, request: models.JobSubmit) -> Refused | None:
        """What forbids a submission whatever the books say."""
        if actor.kind != "user":
            return not_allowed("Only a person can submit jobs.")
        return (
            check_job_input(request.kind, request.argv, request.environment, [entry.path for entry in request.inputs])
            or fetching.refusal(request, self.runtime.files.store, self.engine.environment_names())
            or self._missing_blobs(request)
            or self._too_long_a_grace(request)
            or reports.capacity_refusal(self.runtime.state.inventory, request.gpu_type, request.gpu_count)
            or await self._try_code(actor.name, actor.classes, request.promo_code)
        )

    def _wanted(self, uow: UnitOfWork, actor: Actor, request: models.JobSubmit) -> Workload:
        """The job as it is asked for. Raises Refusal."""
        customer = self._customer(actor.name, actor.classes, request.account)
        fetching.check_artifact_owners(uow, actor.name, request)
        self._refuse_duplicate(uow, actor, request)
        workload = Workload(
            id=new_job_id(),
            kind="job",
            owner=actor.name,
            account=customer.account,
            classes=actor.classes,
            name=request.name,
            gpu_type=request.gpu_type,
            gpu_count=request.gpu_count,
            state="queued",
            requested_ms=self.clock.now_ms(),
            time_limit_ms=request.time_limit_seconds * 1000,
            promo_code=request.promo_code,
            max_cost_micros=request.max_cost_micros,
            spec=request.model_dump(mode="json", exclude={"sweep"}),
            fingerprint=request.fingerprint,
            spot_percent_off=self._spot(request.spot),
        )
        wait_ms = self._wait_ms(request.gpu_type) if request.start == deferral.CHEAPEST else None
        return deferral.planned(uow, workload, request, workload.requested_ms, wait_ms, self.settings)

    def _admit(
        self, uow: UnitOfWork, workloads: Sequence[Workload], needs: Sequence[str], admitted: list[Admitted]
    ) -> None:
        """Hold the money for workloads and write them, with what they wait for. Raises Refusal."""
        del admitted[:]  # of an attempt that was not committed
        for place, workload in enumerate(workloads):
            try:
                lifecycle.request(uow, workload, workload.requested_ms, self.settings)
            except Refusal as error:
                raise Refusal(sweeps.only_so_many(error.refused, place, len(workloads))) from None
        dependencies.note(uow, [workload.id for workload in workloads], needs)
        rules, waits = Rules.load(uow), None
        for workload in workloads:
            if waits is None or workload.not_before_ms is not None:
                waits = hindrance(uow, workload, workload.requested_ms)
            admitted.append(Admitted(workload, rules, waits))

    def _needed(self, uow: UnitOfWork, actor: Actor, request: models.JobSubmit) -> tuple[str, ...]:
        """The jobs that must have succeeded before. Raises Refusal."""
        if not request.after:
            return ()
        return dependencies.needed_ids(
            uow,
            request.after,
            lambda job_id: self._visible(uow, actor, job_id, "job"),
            lambda array_id: self._visible_array(uow, actor, array_id),
        )

    @staticmethod
    def _visible_array(uow: UnitOfWork, actor: Actor, array_id: str) -> list[Workload]:
        """All attempts of an array's jobs. Raises Refusal (``not_found``) for one that the caller may not see."""
        found = uow.array(array_id) if can_be_stored(array_id) else []
        if not found or not actor.sees(found[0]):
            raise Refusal(not_found("array", array_id))
        return found

    async def _queued(
        self, answer: M | Refused, admitted: Sequence[Admitted], view: Callable[[UnitOfWork, Workload], M]
    ) -> M | Refused:
        """After the commit: hand an admitted workload to the scheduler and answer with its place in the queue.

        When that was done by an earlier call with the same key, its answer stands; what the scheduler missed because
        that call was not answered, the reconciler makes good.
        """
        if isinstance(answer, Refused) or not admitted:
            return answer
        self._arrived(admitted)
        await asyncio.sleep(0)  # what follows from it begins before the answer is written
        first = admitted[0].workload
        if admitted[0].hindrance is None:
            # When its GPUs are being given to it already, there is no place to tell.
            waits = self.runtime.state.waiting(first.id) is not None
            return views.placed(answer, first, self._live([first])) if waits else answer
        return await self.store.read(lambda uow: view(uow, uow.workload(first.id) or first))

    def _arrived(self, admitted: Sequence[Admitted]) -> None:
        for each in admitted:
            self.runtime.arrived(each.workload, each.rules, each.hindrance)

    def _missing_blobs(self, request: models.JobSubmit) -> Refused | None:
        missing = [entry.path for entry in request.inputs if not self.engine.has_blob(entry.sha256)]
        if not missing:
            return None
        return Refused(
            "invalid_request",
            f"The bytes of {missing[0]!r} were not uploaded.",
            {"missing": len(missing)},
            instead="PUT each input to api/blobs/{sha256} before submitting the job.",
        )

    def _too_long_a_grace(self, request: models.JobSubmit) -> Refused | None:
        most = int(self.settings.max_grace_seconds)
        if request.grace_seconds is None or request.grace_seconds <= most:
            return None
        return Refused(
            "invalid_request",
            f"{request.grace_seconds} seconds between the order to stop and the kill are more than the {most} that "
            "this hub gives.",
            {"grace_seconds": request.grace_seconds, "limit": most},
            instead=f"Ask for at most {most}, and save from time to time in FASTGPU_CHECKPOINT_DIR.",
        )

    @staticmethod
    def _refuse_duplicate(uow: UnitOfWork, actor: Actor, request: models.JobSubmit) -> None:
        if request.fingerprint is None or request.again:
            return
        same = uow.workloads(owner=actor.name, kind="job", states=ACTIVE, fingerprint=request.fingerprint, limit=1)
        if same:
            raise Refusal(
                Refused(
                    "duplicate",
                    f"The same job is already {same[0].state}: {same[0].id}.",
                    {"job_id": same[0].id},
                    instead="Wait for it, cancel it, or submit with --again (again=True) to run it twice.",
                )
            )


def new_job_id() -> str:
    """A fresh id of a job."""
    return f"j-{secrets.token_hex(6)}"
