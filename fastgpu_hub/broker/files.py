"""Files around a job: fetched before it starts, kept after its end, removed when they are old. All in the background.

Everything durable is in the store; what was interrupted is taken up again from there.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from fastgpu_hub.broker import fetching, keeping, retention
from fastgpu_hub.broker.fetching import ARTIFACT, Fetch
from fastgpu_hub.broker.ports.files import CannotFetch, FileStore, FilesUnavailable
from fastgpu_hub.broker.ports.records import Artifact, Workload
from fastgpu_hub.broker.ports.store import StoreUnavailable, UnitOfWork
from fastgpu_hub.broker.ports.world import Observation
from fastgpu_hub.pricing.explain import Explained, Refused

if TYPE_CHECKING:
    from fastgpu_hub.broker.runtime import Runtime

T = TypeVar("T")
log = logging.getLogger("fastgpu.files")

AT_ONCE = 4
BATCH = 100
LOOK_SECONDS = 30.0
ARTIFACT_SECONDS = 0.2
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 5.0, 600.0
GIVE_UP_MS = 24 * 3600 * 1000
MOST_LOOKS = 3  # at a folder that is different each time


class Files:
    """Fetches, keeps and removes the files of one service's jobs. All methods run on its event loop."""

    def __init__(self, runtime: Runtime, store: FileStore | None) -> None:
        self.store = store
        self._runtime = runtime
        self._threads = ThreadPoolExecutor(AT_ONCE, "fastgpu-files")
        self._fetches: dict[str, Fetch] = {}
        self._fetched: dict[str, dict[str, str]] = {}
        self._busy: set[str] = set()
        self._pauses: dict[str, tuple[float, float]] = {}  # until when, and how long the next one is
        self._wake = asyncio.Event()
        self._sweeping = asyncio.Lock()

    async def blocking(self, work: Callable[[], T]) -> T:
        """Run what may take long in a thread of our own, of which there are few."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _open_for_work(self) -> bool:
        return not self._runtime.closing

    def close(self) -> None:
        """Begin nothing more, and give up what is fetched or kept; the next service does it again."""
        for fetch in self._fetches.values():
            fetch.given_up.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ------------------------------------------------------------ before a job starts

    def fetches_for(self, workload: Workload) -> bool:
        """Whether a job's inputs are still to be fetched; it is launched again as soon as they are there."""
        if not workload.spec.get("sources") or workload.id in self._fetched:
            return False
        if workload.id not in self._fetches:
            settings = self._runtime.settings
            fetch = Fetch(workload, settings.max_source_bytes, settings.fetch_seconds)
            self._fetches[workload.id] = fetch
            self._runtime.spawn(self._fetch(fetch))
        return True

    def fetched(self, workload_id: str) -> dict[str, str]:
        """What was fetched for a job that is launched: SHA-256 by path."""
        return self._fetched.get(workload_id, {})

    def forget(self, workload_id: str) -> None:
        """A job has ended."""
        self._fetched.pop(workload_id, None)

    def give_up(self, workload_id: str) -> None:
        """Fetch no more for a job that is to stop."""
        if (fetch := self._fetches.get(workload_id)) is not None:
            fetch.given_up.set()
            self._runtime.touch(workload_id)

    async def _fetch(self, fetch: Fetch) -> None:
        workload, failure = fetch.workload, ""
        try:
            try:
                self._fetched[workload.id] = await self._all_of(fetch)
            except CannotFetch as error:
                failure = str(error)
            except Exception:
                log.exception("the inputs of %s could not be fetched", workload.id)
                failure = "Its inputs could not be fetched, by a fault of the service."
            await self._go_on(workload.id, failure)
        finally:
            self._fetches.pop(workload.id, None)

    async def _go_on(self, workload_id: str, failure: str) -> None:
        """Launch the job whose inputs are there; end it when they are not, or when it was stopped meanwhile."""
        now = await self._runtime.persist(lambda uow: uow.workload(workload_id))
        if now is None or now.state not in ("granted", "stopping"):
            self.forget(workload_id)
            return
        now_ms = self._runtime.clock.now_ms()
        seen = Observation(workload_id, "absent", now_ms)  # granted and not there: it is launched, as any such job
        if failure and now.state == "granted":
            reason = Explained("source_failed", f"Its inputs could not be fetched: {failure}")
            seen = replace(seen, state="exited", ended_ms=now_ms, ending="failed_to_start", reason=reason)
        await self._runtime.follow(seen)

    async def _all_of(self, fetch: Fetch) -> dict[str, str]:
        found = {}
        for path, address in fetch.workload.spec["sources"].items():
            doing = asyncio.ensure_future(self._one_of(fetch, address))
            while not doing.done():  # a thread that waits for the network cannot be told to stop
                await asyncio.wait({doing}, timeout=1.0)
                if not doing.done() and not fetch.go_on():
                    doing.cancel()
                    raise CannotFetch("It took too long.")
            found[path] = doing.result()
        return found

    async def _one_of(self, fetch: Fetch, address: str) -> str:
        store, engine, owner = self.store, self._runtime.engine, fetch.workload.owner
        assert store is not None  # nothing with sources is admitted without one
        if not address.startswith(ARTIFACT):
            return await self.blocking(partial(fetch.into_blob, engine, store, address))
        find = partial(fetching.artifact_of, owner=owner, address=address)
        while (artifact := await self._runtime.store.read(find)) is None:
            await asyncio.sleep(ARTIFACT_SECONDS)
        opened = partial(self._opened, artifact)
        return await self.blocking(partial(fetch.copy_into_blob, engine, opened, artifact.size_bytes))

    def _opened(self, artifact: Artifact) -> BinaryIO:
        assert self.store is not None
        try:
            return self.store.open(artifact.url)
        except (FileNotFoundError, FilesUnavailable) as error:
            log.warning("artifact %d of %s: %s", artifact.id, artifact.workload_id, error)
            raise CannotFetch(f"The artifact store does not give out {artifact.path[:200]!a}.") from None

    # ------------------------------------------------------------ after its end

    def wake(self) -> None:
        """A job has ended, or something is to be removed: look now."""
        self._wake.set()

    async def run(self) -> None:
        """Keep what is to be kept and remove what is to go, until cancelled. What fails is done again later."""
        while self.store is not None and not self._runtime.closing:
            self._wake.clear()
            try:
                await self._round()
            except StoreUnavailable as error:
                log.warning("the database does not answer, no files were looked at: %s", error)
            except Exception:
                log.exception("a round of looking after files failed")
            soonest = min((until for until, _ in self._pauses.values()), default=float("inf"))
            pause = max(0.1, min(LOOK_SECONDS, soonest - time.monotonic()))
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)

    async def _round(self) -> None:
        runtime = self._runtime
        for workload in await runtime.store.read(lambda uow: uow.keeping(BATCH)):
            paused = self._pauses.get(workload.id, (0.0, 0.0))[0] > time.monotonic()
            if workload.id not in self._busy and len(self._busy) < AT_ONCE and not paused:
                self._busy.add(workload.id)
                runtime.spawn(self._keep(workload))
        await self._remove_deleted()
        now_ms = runtime.clock.now_ms()
        if await runtime.store.read(lambda uow: retention.is_due(uow, now_ms)):
            await self.sweep()

    async def _keep(self, workload: Workload) -> None:
        try:
            await self._keep_all(workload)
            self._pauses.pop(workload.id, None)
        except FilesUnavailable as error:
            await self._pause(workload, error)
        except StoreUnavailable as error:
            log.warning("%s: the database does not answer, its files are kept later: %s", workload.id, error)
            self._pauses[workload.id] = time.monotonic() + FIRST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS
        finally:
            self._busy.discard(workload.id)
        self._runtime.touch(workload.id)
        self._runtime.news.told(workload.owner)
        self._wake.set()  # others may wait for their turn

    async def _keep_all(self, workload: Workload) -> None:
        engine, store = self._runtime.engine, self.store
        assert store is not None
        for _ in range(MOST_LOOKS):
            files = await self.blocking(partial(keeping.wanted, engine, workload, self._runtime.settings))
            plan = partial(keeping.plan, workload_id=workload.id, files=files, store=store)
            now_ms, currency = self._runtime.clock.now_ms(), self._runtime.settings.currency
            todo = await self._runtime.store.write(partial(plan, now_ms=now_ms, currency=currency))
            if isinstance(files, Refused):
                return
            try:
                for artifact in todo:
                    await self.blocking(partial(keeping.copy, engine, store, artifact, self._open_for_work))
            except keeping.Changed as change:
                log.info("%s: %s; looking again", workload.id, change)
                continue
            now_ms = self._runtime.clock.now_ms()
            await self._runtime.store.write(partial(keeping.kept, workload_id=workload.id, copied=todo, now_ms=now_ms))
            return
        await self._not_kept(workload, Refused("artifacts_changed", "Its files change while they are kept."))

    async def _pause(self, workload: Workload, error: FilesUnavailable) -> None:
        """The store does not answer: wait ever longer, and give up after a day."""
        now_ms = self._runtime.clock.now_ms()
        if now_ms - (workload.ended_ms or now_ms) >= GIVE_UP_MS:
            sentence = f"The outputs of job {workload.id} are not kept: the artifact store took none for a day."
            refused = Refused("artifacts_unavailable", sentence, instead="Tell the administrator.")
            await self._not_kept(workload, refused)
            return
        _, pause = self._pauses.get(workload.id, (0.0, FIRST_PAUSE_SECONDS))
        self._pauses[workload.id] = time.monotonic() + pause, min(2 * pause, LONGEST_PAUSE_SECONDS)
        log.warning("the outputs of %s are not kept yet, tried again in %.0f s: %s", workload.id, pause, error)
        with suppress(StoreUnavailable):
            await self._runtime.store.write(partial(keeping.waits, workload_id=workload.id))

    async def _not_kept(self, workload: Workload, refused: Refused) -> None:
        now_ms = self._runtime.clock.now_ms()
        await self._runtime.store.write(lambda uow: keeping.not_kept(uow, workload, refused, now_ms))

    # ------------------------------------------------------------ what goes

    async def _remove_deleted(self) -> None:
        """Remove the bytes of deleted artifacts; those that the store does not let go of, next time."""
        left = await self._runtime.store.read(lambda uow: uow.artifacts_left(1000))
        left = [artifact for artifact in left if artifact.workload_id not in self._busy]
        ours = {artifact.workload_id for artifact in left}
        self._busy |= ours  # nothing is kept at an address while it is being removed
        try:
            gone = await self.blocking(partial(self._remove, left))
        finally:
            self._busy -= ours
        if gone:
            await self._runtime.store.write(lambda uow: uow.artifacts_gone(gone))

    def _remove(self, artifacts: Sequence[Artifact]) -> list[int]:
        assert self.store is not None
        gone = []
        for artifact in artifacts:
            try:
                self.store.remove(artifact.url)
            except FilesUnavailable as error:
                log.warning("artifact %d of %s is not removed yet: %s", artifact.id, artifact.workload_id, error)
                break
            gone.append(artifact.id)
        return gone

    async def sweep(self) -> None:
        """Remove what is old; a day's work, done again from the beginning when it was interrupted."""
        async with self._sweeping:
            await self._sweep()

    async def _sweep(self) -> None:
        runtime, settings = self._runtime, self._runtime.settings
        now_ms = runtime.clock.now_ms()
        jobs = artifacts = blobs = 0
        if settings.keep_files_days:
            before_ms = now_ms - settings.keep_files_days * retention.DAY_MS
            while (found := await runtime.store.read(lambda uow: retention.old_jobs(uow, before_ms)))[0]:
                await self.blocking(partial(runtime.engine.remove_jobs, *found))
                await runtime.store.write(partial(_files_removed, job_ids=found[0], now_ms=now_ms))
                jobs += len(found[0])
            named = await runtime.store.read(retention.named_blobs)
            blobs = await self.blocking(partial(runtime.engine.sweep_blobs, named, now_ms - retention.DAY_MS))
        if settings.keep_artifacts_days:
            before_ms = now_ms - settings.keep_artifacts_days * retention.DAY_MS
            while old := await runtime.store.read(lambda uow: uow.artifacts_before(before_ms, 1000)):
                await runtime.store.write(partial(_delete, old=old, now_ms=now_ms))
                artifacts += len(old)
            self._wake.set()
        await runtime.store.write(lambda uow: uow.set_setting(retention.SWEPT, now_ms))
        if jobs or artifacts or blobs:
            log.info("removed by age: files of %d jobs, %d artifacts, %d input files", jobs, artifacts, blobs)


def _files_removed(uow: UnitOfWork, job_ids: Sequence[str], now_ms: int) -> None:
    uow.files_removed(job_ids, now_ms)


def _delete(uow: UnitOfWork, old: Sequence[Artifact], now_ms: int) -> None:
    uow.delete_artifacts([artifact.id for artifact in old], now_ms)
