"""The Python that a job runs on: a listed environment, or one made from its lock file, once for all who bring the same.

Wheels only, into a virtual environment that belongs to the service: installing them runs none of their code.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from logging import Logger, LoggerAdapter
from pathlib import Path
from typing import Any

from fastgpu_hub.broker.ports.world import Launch
from fastgpu_hub.engines import safe_files
from fastgpu_hub.engines.blobs import BlobFolder
from fastgpu_hub.engines.launching import CannotStart
from fastgpu_hub.engines.lock_files import MAX_LOCK_BYTES, requirements_of

AT_ONCE = 2
KEPT_OUTPUT_BYTES = 64 * 1024
FAILURE_SECONDS = 60  # so long a lock file that cannot be installed is not tried again
RECENT_SECONDS = 600  # so long after its last use an environment is not removed to make room
_PASSED = ("LANG", "LD_LIBRARY_PATH", "HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE")
_PASSED_FOLDED = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")

Say = Callable[[bytes], None]


@dataclass(slots=True)
class _Build:
    """One environment in the making, and who waits for it."""

    task: asyncio.Task[None] | None = None
    output: bytearray = field(default_factory=bytearray)
    listeners: list[Say] = field(default_factory=list)

    def tell(self, chunk: bytes) -> None:
        self.output += chunk
        del self.output[:-KEPT_OUTPUT_BYTES]
        for listener in self.listeners:
            listener(chunk)


@dataclass(frozen=True, slots=True)
class Order:
    """What to make: which environment, from which lines, on which Python."""

    key: str
    lines: tuple[str, ...]
    base: str
    name: str
    notebook: bool


class Environments:
    """Finds and makes environments in ``folder``; ``known`` are those that the administrator lists."""

    def __init__(
        self,
        folder: Path,
        blobs: BlobFolder,
        *,
        default: Callable[[], str],
        known: Mapping[str, str],
        pip_options: Sequence[str],
        build_seconds: float,
        max_bytes: int,
        log: Logger | LoggerAdapter[Any],
        in_use: Callable[[], Iterable[str]],
    ) -> None:
        self._folder, self._blobs = folder, blobs
        self._default, self._known = default, dict(known)
        self._pip_options, self._seconds, self._max_bytes = list(pip_options), build_seconds, max_bytes
        self._log, self._in_use = log, in_use
        self._builds: dict[str, _Build] = {}
        self._failed: dict[str, tuple[float, str]] = {}
        self._slots = asyncio.Semaphore(AT_ONCE)

    def python_of(self, launch: Launch) -> str:
        """The interpreter of a job, whose environment is made. Raises CannotStart."""
        if launch.lock is None:
            return self._base(launch)
        order = self.order(launch)
        with contextlib.suppress(OSError):
            os.utime(self._marker(order.key))
        return str(self._python(order.key))

    def _base(self, launch: Launch) -> str:
        if launch.python is None:
            return self._default()
        if launch.python not in self._known:
            raise CannotStart(f"There is no environment {launch.python!r} any more.")
        return self._known[launch.python]

    def order(self, launch: Launch) -> Order:
        """What the job's lock file asks for. Raises CannotStart. Reads the file."""
        name = launch.lock or ""
        try:
            with self._blobs.path(launch.inputs[name]).open("rb") as file:
                lines = requirements_of(name, file.read(MAX_LOCK_BYTES + 1))
        except (KeyError, FileNotFoundError):
            raise CannotStart(f"The lock file {name!r} is not here.") from None
        except ValueError as error:
            raise CannotStart(str(error)) from None
        base = self._base(launch)
        whole = json.dumps([os.path.realpath(base), lines, self._pip_options])
        key = hashlib.sha256(whole.encode()).hexdigest()[:32]
        return Order(key, tuple(lines), base, name.rpartition("/")[2], launch.kind == "notebook")

    # ------------------------------------------------------------ making

    async def ready(self, order: Order, say: Say) -> None:
        """Return once the environment is there; ``say`` gets what is told meanwhile. Raises CannotStart.

        Whoever is cancelled leaves the making to the others that wait for it; the last one ends it.
        """
        if not self._marker(order.key).exists():
            await self._made(order, say)
        if order.notebook and not any(self._folder.glob(f"{order.key}/lib/python*/site-packages/fastgpu_magics")):
            raise CannotStart(f"{order.name} does not bring fastgpu-hub, which runs notebooks: add it, pinned.")

    async def _made(self, order: Order, say: Say) -> None:
        failed_at, why = self._failed.get(order.key, (0.0, ""))
        if why and time.monotonic() - failed_at < FAILURE_SECONDS:
            raise CannotStart(why)
        began = time.monotonic()
        say(f"[fastgpu] preparing environment from {order.name} ({len(order.lines)} packages) …\n".encode())
        build = self._builds.get(order.key)
        if build is None:
            build = self._builds[order.key] = _Build()
            build.task = asyncio.create_task(self._make(order, build))
        else:
            say(bytes(build.output))
        build.listeners.append(say)
        assert build.task is not None
        try:
            await asyncio.shield(build.task)
        except asyncio.CancelledError:
            if len(build.listeners) == 1 and not build.task.done():
                build.task.cancel()
                await asyncio.gather(build.task, return_exceptions=True)
            raise
        finally:
            build.listeners.remove(say)
        say(f"[fastgpu] preparing environment … {time.monotonic() - began:.0f} s\n".encode())

    async def _make(self, order: Order, build: _Build) -> None:
        path = self._folder / order.key
        try:
            async with self._slots:
                await asyncio.to_thread(self._begin, path, order)
                await asyncio.wait_for(self._install(path, order, build), self._seconds)
                await asyncio.to_thread(self._finish, order)
        except (asyncio.TimeoutError, CannotStart, OSError) as error:
            if isinstance(error, asyncio.TimeoutError):
                error = CannotStart(f"The environment was not ready after {self._seconds:g} seconds.")
            self._failed[order.key] = time.monotonic(), str(error)
            raise CannotStart(str(error)) from None
        finally:
            self._builds.pop(order.key, None)
            if not self._marker(order.key).exists():
                await asyncio.shield(asyncio.to_thread(safe_files.remove_folders, [path]))

    def _begin(self, path: Path, order: Order) -> None:
        self._folder.mkdir(mode=0o711, exist_ok=True)
        self._folder.chmod(0o711)
        safe_files.remove_folders([path])  # left by a service that was killed
        path.mkdir(mode=0o755)
        path.chmod(0o755)  # jobs of other users run from it
        (path / "requirements.txt").write_text("\n".join(order.lines) + "\n")

    async def _install(self, path: Path, order: Order, build: _Build) -> None:
        await self._run([order.base, "-I", "-m", "venv", "--without-pip", str(path)], build)
        pip = [sys.executable, "-I", "-m", "pip", "--python", str(self._python(order.key)), "install"]
        plain = ["--no-input", "--disable-pip-version-check", "--no-color", "--progress-bar=off"]
        wanted = [*self._pip_options, "--only-binary=:all:", "-r", str(path / "requirements.txt")]
        await self._run([*pip, *plain, *wanted], build)

    async def _run(self, command: Sequence[str], build: _Build) -> None:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
            umask=0o022,
        )
        assert process.stdout is not None
        try:
            while chunk := await process.stdout.read(8192):
                build.tell(chunk)
            code = await process.wait()
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await asyncio.shield(process.wait())
        if code:
            lines = [line for line in bytes(build.output).decode(errors="replace").splitlines() if line.strip()]
            raise CannotStart(
                f"The environment could not be made: {' '.join(lines[-3:])[-500:] or f'exit code {code}'}"
            )

    def _finish(self, order: Order) -> None:
        """Count it as made, and make room. Raises CannotStart when it is too large."""
        size = _size(self._folder / order.key)
        if size > self._max_bytes:
            raise CannotStart(f"The environment takes {size} bytes; at most {self._max_bytes} are kept.")
        marker = self._marker(order.key)
        marker.write_text(json.dumps({"bytes": size, "packages": len(order.lines)}))
        self._make_room(order.key)

    def _make_room(self, keep: str) -> None:
        """Remove the environments that were used longest ago until all take no more than they may."""
        used = {Path(python).parent.parent.name for python in self._in_use()} | {keep}
        found = []
        for marker in self._folder.glob("*/complete.json"):
            with contextlib.suppress(OSError, ValueError, KeyError):
                found.append((marker.stat().st_mtime, json.loads(marker.read_text())["bytes"], marker.parent))
        total = sum(size for _, size, _ in found)
        for used_at, size, path in sorted(found):
            if total <= self._max_bytes:
                break
            if path.name not in used and time.time() - used_at > RECENT_SECONDS:
                (path / "complete.json").unlink()
                safe_files.remove_folders([path])
                self._log.info("removed an environment that was used longest ago: %s, %d bytes", path.name, size)
                total -= size

    def _marker(self, key: str) -> Path:
        return self._folder / key / "complete.json"

    def _python(self, key: str) -> Path:
        return self._folder / key / "bin" / "python"


def _environment() -> dict[str, str]:
    """For venv and pip: where to find packages is the administrator's, as for any pip that they run."""
    passed = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED or name.lower() in _PASSED_FOLDED or name.startswith("PIP_")
    }
    return {"PATH": os.defpath, **passed}


def _size(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def missing(known: Mapping[str, str]) -> list[str]:
    """Names of environments whose interpreter is not there or cannot be run."""
    return [name for name, python in known.items() if shutil.which(python) is None]
