"""What jobs tell of their runs: progress, figures, use of their GPUs. Followed while they run, kept with their end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from fastgpu_hub.broker import bars, metrics
from fastgpu_hub.broker.bars import Told
from fastgpu_hub.broker.gpu_history import FIRST_WIDTH_MS, History, reading
from fastgpu_hub.broker.lifecycle import LIVE
from fastgpu_hub.broker.metrics import Series
from fastgpu_hub.broker.ports.records import RunRecord
from fastgpu_hub.broker.ports.store import StoreUnavailable, UnitOfWork
from fastgpu_hub.broker.ports.world import Engine, GpuSample
from fastgpu_hub.scheduling import scheduler

if TYPE_CHECKING:
    from fastgpu_hub.broker.runtime import Runtime

log = logging.getLogger("fastgpu.broker")
LOOKS_PER_SAVE = 60  # five minutes: so much of the course of a run is lost when the service is killed


def progress_of(engine: Engine, job_id: str) -> Told | None:
    """What a job reports of itself, else what the last progress bar in the end of its output says.

    A full bar says nothing of what comes after it. Reads a little from disk; for any thread.
    """
    fraction = engine.progress(job_id)
    if fraction is not None:
        return Told(fraction)
    begin = max(0, engine.log_size(job_id) - bars.TAIL_BYTES)
    bar = bars.last_bar(engine.read_log(job_id, begin, bars.TAIL_BYTES))
    return None if bar is None or bar.fraction >= 1 else bar


class RunKeeper:
    """The use of GPUs by what runs now, and how it gets into the database."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._histories: dict[str, History] = {}
        self._fractions: dict[str, float] = {}
        self._taken_up = False

    async def run(self) -> None:
        """Until cancelled: have the GPUs read while somebody holds them, save what was read now and then."""
        runtime, looks = self._runtime, 0
        await self._take_up()
        while not runtime.closing:
            await asyncio.sleep(FIRST_WIDTH_MS / 1000)
            looks += 1
            try:
                if runtime.state.inventory.holder:
                    await runtime.gpus.sample()
                    await self._hear_progress()
                if looks % LOOKS_PER_SAVE == 0 and self._histories:
                    await self.save()
            except StoreUnavailable as error:
                log.error("the database does not answer, the use of GPUs was not saved: %s", error)
            except Exception:
                log.exception("the use of GPUs could not be followed")

    async def _hear_progress(self) -> None:
        """Tell the scheduler how far the jobs are that tell it anew, so that it expects their ends by that."""
        runtime = self._runtime
        jobs = [who for who, running in runtime.state.holding.items() if running.want.kind == "job"]
        now_ms = runtime.clock.now_ms()
        for job_id, fraction in (await asyncio.to_thread(self._fractions_of, jobs)).items():
            if fraction != self._fractions.get(job_id) and job_id in runtime.state.holding:
                self._fractions[job_id] = fraction
                runtime.feed(scheduler.Progressed(job_id, fraction, now_ms))

    def _fractions_of(self, job_ids: Iterable[str]) -> dict[str, float]:
        found = {}
        for job_id in job_ids:
            with suppress(OSError):
                if (told := progress_of(self._runtime.engine, job_id)) is not None:
                    found[job_id] = told.fraction
        return found

    async def _take_up(self) -> None:
        """Go on with the histories of what ran before the service was started."""
        try:
            for record in await self._runtime.store.read(_records_of_live_jobs):
                if record.gpu_use is not None:
                    self._histories[record.workload_id] = History.of_plain(record.gpu_use)
        except Exception:
            log.exception("what was read of GPUs before this start cannot be taken up")
        self._taken_up = True

    def seen(self, holders: Mapping[str, str], samples: Mapping[str, GpuSample]) -> None:
        """The devices were read; ``holders`` is who held each of them then."""
        if not self._taken_up:
            return
        now_ms = self._runtime.clock.now_ms()
        found: dict[str, list[GpuSample]] = {}
        for uuid, workload_id in holders.items():
            if uuid in samples and workload_id in self._runtime.state.holding:
                found.setdefault(workload_id, []).append(samples[uuid])
        for workload_id, of_it in found.items():
            self._histories.setdefault(workload_id, History(now_ms)).add(now_ms, reading(of_it))

    def history(self, workload_id: str) -> History | None:
        """What was read of a workload that runs."""
        return self._histories.get(workload_id)

    def forget(self, workload_id: str) -> None:
        """It has ended, and what is to be kept is kept."""
        self._histories.pop(workload_id, None)
        self._fractions.pop(workload_id, None)

    async def save(self) -> None:
        """Keep what was read so far of every job that runs. Raises StoreUnavailable."""
        plain = {workload_id: history.plain() for workload_id, history in self._histories.items()}

        def write(uow: UnitOfWork) -> None:
            for workload in uow.workloads(kind="job", states=LIVE):
                if workload.id in plain:
                    uow.save_run_record(RunRecord(workload.id, gpu_use=plain[workload.id]))

        await self._runtime.store.write(write)

    async def closing(self, workload_id: str) -> RunRecord | None:
        """What is to be kept of a job that has ended; None when it told nothing and nothing was read.

        Never raises: an end is never kept from the books by what the job wrote.
        """
        told, series = None, list[Series]()
        try:
            told, series = await asyncio.to_thread(self._read, workload_id)
        except Exception:
            log.exception("what job %s reported could not be read", workload_id)
        history = self._histories.get(workload_id)
        if told is None and not series and history is None:
            return None
        return RunRecord(
            workload_id,
            tuple(metrics.kept(series)),
            None if history is None else history.plain(),
            None if told is None else told.fraction,
        )

    def _read(self, workload_id: str) -> tuple[Told | None, list[Series]]:
        engine = self._runtime.engine
        return progress_of(engine, workload_id), metrics.read(engine.metrics(workload_id).data)


def keep(uow: UnitOfWork, record: RunRecord | None) -> None:
    """Write what is kept of a run, in the transaction that ends it; nothing when it was ended before."""
    if record is None:
        return
    workload, before = uow.workload(record.workload_id), uow.run_record(record.workload_id)
    if workload is None or workload.state == "ended":
        return
    if before is not None and record.gpu_use is None:  # it ended while no service was there to follow it
        record = replace(record, gpu_use=before.gpu_use)
    uow.save_run_record(record)


def _records_of_live_jobs(uow: UnitOfWork) -> list[RunRecord]:
    found = [uow.run_record(workload.id) for workload in uow.workloads(kind="job", states=LIVE)]
    return [record for record in found if record is not None]
