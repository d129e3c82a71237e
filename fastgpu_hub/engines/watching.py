"""Follows one job from its start to the end of its last process. Only evidence ends a job, never silence."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine
from logging import Logger, LoggerAdapter
from typing import Any

from fastgpu_hub.broker.ports.world import ENGINE_FAULT, Observation
from fastgpu_hub.engines import launching
from fastgpu_hub.engines.forking import Line, Shepherds
from fastgpu_hub.engines.job_folder import JobFolder
from fastgpu_hub.engines.shepherd import boot_id, elapsed_ms, process_table, start_ticks, wall_ms
from fastgpu_hub.pricing.explain import Explained

POLL_SECONDS = 0.1
RETRY_SECONDS = 1.0
SHORTEST_SECONDS = 0.01
SLOT_SECONDS = 5.0  # a start that takes longer lets others go ahead
MOST_SHEPHERDS = 5  # asked for one job, each after the one before was gone before it began anything

_SENTENCES = {
    "timed_out": "The job reached its time limit and was stopped.",
    "stopped": "The job was stopped.",
    "failed_to_start": "The job could not be started.",
    "killed": "The job's processes were killed.",
}
_CODES = {"timed_out": "time_limit"}


Making = Callable[[Callable[[bytes], None]], Coroutine[Any, Any, None]]


class Watch:
    """One job that has not ended yet: what was last seen of it, and the task that follows it.

    ``see`` is called with every observation that brings a change; the last one says ``exited``. ``placed`` is called
    with the lease's id once the job's folder is there, before anything of it runs. ``slots`` limits how many jobs of an
    engine come up at the same moment, so that a burst of them does not starve the service.

    A shepherd that was handed the job here tells its news. One from before is followed by its process and lock.
    """

    def __init__(
        self,
        folder: JobFolder,
        seen: Observation,
        see: Callable[[Observation], None],
        placed: Callable[[str], None],
        log: Logger | LoggerAdapter[Any],
        slots: asyncio.Semaphore,
        shepherds: Shepherds,
    ) -> None:
        self.folder = folder
        self.seen = seen
        self.task: asyncio.Task[None] | None = None
        self.prepared = asyncio.Event()  # the shepherd has the job, or nobody will: safe to stop watching
        self._tell_others = see
        self._placed = placed
        self._log = log
        self._slots = slots
        self._shepherds = shepherds
        self._pidfd: int | None = None
        self._stop_asked = False
        self._making: asyncio.Task[None] | None = None

    def start(self, prepare: Callable[[], None], *, quick: bool, make: Making | None = None) -> None:
        """Begin to start the job: ``prepare`` fills the folder, in a thread unless it is ``quick``.

        ``make`` makes its environment before, which may take minutes; what it says goes to the job's log.
        """
        self.task = asyncio.create_task(self._start_and_follow(prepare, quick, make))

    def give_up_making(self) -> None:
        """Leave the start of a job whose environment is still being made to a later engine."""
        if self._making is not None and self.task is not None:
            self.task.cancel()

    def adopt(self) -> None:
        """Follow a job that was started before."""
        self.prepared.set()
        self.task = asyncio.create_task(self._follow())

    def stop(self, grace_ms: int) -> None:
        """Ask the shepherd to end the job, and to kill it after the grace."""
        self._stop_asked = True
        if self._making is not None:
            self._making.cancel()
        # Before there is a folder to write to, the flag alone prevents the start.
        if self.folder.path.is_dir():
            try:
                self.folder.ask_to_stop(grace_ms)
            except OSError as error:  # the signal below still asks, with the usual grace
                self._log.warning("job %s: cannot note the grace: %s", self.folder.path.name, error)
        with contextlib.suppress(ProcessLookupError):  # it has just ended
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, signal.SIGTERM)
            elif (shepherd := self._find_shepherd()) is not None:
                os.kill(shepherd, signal.SIGTERM)

    def root_pids(self) -> list[int]:
        """Processes right below the shepherd: the command, and what detached itself from it."""
        shepherd = self._find_shepherd() if self.seen.state == "running" else None
        if shepherd is None:
            return []
        return [pid for pid, process in process_table().items() if process.parent == shepherd and not process.dead]

    async def _start_and_follow(self, prepare: Callable[[], None], quick: bool, make: Making | None) -> None:
        line: Line | None = None
        try:
            if make is not None:
                lock = await self._make_and_place(make, prepare)
            else:
                lock = self._place(prepare) if quick else await asyncio.to_thread(self._place, prepare)
            if lock is not None:
                self._placed(self.folder.path.name)
                try:
                    async with self._slots:
                        if self._stop_asked:
                            return self._see(exited(self.folder, self.folder.close("stopped", "It never started.")))
                        line = await self._find_a_shepherd(lock)
                finally:
                    os.close(lock)
        except (launching.CannotStart, OSError) as error:
            fault = isinstance(error, OSError)
            message = f"The job's folder: {error.strerror}." if isinstance(error, OSError) else str(error)
            return self._see(exited(self.folder, await self._record_failure(message, fault)))
        finally:
            self.prepared.set()
        await self._follow(line)

    async def _make_and_place(self, make: Making, prepare: Callable[[], None]) -> int | None:
        """As ``_place``, once the job's environment was made; of a job that was stopped meanwhile nothing is placed."""
        lock = await asyncio.to_thread(self.folder.create)
        if lock is None:
            return None
        try:
            self._making = asyncio.create_task(make(self.folder.say))
            try:
                await asyncio.wait({self._making})
            except asyncio.CancelledError:
                self._making.cancel()
                await asyncio.wait({self._making})
                raise
            making, self._making = self._making, None
            if not making.cancelled():
                making.result()
                await asyncio.to_thread(prepare)
        except BaseException:
            self._making = None
            os.close(lock)
            raise
        return lock

    def _place(self, prepare: Callable[[], None]) -> int | None:
        """Make and fill the folder; its lock, or None when the job was started before."""
        lock = self.folder.create()
        if lock is not None:
            try:
                prepare()
            except BaseException:
                os.close(lock)
                raise
        return lock

    async def _find_a_shepherd(self, lock: int) -> Line:
        """Hand the job to a shepherd; returns when it has told something, is gone, or takes its time.

        One that is gone and has left no record has run nothing of the job, and nobody else has, for the lock was ours
        all the while: another one is asked for.
        """
        for attempt in range(MOST_SHEPHERDS):
            if attempt:
                self._log.warning("job %s: no shepherd came, asking for another one", self.folder.path.name)
                await asyncio.sleep(POLL_SECONDS * (attempt - 1))
            line = self._shepherds.hand(self.folder.path, lock)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(line.wait(), SLOT_SECONDS)
            if not line.over or self.folder.known():
                break
            line.close()
        return line

    async def _record_failure(self, message: str, fault: bool) -> dict[str, Any]:
        """Record that the job could not start; on a full disk the answer is given though it cannot be written."""
        try:
            return await asyncio.to_thread(self.folder.close, "failed_to_start", message, fault=fault)
        except OSError as error:
            self._log.warning("job %s: cannot record its failure: %s", self.folder.path.name, error)
            record = {"ending": "failed_to_start", "exit_code": None, "ended_ms": wall_ms(), "message": message}
            return record | {"fault": fault}

    async def _follow(self, line: Line | None = None) -> None:
        record: dict[str, Any] | None = None
        try:
            if line is not None and (record := await self._until_told(line)) is not None:
                self._shepherds.take_back(line)
                line = None
            if record is None:
                await self._until_started()
                await self._until_unattended()
            while record is None and (record := await self._settle()) is None:
                if self.seen.state != "unknown":
                    self._see(unknown(self.folder))
                await asyncio.sleep(RETRY_SECONDS)
            self._see(exited(self.folder, record))
        finally:
            if line is not None:
                line.close()
            if self._pidfd is not None:
                os.close(self._pidfd)
            self._pidfd = None

    async def _until_told(self, line: Line) -> dict[str, Any] | None:
        """Follow the shepherd's own word; how the job ended, or None when the shepherd is gone without telling."""
        while True:
            over = line.over
            if (record := self.folder.record("exit")) is not None:
                return record
            if over:
                return None
            if self.seen.state == "starting" and (seen := running(self.folder)) is not None:
                # What is over by then is told in one piece.
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(line.wait(), SHORTEST_SECONDS)
                    continue
                self._see(seen)
            await line.wait()

    async def _until_started(self) -> None:
        while (seen := running(self.folder)) is None and self.folder.record("exit") is None and self.folder.locked():
            await asyncio.sleep(POLL_SECONDS)
        if seen is not None and self.seen.state == "starting":
            self._see(seen)

    async def _until_unattended(self) -> None:
        """Wait until nobody holds the job's lock."""
        shepherd = self._find_shepherd()
        if shepherd is not None:
            try:
                self._pidfd = os.pidfd_open(shepherd)
            except (AttributeError, OSError):
                self._log.debug("job %s: no pidfd, polling", self.folder.path.name)
            else:
                if self._find_shepherd() == shepherd:  # still the same one, now that its number cannot be reused
                    await _readable(self._pidfd)
        while self.folder.locked():
            await asyncio.sleep(POLL_SECONDS)

    async def _settle(self) -> dict[str, Any] | None:
        try:
            return await asyncio.to_thread(self.folder.settle)
        except OSError as error:
            self._log.warning("job %s: cannot tell how it ended: %s", self.folder.path.name, error)
            return None

    def _find_shepherd(self) -> int | None:
        """The shepherd's pid, from its record; None when that process is not there (any more)."""
        record = self.folder.record("shepherd")
        if record is None or record["boot_id"] != boot_id() or start_ticks(record["pid"]) != record["start_ticks"]:
            return None
        return int(record["pid"])

    def _see(self, seen: Observation) -> None:
        self.seen = seen
        self._tell_others(seen)


async def _readable(pidfd: int) -> None:
    """Wait until the process has ended."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(pidfd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(pidfd)


def look(folder: JobFolder) -> Observation:
    """What a job's folder says by itself: ``unknown`` where only a search for its processes could tell."""
    # The lock first: whoever has let go of it has written all records. One who has recorded the end may hold it still.
    locked = folder.locked()
    if (record := folder.record("exit")) is not None:
        return exited(folder, record)
    if locked:
        return running(folder) or Observation(folder.path.name, "starting", wall_ms())
    if folder.record("shepherd") is None:
        return Observation(folder.path.name, "absent", wall_ms())
    return unknown(folder)


def running(folder: JobFolder) -> Observation | None:
    """The observation of a job that was started; None when it was not yet."""
    started = folder.record("started")
    if started is None:
        return None
    # In this boot, for it runs: how long is told by the clock that nobody sets.
    at_ms = started["at_ms"] + elapsed_ms() - started["elapsed_ms"]
    return Observation(folder.path.name, "running", at_ms, started_ms=started["at_ms"], pid=started["pid"])


def unknown(folder: JobFolder) -> Observation:
    """The observation of a job whose shepherd is gone, with processes that may or may not be."""
    message = "The job's supervising process is gone; whether others of its processes still run is being found out."
    return Observation(folder.path.name, "unknown", wall_ms(), reason=Explained("cannot_tell", message))


def exited(folder: JobFolder, record: dict[str, Any]) -> Observation:
    """The observation of a job that has ended, from its record."""
    ending = record["ending"]
    message = record.get("message") or _SENTENCES.get(ending, "")
    code = ENGINE_FAULT if ending == "failed_to_start" and record.get("fault") else _CODES.get(ending, ending)
    return Observation(
        folder.path.name,
        "exited",
        wall_ms(),
        started_ms=record.get("started_ms"),
        ended_ms=record["ended_ms"],
        exit_code=record["exit_code"],
        ending=ending,
        reason=Explained(code, message) if message else None,
    )
