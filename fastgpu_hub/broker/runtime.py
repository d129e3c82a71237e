"""The broker at work: feeds the scheduler, carries out its grants, follows the engines, keeps time.

Everything durable is in the store; this object can be rebuilt from it at any moment, and is, at each start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from fastgpu_hub.broker import exits, funding, interruptions, lifecycle
from fastgpu_hub.broker.admission import Rules
from fastgpu_hub.broker.aftermath import Ended
from fastgpu_hub.broker.deferral import Deferrals
from fastgpu_hub.broker.evidence import ran_until_ms, recorded_ms, tell_of_clock
from fastgpu_hub.broker.files import Files
from fastgpu_hub.broker.gpus import Gpus
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.launching import Launcher
from fastgpu_hub.broker.lifecycle import ACTIVE, LIVE, Stale
from fastgpu_hub.broker.news import News
from fastgpu_hub.broker.orders import ends_ms, grace_ms, want_of
from fastgpu_hub.broker.ports.files import FileStore
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import Store, StoreUnavailable, UnitOfWork
from fastgpu_hub.broker.ports.world import Clock, Engine, GpuProbe, HubApi, HubUnavailable, Observation
from fastgpu_hub.broker.queue import Queue, history, tells_run_time
from fastgpu_hub.broker.reconcile import keep_reconciled
from fastgpu_hub.broker.run_keeper import RunKeeper
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.broker.timekeeper import TimeKeeper
from fastgpu_hub.broker.waiting import Hindrance, WaitingRoom, hindrances
from fastgpu_hub.broker.watch import Watch
from fastgpu_hub.broker.watchers import Watchers
from fastgpu_hub.pricing.explain import Explained, Refused
from fastgpu_hub.scheduling import scheduler
from fastgpu_hub.scheduling.inventory import Device
from fastgpu_hub.scheduling.overview import Overview

T = TypeVar("T")
log = logging.getLogger("fastgpu.broker")

RETRY_SECONDS = 1.0
QUEUE_NEWS_SECONDS = 0.5
FIRST_LOOK_MS = 1000  # what is over sooner is settled by its end
NOT_GRANTED = Explained("internal", "It could not be given its GPUs, by a fault of the service.", instead=exits.ASK)


class Runtime(Watchers):
    """Scheduler state, devices, timers and watchers of one service. All methods run on its event loop.

    ``state`` belongs to the event loop; ``view`` is what readers on any thread look at.
    """

    def __init__(
        self,
        store: Store,
        engine: Engine,
        probe: GpuProbe,
        hub: HubApi,
        clock: Clock,
        settings: Settings,
        files: FileStore | None = None,
    ) -> None:
        super().__init__()
        self.store, self.engine, self.hub, self.clock = store, engine, hub, clock
        self.settings = settings
        self.queue = Queue(clock, settings)
        self.gpus = Gpus(self, probe)
        self.time = TimeKeeper(self)
        self.waiting = WaitingRoom(self)
        self.deferrals = Deferrals(self)
        self.launcher = Launcher(self)
        self.runs = RunKeeper(self)
        self.files = Files(self, files)
        self.watch = Watch()
        self.news = News(store)
        self.closing = False
        self._tasks: set[asyncio.Task[Any]] = set()
        # Per live workload: when it was last known to run, rounds in which the hub denied it, its latest end.
        self.seen_active_ms: dict[str, int] = {}
        self.missed: dict[str, int] = {}
        self.ends_ms: dict[str, int | None] = {}
        self.to_stop: set[str] = set()
        # Live workloads whose funding cannot be extended as things stand, and the rules that holds follow already.
        self.ending: set[str] = set()
        self._followed_version: str | None = None
        self._queue_news: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------ start, close
    async def start(self) -> None:
        """Find the devices, take up every live workload where it was, begin watching and keeping time."""
        await self.gpus.find()
        rules, active, seen_ms = await self.store.read(
            lambda uow: (Rules.load(uow), uow.workloads(states=ACTIVE), uow.setting("heartbeat_ms_by_workload") or {})
        )
        past = await self.store.read(lambda uow: history(uow, rules))
        self.feed(scheduler.Remembered(past, self.clock.now_ms()))
        hindered = await self.store.read(lambda uow: hindrances(uow, active, self.clock.now_ms()))
        heartbeat_ms = await self.store.read(lambda uow: uow.setting("heartbeat_ms"))
        await tell_of_clock(self.store, active, heartbeat_ms, self.clock.now_ms())
        with suppress(StoreUnavailable):  # tried again with every round of comparing
            await self.follow_rules()  # before anything is charged by what engines tell now
        for workload in active:
            if workload.state != "queued":
                self.resumed(workload, rules, seen_ms.get(workload.id, recorded_ms(workload)))
        known = {observation.lease_id: observation for observation in await self.engine.open(self._on_engine)}
        for workload in active:
            if workload.state == "queued":
                self.arrived(workload, rules, hindered.get(workload.id))
            elif workload.kind == "job":
                await self._take_up(workload, known.get(workload.id))
        live = {workload.id for workload in active if workload.state in LIVE}
        for observation in known.values():
            if observation.lease_id not in live and observation.state in ("starting", "running"):
                log.warning("job %s runs without a live lease; stopping it", observation.lease_id)
                await self.engine.stop(observation.lease_id, self.settings.stop_grace_seconds)
        self.spawn(self.time.run())
        self.spawn(self.runs.run())
        self.spawn(self.files.run())
        self.spawn(keep_reconciled(self))

    async def _take_up(self, workload: Workload, known: Observation | None) -> None:
        """A job from before; one that cannot be looked at now is looked at again by the reconciler."""
        try:
            await self.follow(known or await self.engine.observe(workload.id))
        except Exception:
            log.exception("job %s could not be taken up", workload.id)

    async def close(self) -> None:
        """Stop watching; workloads run on."""
        self.closing = True
        self.files.close()
        if self._queue_news is not None:
            self._queue_news.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a step in the background; it ends with the runtime. What goes wrong is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

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
    @property
    def state(self) -> scheduler.State:
        """The scheduler's state; for the event loop only."""
        return self.queue.state

    @property
    def view(self) -> Overview:
        """The queue as readers on any thread look at it."""
        return self.queue.view

    def feed(self, event: scheduler.Event) -> None:
        """Tell the scheduler, and carry out what it decides."""
        for order in self.queue.tell(event):
            if isinstance(order, scheduler.Grant):
                self.spawn(self._carry_out(order))
            else:
                self.spawn(interruptions.interrupt(self, order.id))
        if self._queue_news is None and self.state.waits:
            self._queue_news = asyncio.get_running_loop().call_later(QUEUE_NEWS_SECONDS, self._tell_queue)

    def _tell_queue(self) -> None:
        """Wake those who watch their place in the queue; a place changes with every grant, so not each time."""
        self._queue_news = None
        for workload_id in self.watched():
            if self.state.waits_for_turn(workload_id):
                self.touch(workload_id)

    def arrived(self, workload: Workload, rules: Rules, hindrance: Hindrance | None = None) -> None:
        """A new request is in the store: queue it, unless something keeps it out. A repeat changes nothing."""
        if self.state.knows(workload.id):
            return
        if hindrance is not None:
            self.waiting.keep(workload.id, hindrance)
            return
        self.waiting.forget(workload.id)
        now_ms = self.clock.now_ms()
        self.feed(scheduler.Arrived(want_of(workload, rules, now_ms), now_ms))

    def resumed(self, workload: Workload, rules: Rules, seen_ms: int) -> None:
        """A workload holds GPUs by the store: so it does here, even where they are not found."""
        now_ms = self.clock.now_ms()
        for uuid in workload.gpu_uuids:
            if uuid not in self.state.inventory.devices:
                self.feed(scheduler.Vanished(Device(uuid, workload.gpu_type, workload.node), now_ms))
        since_ms = min(now_ms, workload.billed_from_ms or workload.granted_ms or now_ms)
        try:
            self.feed(scheduler.Resumed(want_of(workload, rules, now_ms), workload.gpu_uuids, since_ms, now_ms))
        except ValueError as error:  # leased twice: to refuse to start would stop everybody
            log.critical("the store contradicts itself: %s", error)
            return
        self.seen_active_ms.setdefault(workload.id, seen_ms)
        self.ends_ms[workload.id] = ends_ms(workload)
        self.time.look_at(workload.id)

    def gone(self, workload_id: str, workload: Workload | None = None) -> None:
        """A workload has ended in the store, so where that is known: its devices are free, its timers off."""
        self.feed(scheduler.Gone(workload_id, self.clock.now_ms(), tells_run_time(workload)))
        self.time.forget(workload_id)
        self.runs.forget(workload_id)
        self.files.forget(workload_id)
        for table in (self.seen_active_ms, self.missed, self.ends_ms):
            table.pop(workload_id, None)
        self.ending.discard(workload_id)
        self.to_stop.discard(workload_id)
        self.touch(workload_id)
        self._try_to_extend()  # what it held may be what they lacked

    async def rules_changed(self) -> None:
        """Quotas, prices or credit changed: apply them to what waits and to what runs."""
        rules, active = await self.store.read(lambda uow: (Rules.load(uow), uow.workloads(states=ACTIVE)))
        now_ms = self.clock.now_ms()
        self.feed(scheduler.LimitsChanged({w.id: want_of(w, rules, now_ms).limits for w in active}, now_ms))
        self.reconsider()
        self._try_to_extend()
        await self.follow_rules()
        await self.deferrals.follow_rules()

    async def follow_rules(self) -> None:
        """Bring the holds of what runs in line with prices that changed since this was done last."""
        version, active = await self.store.read(lambda uow: (uow.rules_version(), uow.workloads(states=LIVE)))
        if version == self._followed_version:
            return
        for workload in active:
            workload_id, now_ms = workload.id, self.clock.now_ms()
            if await self.store.write(
                partial(funding.follow, workload_id=workload_id, now_ms=now_ms, settings=self.settings)
            ):
                self.news.told(workload.owner)
                self.time.look_at(workload_id)
                self.touch(workload_id)
        self._followed_version = version

    def note_ending(self, workload_id: str, look: funding.Look) -> None:
        """What came of looking at a workload's funding."""
        (self.ending.add if look.ending else self.ending.discard)(workload_id)
        if look.owner_told:
            self.news.told(look.owner_told)

    def _try_to_extend(self) -> None:
        """Look at the workloads again whose funding could not be extended."""
        for workload_id in self.ending:
            self.time.look_at(workload_id)

    def reconsider(self) -> None:
        """Look at requests again that money or a quota kept from being granted."""
        if self.state.declined:
            self.feed(scheduler.Reconsider(self.clock.now_ms()))

    async def _carry_out(self, grant: scheduler.Grant) -> None:
        """Write a grant down and act on it. The devices stay taken until the outcome is certain."""
        try:
            workload = await self._granted(grant)
        except Refusal as error:
            self.feed(scheduler.Declined(grant.id, error.refused, self.clock.now_ms()))
        except Stale:
            self.gone(grant.id)
        except Exception:
            log.exception("%s could not be granted", grant.id)
            self.feed(scheduler.Declined(grant.id, NOT_GRANTED, self.clock.now_ms()))
        else:
            self.seen_active_ms[workload.id] = self.clock.now_ms()
            self.ends_ms[workload.id] = ends_ms(workload)
            self.touch(workload.id)
            if workload.kind == "job" and workload.state == "granted":
                await self.launcher.launch(workload)

    async def _granted(self, grant: scheduler.Grant) -> Workload:
        found = [self.gpus.devices.get(uuid) for uuid in grant.uuids]
        devices = [device for device in found if device is not None]
        if len(devices) < len(found):
            raise Refusal(Refused("capacity", "A GPU that was to be given is not found any more."))
        # Tried again, not given up, when the database does not answer: it may have taken the grant all the same.
        return await self.persist(
            lambda uow: lifecycle.grant(
                uow,
                grant.id,
                grant.uuids,
                devices[0].node,
                devices[0].simulated,
                self.clock.now_ms(),
                self.settings,
            )
        )

    # ------------------------------------------------------------ engines
    def _on_engine(self, observation: Observation) -> None:
        if not self.closing:
            self.spawn(self.follow(observation))

    async def follow(self, observation: Observation) -> None:
        """Bring the store in line with what an engine knows of a job. Evidence is never from later than now."""
        workload_id, now_ms = observation.lease_id, self.clock.now_ms()
        if observation.state == "running":
            at_ms = min(observation.started_ms or observation.at_ms, now_ms)
            workload = await self.persist(
                lambda uow: lifecycle.started(uow, workload_id, at_ms, observation.pid, self.settings)
            )
            if workload is not None and workload.state in LIVE:
                self.seen_active_ms[workload_id] = ran_until_ms(observation, workload.billed_from_ms, now_ms)
                self.time.look_at(workload_id, now_ms + FIRST_LOOK_MS)
            elif workload is not None and workload.state == "ended":  # nothing runs without a lease
                await self.engine.stop(workload_id, 0)
        elif observation.state == "exited":
            await exits.exited(self, observation)
        elif observation.state == "absent":
            await exits.absent(self, workload_id)
        else:
            log.info("job %s: the engine says %s", workload_id, observation.state)
        self.touch(workload_id)

    def ended(self, ended: Ended) -> None:
        """A job has ended in the store: give its GPUs on, and see to whom else that concerns."""
        if ended.job is not None and ended.job.state == "ended":
            self.gone(ended.job.id, ended.job)
            if ended.job.artifacts is not None:
                self.files.wake()
        for other in ended.others:
            if other.state == "queued":
                self.spawn(self.waiting.look(other.id))
            else:
                self.waiting.forget(other.id)
                self.news.told(other.owner)
                self.touch(other.id)

    def last_seen_ms(self, workload: Workload) -> int:
        """The last instant at which it is known to have run: the end of its bill when it is found gone."""
        return self.seen_active_ms.get(workload.id, recorded_ms(workload))

    # ------------------------------------------------------------ news, stops
    def started(self, workload: Workload) -> None:
        """A server confirmed its start."""
        if workload.state in LIVE:
            self.seen_active_ms[workload.id] = self.clock.now_ms()
            self.time.look_at(workload.id)
        self.touch(workload.id)

    async def stop(self, workload_id: str, reason: Explained) -> Workload | None:
        """Order the end of a granted or running workload; it ends when its processes are known gone."""
        now_ms = self.clock.now_ms()
        workload = await self.store.write(lambda uow: lifecycle.order_stop(uow, workload_id, now_ms, reason))
        if workload is not None:
            self.news.told(workload.owner)
            self.stopped(workload)
        return workload

    async def carry_out_stop(self, workload: Workload) -> None:
        """Ask engine or hub to end it. A hub that does not answer is asked again by the reconciler."""
        if workload.kind == "job":
            self.files.give_up(workload.id)
            await self.engine.stop(workload.id, grace_ms(workload, self.settings) / 1000)
            return
        try:
            await self.hub.stop_server(workload.owner, workload.server_name or "")
        except HubUnavailable as error:
            log.warning("server of %s could not be stopped yet: %s", workload.owner, error)

    def stopped(self, workload: Workload) -> None:
        """A stop was ordered or carried out in the store: act on it."""
        if workload.state == "ended":
            self.gone(workload.id, workload)
        elif workload.state == "stopping":
            self.to_stop.add(workload.id)
            self.spawn(self.carry_out_stop(workload))
        self.touch(workload.id)
