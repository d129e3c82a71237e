"""Start the demo hub, say what to try, leave nothing behind. ``HubProcess`` is what demo, tests and benchmarks use.

Usage: ``python -m tools.hub [PORT]``.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).resolve().parent.parent
MARK = "FASTGPU_DEMO_RUN"


@dataclass(frozen=True)
class Ports:
    """Where the hub listens: its public address, its API, the proxy's API, FastGPU's service. All on 127.0.0.1."""

    public: int = 8000
    hub: int = 8081
    proxy: int = 8001
    service: int = 10180

    @classmethod
    def free(cls) -> Ports:
        """Four ports nobody uses now."""
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(socket.socket()) for _ in range(4)]
            for each in sockets:
                each.bind(("127.0.0.1", 0))
            return cls(*[each.getsockname()[1] for each in sockets])

    @classmethod
    def around(cls, public: int) -> Ports:
        """This public address; for the rest four ports nobody uses now."""
        return replace(cls.free(), public=public)

    def taken(self) -> dict[str, int]:
        """Those that somebody uses already, by what they are for."""
        uses = {"the hub": self.public, "the hub's API": self.hub, "the proxy": self.proxy, "FastGPU": self.service}
        return {use: port for use, port in uses.items() if not _free(port)}

    def __str__(self) -> str:
        return f"{self.public},{self.hub},{self.proxy},{self.service}"


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


class HubProcess:
    """A JupyterHub with everything it starts. ``stop`` ends all of it, whatever state it is in."""

    def __init__(
        self,
        state_dir: Path,
        ports: Ports,
        *,
        config: Path = ROOT / "jupyterhub_config.py",
        log: IO[bytes] | None = None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self.state_dir, self.ports, self.config, self.log = state_dir, ports, config, log
        self.url = f"http://127.0.0.1:{ports.public}"
        self.service_url = f"http://127.0.0.1:{ports.service}/services/fastgpu"
        self.mark = secrets.token_hex(8)
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = environment or {}

    def answering(self) -> list[str]:
        """Addresses that answer once everything is up."""
        own_api = f"http://127.0.0.1:{self.ports.hub}/hub/api"
        return [own_api, f"{self.service_url}/health", f"{self.url}/hub/api"]

    def start(self, timeout_seconds: float = 90) -> None:
        """Start and wait until hub and service answer. Raises RuntimeError when they do not."""
        self.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("JUPYTERHUB_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "FASTGPU_DEMO_STATE": str(self.state_dir),
            "FASTGPU_DEMO_PORTS": str(self.ports),
            MARK: self.mark,
            **self._environment,
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", str(self.config)],
            cwd=self.state_dir,
            env=environment,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        deadline = time.monotonic() + timeout_seconds
        for url in self.answering():
            while not _answers(url):
                if self.process.poll() is not None:
                    raise RuntimeError(f"the hub ended with exit code {self.process.returncode}")
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{url} did not answer within {timeout_seconds:.0f} s")
                time.sleep(0.1)

    def terminate(self, grace_seconds: float = 20) -> None:
        """Ask the hub to end in good order, and wait for it."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_seconds)

    def kill(self) -> None:
        """End the hub as a crash would: only the hub, at once. ``start`` starts it again, on the same state."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, grace_seconds: float = 20) -> list[str]:
        """End the hub and everything it started; returns the command lines that had to be killed."""
        known = set(self.processes())
        self.terminate(grace_seconds)
        left = [process for process in known | set(self.processes()) if _alive(process)]
        names = [" ".join(_command(process)) for process in left]
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=5)
        if self.process is not None:
            self.process.wait(5)
        return names

    def processes(self) -> list[psutil.Process]:
        """Everything alive that was started under this hub: what carries its mark, and their children."""
        found: set[psutil.Process] = set()
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if _alive(process) and process.environ().get(MARK) == self.mark:
                    found.update([process, *process.children(recursive=True)])
        return [process for process in found if _alive(process)]


def _alive(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return [f"process {process.pid}"]


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


WELCOME = """
FastGPU is running at {url}   (Ctrl-C ends it)

  account   password   who
  alice     fastgpu    student of class cs101
  bob       fastgpu    student of class cs101
  teacher   fastgpu    teacher of cs101
  admin     fastgpu    administrator

Try this first:
  1. Sign in as alice, choose a GPU on the spawn page (price, promotion and quota are shown), press Start.
  2. Open first-job.ipynb and run it: a cell goes off as a GPU job and comes back with its result and its receipt.
  3. Sign in as teacher in another browser window and open {url}/services/fastgpu/classes/cs101.

GPUs: {gpus}
Log:  {log}
"""


def _gpus() -> str:
    from fastgpu_hub.probes import find_probe

    return find_probe(os.environ.get("FASTGPU_DEMO_PROBE", "auto"))[1]


class Ended(BaseException):
    """Somebody asked us to end: Ctrl-C, SIGTERM, or the terminal is gone."""


def _end_on_signals() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def end(*_: object) -> None:
        for number in numbers:  # the tidying up is not to be interrupted
            signal.signal(number, signal.SIG_IGN)
        raise Ended

    for number in numbers:
        signal.signal(number, end)


@contextlib.contextmanager
def only_one(state: Path) -> Iterator[bool]:
    """Whether nobody else runs a hub on this state; kept until the end of the block."""
    state.mkdir(mode=0o700, exist_ok=True)
    with (state / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


def problem(ports: Ports, alone: bool) -> str:
    """Why the hub cannot be started, and what to do; the empty string when it can."""
    if not alone:
        return "Cannot start: `make hub` runs already in this folder. End it with Ctrl-C, then try again."
    if taken := ports.taken():
        uses = ", ".join(f"{port} ({use})" for use, port in taken.items())
        return (
            f"Cannot start, taken by another program: {'port' if len(taken) == 1 else 'ports'} {uses}.\n"
            f"Is another hub running? End it, or take another port: make hub PORT={Ports.free().public}"
        )
    return ""


def main(arguments: list[str]) -> int:
    """Start the hub and stay until Ctrl-C. ``arguments``: its port, when it is not to be the usual one."""
    if arguments and not (arguments[0].isdecimal() and 0 < int(arguments[0]) < 65536):
        print(f"{arguments[0]!r} is not a port; try make hub PORT=8888")
        return 2
    ports = Ports.around(int(arguments[0])) if arguments else Ports()
    state = ROOT / ".fastgpu"
    with only_one(state) as alone:
        if why := problem(ports, alone):
            print(why)
            return 1
        return _run(state, ports)


def _run(state: Path, ports: Ports) -> int:
    log_path = state / "hub.log"
    with log_path.open("wb") as log:
        hub = HubProcess(state, ports, log=log)
        print("Starting the hub …", flush=True)
        try:
            _end_on_signals()
            hub.start()
            print(WELCOME.format(url=hub.url, gpus=_gpus(), log=log_path), flush=True)
            assert hub.process is not None
            hub.process.wait()
            print(f"The hub has ended by itself. Its log: {log_path}", flush=True)
            return 1
        except Ended:
            print("\nEnding the hub …", flush=True)
            return 0
        except RuntimeError as error:
            print(f"The hub could not be started: {error}. Its log: {log_path}", flush=True)
            return 1
        finally:
            hub.stop()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
