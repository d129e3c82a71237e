"""The folder of one job: what the engine and the shepherd write about it, its log, its files."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import time
from pathlib import Path
from typing import Any, BinaryIO

from fastgpu_hub.broker.ports.world import FileEntry, Reported
from fastgpu_hub.engines import orphans, safe_files
from fastgpu_hub.engines.shepherd import boot_id, read_record, wall_ms, write_record


def _take(lock: int) -> bool:
    # Somebody who only looks whether it is taken has it for a moment, too.
    for _ in range(20):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            time.sleep(0.005)
        else:
            return True
    return False


RECORDS = "records"
_SAFELY = os.O_NOFOLLOW | os.O_CLOEXEC
CHECKPOINTS = "checkpoints"
CHECKPOINT_PREFIX = "@checkpoints/"  # in listings; no name that a job would choose for a folder of its own
METRICS_FILE = "metrics.jsonl"
METRICS_END_BYTES = 2 * 1024 * 1024


class JobFolder:
    """``jobs/LEASE_ID``: ``records stop.json output.log work/ run/``.

    All but ``work/`` (the job's files) and ``run/`` (where it reports progress) belong to the service. As long as
    ``records`` is locked, somebody (this engine preparing it, or its shepherd) answers for the job, and adds records.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.work = path / "work"
        self.progress_file = path / "run" / "progress"
        self._name = str(path)  # joining texts is what is done most, and paths take their time

    def record(self, name: str) -> dict[str, Any] | None:
        """``launch``, ``shepherd``, ``started`` or ``exit``; None when not (yet) written."""
        return read_record(self._records(), name)

    def _records(self) -> bytes:
        try:
            with open(f"{self._name}/{RECORDS}", "rb", buffering=0) as file:
                return file.read()
        except OSError:
            return b""

    def write(self, name: str, record: dict[str, Any], *, durable: bool = False) -> None:
        """Add a record."""
        records = os.open(f"{self._name}/{RECORDS}", os.O_WRONLY | os.O_APPEND | os.O_CREAT | _SAFELY, 0o600)
        try:
            write_record(records, name, record, durable=durable)
        finally:
            os.close(records)

    def ask_to_stop(self, grace_ms: int) -> None:
        """Note the grace of a stop, beside the records: whoever asks does not answer for the job."""
        note = os.open(f"{self._name}/stop.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _SAFELY, 0o600)
        try:
            os.write(note, json.dumps({"grace_ms": grace_ms}).encode())
        finally:
            os.close(note)

    def known(self) -> bool:
        """Whether the job ever got so far that something of it may have run, or its failure was recorded."""
        records = self._records()
        return read_record(records, "shepherd") is not None or read_record(records, "exit") is not None

    def create(self) -> int | None:
        """Make a fresh folder and take its lock; None when the job is known already or somebody has the lock."""
        try:
            os.mkdir(self._name, 0o700)
            fresh = True
        except FileExistsError:
            fresh = False
        lock = os.open(f"{self._name}/{RECORDS}", os.O_RDWR | os.O_APPEND | os.O_CREAT | _SAFELY, 0o600)
        if not _take(lock) or (os.fstat(lock).st_size and self.known()):
            os.close(lock)
            return None
        if not fresh:
            self._empty(lock)
        os.mkdir(self.work, 0o700)
        os.mkdir(self.progress_file.parent, 0o700)
        return lock

    def _empty(self, records: int) -> None:
        """Remove what an attempt left that never came to run anything."""
        os.ftruncate(records, 0)
        for entry in self.path.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif entry.name != RECORDS:
                entry.unlink()

    def locked(self) -> bool:
        """Whether somebody still answers for the job."""
        try:
            fd = os.open(f"{self._name}/{RECORDS}", os.O_RDONLY | _SAFELY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def last_sign_of_life_ms(self) -> int:
        """The shepherd's last heartbeat (at most 10 s before its end)."""
        return (self.path / RECORDS).stat().st_mtime_ns // 1_000_000

    def settle(self) -> dict[str, Any] | None:
        """How the job ended, once nobody answers for it any more: kills what an ended shepherd left behind.

        None when that cannot be told (yet). Blocks up to some seconds.
        """
        if (record := self.record("exit")) is not None:
            return record
        shepherd = self.record("shepherd")
        if shepherd is None:
            return self.close("failed_to_start", "Its supervising process could not be started.", fault=True)
        started = self.record("started") or {}
        started_ms = started.get("at_ms")
        if shepherd["boot_id"] != boot_id():
            message = "The machine was restarted while the job ran."
            return self.close("killed", message, started_ms, self.last_sign_of_life_ms())
        found = orphans.end_all(
            orphans.Marks(
                lease_id=self.path.name,
                since_ticks=shepherd["start_ticks"],
                session=started.get("pid"),
                session_ticks=started.get("start_ticks"),
                log_pipe=shepherd.get("log_pipe"),
            )
        )
        if found is None:
            return None
        ended_ms = wall_ms() if found else max(self.last_sign_of_life_ms(), started_ms or 0)
        return self.close("killed", "The job's supervising process was killed.", started_ms, ended_ms)

    def close(
        self,
        ending: str,
        message: str,
        started_ms: int | None = None,
        ended_ms: int | None = None,
        *,
        fault: bool = False,
    ) -> dict[str, Any]:
        """Record an end that no shepherd has recorded; ``fault``: the job was not to blame that it did not start."""
        record = {
            "ending": ending,
            "exit_code": None,
            "started_ms": started_ms,
            "ended_ms": wall_ms() if ended_ms is None else ended_ms,
            "message": message,
            "fault": fault,
        }
        self.write("exit", record, durable=True)
        return record

    def say(self, chunk: bytes) -> None:
        """Add to the output, before anything of the job runs."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _SAFELY
        with contextlib.suppress(OSError):  # a full disk costs log lines, never the job
            log = os.open(self.path / "output.log", flags, 0o600)
            try:
                os.write(log, chunk)
            finally:
                os.close(log)

    def log_size(self) -> int:
        """Bytes of output so far."""
        try:
            return os.stat(f"{self._name}/output.log").st_size
        except OSError:
            return 0

    def read_log(self, offset: int, limit_bytes: int) -> bytes:
        """Output from ``offset`` on, at most ``limit_bytes``."""
        try:
            with open(f"{self._name}/output.log", "rb", buffering=0) as file:
                file.seek(max(0, offset))
                return file.read(max(0, limit_bytes))
        except OSError:
            return b""

    def progress(self) -> float | None:
        """What the job reports of itself, 0–1; None when it reports nothing, or nonsense."""
        raw = safe_files.read_file(str(self.progress_file.parent), self.progress_file.name, 100)
        try:
            value = float(raw.decode("ascii")) if raw else math.nan
        except ValueError:
            return None
        return min(1.0, max(0.0, value)) if math.isfinite(value) else None

    def metrics(self) -> Reported:
        """The figures that the job reports of itself, as it wrote them."""
        return safe_files.read_ends(str(self.progress_file.parent), METRICS_FILE, METRICS_END_BYTES)

    def checkpoints(self, first_id: str = "") -> Path:
        """The folder for the save points of all attempts at a job, named after the first one."""
        return self.path.parent.parent / CHECKPOINTS / (first_id or self.path.name)

    def files(self) -> list[FileEntry]:
        """Files in ``work/``, and the job's save points under ``@checkpoints/``."""
        saved = safe_files.list_files(self._saved_in())
        kept = [FileEntry(f"{CHECKPOINT_PREFIX}{entry.path}", entry.size_bytes) for entry in saved]
        return kept + safe_files.list_files(str(self.work))

    def _saved_in(self) -> str:
        return str((self.record("launch") or {}).get("checkpoints") or self.checkpoints())

    def _find(self, path: str) -> tuple[str, str]:
        """In which folder a listed file lies, and its path there."""
        if path.startswith(CHECKPOINT_PREFIX):
            return self._saved_in(), path.removeprefix(CHECKPOINT_PREFIX)
        return str(self.work), path

    def read_file(self, path: str) -> bytes | None:
        """One of the files listed."""
        return safe_files.read_file(*self._find(path))

    def open_file(self, path: str) -> BinaryIO | None:
        """One of the files listed, to read from; None when there is none."""
        try:
            return safe_files.open_file(*self._find(path))
        except OSError:
            return None
