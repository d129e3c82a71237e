"""Arrays: one submission, one job for each combination of a sweep's values, admitted all together or not at all."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from fastgpu import models
from fastgpu_hub.broker import aftermath, sweeps, views
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.aftermath import Ended
from fastgpu_hub.broker.idempotency import IdempotencyClaim
from fastgpu_hub.broker.intake import Admitted, Intake, new_job_id
from fastgpu_hub.broker.jobs_input import check_arguments
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.pricing.explain import Refused


class Arrays(Intake):
    """What the broker does with arrays."""

    async def submit_array(
        self, actor: Actor, request: models.JobSubmit, *, key: IdempotencyClaim | None = None
    ) -> models.JobArray | Refused:
        """Admit a job for every combination of the sweep, and queue them: all, or none.

        What the request says of cost is about all of them together; of GPUs and time, about each.
        """
        spec = request.model_dump(mode="json", exclude={"sweep"})
        jobs = sweeps.jobs_of(request.sweep)
        refused = sweeps.check_sweep(request.sweep, spec) or await self._refused_at_once(actor, request)
        if refused:
            return refused
        combinations = sweeps.combinations(request.sweep)
        arguments = [sweeps.filled(request.argv, parameters) for parameters in combinations]
        for argv in arguments:
            if refused := check_arguments(request.kind, argv):
                return refused
        admitted: list[Admitted] = []

        def admit(uow: UnitOfWork) -> models.JobArray:
            needs = self._needed(uow, actor, request)
            wanted = self._wanted(uow, actor, request)
            most = request.max_cost_micros
            wanted = replace(
                wanted,
                array_id=f"a-{secrets.token_hex(6)}",
                # As much for each, so that whatever prices do all of them stay within it.
                max_cost_micros=None if most is None else most // jobs,
            )
            elements = [
                replace(
                    wanted,
                    id=new_job_id(),
                    array_index=index,
                    spec={**wanted.spec, "argv": argv, "parameters": parameters},
                )
                for index, (parameters, argv) in enumerate(zip(combinations, arguments, strict=True))
            ]
            self._admit(uow, elements, needs, admitted)
            # Its jobs are looked up after the commit: what is kept for a repeat stays small.
            return self._array_view(elements, {}).model_copy(update={"jobs": ()})

        answer = await self._write(actor, key, models.JobArray, admit)
        if isinstance(answer, Refused):
            return answer
        self._arrived(admitted)
        return await self.store.read(lambda uow: self._array(uow, uow.array(answer.id)))

    async def array(self, actor: Actor, array_id: str) -> models.JobArray | Refused:
        """An array with all its jobs."""
        return await self._read(lambda uow: self._array(uow, self._visible_array(uow, actor, array_id)))

    async def cancel_array(
        self, actor: Actor, array_id: str, *, key: IdempotencyClaim | None = None
    ) -> models.JobArray | Refused:
        """Cancel every job of an array that has not ended."""
        ended: list[Ended] = []

        def cancel(uow: UnitOfWork) -> models.JobArray:
            now_ms = self.clock.now_ms()
            jobs = self._visible_array(uow, actor, array_id)
            ended[:] = [
                aftermath.cancel(uow, actor, job, now_ms, self.settings) for job in jobs if job.state != "ended"
            ]
            return self._array(uow, uow.array(array_id))

        answer = await self._write(actor, key, models.JobArray, cancel)
        if not isinstance(answer, Refused):
            self._cancelled(ended)
        return answer

    def _cancelled(self, ended: Sequence[Ended]) -> None:
        """After the commit: act on what was cancelled."""
        for each in ended:
            if each.job is not None:
                self.runtime.news.told(each.job.owner)
            if each.job is not None and each.job.state != "ended":
                self.runtime.stopped(each.job)
            else:
                self.runtime.ended(each)

    def _array(self, uow: UnitOfWork, attempts: Sequence[Workload]) -> models.JobArray:
        return self._array_view(attempts, uow.array_money(attempts[0].array_id or ""))

    def _array_view(self, attempts: Sequence[Workload], money: dict[str, tuple[int, int]]) -> models.JobArray:
        """``attempts`` by index, then number; ``money`` charged and held for each."""
        of_index: dict[int, list[Workload]] = {}
        for attempt in attempts:
            of_index.setdefault(attempt.array_index or 0, []).append(attempt)
        first, live = attempts[0], self._live()
        jobs = tuple(_job(index, tries, money) for index, tries in sorted(of_index.items()))
        return models.JobArray(
            id=first.array_id or "",
            name=first.name,
            owner=first.owner,
            account=first.account,
            gpu_type=first.gpu_type,
            gpu_count=first.gpu_count,
            submitted_at=views.at(first.requested_ms),
            parameters=sweeps.swept([sweeps.parameters_of(tries[0].spec) for tries in of_index.values()]),
            max_running=first.spec.get("max_running"),
            size=len(jobs),
            counts=dict(Counter(job.state for job in jobs)),
            cost_micros=sum(job.cost_micros for job in jobs),
            held_micros=sum(job.held_micros for job in jobs),
            currency=live.currency,
            simulated=views.is_simulated(first, live),
            jobs=jobs,
        )


def _job(index: int, attempts: Sequence[Workload], money: dict[str, tuple[int, int]]) -> models.ArrayJob:
    latest = attempts[-1]
    amounts = [money.get(attempt.id, (0, 0)) for attempt in attempts]
    return models.ArrayJob(
        id=latest.id,
        index=index,
        parameters=dict(sweeps.parameters_of(latest.spec)),
        state=views.state_of_job(latest),
        attempt=latest.attempt,
        exit_code=latest.exit_code,
        cost_micros=sum(charged for charged, _ in amounts),
        held_micros=sum(held for _, held in amounts),
    )
