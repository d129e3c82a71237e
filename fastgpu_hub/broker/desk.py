"""What people look at, and what teachers and administrators set: the half of the broker that moves no workload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Literal, TypeVar

from pydantic import BaseModel

from fastgpu import models
from fastgpu_hub.broker import reports, rules, views
from fastgpu_hub.broker.actors import Actor, accounts_of, can_be_stored, not_allowed, not_found
from fastgpu_hub.broker.admission import Rules, Wish
from fastgpu_hub.broker.idempotency import IdempotencyClaim, Refusal, once
from fastgpu_hub.broker.lifecycle import ACTIVE, LIVE, Settings
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import Store, UnitOfWork
from fastgpu_hub.broker.ports.world import Clock, Engine, GpuDevice, GpuProbe, HubApi
from fastgpu_hub.broker.runtime import Runtime
from fastgpu_hub.broker.views import Live
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.ledger import REVENUE, balances
from fastgpu_hub.pricing.promotions import Customer
from fastgpu_hub.scheduling.overview import Overview, overview

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
RECENT_JOBS = 20
PROBE_PATIENCE_SECONDS = 0.5


class Desk:
    """The broker's information and rules desk: what people look at, and what teachers and administrators set."""

    def __init__(
        self, store: Store, engine: Engine, probe: GpuProbe, hub: HubApi, clock: Clock, settings: Settings | None = None
    ) -> None:
        self.settings = settings or Settings()
        self.store, self.engine, self.hub, self.clock = store, engine, hub, clock
        self._known_queue: Overview | None = None
        self.runtime = Runtime(store, engine, probe, hub, clock, self.settings)

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

    def _queue(self) -> Overview:
        """The queue as it stands, at most a second old; worked out once, however many look."""
        state, now_ms, known = self.runtime.view, self.clock.now_ms(), self._known_queue
        if known is None or known.state is not state or now_ms - known.at_ms >= 1000:
            known = self._known_queue = overview(state, self.runtime.ends_ms, now_ms)
        return known

    def _live(self, workloads: Sequence[Workload] = ()) -> Live:
        """What stands in no table, for the views of these workloads."""
        running = [w.id for w in workloads if w.kind == "job" and w.state in ("running", "stopping")]
        progress = {job_id: self.engine.progress(job_id) for job_id in running}
        queue = self._queue() if any(w.state == "queued" for w in workloads) else None
        return Live(
            self.clock.now_ms(),
            self.settings.currency,
            self.runtime.gpus.devices,
            queue.places if queue else {},
            queue.reasons if queue else {},
            queue.starts_ms if queue else {},
            {job_id: value for job_id, value in progress.items() if value is not None},
            {w.id: self.engine.log_size(w.id) for w in workloads if w.kind == "job"},
        )

    def _wait_ms(self, gpu_type: str) -> int | None:
        """How long one more GPU of a type would be waited for at most; None when that is unknown."""
        start_ms = self._queue().next_ms.get(gpu_type)
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

    async def _owner(self, actor: Actor, owner: str) -> tuple[str, tuple[str, ...]] | Refused:
        """Name and classes of the person a call is about: the caller, or for the spawner whom the hub knows."""
        if owner == "me" or (owner == actor.name and actor.kind == "user"):
            return actor.name, actor.classes
        if not actor.spawner or not can_be_stored(owner):
            return not_found("person", owner)
        user = await self.hub.user(owner)
        return (user.name, user.classes) if user is not None else not_found("person", owner)

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
                accounts=tuple(rules.account(uow, account) for account in actor.accounts),
                promotions=self._promotions(uow, rules.own_customer(actor), None, live.now_ms),
            )

        return await self.store.read(look)

    def _quotas(self, uow: UnitOfWork, name: str, classes: tuple[str, ...], now_ms: int) -> tuple[models.QuotaUse, ...]:
        held = self.runtime.view.held_per_key
        found: dict[int, models.QuotaUse] = {}
        for account in accounts_of(name, classes):
            for use in rules.applicable_quotas(
                uow, Customer(name, account, classes), now_ms, held, self.settings.currency
            ):
                found.setdefault(use.quota_id, use)
        return tuple(found.values())

    @staticmethod
    def _promotions(
        uow: UnitOfWork, customer: Customer, promo_code: str | None, now_ms: int
    ) -> tuple[models.Promotion, ...]:
        current = [p for p in uow.promotions() if p.ends_ms > now_ms]
        return tuple(views.promotion(p, customer, now_ms, promo_code=promo_code) for p in current)

    async def options(
        self, actor: Actor, owner: str, account: str | None = None, promo_code: str | None = None
    ) -> models.Options | Refused:
        """What a person may choose from on the spawn page."""
        person = await self._owner(actor, owner)
        if isinstance(person, Refused):
            return person
        name, classes = person

        def look(uow: UnitOfWork) -> models.Options:
            customer, live = self._customer(name, classes, account), self._live()
            book, state = Rules.load(uow), self.runtime.view

            return models.Options(
                user=name,
                currency=self.settings.currency,
                offers=tuple(
                    reports.offer(
                        uow,
                        book,
                        Wish(customer, gpu_type, 1, promo_code),
                        state,
                        reports.type_info(self.runtime.gpus.devices.values(), gpu_type),
                        self._wait_ms(gpu_type),
                        live,
                    )
                    for gpu_type in state.inventory.gpu_types()
                ),
                accounts=tuple(rules.account(uow, each) for each in accounts_of(name, classes)),
                quotas=self._quotas(uow, name, classes, live.now_ms),
                promotions=self._promotions(uow, customer, promo_code, live.now_ms),
            )

        return await self._read(look)

    async def quote(self, actor: Actor, request: models.QuoteRequest) -> models.Quote | Refused:
        """What a request would cost and whether it would be admitted."""

        def look(uow: UnitOfWork) -> models.Quote:
            live = self._live()
            customer = self._customer(actor.name, actor.classes, request.account)
            wish = Wish(customer, request.gpu_type, request.gpu_count, request.promo_code)
            from_ms = live.now_ms if request.starts_at is None else views.milliseconds(request.starts_at)
            info = reports.type_info(self.runtime.gpus.devices.values(), request.gpu_type)
            duration_ms = request.duration_seconds * 1000
            wait_ms = self._wait_ms(request.gpu_type)
            return reports.quote(uow, wish, from_ms, duration_ms, self.runtime.view, info.simulated, wait_ms, live)

        return await self._read(look)

    # ------------------------------------------------------------ money
    async def receipt(self, actor: Actor, lease_id: str) -> models.Receipt | Refused:
        """All settled lines of a lease, with what the ledger booked for it."""

        def look(uow: UnitOfWork) -> models.Receipt:
            workload = self._visible(uow, actor, lease_id)
            charges = uow.transfers(workload_id=lease_id, kind="charge")
            booked = balances(uow.transfers(workload_id=lease_id)).get(REVENUE, 0)
            return views.receipt(workload, charges, booked, uow.promotion_names(), self.settings.currency)

        return await self._read(look)

    async def why(self, actor: Actor, workload_id: str) -> models.Why | Refused:
        """Why a job or lease is where it is, and how it came there."""

        def look(uow: UnitOfWork) -> models.Why:
            workload = self._visible(uow, actor, workload_id)
            return views.why(workload, uow.events(workload_id), self._live([workload]))

        return await self._read(look)

    async def costs(
        self, actor: Actor, since: datetime | None = None, by: Literal["job", "gpu", "day", "person"] = "job"
    ) -> models.CostReport:
        """Settled cost, grouped, plus what runs."""
        return await self.store.read(lambda uow: reports.costs(uow, actor, since, by, self._live(), self.settings))

    # ------------------------------------------------------------ rules
    async def promotions(self, actor: Actor, promo_code: str | None = None) -> list[models.Promotion]:
        """Promotions that are not over, as the caller may use them."""
        now_ms = self.clock.now_ms()
        customer = rules.own_customer(actor)
        return list(await self.store.read(lambda uow: self._promotions(uow, customer, promo_code, now_ms)))

    async def quotas(self, actor: Actor) -> list[models.QuotaUse]:
        """Every limit the caller falls under; all of those they run classes of, and for administrators all there are.

        A limit on each member or person stands there as it is for the caller, else as it is unused.
        """
        now_ms, held, currency = self.clock.now_ms(), self.runtime.view.held_per_key, self.settings.currency

        def look(uow: UnitOfWork) -> list[models.QuotaUse]:
            found = {use.quota_id: use for use in self._quotas(uow, actor.name, actor.classes, now_ms)}
            for quota in uow.quotas():
                if quota.id not in found and rules.may_see(actor, quota):
                    nobody = Customer("", f"class:{quota.name}", ())
                    found[quota.id] = rules.quota_use(uow, quota, nobody, now_ms, held, currency)
            return list(found.values())

        return await self.store.read(look)

    async def prices(self, actor: Actor) -> list[models.Price]:
        """All price versions."""
        return await self.store.read(lambda uow: [views.price(version) for version in uow.prices()])

    async def _rule(
        self, actor: Actor, key: IdempotencyClaim | None, model: type[M], work: Callable[[UnitOfWork, int], M]
    ) -> M | Refused:
        answer = await self._write(actor, key, model, lambda uow: work(uow, self.clock.now_ms()))
        if not isinstance(answer, Refused):
            await self.runtime.rules_changed()
        return answer

    async def set_price(
        self, actor: Actor, request: models.PriceSet, *, key: IdempotencyClaim | None = None
    ) -> models.Price | Refused:
        """A new price version."""
        return await self._rule(actor, key, models.Price, lambda uow, now: rules.set_price(uow, actor, request, now))

    async def add_promotion(
        self, actor: Actor, request: models.PromotionSet, *, key: IdempotencyClaim | None = None
    ) -> models.Promotion | Refused:
        """A new promotion."""
        return await self._rule(
            actor, key, models.Promotion, lambda uow, now: rules.add_promotion(uow, actor, request, now)
        )

    async def end_promotion(
        self, actor: Actor, promotion_id: int, *, key: IdempotencyClaim | None = None
    ) -> models.Promotion | Refused:
        """End a promotion now."""
        return await self._rule(
            actor, key, models.Promotion, lambda uow, now: rules.end_promotion(uow, actor, promotion_id, now)
        )

    async def add_quota(
        self, actor: Actor, request: models.QuotaSet, *, key: IdempotencyClaim | None = None
    ) -> models.QuotaUse | Refused:
        """Set a limit."""

        def set_limit(uow: UnitOfWork, now_ms: int) -> models.QuotaUse:
            return rules.add_quota(uow, actor, request, now_ms, self.settings.currency)

        return await self._rule(actor, key, models.QuotaUse, set_limit)

    async def remove_quota(self, actor: Actor, quota_id: int) -> Refused | None:
        """Lift a limit."""
        now_ms = self.clock.now_ms()
        try:
            await self.store.write(lambda uow: rules.remove_quota(uow, actor, quota_id, now_ms, self.settings.currency))
        except Refusal as error:
            return error.refused
        await self.runtime.rules_changed()
        return None

    async def grant(
        self, actor: Actor, request: models.GrantSet, *, key: IdempotencyClaim | None = None
    ) -> models.Account | Refused:
        """Give credit."""
        return await self._rule(actor, key, models.Account, lambda uow, now: rules.grant(uow, actor, request, now))

    # ------------------------------------------------------------ classes, administration
    async def class_report(self, actor: Actor, name: str) -> models.ClassReport | Refused:
        """A class as its teacher sees it."""
        if not actor.manages(f"class:{name}") or not can_be_stored(name):
            return not_found("class", name)
        members = await self.hub.class_members(name)
        if members is None:
            return not_found("class", name)
        held = self.runtime.view.held_per_key
        return await self.store.read(lambda uow: reports.class_report(uow, name, members, self._live(), held))

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

    async def audit(self, actor: Actor, limit: int = 100) -> list[models.AuditLine] | Refused:
        """Who changed what, newest first."""
        if not actor.admin:
            return not_allowed("Only an administrator reads the audit.")
        return await self.store.read(lambda uow: [views.audit_line(entry) for entry in uow.audit(limit)])

    async def metrics_snapshot(self) -> dict[str, float]:
        """Gauges for the metrics page."""
        state = self.runtime.view
        active, holds = await self.store.read(lambda uow: (uow.workloads(states=ACTIVE), uow.open_holds()))
        leased = len(state.inventory.holder)
        fenced = len(set(state.inventory.fenced) - set(state.inventory.holder))
        return {
            "workloads_queued": sum(1 for w in active if w.state == "queued"),
            "workloads_live": sum(1 for w in active if w.state in LIVE),
            "gpus_leased": leased,
            "gpus_fenced": fenced,
            "gpus_free": len(state.inventory.devices) - leased - fenced,
            "held_micros": sum(line.amount_micros for hold in holds for line in hold.lines),
            "consistency_problems": len(self.runtime.problems),
        }
