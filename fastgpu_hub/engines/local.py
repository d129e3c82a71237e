"""Runs jobs as processes of this machine (Linux)."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from traitlets import Bool, Dict, Enum, Float, Int, List, Unicode
from traitlets.config import LoggingConfigurable

from fastgpu_hub.broker.ports.world import FileEntry, Launch, Observation, Reported
from fastgpu_hub.engines import launching, safe_files
from fastgpu_hub.engines.blobs import BlobFolder
from fastgpu_hub.engines.environments import Environments, Say
from fastgpu_hub.engines.forking import Shepherds
from fastgpu_hub.engines.job_folder import CHECKPOINTS, JobFolder
from fastgpu_hub.engines.log_news import LogNews
from fastgpu_hub.engines.shepherd import wall_ms
from fastgpu_hub.engines.watching import Watch, look, running

MOST_FOLDERS = 1000  # known by name, for they are asked for all the time
_LEASE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,99}")


class LocalEngine(LoggingConfigurable):
    """Runs each job as a process tree of its own, supervised by a small process that outlives the service."""

    state_dir = Unicode(
        ".fastgpu/engine",
        help="""
        Folder for everything the engine keeps: each job's working folder, log and records, and the input files.

        Default: ``engine`` in the service's own state folder. A relative path starts where the service is started. With
        ``job_users = "system"`` every folder above it must let those users pass (mode 711 is enough); the service sees
        to its own state folder.
        """,
    ).tag(config=True)
    python = Unicode(
        sys.executable,
        help="""
        Python interpreter that runs the students' scripts and notebooks.

        Defaults to the one the service itself runs on. Point it to an environment with the class's packages; for
        notebook jobs `fastgpu-hub` must be installed there too. Its folder comes first on a job's PATH. With
        ``job_users = "system"`` those users must be able to read it: one below /root does not do.
        """,
    ).tag(config=True)
    environments = Dict(
        key_trait=Unicode(),
        value_trait=Unicode(),
        help="""
        Environments that a job can choose by name (``python`` of a submission): name to Python interpreter.

        For example ``{"torch": "/opt/venvs/torch/bin/python"}``. What holds for ``python`` holds for each. No other
        interpreter can be named: a server's own is not known to the service. Who has one on this machine runs it as a
        command.
        """,
    ).tag(config=True)
    pip_options = List(
        Unicode(),
        help="""
        Options of ``pip install`` where an environment is made from a job's lock file.

        For example ``["--no-index", "--find-links=/srv/wheels"]``, or an index of your own. Only wheels are installed,
        so that installing runs no code of theirs; the service does it, with pip of its own environment.
        """,
    ).tag(config=True)
    environment_seconds = Int(
        900,
        min=1,
        help="""
        Longest time that making an environment may take. The job's GPUs are kept for it meanwhile, unbilled.
        """,
    ).tag(config=True)
    max_environment_bytes = Int(
        40 * 2**30,
        min=1,
        help="""
        Most bytes that all environments made from lock files take together; 40 GiB by default.

        Those used longest ago go first. They are made once for all jobs with the same lock file.
        """,
    ).tag(config=True)
    job_users = Enum(
        ["shared", "system"],
        default_value="shared",
        help="""
        Which Unix user jobs run as.

        ``"system"``: each job runs as the user named like its owner; the service must be root, and a job whose owner
        has no user on this machine does not start. ``"shared"``: all jobs run as the service's own user. Then any job
        can read and stop any other, and the service's own files: only for a demonstration, or where everybody
        trusts everybody.
        """,
    ).tag(config=True)
    stop_grace_seconds = Float(
        10.0,
        min=0,
        help="""
        Seconds between SIGTERM and SIGKILL for a job that is stopped or reached its time limit.

        Save points are written in this time. It is not charged beyond the lease's limit. A job may ask for another
        grace, up to ``max_grace_seconds``.
        """,
    ).tag(config=True)
    max_grace_seconds = Float(
        120.0,
        min=0,
        help="""
        Most seconds that a job may ask for between SIGTERM and SIGKILL.

        A job that asks for more is refused when it is submitted. Until it is gone its GPUs are nobody else's, and what
        lies beyond its time limit is not charged, so long graces are paid for by everybody.
        """,
    ).tag(config=True)
    stop_jobs_on_exit = Bool(
        False,
        help="""
        Stop all jobs when the service ends.

        Off by default: jobs run on while the service is restarted, and are found again. For demonstrations, which
        should leave nothing behind.
        """,
    ).tag(config=True)
    max_log_bytes = Int(
        100 * 1024 * 1024,
        min=1024,
        help="""
        Most bytes kept of one job's output.

        What a job prints beyond is dropped, and the log says so at that place. Default: 100 MiB.
        """,
    ).tag(config=True)
    pass_environment = List(
        Unicode(),
        default_value=["LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH"],
        help="""
        Names of variables of the service's environment that jobs get too, where set.

        Everything else of the service's environment, its tokens among them, is kept from jobs.
        """,
    ).tag(config=True)

    _notify: Callable[[Observation], None] | None = None

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        root = Path(os.path.abspath(self.state_dir))
        self._root = root
        self._jobs_path = root / "jobs"
        self._blobs = BlobFolder(root / "blobs")
        self._watches: dict[str, Watch] = {}
        self._folders: dict[str, JobFolder] = {}
        self._environments = Environments(
            root / "environments",
            self._blobs,
            default=lambda: self.python,
            known=self.environments,
            pip_options=self.pip_options,
            build_seconds=self.environment_seconds,
            max_bytes=self.max_environment_bytes,
            log=self.log,
            in_use=self._pythons,
        )
        self._slots = asyncio.Semaphore(max(2, os.cpu_count() or 1))
        self.shepherds = Shepherds()
        self._log_news = LogNews()

    # ------------------------------------------------------------ life

    async def open(self, notify: Callable[[Observation], None]) -> list[Observation]:
        """Adopt what runs, begin watching, return what is known of every job this folder has seen.

        Raises RuntimeError when ``job_users = "system"`` and the service is not root.
        """
        if self.job_users == "system" and os.geteuid() != 0:
            raise RuntimeError('LocalEngine.job_users = "system" needs a service that runs as root')
        self._notify = notify
        self.shepherds.start()
        known = await asyncio.to_thread(self._scan)
        for folder, seen in known:
            if seen.state != "exited":
                self._watch(folder, seen).adopt()
        return [seen for _, seen in known]

    async def close(self) -> None:
        """Stop watching. Jobs run on, unless ``stop_jobs_on_exit``."""
        for watch in list(self._watches.values()):
            watch.give_up_making()
            await watch.prepared.wait()
        tasks = [watch.task for watch in self._watches.values() if watch.task]
        if self.stop_jobs_on_exit and tasks:
            for lease_id in list(self._watches):
                await self.stop(lease_id, self.stop_grace_seconds)
            await asyncio.wait(tasks, timeout=self.stop_grace_seconds + 5)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._watches.clear()
        self._notify = None
        self.shepherds.stop()
        self._log_news.close()

    def _scan(self) -> list[tuple[JobFolder, Observation]]:
        self._root.mkdir(parents=True, exist_ok=True)
        self._jobs_path.mkdir(exist_ok=True)
        mode = 0o711 if self.job_users == "system" else 0o700
        (self._root / CHECKPOINTS).mkdir(exist_ok=True)
        for path in (self._root, self._jobs_path, self._root / CHECKPOINTS):
            path.chmod(mode)
        self._blobs.create()
        found = []
        for path in sorted(self._jobs_path.iterdir()):
            if _LEASE_ID.fullmatch(path.name) and path.is_dir():
                folder = JobFolder(path)
                seen = look(folder)
                if seen.state != "absent":
                    found.append((folder, seen))
        return found

    # ------------------------------------------------------------ use

    async def start(self, launch: Launch) -> None:
        """Begin starting; a job that was started before is left as it is.

        Raises ValueError for a lease id that cannot name a folder, RuntimeError when the engine is not open.
        """
        if self._notify is None:
            raise RuntimeError("the engine is not open")
        folder = self._folder(launch.lease_id)
        self._folder(launch.checkpoint_id or launch.lease_id)
        if launch.lease_id in self._watches or folder.known():
            return
        watch = self._watch(folder, Observation(launch.lease_id, "starting", wall_ms()))
        make = partial(self._make_environment, launch) if launch.lock else None
        watch.start(lambda: self._prepare(launch, folder), quick=not launch.inputs, make=make)

    async def _make_environment(self, launch: Launch, say: Say) -> None:
        await self._environments.ready(await asyncio.to_thread(self._environments.order, launch), say)

    def _pythons(self) -> list[str]:
        """Interpreters of the jobs that have not ended."""
        records = (watch.folder.record("launch") or {} for watch in list(self._watches.values()))
        return [record["python"] for record in records if "python" in record]

    def environment_names(self) -> Sequence[str]:
        """Names of the environments that a job can choose from."""
        return tuple(self.environments)

    async def stop(self, lease_id: str, grace_seconds: float) -> None:
        """Ask a job to end, kill what is left of it after the grace. Nothing happens when it has ended."""
        watch = self._watches.get(lease_id)
        if watch is not None:
            watch.stop(max(0, int(grace_seconds * 1000)))

    def observe(self, lease_id: Any, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Awaitable: what is known of a lease now."""
        if not isinstance(lease_id, str):  # the method of the same name by which traitlets registers handlers
            return super().observe(lease_id, *args, **kwargs)
        return self._observe_lease(lease_id)

    async def _observe_lease(self, lease_id: str) -> Observation:
        folder = self._folder(lease_id)
        watch = self._watches.get(lease_id)
        if watch is None:
            return look(folder)
        if watch.seen.state == "running" and folder.locked():
            return running(folder) or watch.seen
        return watch.seen

    async def put_blob(self, sha256: str, chunks: Sequence[bytes]) -> None:
        """Keep bytes under their hash. Raises ValueError when they do not match it."""
        await asyncio.to_thread(self._blobs.put, sha256, chunks)

    def has_blob(self, sha256: str) -> bool:
        """Whether the bytes of this hash are here."""
        return self._blobs.has(sha256)

    def log_size(self, lease_id: str) -> int:
        """Bytes of output so far; 0 for an unknown lease."""
        return self._folder(lease_id).log_size()

    def read_log(self, lease_id: str, offset: int, limit_bytes: int) -> bytes:
        """Output from ``offset`` on, at most ``limit_bytes``."""
        return self._folder(lease_id).read_log(offset, limit_bytes)

    def on_log(self, lease_id: str, tell: Callable[[], None]) -> Callable[[], None]:
        """Have ``tell`` called on the event loop when the job prints, until the returned function is called."""
        return self._log_news.on(lease_id, self._folder(lease_id).path, tell)

    def progress(self, lease_id: str) -> float | None:
        """0–1 as the job reports it; None when it does not."""
        return self._folder(lease_id).progress()

    def metrics(self, lease_id: str) -> Reported:
        """What the job reported through ``fastgpu.log_metric`` (callable from any thread)."""
        return self._folder(lease_id).metrics()

    def files(self, lease_id: str) -> list[FileEntry]:
        """Files in the job's folder, links left out; may take a moment for thousands (callable from any thread)."""
        return self._folder(lease_id).files()

    def read_file(self, lease_id: str, path: str) -> bytes | None:
        """Bytes of a file in the job's folder (callable from any thread); None when there is none."""
        return self._folder(lease_id).read_file(path)

    def open_file(self, lease_id: str, path: str) -> BinaryIO | None:
        """A file in the job's folder, to read from (callable from any thread); None when there is none."""
        return self._folder(lease_id).open_file(path)

    def add_blob(self, write: Callable[[BinaryIO], None]) -> str:
        """Keep what ``write`` writes under its SHA-256 (callable from any thread)."""
        return self._blobs.add(write)

    def remove_jobs(self, lease_ids: Sequence[str], checkpoints_of: Sequence[str] = ()) -> None:
        """Remove folders and logs of ended jobs, and checkpoints (callable from any thread). Raises OSError."""
        folders = [self._folder(lease_id).path for lease_id in lease_ids if lease_id not in self._watches]
        folders += [self._root / CHECKPOINTS / self._folder(lease_id).path.name for lease_id in checkpoints_of]
        safe_files.remove_folders(folders)

    def sweep_blobs(self, named: Collection[str], before_ms: int) -> int:
        """Remove the blobs that are not named and were not asked for since an instant (callable from any thread)."""
        return self._blobs.sweep(named, before_ms)

    def root_pids(self, lease_id: str) -> list[int]:
        """The processes right below the job's shepherd: the command, and what it has detached."""
        watch = self._watches.get(lease_id)
        return watch.root_pids() if watch else []

    def _folder(self, lease_id: str) -> JobFolder:
        if not _LEASE_ID.fullmatch(lease_id):
            raise ValueError(f"not a lease id: {lease_id[:100]!r}")
        known = self._folders.get(lease_id)
        if known is None:
            if len(self._folders) >= MOST_FOLDERS:
                self._folders.clear()
            known = self._folders[lease_id] = JobFolder(self._jobs_path / lease_id)
        return known

    def _watch(self, folder: JobFolder, seen: Observation) -> Watch:
        watch = self._watches[seen.lease_id] = Watch(
            folder, seen, self._see, self._log_news.here, self.log, self._slots, self.shepherds
        )
        return watch

    def _see(self, seen: Observation) -> None:
        if seen.state == "exited":
            self._watches.pop(seen.lease_id, None)
        if self._notify is not None:
            self._notify(seen)

    def _prepare(self, launch: Launch, folder: JobFolder) -> None:
        launching.prepare(
            launch,
            folder,
            self._blobs,
            python=self._environments.python_of(launch),
            as_owner=self.job_users == "system",
            passed={name: os.environ[name] for name in self.pass_environment if name in os.environ},
            grace_ms=int(self.stop_grace_seconds * 1000),
            max_log_bytes=self.max_log_bytes,
        )
