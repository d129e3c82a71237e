"""Follows one job from its start to the end of its last process. Only evidence ends a job, never silence."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from logging import Logger, LoggerAdapter
from typing import Any

from fastgpu_hub.broker.ports.world import Observation
from fastgpu_hub.engines import launching
from fastgpu_hub.engines.job_folder import JobFolder
from fastgpu_hub.engines.shepherd import boot_id, elapsed_ms, process_table, start_ticks, wall_ms
from fastgpu_hub.pricing.explain import Explained

POLL_SECONDS = 0.1
RETRY_SECONDS = 1.0
SLOT_SECONDS = 5.0  # a start that takes longer lets others go ahead

_SENTENCES = {
    "timed_out": "The job reached its time limit and was stopped.",
    "stopped": "The job was stopped.",
    "failed_to_start": "The job could not be started.",
    "killed": "The job's processes were killed.",
}
_CODES = {"timed_out": "time_limit"}


class Watch:
    """One job that has not ended yet: what was last seen of it, and the task that follows it.

    ``see`` is called with every observation that brings a change; the last one says ``exited``. ``slots`` limits how
    many jobs of an engine come up at the same moment, so that a burst of them does not starve the service.
    """

    def __init__(
        self,
        folder: JobFolder,
        seen: Observation,
        see: Callable[[Observation], None],
        log: Logger | LoggerAdapter[Any],
        slots: asyncio.Semaphore,
    ) -> None:
        self.folder = folder
        self.seen = seen
        self.task: asyncio.Task[None] | None = None
        self.prepared = asyncio.Event()  # the shepherd has the job, or nobody will: safe to stop watching
        self._tell_others = see
        self._log = log
        self._slots = slots
        self._shepherd: int | None = None
        self._news: int | None = None
        self._pidfd: int | None = None
        self._stop_asked = False

    def start(self, prepare: Callable[[], None]) -> None:
        """Begin to start the job: ``prepare`` fills the folder, in a thread."""
        self.task = asyncio.create_task(self._start_and_follow(prepare))

    def adopt(self) -> None:
        """Follow a job that was started before."""
        self.prepared.set()
        self.task = asyncio.create_task(self._follow())

    def stop(self, grace_ms: int) -> None:
        """Ask the shepherd to end the job, and to kill it after the grace."""
        self._stop_asked = True
        # Before there is a folder to write to, the flag alone prevents the start.
        if self.folder.path.is_dir():
            try:
                self.folder.write("stop", {"grace_ms": grace_ms})
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

    async def _start_and_follow(self, prepare: Callable[[], None]) -> None:
        lock: int | None = None
        try:
            lock = await asyncio.to_thread(self.folder.create)
            if lock is not None:
                await asyncio.to_thread(prepare)
                async with self._slots:
                    if self._stop_asked:
                        return self._see(exited(self.folder, self.folder.close("stopped", "It never started.")))
                    self._shepherd, self._news = launching.spawn(self.folder.path, lock)
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(_readable(self._news), SLOT_SECONDS)
        except (launching.CannotStart, OSError) as error:
            message = str(error) if isinstance(error, launching.CannotStart) else f"The job's folder: {error.strerror}."
            return self._see(exited(self.folder, await self._record_failure(message)))
        finally:
            if lock is not None:
                os.close(lock)
            self.prepared.set()
        await self._follow()

    async def _record_failure(self, message: str) -> dict[str, Any]:
        """Record that the job could not start; on a full disk the answer is given though it cannot be written."""
        try:
            return await asyncio.to_thread(self.folder.close, "failed_to_start", message)
        except OSError as error:
            self._log.warning("job %s: cannot record its failure: %s", self.folder.path.name, error)
            return {"ending": "failed_to_start", "exit_code": None, "ended_ms": wall_ms(), "message": message}

    async def _follow(self) -> None:
        try:
            await self._until_started()
            await self._until_unattended()
            while (record := await self._settle()) is None:
                if self.seen.state != "unknown":
                    self._see(unknown(self.folder))
                await asyncio.sleep(RETRY_SECONDS)
            self._see(exited(self.folder, record))
        finally:
            for fd in (self._news, self._pidfd):
                if fd is not None:
                    os.close(fd)
            self._news = self._pidfd = None

    async def _until_started(self) -> None:
        if self._news is not None:
            await _readable(self._news)
        while (seen := running(self.folder)) is None and self.folder.record("exit") is None and self.folder.locked():
            await asyncio.sleep(POLL_SECONDS)
        if seen is not None and self.seen.state == "starting":
            self._see(seen)

    async def _until_unattended(self) -> None:
        """Wait until nobody holds the job's lock; collects the shepherd where it is a child of ours."""
        shepherd = self._find_shepherd()
        if shepherd is not None:
            try:
                self._pidfd = os.pidfd_open(shepherd)
            except (AttributeError, OSError):
                self._log.debug("job %s: no pidfd, polling", self.folder.path.name)
            else:
                if self._find_shepherd() == shepherd:  # still the same one, now that its number cannot be reused
                    await _readable(self._pidfd)
        while True:
            if self._shepherd is not None:
                try:
                    pid, _ = os.waitpid(self._shepherd, os.WNOHANG)  # noqa: ASYNC222  does not wait
                    self._shepherd = None if pid else self._shepherd
                except ChildProcessError:
                    self._shepherd = None
            if not self.folder.locked():
                return
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
        if record is None:
            return self._shepherd
        if record["boot_id"] != boot_id() or start_ticks(record["pid"]) != record["start_ticks"]:
            return None
        self._shepherd = int(record["pid"])
        return self._shepherd

    def _see(self, seen: Observation) -> None:
        self.seen = seen
        self._tell_others(seen)


async def _readable(fd: int) -> None:
    """Wait until there is something to read, the other end is closed, or (for a pidfd) the process has ended."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)


def look(folder: JobFolder) -> Observation:
    """What a job's folder says by itself: ``unknown`` where only a search for its processes could tell."""
    # The lock first: whoever has let go of it has written all records.
    if folder.locked():
        return running(folder) or Observation(folder.path.name, "starting", wall_ms())
    record = folder.record("exit")
    if record is not None:
        return exited(folder, record)
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
    return Observation(
        folder.path.name,
        "exited",
        wall_ms(),
        started_ms=record.get("started_ms"),
        ended_ms=record["ended_ms"],
        exit_code=record["exit_code"],
        ending=ending,
        reason=Explained(_CODES.get(ending, ending), message) if message else None,
    )
