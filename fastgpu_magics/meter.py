"""``%fastgpu top`` in a notebook: a live meter of the GPUs held, their use and their running cost.

An asyncio task on the kernel's own loop asks the service every two seconds and puts the answer into a widget; it never
prints. While a cell runs the loop is busy, so the meter stands still and its "as of" says since when.
"""

from __future__ import annotations

import asyncio
import atexit
from collections.abc import Callable
from typing import Any

import ipywidgets

from fastgpu import models
from fastgpu.aio import AsyncGPUClient
from fastgpu.errors import FastGPUError
from fastgpu.view import Lens, View
from fastgpu.views import gpu_use, lease_table
from fastgpu_magics.display import to_html, to_text

INTERVAL_SECONDS = 2.0


def meter_view(answer: models.Status, lens: Lens, problem: str = "") -> View:
    """GPUs with their use, leases with rate and running cost."""
    tables = (lease_table(answer.leases, answer.currency, lens), gpu_use(answer.gpus))
    return View("GPU meter", answer.now, tables=tables, notes=(problem,) if problem else ())


class Meter(ipywidgets.VBox):
    """The widget. ``close()`` ends the task and removes it from the page; "Stop" ends the task only."""

    def __init__(
        self,
        answer: models.Status,
        make_client: Callable[[], AsyncGPUClient] = AsyncGPUClient,
        interval_seconds: float = INTERVAL_SECONDS,
    ) -> None:
        self._answer = answer
        self._make_client = make_client
        self._interval_seconds = interval_seconds
        self._task: asyncio.Task[None] | None = None
        self._body = ipywidgets.HTML()
        self._stop_button = ipywidgets.Button(description="Stop", tooltip="Stop updating this meter")
        self._stop_button.on_click(lambda _: self.stop())
        super().__init__([self._body, self._stop_button])
        self._show()
        if self.comm is not None:
            self.comm.on_close(lambda _: self.stop())

    @property
    def running(self) -> bool:
        """Whether it still updates."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin updating on the running loop."""
        self._task = asyncio.get_running_loop().create_task(self._watch())
        # A kernel that shuts down would complain of a task that nobody ended.
        atexit.register(self.stop)

    def stop(self) -> None:
        """End updating; what is shown stays."""
        atexit.unregister(self.stop)
        if self._task and not self._task.done() and not self._task.get_loop().is_closed():
            self._task.cancel()
        self._stop_button.disabled = True

    def close(self) -> None:
        """End updating and remove the widget."""
        self.stop()
        super().close()

    def __repr__(self) -> str:
        return to_text(meter_view(self._answer, Lens(self._answer.now)))

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """The widget, and for screens that do not know it (a reloaded page, a printout) what it showed at first."""
        data = super()._repr_mimebundle_(**kwargs)
        return {**(data or {}), "text/plain": repr(self)}

    def _show(self, problem: str = "") -> None:
        self._body.value = to_html(meter_view(self._answer, Lens(self._answer.now), problem))

    async def _watch(self) -> None:
        async with self._make_client() as client:
            while True:
                await asyncio.sleep(self._interval_seconds)
                try:
                    self._answer = await client.status()
                    self._show()
                except FastGPUError as error:
                    self._show(f"Not updated: {error}")
