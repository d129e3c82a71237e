"""Real NVIDIA GPUs, read through NVML in a helper process."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastgpu_hub.broker.ports.world import GpuDevice, GpuSample
from fastgpu_hub.probes.gpu_types import gpu_type_of

TIMEOUT_SECONDS = 4.0
FIRST_TIMEOUT_SECONDS = 20.0  # a driver without persistence mode wakes every GPU on the first call
_HELPER = Path(__file__).with_name("nvml_helper.py")


class NvmlUnavailable(Exception):
    """NVML did not answer: no driver, no library, or it hangs. The message says which."""


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


class _Helper:
    """The helper process and the pipe to it. It is started when asked, and again after it failed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._hung: list[subprocess.Popen[bytes]] = []

    def ask(self, question: str, timeout_seconds: float) -> list[dict[str, Any]]:
        """Entries of the answer. Raises NvmlUnavailable after at most the timeout."""
        self._hung = [process for process in self._hung if process.poll() is None]
        process = self._process = self._process or self._start()
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write(question.encode() + b"\n")
            process.stdin.flush()
            reply = json.loads(self._line(process.stdout.fileno(), timeout_seconds))
        except (OSError, ValueError) as error:
            self.close()
            raise NvmlUnavailable("the process that reads NVML ended unexpectedly") from error
        except NvmlUnavailable:
            self.close()
            raise
        if "error" in reply:
            self.close()
            raise NvmlUnavailable(reply["error"])
        entries: list[dict[str, Any]] = reply["gpus"]
        return entries

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, str(_HELPER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _line(self, fd: int, timeout_seconds: float) -> bytes:
        until = time.monotonic() + timeout_seconds
        data = b""
        while not data.endswith(b"\n"):
            left = until - time.monotonic()
            if left <= 0 or not select.select([fd], [], [], left)[0]:
                raise NvmlUnavailable(f"NVML did not answer within {timeout_seconds:g} seconds")
            chunk = os.read(fd, 65536)
            if not chunk:
                raise OSError("end of file")
            data += chunk
        return data

    def close(self) -> None:
        """End the process. One that hangs in the driver cannot die now: it is collected later."""
        process, self._process = self._process, None
        if process is None:
            return
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                if pipe:
                    pipe.close()
        process.kill()
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            self._hung.append(process)


class NvmlProbe:
    """GPUs and MIG devices of this machine. ``devices`` and ``sample`` take ``timeout_seconds`` + 0.5 s at most.

    A GPU that was seen once stays listed, so that it can be fenced when it is lost.
    """

    def __init__(self, *, timeout_seconds: float = TIMEOUT_SECONDS, now_ms: Callable[[], int] = _wall_ms) -> None:
        self._helper = _Helper()
        self._timeout_seconds = timeout_seconds
        self._now_ms = now_ms
        self._known: dict[str, GpuDevice] = {}
        self._lock = threading.Lock()  # calls come from a pool of threads; the helper takes one question at a time

    def available(self, timeout_seconds: float = FIRST_TIMEOUT_SECONDS) -> tuple[bool, str]:
        """Whether there is a GPU to lease here, and one sentence saying what was found or what is missing."""
        if importlib.util.find_spec("pynvml") is None:
            return False, "The Python package nvidia-ml-py is not installed."
        try:
            devices = self._list(timeout_seconds)
        except NvmlUnavailable as error:
            return False, f"NVML is not available: {error}."
        if not devices:
            return False, "NVML finds no GPU that can be leased."
        return True, f"NVML finds {len(devices)} GPU(s): {', '.join(sorted({d.gpu_type for d in devices}))}."

    def devices(self) -> list[GpuDevice]:
        """Devices there are or were since this probe was made. When NVML does not answer: those it knew before."""
        with contextlib.suppress(NvmlUnavailable):
            return self._list(self._timeout_seconds)
        return list(self._known.values())

    def _list(self, timeout_seconds: float) -> list[GpuDevice]:
        with self._lock:
            entries = self._helper.ask("devices", timeout_seconds)
            whole = {e["index"] for e in entries if not e.get("lost")}
            found = {entry["uuid"]: _device(entry) for entry in entries if entry.get("uuid")}
            # A GPU that answers again may have been cut differently; one that does not answer is still the old one.
            kept = {uuid: device for uuid, device in self._known.items() if device.index not in whole}
            self._known = dict(sorted((kept | found).items(), key=lambda item: (item[1].index, item[0])))
            return list(self._known.values())

    def sample(self, root_pids: Mapping[str, Sequence[int]]) -> dict[str, GpuSample]:
        """A reading of every known device. When NVML does not answer, readings that tell nothing, and lose nothing."""
        del root_pids
        with self._lock:
            try:
                entries = self._helper.ask("sample", self._timeout_seconds)
            except NvmlUnavailable:
                return {uuid: GpuSample(uuid, self._now_ms()) for uuid in self._known}
            now = self._now_ms()
            read = {entry["uuid"]: _sample(entry, now) for entry in entries if entry.get("uuid")}
            return {uuid: read.get(uuid) or GpuSample(uuid, now, lost=True) for uuid in self._known}

    def close(self) -> None:
        """End the helper process."""
        with self._lock:
            self._helper.close()


def _device(entry: Mapping[str, Any]) -> GpuDevice:
    name = entry["name"] or "NVIDIA GPU"
    memory_bytes = entry["memory_total_bytes"]
    whole_bytes = entry["gpu_memory_bytes"] if entry["mig"] else memory_bytes
    return GpuDevice(entry["uuid"], entry["index"], name, gpu_type_of(name, whole_bytes), memory_bytes)


def _sample(entry: Mapping[str, Any], now_ms: int) -> GpuSample:
    return GpuSample(
        entry["uuid"],
        now_ms,
        utilisation_percent=None if entry["mig"] else entry["utilisation_percent"],
        memory_used_bytes=entry["memory_used_bytes"],
        memory_total_bytes=entry["memory_total_bytes"],
        power_watts=entry["power_watts"],
        temperature_celsius=entry["temperature_celsius"],
    )
