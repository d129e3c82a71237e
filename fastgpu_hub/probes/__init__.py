"""Probes find GPUs and read their use: ``nvml`` real ones, ``simulated`` such as only pretend."""

from __future__ import annotations

from collections.abc import Mapping

from fastgpu_hub.broker.ports.world import GpuProbe


def find_probe(
    mode: str = "auto",
    *,
    count: int = 4,
    gpu_type: str = "h100-80gb",
    memory_bytes: int = 80 * 1024**3,
    shared_gpus: Mapping[str, int] | None = None,
) -> tuple[GpuProbe, str]:
    """The probe for this machine, and one sentence for the log that says which and why.

    ``mode`` is ``nvml`` (real GPUs or an error), ``simulated`` (``count`` devices of ``gpu_type``) or ``auto`` (real
    ones if there are any, else simulated). ``shared_gpus`` says in how many shares the devices of some types come.
    Raises RuntimeError when real ones are demanded and there are none, ValueError for another mode or number of shares.
    """
    found, sentence = _found(mode, count, gpu_type, memory_bytes)
    if shared_gpus:
        from fastgpu_hub.probes.shared import SharedProbe

        return SharedProbe(found, shared_gpus), sentence
    return found, sentence


def _found(mode: str, count: int, gpu_type: str, memory_bytes: int) -> tuple[GpuProbe, str]:
    from fastgpu_hub.probes.nvml import NvmlProbe
    from fastgpu_hub.probes.simulated import SimulatedProbe

    if mode not in ("auto", "nvml", "simulated"):
        raise ValueError(f"the GPU probe is auto, nvml or simulated, not {mode!r}")
    why = "as configured"
    if mode != "simulated":
        probe = NvmlProbe()
        found, sentence = probe.available()
        if found:
            return probe, sentence
        probe.close()
        if mode == "nvml":
            raise RuntimeError(sentence)
        why = sentence.rstrip(".")
    return SimulatedProbe(count, gpu_type, memory_bytes), f"Using {count} simulated {gpu_type} GPUs ({why})."
