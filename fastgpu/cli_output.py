"""What the commands print: answers to stdout as tables or as JSON, remarks to stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from fastgpu.console import show, terminal
from fastgpu.models import json_of
from fastgpu.view import Lens, View

AsJson = Annotated[bool, typer.Option("--json", help="Print plain data instead of tables.")]
Account = Annotated[str | None, typer.Option("--account", help="Who pays: class:NAME or person:NAME.")]
Promo = Annotated[str | None, typer.Option("--promo", help="Promotion code.")]
GpuType = Annotated[
    str | None, typer.Option("--gpu", help="GPU type or an unambiguous beginning of it, for example h100.")
]
Count = Annotated[int, typer.Option("--count", help="Number of GPUs.", min=1)]
Time = Annotated[str, typer.Option("--time", help="Time limit, for example 45m, 2h, 1h30m.")]


def print_answer(answer: BaseModel | Sequence[BaseModel], as_json: bool, view: Callable[[Lens], View]) -> None:
    """Print an answer: plain data with ``as_json``, else as ``view`` shows it."""
    if as_json:
        plain: Any = json_of(answer) if isinstance(answer, BaseModel) else [json_of(item) for item in answer]
        sys.stdout.write(json.dumps(plain, indent=2) + "\n")
    else:
        show(view(Lens()), terminal())


def tell(text: str) -> None:
    """A remark of our own, in a line on stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def writer(to_stderr: bool = False) -> Callable[[str], None]:
    """Writes a job's text; with JSON asked for to stderr, so that stdout holds JSON only."""
    stream = sys.stderr if to_stderr else sys.stdout

    def write(text: str) -> None:
        stream.write(text)
        stream.flush()

    return write
