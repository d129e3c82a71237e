"""GPUs that several leases use at once: each is given out in so many shares. Nothing keeps these apart.

A share has the name of a GPU type of its own, ``l40s-48gb.share-4``, and the GPU's UUID with a number behind it,
``GPU-…#1``. Whoever holds one sees the whole GPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from fastgpu_hub.broker.ports.world import SHARE_SIGN, GpuDevice, GpuProbe, GpuSample, physical_uuids
from fastgpu_hub.pricing.fractions import MAX_SHARES, part_of


class SharedProbe:
    """A probe whose devices of some types come in shares. Each share's reading is that of the whole GPU."""

    def __init__(self, probe: GpuProbe, shared_gpus: Mapping[str, int]) -> None:
        """``shared_gpus``: how many shares each device of a type has. Raises ValueError for what is no such number."""
        for gpu_type, count in shared_gpus.items():
            if type(count) is not int or not 2 <= count <= MAX_SHARES:
                raise ValueError(f"a {gpu_type} has from 2 to {MAX_SHARES} shares, not {count!r}")
            if part_of(f"{gpu_type}.share-{count}") is None or len(f"{gpu_type}.share-{count}") > 63:
                raise ValueError(f"{gpu_type} is no GPU type that has shares")
        self._probe, self._shared = probe, dict(shared_gpus)
        self._known: list[GpuDevice] = []

    def devices(self) -> list[GpuDevice]:
        """The devices, those of a shared type as their shares; the memory of each is its part of the GPU's."""
        found: list[GpuDevice] = []
        for device in self._probe.devices():
            count = self._shared.get(device.gpu_type)
            found += [device] if count is None else [_share(device, number, count) for number in range(1, count + 1)]
        self._known = found
        return list(found)

    def sample(self, root_pids: Mapping[str, Sequence[int]]) -> dict[str, GpuSample]:
        """A reading of every device; the shares of a GPU have the same, for nothing tells them apart."""
        together: dict[str, list[int]] = {}
        for uuid, pids in root_pids.items():
            together.setdefault(_gpu(uuid), []).extend(pids)
        samples = self._probe.sample(together)
        known = [device.uuid for device in self._known or self.devices()]
        return {uuid: replace(samples[_gpu(uuid)], uuid=uuid) for uuid in known if _gpu(uuid) in samples}

    def close(self) -> None:
        """End what the probe keeps running."""
        if hasattr(self._probe, "close"):
            self._probe.close()


def _gpu(uuid: str) -> str:
    return physical_uuids([uuid])[0]


def _share(device: GpuDevice, number: int, count: int) -> GpuDevice:
    return replace(
        device,
        uuid=f"{device.uuid}{SHARE_SIGN}{number}",
        name=f"{device.name}, one of {count} shares",
        gpu_type=f"{device.gpu_type}.share-{count}",
        memory_bytes=None if device.memory_bytes is None else device.memory_bytes // count,
    )
