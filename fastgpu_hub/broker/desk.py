"""What people look at: the part of the broker that changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Literal, TypeVar
from weakref import WeakValueDictionary

from pydantic import BaseModel

from fastgpu import models
from fastgpu_hub.broker import price_views, promotion_rules, reports, rule_views, views
from fastgpu_hub.broker.actors import Actor, accounts_of, can_be_stored, not_allowed, not_found
from fastgpu_hub.broker.admission import Rules, Wish
from fastgpu_hub.broker.guesses import Guesses
from fastgpu_hub.broker.held import GpusHeld, gpus_held
from fastgpu_hub.broker.idempotency import IdempotencyClaim, Refusal, once
from fastgpu_hub.broker.lifecycle import ACTIVE, LIVE
from fastgpu_hub.broker.ports.files import FileStore
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import Store, UnitOfWork
from fastgpu_hub.broker.ports.world import Clock, Engine, GpuDevice, GpuProbe, HubApi
from fastgpu_hub.broker.rights import Rights
from fastgpu_hub.broker.rules import own_customer
from fastgpu_hub.broker.run_keeper import progress_of
from fastgpu_hub.broker.runtime import Runtime
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.broker.sooner import sooner
from fastgpu_hub.broker.views import Live
from fastgpu_hub.broker.watch import Checked
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.ledger import REVENUE, balances
from fastgpu_hub.pricing.promotions import Customer

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
RECENT_JOBS = 20
PROBE_PATIENCE_SECONDS = 0.5


class Desk:
    """The broker's information desk: what people look at."""

    def __init__(
        self,
        store: Store,
        engine: Engine,
        probe: GpuProbe,
        hub: HubApi,
        clock: Clock,
        settings: Settings | None = None,
        files: FileStore | None = None,
    ) -> None:
        self.settings = settings or Settings()
        self.store, self.engine, self.hub, self.clock = store, engine, hub, clock
        self.guesses = Guesses()
        self._rights = Rights()
        self._trying: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.runtime = Runtime(store, engine, probe, hub, clock, self.settings, files)

    # ------------------------------------------------------------ helpers
    async def _read(self, work: Callable[[UnitOfWork], T]) -> T | Refused:
        try:
            return await self.store.read(work)
        except Refusal as error:
            return error.refused

    async def _write(
        self, actor: Actor, key: IdempotencyClaim | None, model: type[M], work: Callable[[UnitOfWork], M]
    ) -> M | Refused:
        now_ms = self.clock.now_ms()
        try:
            return await self.store.write(lambda uow: once(uow, actor.name, key, now_ms, model, partial(work, uow)))
        except Refusal as error:
            return error.refused

    def _live(self, workloads: Sequence[Workload] = ()) -> Live:
        """What stands in no table, for the views of these workloads."""
        running = [w.id for w in workloads if w.kind == "job" and w.state in ("running", "stopping")]
        told = {job_id: progress_of(self.engine, job_id) for job_id in running}
        queue = self.runtime.view if workloads else None
        return Live(
            self.clock.now_ms(),
            self.settings.currency,
            self.runtime.gpus.devices,
            queue.places if queue else {},
            queue.reasons if queue else {},
            queue.starts if queue else {},
            self.runtime.queue.runs([w.id for w in workloads if w.state != "ended"], self.clock.now_ms()),
            {job_id: value for job_id, value in told.items() if value is not None},
            {w.id: self.engine.log_size(w.id) for w in workloads if w.kind == "job"},
            GpusHeld() if workloads else self._gpus_held(),
            self.settings.time_zone,
        )

    def _live_of_new(self) -> Live:
        """What stands in no table, for the view of what is just being admitted: it is in no queue yet."""
        now_ms, devices = self.clock.now_ms(), self.runtime.gpus.devices
        return Live(now_ms, self.settings.currency, devices, time_zone=self.settings.time_zone)

    def _gpus_held(self) -> GpusHeld:
        """GPUs held under each limit, and when they come back at the latest."""
        return gpus_held(self.runtime.view, self.runtime.ends_ms)

    def _wait_ms(self, gpu_type: str) -> int | None:
        """How long one more GPU of a type would be waited for at most; None when that is unknown."""
        start_ms = self.runtime.view.next_ms.get(gpu_type)
        return None if start_ms is None else max(0, start_ms - self.clock.now_ms())

    def _job_view(self, uow: UnitOfWork, workload: Workload) -> models.Job:
        return views.job(uow, workload, self._live([workload]), uow.promotion_names())

    def _lease_view(self, uow: UnitOfWork, workload: Workload) -> models.Lease:
        return views.lease(uow, workload, self._live([workload]), uow.promotion_names())

    @staticmethod
    def _visible(uow: UnitOfWork, actor: Actor, workload_id: str, kind: str | None = None) -> Workload:
        workload = uow.workload(workload_id) if can_be_stored(workload_id) else None
        if workload is None or not actor.sees(workload) or (kind and workload.kind != kind):
            raise Refusal(not_found(kind or "lease", workload_id))
        return workload

    def _customer(self, name: str, classes: tuple[str, ...], account: str | None) -> Customer:
        accounts = accounts_of(name, classes)
        if account is not None and account not in accounts:
            raise Refusal(
                not_allowed(
                    f"You may not charge {account!r}.", instead=f"Accounts you may charge: {', '.join(accounts)}."
                )
            )
        return Customer(name, account or accounts[0], classes)

    def _spot(self, spot: bool) -> int | None:
        """How much cheaper what is asked for now is sold, in percent; None where it is no spot job."""
        return self.settings.spot_percent_off if spot else None

    async def _owner(self, actor: Actor, owner: str) -> tuple[str, tuple[str, ...]] | Refused:
        """Name and classes of the person a call is about: the caller, or for the spawner whom the hub knows."""
        if owner == "me" or (owner == actor.name and actor.kind == "user"):
            return actor.name, actor.classes
        if not actor.spawner or not can_be_stored(owner):
            return not_found("person", owner)
        user = await self.hub.user(owner)
        return (user.name, user.classes) if user is not None else not_found("person", owner)

    # ------------------------------------------------------------ codes
    async def _try_code(self, name: str, classes: tuple[str, ...], code: str | None) -> Refused | None:
        """Why a person may not use a code, or try one at all now. A wrong one is counted.

        One try of a person at a time, so that no number of simultaneous tries gets past the count.
        """
        if code is None:
            return None
        lock = self._trying.setdefault(name, asyncio.Lock())
        async with lock:
            if refused := self.guesses.refusal(name, self.clock.now_ms()):
                return refused
            customer = Customer(name, f"person:{name}", classes)
            if can_be_stored(code) and await self.store.read(
                lambda uow: promotion_rules.knows_code(uow, customer, code)
            ):
                return None
            self.guesses.wrong(name, self.clock.now_ms())
            return promotion_rules.wrong_code(code)

    @staticmethod
    def _too_many(refused: Refused | None) -> Refused | None:
        """Where a wrong code is no reason to answer nothing: only too many of them are."""
        return refused if refused is not None and refused.code == "too_many_guesses" else None

    # ------------------------------------------------------------ looking
    async def me(self, actor: Actor) -> models.Me:
        """Who the caller is."""
        return models.Me(
            name=actor.name,
            classes=actor.classes,
            teaches=actor.teaches,
            admin=actor.admin,
            currency=self.settings.currency,
            time_zone=self.settings.time_zone,
        )

    async def status(self, actor: Actor) -> models.Status:
        """Everything at a glance: live leases and their GPUs, recent jobs, quotas, accounts, promotions."""
        samples = await self.runtime.gpus.sample(patience_seconds=PROBE_PATIENCE_SECONDS)
        devices = self.runtime.gpus.devices

        def look(uow: UnitOfWork) -> models.Status:
            leases = uow.workloads(owner=actor.name, states=ACTIVE)
            jobs = uow.workloads(owner=actor.name, kind="job", newest_first=True, limit=RECENT_JOBS)
            live, names = self._live([*leases, *jobs]), uow.promotion_names()
            mine = [uuid for lease in leases if lease.state != "queued" for uuid in lease.gpu_uuids]
            return models.Status(
                user=actor.name,
                currency=self.settings.currency,
                now=views.at(live.now_ms),
                leases=tuple(views.lease(uow, lease, live, names) for lease in leases),
                gpus=tuple(views.gpu_use(devices[u], samples[u]) for u in mine if u in samples and u in devices),
                jobs=tuple(views.job(uow, job, live, names) for job in jobs),
                quotas=self._quotas(uow, actor.name, actor.classes, live.now_ms),
                accounts=tuple(rule_views.account(uow, account, live.now_ms) for account in actor.accounts),
                promotions=rule_views.own_promotions(uow, actor, own_customer(actor), None, live.now_ms),
            )

        return await self.store.read(look)

    def _quotas(self, uow: UnitOfWork, name: str, classes: tuple[str, ...], now_ms: int) -> tuple[models.QuotaUse, ...]:
        customers = [Customer(name, account, classes) for account in accounts_of(name, classes)]
        return rule_views.own_quotas(uow, customers, now_ms, self._gpus_held(), self.settings.currency)

    async def options(
        self, actor: Actor, owner: str, account: str | None = None, promo_code: str | None = None
    ) -> models.Options | Refused:
        """What a person may choose from on the spawn page."""
        person = await self._owner(actor, owner)
        if isinstance(person, Refused):
            return person
        name, classes = person
        wrong = await self._try_code(name, classes, promo_code)
        if refused := self._too_many(wrong):
            return refused
        code = None if wrong else promo_code

        def look(uow: UnitOfWork) -> models.Options:
            customer, live = self._customer(name, classes, account), self._live()
            book, inventory = Rules.load(uow), self.runtime.view.inventory

            return models.Options(
                user=name,
                currency=self.settings.currency,
                offers=tuple(
                    reports.offer(
                        uow,
                        book,
                        Wish(customer, gpu_type, 1, code),
                        inventory,
                        reports.type_info(self.runtime.gpus.devices.values(), gpu_type),
                        self._wait_ms(gpu_type),
                        live,
                        self.settings,
                    )
                    for gpu_type in inventory.gpu_types()
                ),
                accounts=tuple(rule_views.account(uow, each, live.now_ms) for each in accounts_of(name, classes)),
                quotas=self._quotas(uow, name, classes, live.now_ms),
                promotions=rule_views.own_promotions(uow, actor, customer, code, live.now_ms),
            )

        return await self._read(look)

    async def quote(self, actor: Actor, request: models.QuoteRequest) -> models.Quote | Refused:
        """What a request would cost and whether it would be admitted."""
        wrong = await self._try_code(actor.name, actor.classes, request.promo_code)
        if refused := self._too_many(wrong):
            return refused
        code = None if wrong else request.promo_code

        def look(uow: UnitOfWork) -> models.Quote:
            live = self._live()
            customer = self._customer(actor.name, actor.classes, request.account)
            wish = Wish(customer, request.gpu_type, request.gpu_count, code, spot_percent_off=self._spot(request.spot))
            from_ms = live.now_ms if request.starts_at is None else views.milliseconds(request.starts_at)
            info = reports.type_info(self.runtime.gpus.devices.values(), request.gpu_type)
            duration_ms = request.duration_seconds * 1000
            wait_ms = self._wait_ms(request.gpu_type)
            inventory = self.runtime.view.inventory
            simulated = info.simulated
            return reports.quote(uow, wish, from_ms, duration_ms, inventory, simulated, wait_ms, live, self.settings)

        found = await self._read(look)
        if wrong is None or isinstance(found, Refused) or not found.allowed:
            return found
        return found.model_copy(update={"allowed": False, "refusal": views.explanation(wrong)})

    # ------------------------------------------------------------ money
    async def receipt(self, actor: Actor, lease_id: str) -> models.Receipt | Refused:
        """All settled lines of a lease, with what the ledger booked for it."""

        def look(uow: UnitOfWork) -> models.Receipt:
            return self._receipt(uow, self._visible(uow, actor, lease_id))

        return await self._read(look)

    def _receipt(self, uow: UnitOfWork, workload: Workload) -> models.Receipt:
        booked = uow.transfers(workload_id=workload.id)
        revenue = balances(booked).get(REVENUE, 0)
        own = Rules.load(uow).book.spot_price_ids
        return price_views.receipt(workload, booked, revenue, uow.promotion_names(), own, self.settings.currency)

    async def why(self, actor: Actor, workload_id: str) -> models.Why | Refused:
        """Why a job or lease is where it is, and how it came there."""

        def look(uow: UnitOfWork) -> models.Why:
            workload = self._visible(uow, actor, workload_id)
            live, queue = self._live([workload]), self.runtime.queue
            reason = live.waiting.get(workload.id)
            return views.why(uow, workload, live, sooner(uow, workload, reason, queue, live.now_ms, self.settings))

        return await self._read(look)

    async def costs(
        self, actor: Actor, since: datetime | None = None, by: Literal["job", "gpu", "day", "person"] = "job"
    ) -> models.CostReport:
        """Settled cost, grouped, plus what runs."""
        return await self.store.read(lambda uow: reports.costs(uow, actor, since, by, self._live(), self.settings))

    # ------------------------------------------------------------ classes, administration
    async def class_report(self, actor: Actor, name: str) -> models.ClassReport | Refused:
        """A class as its teacher sees it."""
        if not actor.manages(f"class:{name}") or not can_be_stored(name):
            return not_found("class", name)
        members = await self.hub.class_members(name)
        if members is None:
            return not_found("class", name)
        return await self.store.read(lambda uow: reports.class_report(uow, actor, name, members, self._live()))

    async def inventory(self, actor: Actor) -> list[models.InventoryGpu] | Refused:
        """Every device: free, leased (to whom) or fenced (why)."""
        if not actor.admin:
            return not_allowed("Only an administrator sees the inventory.")
        devices = self.runtime.view.inventory
        owners = {w.id: w.owner for w in await self.store.read(lambda uow: uow.workloads(states=LIVE))}

        def row(device: GpuDevice) -> models.InventoryGpu:
            holder, fence = devices.holder.get(device.uuid), devices.fenced.get(device.uuid)
            return models.InventoryGpu(
                gpu=views.gpu(device),
                state="fenced" if fence else "leased" if holder else "free",
                lease_id=holder,
                owner=owners.get(holder or ""),
                reason=fence or "",
            )

        return [row(device) for device in self.runtime.gpus.devices.values()]

    async def audit(
        self, actor: Actor, limit: int = 100, before_id: int | None = None, by: str = "", subject: str = ""
    ) -> list[models.AuditLine] | Refused:
        """Who changed what, newest first: before an entry, by one person, to what has a text in its name."""
        if not actor.admin:
            return not_allowed("Only an administrator reads the audit.")
        if not (can_be_stored(by) and can_be_stored(subject)):
            return []

        def look(uow: UnitOfWork) -> list[models.AuditLine]:
            found = uow.audit(limit, before_id=before_id, actor=by, subject=subject)
            return [views.audit_line(entry) for entry in found]

        return await self.store.read(look)

    async def signed_in(self, actor: Actor) -> None:
        """Somebody came through the hub's sign-in, with all the rights they have: note when these have changed."""
        await self._rights.see(self.store, actor, self.clock.now_ms())

    async def problems(self, actor: Actor) -> list[models.Problem] | Refused:
        """What does not fit together, oldest first, as the latest check found it."""
        if not actor.admin:
            return not_allowed("Only an administrator sees what does not fit together.")
        found = sorted(self.runtime.watch.problems, key=lambda problem: problem.since_ms)
        return [models.Problem(since=views.at(problem.since_ms), sentence=str(problem.fault)) for problem in found]

    def checked(self) -> Checked:
        """When the books were checked last, and how far the audit's chain holds."""
        return self.runtime.watch.checked()

    async def metrics_snapshot(self) -> dict[str, float]:
        """Gauges for the metrics page."""
        inventory = self.runtime.view.inventory
        active, holds = await self.store.read(lambda uow: (uow.workloads(states=ACTIVE), uow.open_holds()))
        leased = len(inventory.holder)
        fenced = len(set(inventory.fenced) - set(inventory.holder))
        return {
            "workloads_queued": sum(1 for w in active if w.state == "queued"),
            "workloads_live": sum(1 for w in active if w.state in LIVE),
            "gpus_leased": leased,
            "gpus_fenced": fenced,
            "gpus_free": len(inventory.devices) - leased - fenced,
            "held_micros": sum(line.amount_micros for hold in holds for line in hold.lines),
            **self.runtime.watch.gauges(),
        }
