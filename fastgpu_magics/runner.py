"""``python -m fastgpu_magics.runner cell.ipynb``: runs a job's notebook in a real kernel, in the current folder.

What cells print goes to standard output as it comes. Inputs are read from ``inputs.pkl``; named outputs end up in
``out/NAME.pkl`` and the executed notebook in ``result.ipynb``, which is written even when a cell fails. Exit code 0
when every cell ran and every output was saved, 1 when not, 2 when the notebook cannot be read, 128 + n when stopped by
signal n.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from fastgpu.formatting import clean_text
from fastgpu.job import RESULT_NOTEBOOK
from fastgpu_magics.cells import METADATA
from fastgpu_magics.transfer import Replacing, python_minor

LONGEST_FOLDER = 60
STOP_GRACE_SECONDS = 3.0
_LOAD = "__import__('fastgpu_magics.transfer', fromlist=['_']).load_inputs(get_ipython().user_ns)"
_SAVE = "__import__('fastgpu_magics.transfer', fromlist=['_']).save_outputs(get_ipython().user_ns, {names!r})"


class ThisPythonManager(AsyncKernelManager):
    """Starts the kernel with the very Python that runs this module, whatever kernelspecs a home folder holds.

    Kernel and runner talk through sockets in a folder of their own: on a machine with many people nobody else can
    listen, and jobs that start together cannot take each other's ports.
    """

    def __init__(self, **traits: Any) -> None:
        # The path of a socket has room for about 100 characters; some machines' temporary folders are deep.
        base = tempfile.gettempdir()
        self._folder = tempfile.mkdtemp(prefix="fastgpu-", dir=base if len(base) < LONGEST_FOLDER else "/tmp")  # noqa: S108
        super().__init__(transport="ipc", connection_file=f"{self._folder}/kernel.json", **traits)

    def remove_folder(self) -> None:
        """Delete the sockets' folder once the kernel is gone."""
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def kernel_spec(self) -> KernelSpec:
        """IPython's kernel in this Python."""
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=argv, display_name="Python 3", language="python")


class StreamingClient(NotebookClient):
    """Executes cells and repeats on standard output what they print, as they print it."""

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        """Print streams and tracebacks, then let nbclient keep them in the notebook."""
        content = msg["content"]
        if msg["msg_type"] == "stream":
            say(content["text"])
        elif msg["msg_type"] == "error":
            say(clean_text("\n".join(content["traceback"])) + "\n")
        return super().process_message(msg, cell, cell_index)


def say(text: str) -> None:
    """Write to standard output at once: somebody may be following the log."""
    sys.stdout.write(text)
    sys.stdout.flush()


class Run:
    """One execution of one notebook; ``stopped_by`` is the signal that ended it early, 0 for none."""

    def __init__(self, notebook: Any) -> None:
        self.notebook = notebook
        self.manager = ThisPythonManager()
        self.client = StreamingClient(notebook, km=self.manager, timeout=None)
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
        try:
            async with self.client.async_setup_kernel(cleanup_kc=True):
                self._listen_for_signals()
                await self._execute_cells()
        except CellExecutionError:
            return self._code(1)
        except DeadKernelError:
            if not self.stopped_by:
                say("fastgpu: the kernel died while it ran the cell (perhaps out of memory).\n")
            return self._code(1)
        return self._code(0)

    def _code(self, code: int) -> int:
        return 128 + self.stopped_by if self.stopped_by else code

    async def _execute_cells(self) -> None:
        if self.inputs:
            await self._silently(_LOAD)
        for index, cell in enumerate(self.notebook.cells):
            if cell.cell_type == "code":
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
        """On SIGTERM or SIGINT interrupt the cell, so that its outputs so far are kept; later kill the kernel."""
        loop = asyncio.get_running_loop()
        pending: set[asyncio.Task[None]] = set()

        async def stop() -> None:
            with suppress(RuntimeError):  # the kernel has ended meanwhile
                await self.manager.interrupt_kernel()
                await asyncio.sleep(STOP_GRACE_SECONDS)
                await self.manager.shutdown_kernel(now=True)

        def on_signal(number: int) -> None:
            self.stopped_by = number
            pending.add(asyncio.ensure_future(stop()))

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal, int(number))


def write_result(notebook: Any) -> None:
    """Keep the executed notebook beside the job's other files."""
    with Replacing(Path(RESULT_NOTEBOOK)) as file:
        text: str = nbformat.writes(notebook)
        file.write(text.encode("utf-8"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the notebook named on the command line in the current folder; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1:
        sys.stderr.write("usage: python -m fastgpu_magics.runner NOTEBOOK\n")
        return 2
    try:
        text = Path(given[0]).read_text(encoding="utf-8")
        notebook = nbformat.reads(text, as_version=4)
        run = Run(notebook)
    except Exception as error:  # nbformat raises whatever an odd file leads it to
        sys.stderr.write(f"fastgpu: cannot read {given[0]} as a notebook: {error}\n")
        return 2
    try:
        return asyncio.run(run.execute())
    finally:
        run.manager.remove_folder()
        write_result(notebook)


if __name__ == "__main__":
    # A job's log is UTF-8 whatever the machine's locale.
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(main())
