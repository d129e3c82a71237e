"""The broker at work: feeds the scheduler, carries out its grants, follows the engines, keeps time.

Everything durable is in the store; this object can be rebuilt from it at any moment, and is, at each start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastgpu_hub.broker import lifecycle
from fastgpu_hub.broker.admission import Rules, concurrent_limits
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.lifecycle import ACTIVE, LIVE, Settings, Stale, customer_of
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import Store, StoreUnavailable, UnitOfWork
from fastgpu_hub.broker.ports.world import (
    Clock,
    Engine,
    GpuDevice,
    GpuProbe,
    GpuSample,
    HubApi,
    HubUnavailable,
    Launch,
    Observation,
)
from fastgpu_hub.broker.reconcile import reconcile
from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.scheduling import scheduler
from fastgpu_hub.scheduling.inventory import Device
from fastgpu_hub.scheduling.policies import Want

T = TypeVar("T")
log = logging.getLogger("fastgpu.broker")

OUTCOMES = {"timed_out": "timed_out", "stopped": "cancelled", "failed_to_start": "failed", "killed": "lost"}
RETRY_SECONDS = 1.0
QUEUE_NEWS_SECONDS = 0.5


def want_of(workload: Workload, rules: Rules) -> Want:
    """The workload as the scheduler sees it."""
    limits = concurrent_limits(rules, customer_of(workload), workload.gpu_type)
    return Want(
        workload.id,
        workload.owner,
        workload.gpu_type,
        workload.gpu_count,
        workload.requested_ms,
        limits,
        workload.time_limit_ms,
    )


def ends_ms(workload: Workload) -> int | None:
    """When a workload that has its GPUs ends at the latest; None when that is open."""
    if workload.time_limit_ms is None:
        return None
    return (workload.billed_from_ms or workload.granted_ms or workload.requested_ms) + workload.time_limit_ms


class Runtime:
    """Scheduler state, devices, timers and watchers of one service. All methods run on its event loop."""

    def __init__(
        self, store: Store, engine: Engine, probe: GpuProbe, hub: HubApi, clock: Clock, settings: Settings
    ) -> None:
        self.store, self.engine, self.probe, self.hub, self.clock = store, engine, probe, hub, clock
        self.settings = settings
        self.state = scheduler.State()
        self.devices: dict[str, GpuDevice] = {}
        self.samples: dict[str, GpuSample] = {}
        self.problems: list[str] = []
        self._changed: dict[str, asyncio.Event] = {}
        self._due: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.seen_active_ms: dict[str, int] = {}
        self.missed: dict[str, int] = {}
        self._sampled_ms = -(10**9)
        self._closing = False
        self._queue_news: asyncio.TimerHandle | None = None
        self.ends_ms: dict[str, int | None] = {}

    # ------------------------------------------------------------ start, close
    async def start(self) -> None:
        """Find the devices, take up every live workload where it was, begin watching and keeping time."""
        await self.find_devices()
        rules, active, heartbeat = await self.store.read(
            lambda uow: (Rules.load(uow), uow.workloads(states=ACTIVE), uow.setting("heartbeat_ms"))
        )
        for workload in active:
            if workload.state == "queued":
                continue
            self.seen_active_ms[workload.id] = heartbeat or workload.granted_ms or workload.requested_ms
            for uuid in set(workload.gpu_uuids) - set(self.state.inventory.devices):
                device = Device(uuid, workload.gpu_type, workload.node)
                self.state.inventory.devices[uuid] = device
                self.state.inventory.fenced[uuid] = "not found any more"
            self.ends_ms[workload.id] = ends_ms(workload)
            self._feed(scheduler.Resumed(want_of(workload, rules), workload.gpu_uuids))
        known = {observation.lease_id: observation for observation in await self.engine.open(self._on_engine)}
        for workload in active:
            if workload.state == "queued":
                self._feed(scheduler.Arrived(want_of(workload, rules)))
            elif workload.kind == "job":
                await self.follow(known.get(workload.id) or await self.engine.observe(workload.id))
        live = {workload.id for workload in active}
        for observation in known.values():
            if observation.lease_id not in live and observation.state in ("starting", "running"):
                log.warning("job %s runs without a live lease; stopping it", observation.lease_id)
                await self.engine.stop(observation.lease_id, self.settings.stop_grace_seconds)
        self._spawn(self._keep_time())

    async def close(self) -> None:
        """Stop watching; workloads run on."""
        self._closing = True
        if self._queue_news is not None:
            self._queue_news.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a background step failed", exc_info=error)

    async def persist(self, work: Callable[[UnitOfWork], T]) -> T:
        """Write evidence that must not be lost: tried again until the database takes it."""
        while True:
            try:
                return await self.store.write(work)
            except StoreUnavailable as error:
                log.error("the database did not take a write, trying again: %s", error)
                await asyncio.sleep(RETRY_SECONDS)

    # ------------------------------------------------------------ scheduling
    def _feed(self, event: scheduler.Event) -> None:
        self.state, grants = scheduler.handle(self.state, event)
        for grant in grants:
            self._spawn(self._carry_out(grant))
        if self._queue_news is None and self.state.queue:
            self._queue_news = asyncio.get_running_loop().call_later(QUEUE_NEWS_SECONDS, self._tell_queue)

    def _tell_queue(self) -> None:
        """Wake those who watch their place in the queue; a place changes with every grant, so not each time."""
        self._queue_news = None
        for want in self.state.queue:
            self.touch(want.id)

    def arrived(self, workload: Workload, rules: Rules) -> None:
        """A new request is in the store: queue it."""
        self._feed(scheduler.Arrived(want_of(workload, rules)))

    def gone(self, workload_id: str) -> None:
        """A workload has ended in the store: its devices are free, its timers off."""
        self._feed(scheduler.Gone(workload_id))
        for table in (self._due, self.seen_active_ms, self.missed, self.ends_ms):
            table.pop(workload_id, None)
        self.touch(workload_id)

    async def rules_changed(self) -> None:
        """Quotas, prices or credit changed: apply new limits and look at the declined requests again."""
        rules, active = await self.store.read(lambda uow: (Rules.load(uow), uow.workloads(states=ACTIVE)))
        self._feed(scheduler.LimitsChanged({w.id: want_of(w, rules).limits for w in active}))
        self.reconsider()

    def reconsider(self) -> None:
        """Look at requests again that money or a quota kept from being granted."""
        if self.state.declined:
            self._feed(scheduler.Reconsider())

    async def _carry_out(self, grant: scheduler.Grant) -> None:
        device = self.devices[grant.uuids[0]]
        try:
            workload = await self.store.write(
                lambda uow: lifecycle.grant(
                    uow, grant.id, grant.uuids, device.node, device.simulated, self.clock.now_ms(), self.settings
                )
            )
        except Refusal as error:
            self._feed(scheduler.Declined(grant.id, error.refused))
        except StoreUnavailable:
            self._feed(scheduler.Declined(grant.id, Explained("unavailable", "The database does not answer.")))
        except Stale:
            self.gone(grant.id)
        else:
            self.seen_active_ms[workload.id] = self.clock.now_ms()
            self.ends_ms[workload.id] = ends_ms(workload)
            self.touch(workload.id)
            if workload.kind == "job":
                await self._launch(workload)

    async def _launch(self, workload: Workload) -> None:
        spec = workload.spec
        await self.engine.start(
            Launch(
                lease_id=workload.id,
                owner=workload.owner,
                kind=spec["kind"],
                argv=tuple(spec["argv"]),
                gpu_uuids=workload.gpu_uuids,
                time_limit_ms=workload.time_limit_ms or 0,
                inputs={entry["path"]: entry["sha256"] for entry in spec.get("inputs", ())},
                environment=spec.get("environment", {}),
                simulated=workload.simulated,
            )
        )
        now = await self.store.read(lambda uow: uow.workload(workload.id))
        if now is not None and now.state == "stopping":  # cancelled while it was being started
            await self.engine.stop(workload.id, self.settings.stop_grace_seconds)

    # ------------------------------------------------------------ engines
    def _on_engine(self, observation: Observation) -> None:
        if not self._closing:
            self._spawn(self.follow(observation))

    async def follow(self, observation: Observation) -> None:
        """Bring the store in line with what an engine knows of a job."""
        workload_id = observation.lease_id
        if observation.state == "running":
            at_ms = observation.started_ms or observation.at_ms
            workload = await self.persist(
                lambda uow: lifecycle.started(uow, workload_id, at_ms, observation.pid, self.settings)
            )
            self._schedule(workload)
        elif observation.state == "exited":
            await self._exited(observation)
        elif observation.state == "absent":
            await self._absent(workload_id)
        else:
            log.info("job %s: the engine says %s", workload_id, observation.state)
        self.touch(workload_id)

    async def _exited(self, observation: Observation) -> None:
        ended_ms = observation.ended_ms or observation.at_ms
        code = observation.exit_code
        outcome = OUTCOMES.get(observation.ending) or ("succeeded" if code == 0 else "failed")

        def end(uow: UnitOfWork) -> Workload | None:
            if observation.started_ms is not None:
                lifecycle.started(uow, observation.lease_id, observation.started_ms, None, self.settings)
            return lifecycle.finish(
                uow,
                observation.lease_id,
                ended_ms,
                outcome,
                self.settings,
                reason=observation.reason,
                exit_code=code,
            )

        if await self.persist(end) is not None:
            self.gone(observation.lease_id)

    async def _absent(self, workload_id: str) -> None:
        """The engine never started it: start it now if it was granted, else it is lost (its folder is gone)."""
        workload = await self.store.read(lambda uow: uow.workload(workload_id))
        if workload is None or workload.state not in LIVE:
            return
        if workload.state == "granted":
            await self._launch(workload)
            return
        last_ms = self.seen_active_ms.get(workload_id, workload.charged_until_ms or workload.requested_ms)
        outcome = "cancelled" if workload.billed_from_ms is None else "lost"
        await self.persist(lambda uow: lifecycle.finish(uow, workload_id, last_ms, outcome, self.settings))
        self.gone(workload_id)

    # ------------------------------------------------------------ time
    def touch(self, workload_id: str) -> None:
        """Something about a workload changed: wake whoever waits for that."""
        if (event := self._changed.pop(workload_id, None)) is not None:
            event.set()

    async def wait_changed(self, workload_id: str, timeout_seconds: float) -> None:
        """Return when something about the workload changed, or the time is up."""
        event = self._changed.setdefault(workload_id, asyncio.Event())
        try:
            await asyncio.wait_for(event.wait(), timeout_seconds)
        except asyncio.TimeoutError:
            return

    def _schedule(self, workload: Workload | None) -> None:
        """Have the time keeper look at a workload now; it finds out when the next edge is."""
        if workload is not None and workload.state in LIVE:
            self._due[workload.id] = 0
            self._wake.set()

    def started(self, workload: Workload) -> None:
        """A server confirmed its start."""
        self.seen_active_ms[workload.id] = self.clock.now_ms()
        self._schedule(workload)
        self.touch(workload.id)

    async def _keep_time(self) -> None:
        """Close intervals at their edges, renew horizons, reconcile now and then; sleep until the next is due."""
        live = await self.store.read(lambda uow: uow.workloads(states=LIVE))
        self._due.update({workload.id: 0 for workload in live})
        next_reconcile_ms = self.clock.now_ms()
        while not self._closing:  # wait_for may swallow the cancellation
            now_ms = self.clock.now_ms()
            try:
                for workload_id in [who for who, due_ms in self._due.items() if due_ms <= now_ms]:
                    await self._edge(workload_id)
                if now_ms >= next_reconcile_ms:
                    next_reconcile_ms = now_ms + self.settings.reconcile_interval_ms
                    await reconcile(self)
            except StoreUnavailable as error:
                log.error("the database does not answer, charges wait: %s", error)
                await asyncio.sleep(RETRY_SECONDS)
            until_ms = min([next_reconcile_ms, *self._due.values()])
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.02, (until_ms - self.clock.now_ms()) / 1000))
            except asyncio.TimeoutError:
                continue

    async def _edge(self, workload_id: str) -> None:
        """One workload at an edge: settle whole lines, renew or end its funding, note when to look again."""
        now_ms = self.clock.now_ms()
        due_ms, ends = await self.store.write(lambda uow: lifecycle.edge(uow, workload_id, now_ms, self.settings))
        if ends is not None:
            await self.stop(workload_id, Explained(ends.code, f"Its funding ended. {ends.message}", ends.numbers))
        if due_ms is None:
            self._due.pop(workload_id, None)
        else:
            self._due[workload_id] = max(due_ms, now_ms + 1000) if due_ms <= now_ms else due_ms
        self.touch(workload_id)

    async def stop(self, workload_id: str, reason: Explained) -> Workload | None:
        """Order the end of a granted or running workload; it ends when its processes are known gone."""
        now_ms = self.clock.now_ms()
        workload = await self.store.write(lambda uow: lifecycle.order_stop(uow, workload_id, now_ms, reason))
        if workload is not None:
            self.stopped(workload)
        return workload

    async def carry_out_stop(self, workload: Workload) -> None:
        if workload.kind == "job":
            await self.engine.stop(workload.id, self.settings.stop_grace_seconds)
            return
        try:
            await self.hub.stop_server(workload.owner, workload.server_name or "")
        except HubUnavailable as error:
            log.warning("server of %s could not be stopped yet: %s", workload.owner, error)

    def stopped(self, workload: Workload) -> None:
        """A stop was ordered or carried out in the store: act on it."""
        if workload.state == "ended":
            self.gone(workload.id)
        elif workload.state == "stopping":
            self._spawn(self.carry_out_stop(workload))
        self.touch(workload.id)

    # ------------------------------------------------------------ devices
    async def find_devices(self) -> None:
        found = await asyncio.to_thread(self.probe.devices)
        devices = {device.uuid: device for device in found}
        if devices != self.devices:
            self.devices = devices
            self._feed(
                scheduler.Discovered(tuple(Device(d.uuid, d.gpu_type, d.node, d.index) for d in devices.values()))
            )

    async def sample(self, max_age_ms: int = 1500) -> dict[str, GpuSample]:
        """Readings of all devices, at most ``max_age_ms`` old; a lost device is fenced, a recovered one given back."""
        now_ms = self.clock.now_ms()
        if now_ms - self._sampled_ms >= max_age_ms:
            self._sampled_ms = now_ms
            holders = self.state.inventory.holder
            live = await self.store.read(lambda uow: uow.workloads(states=LIVE))
            pids = {w.id: self.engine.root_pids(w.id) or ([w.pid] if w.pid else []) for w in live}
            roots = {uuid: pids.get(holder, []) for uuid, holder in holders.items()}
            self.samples = await asyncio.to_thread(self.probe.sample, roots)
            for uuid, sample in self.samples.items():
                fenced = self.state.inventory.fenced.get(uuid)
                if sample.lost and fenced is None:
                    self._feed(scheduler.Fenced(uuid, "lost"))
                elif not sample.lost and fenced == "lost":
                    self._feed(scheduler.Unfenced(uuid))
        return self.samples
