"""The broker: every use case behind the REST API. Each takes the caller first; answers are wire models or refusals."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from fastgpu import models
from fastgpu_hub.broker import aftermath, lifecycle, reports, views
from fastgpu_hub.broker.actors import Actor, can_be_stored, not_allowed, not_found
from fastgpu_hub.broker.admission import Rules
from fastgpu_hub.broker.aftermath import Ended
from fastgpu_hub.broker.archive import Archive
from fastgpu_hub.broker.arrays import Arrays
from fastgpu_hub.broker.idempotency import IdempotencyClaim
from fastgpu_hub.broker.intake import Admitted
from fastgpu_hub.broker.lifecycle import ACTIVE
from fastgpu_hub.broker.news import Stream
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.results import Results
from fastgpu_hub.pricing.explain import Refused


class Broker(Arrays, Results, Archive):
    """Coordinates: prices the wish, checks every quota, holds the money, queues, grants, follows, charges, explains.

    Refusals come back as ``Refused`` values; ``StoreUnavailable`` and ``HubUnavailable`` are raised.
    """

    async def start(self) -> None:
        """Take up everything where it was."""
        await self.runtime.start()

    async def close(self) -> None:
        """Stop watching; what runs, runs on."""
        await self.runtime.close()

    async def wait_changed(self, workload_id: str, timeout_seconds: float) -> None:
        """Return when something about a workload changed, or the time is up."""
        await self.runtime.wait_changed(workload_id, timeout_seconds)

    # ------------------------------------------------------------ news
    async def notices(self, actor: Actor, after: int = 0, limit: int = 100) -> list[models.Notice]:
        """The caller's notices after one, oldest first; the latest ``limit`` of them."""
        return list(await self.runtime.news.read(actor.name, after, limit))

    def events(self, actor: Actor, after: int | None = None) -> Stream | Refused:
        """A stream of the caller's notices after one, or from now on: ``with stream: async for told in stream``."""
        return self.runtime.news.stream(actor.name, after)

    async def end_streams(self) -> None:
        """End every stream of notices, before the service stops listening."""
        await self.runtime.news.close()

    # ------------------------------------------------------------ jobs
    async def jobs(
        self,
        actor: Actor,
        active: bool = False,
        limit: int = 50,
        owner: str | None = None,
        account: str | None = None,
        *,
        array: str | None = None,
        one_of_array: bool = False,
    ) -> list[models.Job] | Refused:
        """The caller's jobs, newest first; those of a managed account for its teacher, anybody's for administrators.

        Only those of one ``array``; or of each array the newest only (``one_of_array``).
        """
        foreign = owner not in (None, actor.name) and not (actor.admin or (account and actor.manages(account)))
        if foreign or not can_be_stored(owner or ""):
            return not_found("person", owner or "")
        if account is not None and not (
            can_be_stored(account) and (account in actor.accounts or actor.manages(account))
        ):
            return not_found("account", account)
        whose = owner or (None if account and actor.manages(account) else actor.name)
        whose = None if array else whose  # whoever sees an array sees its jobs

        def look(uow: UnitOfWork) -> list[models.Job]:
            if array is not None:
                self._visible_array(uow, actor, array)
            found = uow.workloads(
                kind="job",
                owner=whose,
                account=account,
                states=ACTIVE if active else None,
                array_id=array,
                one_of_array=one_of_array,
                newest_first=True,
                limit=limit,
            )
            live, names = self._live(found), uow.promotion_names()
            return [views.job(uow, workload, live, names) for workload in found]

        return await self._read(look)

    async def job(self, actor: Actor, job_id: str) -> models.Job | Refused:
        """One job."""
        return await self._read(lambda uow: self._job_view(uow, self._visible(uow, actor, job_id, "job")))

    async def cancel_job(
        self, actor: Actor, job_id: str, *, key: IdempotencyClaim | None = None
    ) -> models.Job | Refused:
        """Cancel: at once while it waits, else by stopping it. By its owner, its class's teacher, an administrator.

        Of a job that was tried again, the latest attempt is.
        """
        ended: list[Ended] = []

        def cancel(uow: UnitOfWork) -> models.Job:
            job = self._visible(uow, actor, job_id, "job")
            ended[:] = [aftermath.cancel(uow, actor, job, self.clock.now_ms(), self.settings)]
            return self._job_view(uow, ended[0].job or job)

        answer = await self._write(actor, key, models.Job, cancel)
        if not isinstance(answer, Refused):
            self._cancelled(ended)
        return answer

    async def put_blob(self, actor: Actor, sha256: str, chunks: Sequence[bytes]) -> Refused | None:
        """Keep bytes under their hash until a job names them."""
        try:
            await self.engine.put_blob(sha256, chunks)
        except ValueError as error:
            return Refused("invalid_request", str(error), instead="Send the bytes whose SHA-256 is in the address.")
        return None

    async def has_blob(self, actor: Actor, sha256: str) -> bool:
        """True when the bytes are there."""
        return self.engine.has_blob(sha256)

    # ------------------------------------------------------------ leases
    async def leases(self, actor: Actor) -> list[models.Lease]:
        """The caller's leases that wait or live."""

        def look(uow: UnitOfWork) -> list[models.Lease]:
            found = uow.workloads(owner=actor.name, states=ACTIVE)
            live, names = self._live(found), uow.promotion_names()
            return [views.lease(uow, workload, live, names) for workload in found]

        return await self.store.read(look)

    async def lease(self, actor: Actor, lease_id: str) -> models.Lease | Refused:
        """One lease."""
        return await self._read(lambda uow: self._lease_view(uow, self._visible(uow, actor, lease_id)))

    async def request_lease(
        self, actor: Actor, owner: str, request: models.LeaseRequest, *, key: IdempotencyClaim | None = None
    ) -> models.Lease | Refused:
        """Admit a server's request on behalf of its owner; only the spawner may."""
        if not actor.spawner:
            return not_allowed("Only the hub's spawner requests leases for servers.")
        person = await self._owner(actor, owner)
        if isinstance(person, Refused):
            return person
        name, classes = person
        refused = reports.capacity_refusal(
            self.runtime.state.inventory, request.gpu_type, request.gpu_count
        ) or await self._try_code(name, classes, request.promo_code)
        if refused:
            return refused
        admitted: list[Admitted] = []

        def admit(uow: UnitOfWork) -> models.Lease:
            customer, now_ms = self._customer(name, classes, request.account), self.clock.now_ms()
            workload = Workload(
                id=f"s-{secrets.token_hex(6)}",
                kind="server",
                owner=name,
                account=customer.account,
                classes=classes,
                name=request.server_name or "server",
                gpu_type=request.gpu_type,
                gpu_count=request.gpu_count,
                state="queued",
                requested_ms=now_ms,
                server_name=request.server_name,
                time_limit_ms=request.time_limit_seconds * 1000 if request.time_limit_seconds else None,
                promo_code=request.promo_code,
            )
            lifecycle.request(uow, workload, now_ms, self.settings)
            admitted[:] = [Admitted(workload, Rules.load(uow))]
            return views.lease(uow, workload, self._live_of_new(), uow.promotion_names())

        answer = await self._write(actor, key, models.Lease, admit)
        return await self._queued(answer, admitted, self._lease_view)

    async def lease_started(
        self, actor: Actor, lease_id: str, request: models.LeaseStarted, *, key: IdempotencyClaim | None = None
    ) -> models.Lease | Refused:
        """The spawner's word that the server runs with its GPUs: billing begins."""
        return await self._server_step(
            actor, lease_id, key, lambda uow, now: lifecycle.started(uow, lease_id, now, request.pid, self.settings)
        )

    async def release_lease(
        self, actor: Actor, lease_id: str, *, key: IdempotencyClaim | None = None
    ) -> models.Lease | Refused:
        """The spawner's word that the server and its processes are gone: billing ends, the GPUs are free."""

        def end(uow: UnitOfWork, now_ms: int) -> Workload | None:
            workload = uow.workload(lease_id)
            queued = workload is not None and workload.state == "queued"
            return lifecycle.finish(uow, lease_id, now_ms, "cancelled" if queued else "released", self.settings)

        return await self._server_step(actor, lease_id, key, end)

    async def _server_step(
        self,
        actor: Actor,
        lease_id: str,
        key: IdempotencyClaim | None,
        step: Callable[[UnitOfWork, int], Workload | None],
    ) -> models.Lease | Refused:
        if not actor.spawner:
            return not_allowed("Only the hub's spawner reports about servers.")
        changed: list[Workload] = []

        def apply(uow: UnitOfWork) -> models.Lease:
            workload = self._visible(uow, actor, lease_id, "server")
            changed.append(step(uow, self.clock.now_ms()) or workload)
            return self._lease_view(uow, changed[0])

        answer = await self._write(actor, key, models.Lease, apply)
        if isinstance(answer, Refused):
            return answer
        # A repeat changes nothing in the store, but the first call may have died before it came to this.
        workload = changed[0] if changed else await self.store.read(lambda uow: uow.workload(lease_id))
        if workload is not None:
            self.runtime.gone(lease_id, workload) if workload.state == "ended" else self.runtime.started(workload)
        return answer
