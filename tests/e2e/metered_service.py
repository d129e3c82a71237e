"""FastGPU's service as it is, and beside it a meter of its event loop: how much later than asked it wakes."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from fastgpu_hub.service.main import FastGPUService

EVERY_SECONDS = 0.005


async def write_lags(path: Path) -> None:
    """Append ``monotonic time, lag in seconds`` for each wake, until cancelled."""
    with path.open("w", buffering=1) as file:
        while True:
            asked = time.monotonic()
            await asyncio.sleep(EVERY_SECONDS)
            now = time.monotonic()
            file.write(f"{now} {now - asked - EVERY_SECONDS}\n")


class MeteredService(FastGPUService):
    """The service with its meter."""

    async def _serve(self, folder: Path) -> None:
        meter = asyncio.get_running_loop().create_task(write_lags(folder / "lags"))
        try:
            await super()._serve(folder)
        finally:
            meter.cancel()


MeteredService.launch_instance()
