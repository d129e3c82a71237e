"""The kernel of a job's notebook: a process of its own. Standard library only, so that it starts before all else."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import Any

LONGEST_FOLDER = 60
_CHANNELS = ("shell", "iopub", "stdin", "control", "hb")


class Kernel:
    """IPython's kernel in the very Python that runs this module, whatever kernelspecs a home folder holds.

    Kernel and runner talk through sockets in a folder of their own: on a machine with many people nobody else can
    listen, and jobs that start together cannot take each other's ports. ``connection`` is what a client needs to know.
    Leaving the ``with`` block kills what is left of it.
    """

    def __init__(self) -> None:
        # The path of a socket has room for about 100 characters; some machines' temporary folders are deep.
        base = tempfile.gettempdir()
        self._folder = tempfile.mkdtemp(prefix="fastgpu-", dir=base if len(base) < LONGEST_FOLDER else "/tmp")  # noqa: S108
        self.connection: dict[str, Any] = {
            "transport": "ipc",
            "ip": f"{self._folder}/socket",
            "key": secrets.token_hex(16),
            "signature_scheme": "hmac-sha256",
            **{f"{channel}_port": number for number, channel in enumerate(_CHANNELS, 1)},
        }
        try:
            self._process = self._start(f"{self._folder}/kernel.json")
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise

    def _start(self, file: str) -> subprocess.Popen[bytes]:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
            json.dump(self.connection, opened)
        # A history on disk would be shared with the owner's other kernels, and a job has no use for it.
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", file, "--HistoryManager.hist_file=:memory:"]
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            # It ends by itself when the process of this number is gone.
            env={**os.environ, "JPY_PARENT_PID": str(os.getpid())},
            start_new_session=True,
        )

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def listens(self) -> bool:
        """Whether all its sockets are there to be connected to."""
        return all(os.path.exists(f"{self.connection['ip']}-{number}") for number in range(1, len(_CHANNELS) + 1))

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in the cell that runs, and interrupt what it has started."""
        self._signal(signal.SIGINT)

    def terminate(self) -> None:
        """Ask it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and what its cells left in its process group."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.alive():
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
