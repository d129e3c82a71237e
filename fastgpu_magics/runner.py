"""``python -m fastgpu_magics.runner cell.ipynb``: runs a job's notebook in a real kernel, in the current folder.

What cells print goes to standard output as it comes. Inputs are read from ``inputs.pkl``; named outputs end up in
``out/NAME.pkl`` and the executed notebook in ``result.ipynb``, which is written even when a cell fails. Exit code 0
when every cell ran and every output was saved, 1 when not, 2 when the notebook cannot be read, 128 + n when stopped by
signal n.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from fastgpu_magics.kernel import Kernel

# jsonschema imports these where they are installed, to check formats that the schema of notebooks does not ask for. One
# of them builds a grammar for a second.
_SLOW_AND_UNUSED = ("isoduration", "rfc3986_validator", "rfc3987_syntax")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the notebook named on the command line in the current folder; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1:
        sys.stderr.write("usage: python -m fastgpu_magics.runner NOTEBOOK\n")
        return 2
    # The kernel starts in one process while this one imports what speaks to it.
    with _ending_on_signals(), Kernel() as kernel:
        with _left_out(*_SLOW_AND_UNUSED):
            import asyncio

            from fastgpu_magics.execution import Run, read_notebook, write_result
        try:
            notebook = read_notebook(Path(given[0]).read_text(encoding="utf-8"))
            run = Run(notebook, kernel)
        except Exception as error:  # nbformat raises whatever an odd file leads it to
            sys.stderr.write(f"fastgpu: cannot read {given[0]} as a notebook: {error}\n")
            return 2
        try:
            return asyncio.run(run.execute())
        finally:
            write_result(notebook)


@contextmanager
def _ending_on_signals() -> Iterator[None]:
    """Until the notebook's execution listens itself, a signal to stop ends the kernel with us."""

    def end(number: int, _: Any) -> NoReturn:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _left_out(*modules: str) -> Iterator[None]:
    """Imports behave as if these modules were not installed."""
    hidden = [module for module in modules if module not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for module in hidden:
            del sys.modules[module]


if __name__ == "__main__":
    # A job's log is UTF-8 whatever the machine's locale.
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]
    sys.exit(main())
