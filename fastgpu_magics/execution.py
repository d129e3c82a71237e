"""Executes a notebook in a kernel that is starting already, and repeats on standard output what its cells print."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from queue import Empty
from typing import TYPE_CHECKING, Any, cast

import nbformat
from jupyter_client.asynchronous.client import AsyncKernelClient
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from fastgpu.formatting import clean_text
from fastgpu.inside import PARAMETERS_VARIABLE
from fastgpu.result_files import RESULT_NOTEBOOK
from fastgpu_magics.kernel import Kernel
from fastgpu_magics.transfer import METADATA, Replacing, python_minor
from fastgpu_magics.widget_bars import WidgetBars

if TYPE_CHECKING:
    from jupyter_client.connect import KernelConnectionInfo

STOP_GRACE_SECONDS = 3.0
GRACE_VARIABLE = "FASTGPU_GRACE_SECONDS"
END_GRACE_SECONDS = 2.5
POLL_SECONDS = 0.004
ANSWER_SECONDS = 0.2
_PARAMETERS = "get_ipython().user_ns.update(__import__('fastgpu').parameters())"
_LOAD = "__import__('fastgpu_magics.transfer', fromlist=['_']).load_inputs(get_ipython().user_ns)"
_SAVE = "__import__('fastgpu_magics.transfer', fromlist=['_']).save_outputs(get_ipython().user_ns, {names!r})"


class Channels(AsyncKernelClient):
    """The client's end of a kernel's sockets. Whether the kernel lives is told by its process, not by a heartbeat."""

    def __init__(self, kernel: Kernel) -> None:
        super().__init__()
        self._kernel = kernel
        self.load_connection_info(cast("KernelConnectionInfo", kernel.connection))
        self.allow_stdin = False

    async def is_alive(self) -> bool:
        """Whether the kernel's process runs."""
        return self._kernel.alive()

    async def open(self) -> None:
        """Connect as soon as the kernel listens; returns when it answers and its output is heard.

        Raises DeadKernelError when it ends before. A kernel may take its time: its owner's start-up files run first.
        """
        # A connection that is tried too early is tried again only a tenth of a second later.
        while not self._kernel.listens():
            self._check()
            await asyncio.sleep(POLL_SECONDS)
        self.start_channels(stdin=False, hb=False)
        while not await self._answers():
            self._check()

    def _check(self) -> None:
        if not self._kernel.alive():
            raise DeadKernelError("the kernel ended while it started")

    async def _answers(self) -> bool:
        # What a kernel says before its listener has subscribed is lost, so the answer alone is not enough.
        self.kernel_info()
        try:
            await self.shell_channel.get_msg(timeout=1)
            await self.iopub_channel.get_msg(timeout=ANSWER_SECONDS)
        except Empty:
            return False
        return True

    async def close(self) -> None:
        """End the kernel in good order, so that what its cells registered for the end is done, and disconnect."""
        if self._kernel.alive() and self.channels_running:
            self.shutdown()
            if not await self._ended():
                self._kernel.terminate()
                await self._ended()
        self.stop_channels()

    async def _ended(self) -> bool:
        until = time.monotonic() + END_GRACE_SECONDS
        while self._kernel.alive():
            if time.monotonic() > until:
                return False
            await asyncio.sleep(POLL_SECONDS)
        return True


class StreamingClient(NotebookClient):
    """Executes cells and repeats on standard output what they print, as they print it."""

    def __init__(self, notebook: Any, **settings: Any) -> None:
        super().__init__(notebook, **settings)
        self._bars = WidgetBars()

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Print streams and tracebacks, then let nbclient keep them in the notebook."""
        content = msg["content"]
        if msg["msg_type"] == "stream":
            say(content["text"])
        elif msg["msg_type"] == "error":
            say(clean_text("\n".join(content["traceback"])) + "\n")
        self._bars.see(msg["msg_type"], content)
        return super().process_message(msg, cell, cell_index)


def say(text: str) -> None:
    """Write to standard output at once: somebody may be following the log."""
    sys.stdout.write(text)
    sys.stdout.flush()


class Run:
    """One execution of one notebook; ``stopped_by`` is the signal that ended it early, 0 for none."""

    def __init__(self, notebook: Any, kernel: Kernel) -> None:
        self.notebook = notebook
        self.kernel = kernel
        self.client = StreamingClient(notebook, timeout=None)
        self.stopped_by = 0
        asked = notebook.metadata.get(METADATA, {})
        self.inputs: list[str] = list(asked.get("inputs", []))
        self.outputs: list[str] = list(asked.get("outputs", []))
        self.python: str = asked.get("python", python_minor())

    async def execute(self) -> int:
        """Run every cell and return the exit code."""
        if self.python != python_minor() and (self.inputs or self.outputs):
            say(
                f"fastgpu: the notebook that sent this runs Python {self.python}, this job Python {python_minor()}; "
                "variables cannot be carried between them. Use files, or a kernel of the same version.\n"
            )
            return 1
        self._listen_for_signals()
        channels = self.client.kc = Channels(self.kernel)
        try:
            await channels.open()
            await self._execute_cells()
        except CellExecutionError:
            return self._code(1)
        except DeadKernelError:
            if not self.stopped_by:
                when = "ran the cell (perhaps out of memory)" if self.client.code_cells_executed else "started"
                say(f"fastgpu: the kernel died while it {when}.\n")
            return self._code(1)
        finally:
            await channels.close()
        return self._code(0)

    def _code(self, code: int) -> int:
        return 128 + self.stopped_by if self.stopped_by else code

    async def _execute_cells(self) -> None:
        if os.environ.get(PARAMETERS_VARIABLE):
            await self._silently(_PARAMETERS)
        if self.inputs:
            await self._silently(_LOAD)
        for index, cell in enumerate(self.notebook.cells):
            if cell.cell_type == "code" and not self.stopped_by:
                await self.client.async_execute_cell(cell, index)
        if self.outputs:
            await self._silently(_SAVE.format(names=self.outputs))

    async def _silently(self, code: str) -> None:
        """Run our own code beside the notebook's cells: not in its history, not in its result."""
        cells = self.notebook.cells
        cells.append(nbformat.v4.new_code_cell(code))
        try:
            await self.client.async_execute_cell(cells[-1], len(cells) - 1, store_history=False)
        finally:
            cells.pop()

    def _listen_for_signals(self) -> None:
        """On SIGTERM or SIGINT interrupt the cell, so that its outputs so far are kept; then, or before any, kill."""
        loop = asyncio.get_running_loop()
        pending: set[asyncio.Task[None]] = set()

        async def stop() -> None:
            if self.client.code_cells_executed:
                self.kernel.interrupt()
                await asyncio.sleep(grace_seconds())
            self.kernel.kill()

        def on_signal(number: int) -> None:
            self.stopped_by = number
            pending.add(asyncio.ensure_future(stop()))

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal, int(number))


def grace_seconds() -> float:
    """How long an interrupted cell may go on: within the job's grace, and so that what it left can still be written."""
    try:
        asked = float(os.environ.get(GRACE_VARIABLE, ""))
    except ValueError:
        return STOP_GRACE_SECONDS
    return max(asked / 2, asked - 2 * STOP_GRACE_SECONDS)


def read_notebook(text: str) -> Any:
    """A notebook of any version in the present form; raises whatever an odd file leads to.

    Its schema is looked at when it is written: that takes as long as executing a small cell.
    """
    return nbformat.convert(nbformat.reader.reads(text), 4)


def write_result(notebook: Any) -> None:
    """Keep the executed notebook beside the job's other files."""
    with Replacing(Path(RESULT_NOTEBOOK)) as file:
        text: str = nbformat.writes(notebook)
        file.write(text.encode("utf-8"))
