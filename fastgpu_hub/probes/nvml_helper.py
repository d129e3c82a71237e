"""Reads GPUs through NVML in a process of its own: a driver that hangs takes this process with it, not the service.

Run as a file; needs pynvml only. Each line on standard input is ``devices`` or ``sample``; each answer is one line of
JSON: ``{"gpus": [...]}`` or ``{"error": "why there is no NVML"}``. What a device does not tell is null. An entry with
``"lost": true`` is a GPU that is there by number but does not answer; one without ``uuid`` cannot be leased now.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pynvml

NOT_AVAILABLE_64 = 2**64 - 1  # how NVML says "N/A" in its number fields
NOT_AVAILABLE_32 = 2**32 - 1

_LOST = {pynvml.NVML_ERROR_GPU_IS_LOST, pynvml.NVML_ERROR_RESET_REQUIRED, pynvml.NVML_ERROR_GPU_NOT_FOUND}
_GONE = {
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
}


class Lost(Exception):
    """This GPU fell off the bus or must be reset."""


def read(*readers: Callable[[], Any]) -> Any:
    """The first reader's answer; None when the device does not tell. Raises Lost, and NVMLError when NVML is gone."""
    for reader in readers:
        try:
            value = reader()
        except pynvml.NVMLError as error:
            if error.value in _LOST:
                raise Lost from error
            if error.value in _GONE:
                raise
            continue
        if value not in (NOT_AVAILABLE_32, NOT_AVAILABLE_64):
            return value
    return None


def memory(handle: Any) -> tuple[int | None, int | None]:
    """Used and total bytes."""
    info = read(
        lambda: pynvml.nvmlDeviceGetMemoryInfo(handle, version=pynvml.nvmlMemory_v2),
        lambda: pynvml.nvmlDeviceGetMemoryInfo(handle),
    )
    if info is None:
        return None, None
    used, total = (None if value == NOT_AVAILABLE_64 else value for value in (info.used, info.total))
    return used, total


def identity(handle: Any) -> dict[str, Any]:
    """Who a device is; its memory is part of that."""
    return {
        "uuid": read(lambda: pynvml.nvmlDeviceGetUUID(handle)),
        "name": read(lambda: pynvml.nvmlDeviceGetName(handle)),
        "memory_total_bytes": memory(handle)[1],
    }


def use(handle: Any) -> dict[str, Any]:
    """How a device is used now; whatever it does not tell is None."""
    used, total = memory(handle)
    milliwatts = read(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    return {
        "uuid": read(lambda: pynvml.nvmlDeviceGetUUID(handle)),
        "utilisation_percent": read(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle).gpu),
        "memory_used_bytes": used,
        "memory_total_bytes": total,
        "power_watts": None if milliwatts is None else round(milliwatts / 1000),
        "temperature_celsius": read(
            lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU),
            lambda: pynvml.nvmlDeviceGetTemperatureV(handle, pynvml.NVML_TEMPERATURE_GPU),
        ),
    }


def mig_devices(handle: Any) -> list[Any] | None:
    """Handles of a GPU's MIG devices; None when it is not in MIG mode."""
    mode = read(lambda: pynvml.nvmlDeviceGetMigMode(handle)[0])
    if mode != pynvml.NVML_DEVICE_MIG_ENABLE:
        return None
    most = read(lambda: pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)) or 0
    found = []
    for index in range(most):
        device = read(lambda: pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))  # noqa: B023  called at once
        if device is not None:
            found.append(device)
    return found


def gpu(index: int, describe: Callable[[Any], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One entry for a whole GPU, or one for each of its MIG devices."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    parts = mig_devices(handle)
    if parts is None:
        yield {"index": index, "mig": False, **describe(handle)}
        return
    if not parts:
        yield {"index": index, "mig": True}  # answers, but nothing of it can be leased
    whole = identity(handle)
    for part in parts:
        entry = {"index": index, "mig": True, "gpu_memory_bytes": whole["memory_total_bytes"], **describe(part)}
        if describe is identity and "MIG" not in (entry["name"] or ""):
            entry["name"] = f"{whole['name']} MIG {profile(part)}"
        yield entry


def profile(part: Any) -> str:
    """``1g.10gb`` from a MIG device's attributes, for drivers that do not put it into the name."""
    attributes = read(lambda: pynvml.nvmlDeviceGetAttributes(part))
    if attributes is None:
        return "device"
    return f"{attributes.gpuInstanceSliceCount}g.{round(attributes.memorySizeMB / 1024)}gb"


def answer(question: str) -> dict[str, Any]:
    """The answer to ``devices`` or ``sample``. A GPU that cannot be reached costs its own entry only."""
    describe = identity if question == "devices" else use
    entries: list[dict[str, Any]] = []
    for index in range(pynvml.nvmlDeviceGetCount()):
        try:
            entries += list(gpu(index, describe))
        except (Lost, pynvml.NVMLError) as error:
            if isinstance(error, pynvml.NVMLError) and error.value in _GONE:
                raise
            entries.append({"index": index, "lost": True})
    return {"gpus": entries}


def main() -> None:
    """Answer questions until standard input ends, or until NVML does."""
    ready = False
    for line in sys.stdin:
        try:
            if not ready:
                pynvml.nvmlInit()
                ready = True
            reply = answer(line.strip())
        except pynvml.NVMLError as error:
            print(json.dumps({"error": str(error)}), flush=True)
            return  # the next question starts a fresh process, which begins with nvmlInit
        print(json.dumps(reply), flush=True)


if __name__ == "__main__":
    main()
