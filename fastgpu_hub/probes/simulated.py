"""GPUs that are not there, for machines without one. They say so, and their use is that of real processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psutil

from fastgpu_hub.broker.ports.world import GpuDevice, GpuSample


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class _Reading:
    """CPU seconds so far of each process in a lease's trees, and when they were read."""

    at_seconds: float
    cpu_seconds: Mapping[tuple[int, float], float]


class SimulatedProbe:
    """``count`` simulated devices. Utilisation is the CPU load of the lease's process trees: 100 is one busy core or
    more; memory in use is their resident memory. They have no power and no temperature to tell."""

    def __init__(
        self,
        count: int = 4,
        gpu_type: str = "h100-80gb",
        memory_bytes: int = 80 * 1024**3,
        *,
        now_ms: Callable[[], int] = _wall_ms,
    ) -> None:
        self._now_ms = now_ms
        self._before: dict[str, _Reading] = {}
        name = f"Simulated {gpu_type.replace('-', ' ').upper()}"
        self._devices = [
            GpuDevice(f"GPU-51a70000-0000-0000-0000-{i:012d}", i, name, gpu_type, memory_bytes, simulated=True)
            for i in range(count)
        ]

    def devices(self) -> list[GpuDevice]:
        """All of them, always."""
        return list(self._devices)

    def sample(self, root_pids: Mapping[str, Sequence[int]]) -> dict[str, GpuSample]:
        """A reading of every device; load is the average since the last call."""
        return {device.uuid: self._one(device, root_pids.get(device.uuid, ())) for device in self._devices}

    def _one(self, device: GpuDevice, roots: Sequence[int]) -> GpuSample:
        now_ms = self._now_ms()
        now = now_ms / 1000
        cpu_seconds: dict[tuple[int, float], float] = {}
        memory_bytes = 0
        for process in _trees(roots):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    cpu_seconds[process.pid, process.create_time()] = times.user + times.system
                    memory_bytes += process.memory_info().rss
            except psutil.Error:
                continue  # it has just ended, or is not ours to look at
        oldest = min((created for _, created in cpu_seconds), default=now)
        before = self._before.get(device.uuid) or _Reading(oldest, {})
        elapsed = now - max(before.at_seconds, oldest)
        used = sum(max(0.0, spent - before.cpu_seconds.get(key, 0.0)) for key, spent in cpu_seconds.items())
        self._before[device.uuid] = _Reading(now, cpu_seconds)
        return GpuSample(
            device.uuid,
            now_ms,
            utilisation_percent=min(100, round(100 * used / elapsed)) if elapsed > 0 else 0,
            memory_used_bytes=min(memory_bytes, device.memory_bytes or memory_bytes),
            memory_total_bytes=device.memory_bytes,
        )


def _trees(roots: Sequence[int]) -> set[psutil.Process]:
    found: set[psutil.Process] = set()
    for pid in roots:
        try:
            root = psutil.Process(pid)
            found |= {root, *root.children(recursive=True)}
        except psutil.Error:
            continue
    return found
