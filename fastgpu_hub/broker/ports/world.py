"""The rest of the world: clock, engine, GPU probe, hub."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from fastgpu_hub.pricing.explain import Explained


class Clock(Protocol):
    """The time. Never runs backwards within a process."""

    def now_ms(self) -> int: ...


# ---------------------------------------------------------------- engine


ENGINE_FAULT = "engine_fault"


@dataclass(frozen=True, slots=True)
class Launch:
    """Everything an engine needs to start a job in its lease.

    ``argv`` never passes a shell. ``inputs`` maps a path in the job's directory to the SHA-256 of its bytes, which the
    engine's blob folder holds. ``environment`` are the user's own variables, already checked; the engine sets the
    GPU variables itself. ``time_limit_ms`` counts from the start of the process. ``python`` names one of the engine's
    environments (None: its default); ``lock`` is the input with pinned packages to make one from.
    """

    lease_id: str
    owner: str
    kind: str
    argv: tuple[str, ...]
    gpu_uuids: tuple[str, ...]
    time_limit_ms: int
    inputs: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    simulated: bool = False
    parameters: Mapping[str, str] = field(default_factory=dict)
    grace_ms: int | None = None
    checkpoint_id: str = ""
    attempt: int = 1
    python: str | None = None
    lock: str | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """What an engine knows of one lease, from evidence.

    ``state``: ``starting``, ``running``, ``exited`` (its processes are known gone), ``unknown`` (the engine cannot
    tell: never to be taken for stopped), ``absent`` (never started here: safe to start or to release).
    ``ending`` for exited: ``exit``, ``timed_out``, ``stopped``, ``failed_to_start``, ``killed`` (e.g. machine reboot).
    The reason of one that failed to start has the code ``ENGINE_FAULT`` where that was no doing of the job.
    """

    lease_id: str
    state: str
    at_ms: int
    started_ms: int | None = None
    ended_ms: int | None = None
    exit_code: int | None = None
    ending: str = ""
    reason: Explained | None = None
    pid: int | None = None


@dataclass(frozen=True, slots=True)
class Reported:
    """What a job wrote for us: whole lines; of a long file the beginning and the end. ``size_bytes`` is the file's."""

    data: bytes = b""
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file in a job's directory, path relative to it."""

    path: str
    size_bytes: int


class Engine(Protocol):
    """Starts and watches jobs. Every call is idempotent per lease id."""

    async def open(self, notify: Callable[[Observation], None]) -> list[Observation]:
        """Adopt what still runs from before, begin watching, return what is known. ``notify`` is called (on the event
        loop) at each later change of state, at least once per change."""

    async def start(self, launch: Launch) -> None:
        """Begin starting; the outcome arrives through ``notify``. Raises only when called wrongly."""

    async def stop(self, lease_id: str, grace_seconds: float) -> None:
        """Ask the job to end (SIGTERM), kill its whole process tree after the grace; ``exited`` arrives when gone."""

    async def observe(self, lease_id: str) -> Observation: ...
    async def put_blob(self, sha256: str, chunks: Sequence[bytes]) -> None:
        """Keep bytes under their hash. Raises ValueError when they do not match it."""

    def has_blob(self, sha256: str) -> bool: ...
    def log_size(self, lease_id: str) -> int: ...
    def read_log(self, lease_id: str, offset: int, limit_bytes: int) -> bytes: ...
    def on_log(self, lease_id: str, tell: Callable[[], None]) -> Callable[[], None]:
        """Have ``tell`` called on the event loop when a job prints, until the returned function is called. It may be
        called for nothing, and is not where that cannot be known: look at ``log_size`` now and then all the same."""

    def progress(self, lease_id: str) -> float | None: ...
    def metrics(self, lease_id: str) -> Reported:
        """What the job reported through ``fastgpu.log_metric``, as it wrote it: at most 4 MiB."""

    def files(self, lease_id: str) -> list[FileEntry]: ...
    def read_file(self, lease_id: str, path: str) -> bytes | None:
        """Bytes of a regular file inside the job's directory; None when there is none (or the path leads outside)."""

    def open_file(self, lease_id: str, path: str) -> BinaryIO | None:
        """As ``read_file``, of any size, to read from. Blocks."""

    def add_blob(self, write: Callable[[BinaryIO], None]) -> str:
        """Keep what ``write`` writes under its SHA-256, which it returns. Blocks; what ``write`` raises comes out."""

    def environment_names(self) -> Sequence[str]:
        """Names of the environments that a job can choose from."""

    def remove_jobs(self, lease_ids: Sequence[str], checkpoints_of: Sequence[str] = ()) -> None:
        """Remove folders and logs of jobs that have ended, and these jobs' checkpoints. Blocks."""

    def sweep_blobs(self, named: Collection[str], before_ms: int) -> int:
        """Remove the blobs that are not named and were not asked for since an instant; how many. Blocks."""

    def root_pids(self, lease_id: str) -> list[int]:
        """Root processes of a running lease on this machine, for simulated use; empty elsewhere."""

    async def close(self) -> None:
        """Stop watching; jobs run on (unless configured otherwise)."""


# ---------------------------------------------------------------- GPUs


SHARE_SIGN = "#"


def physical_uuids(uuids: Iterable[str]) -> tuple[str, ...]:
    """The GPUs of devices, as CUDA names them: of several shares of one GPU that GPU once."""
    return tuple(dict.fromkeys(uuid.partition(SHARE_SIGN)[0] for uuid in uuids))


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """A leasable device on this machine or in the cluster: a whole GPU, a MIG slice, or a share of either.

    The UUID of a share is its GPU's with a number behind ``SHARE_SIGN``.
    """

    uuid: str
    index: int
    name: str
    gpu_type: str
    memory_bytes: int | None = None
    node: str = "localhost"
    simulated: bool = False


@dataclass(frozen=True, slots=True)
class GpuSample:
    """One reading of a device; None where the device does not tell. ``lost``: it fell off the bus or errs."""

    uuid: str
    at_ms: int
    utilisation_percent: int | None = None
    memory_used_bytes: int | None = None
    memory_total_bytes: int | None = None
    power_watts: int | None = None
    temperature_celsius: int | None = None
    lost: bool = False


class GpuProbe(Protocol):
    """Finds GPUs and reads their use. Calls block at most a few seconds; the broker runs them off the event loop."""

    def devices(self) -> list[GpuDevice]: ...
    def sample(self, root_pids: Mapping[str, Sequence[int]]) -> dict[str, GpuSample]:
        """Readings by uuid. ``root_pids`` (device uuid -> root processes of its lease) is what simulated use is made
        from; real probes ignore it."""


# ---------------------------------------------------------------- hub


@dataclass(frozen=True, slots=True)
class HubUser:
    """A person as the hub knows them; ``classes`` are their JupyterHub groups."""

    name: str
    classes: tuple[str, ...] = ()
    admin: bool = False


class HubUnavailable(Exception):
    """The hub did not answer; nothing follows from that about any server."""


class HubApi(Protocol):
    """What the broker asks of JupyterHub. Every call may raise HubUnavailable."""

    async def user(self, name: str) -> HubUser | None: ...
    async def class_members(self, name: str) -> list[str] | None: ...
    async def server_active(self, owner: str, server_name: str) -> bool:
        """True while the hub counts the server as running, starting or stopping."""

    async def stop_server(self, owner: str, server_name: str) -> None: ...
