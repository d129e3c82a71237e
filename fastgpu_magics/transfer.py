"""Variables between a notebook and its job: which may go, how large they are, how they are kept.

Values are cloudpickled. One pickler writes all inputs, so that what two of them share stays shared (an optimiser and
its model's parameters). The functions ``load_inputs`` and ``save_outputs`` run in the job's kernel.
"""

from __future__ import annotations

import io
import json
import os
import pickle  # reads what this person's own notebook or job wrote
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import cloudpickle  # type: ignore[import-untyped]

from fastgpu.formatting import format_bytes, one_line
from fastgpu.result_files import OUTPUT_FOLDER, OUTPUT_LIST

INPUTS_NAME = "inputs.pkl"
METADATA = "fastgpu"  # where a job's notebook names what goes in and out
INPUT_CAP_BYTES = 64 * 1024 * 1024


class TransferError(Exception):
    """A value cannot go; the message is one sentence that names it."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """The pickled inputs and how many bytes each took."""

    content: bytes
    sizes: tuple[tuple[str, int], ...]

    @property
    def listing(self) -> str:
        """``data 3.1 MiB, model 12.0 KiB``."""
        return ", ".join(f"{name} {format_bytes(size)}" for name, size in self.sizes)


def python_minor() -> str:
    """This Python's minor version; pickles of code do not cross it."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def dump_inputs(namespace: Mapping[str, Any], names: Iterable[str], cap_bytes: int = INPUT_CAP_BYTES) -> Inputs:
    """Pickle variables of a notebook. Raises TransferError on a missing or unfit one, or past the cap."""
    wanted = list(dict.fromkeys(names))
    if missing := [name for name in wanted if name not in namespace]:
        raise TransferError(f"there is no variable {', '.join(f'`{name}`' for name in missing)} to send with --in")
    buffer = _Capped(cap_bytes)
    pickler = _Pickler(buffer)
    pickler.dump(wanted)
    sizes: list[tuple[str, int]] = []
    for name in wanted:
        begin = buffer.tell()
        try:
            _dump(pickler, name, namespace[name])
        except _PastCap as error:
            so_far = f" after {Inputs(b'', tuple(sizes)).listing}" if sizes else ""
            raise TransferError(
                f"`{name}` does not fit into the {format_bytes(cap_bytes)} that may go with --in{so_far}: "
                "write it to a file and send that with --files"
            ) from error
        sizes.append((name, buffer.tell() - begin))
    return Inputs(buffer.getvalue(), tuple(sizes))


def load_inputs(namespace: MutableMapping[str, Any], path: str = INPUTS_NAME) -> None:
    """Put the inputs of a job into its kernel's namespace."""
    with open(path, "rb") as file:
        unpickler = pickle.Unpickler(file)  # noqa: S301
        names = unpickler.load()
        for name in names:
            namespace[name] = unpickler.load()


def save_outputs(namespace: Mapping[str, Any], names: Iterable[str], folder: str = OUTPUT_FOLDER) -> None:
    """Save named variables of a job's kernel as ``out/NAME.pkl`` and list them in ``out/outputs.json``.

    What can be saved is saved first; then TransferError names what could not.
    """
    root = Path(folder)
    root.mkdir(exist_ok=True)
    saved: dict[str, int] = {}
    problems = []
    for name in names:
        try:
            if name not in namespace:
                raise TransferError(f"the cell bound no `{name}` to bring out")
            path = root / f"{name}.pkl"
            with Replacing(path) as file:
                _dump(_Pickler(file), name, namespace[name])
            saved[name] = path.stat().st_size
        except TransferError as error:
            problems.append(str(error))
    with Replacing(root / Path(OUTPUT_LIST).name) as file:
        file.write(json.dumps({"python": python_minor(), "outputs": saved}).encode())
    if problems:
        raise TransferError("; ".join(problems))


def unfit(value: Any) -> str:
    """Why a value must not be sent, in words; empty when it may try. Looks at types only, imports nothing."""
    kind = type(value)
    module, name = kind.__module__.partition(".")[0], kind.__qualname__
    if _on_gpu(module, value):
        return f"a live GPU array ({module} {name}): move it to the CPU first, for example with .cpu()"
    return next((words for base in kind.__mro__ if (words := _UNFIT.get(f"{base.__module__}.{base.__qualname__}"))), "")


_UNFIT = {
    "_socket.socket": "an open socket: open it in the cell",
    "builtins.generator": "a generator, which cannot be copied: make a list of it",
    "builtins.coroutine": "a coroutine: await it first",
    "builtins.async_generator": "an asynchronous generator, which cannot be copied",
    "_io._IOBase": "an open file: open it in the cell and send it with --files",
    "_thread.lock": "a lock",
    "_thread.RLock": "a lock",
    "threading.Thread": "a running thread",
    "subprocess.Popen": "a running process",
    "sqlite3.Connection": "a database connection: open it in the cell",
}


def _on_gpu(module: str, value: Any) -> bool:
    if module == "torch":
        return getattr(value, "is_cuda", False) is True
    if module == "cupy":
        return type(value).__name__ == "ndarray"
    if module == "numba":
        return "DeviceND" in type(value).__name__
    if module in ("jax", "jaxlib"):
        devices = getattr(value, "devices", None)
        return callable(devices) and any(getattr(d, "platform", "") in ("gpu", "cuda", "rocm") for d in devices())
    if module == "tensorflow":
        return "GPU" in str(getattr(value, "device", ""))
    return False


class _Unfit(Exception):
    """Carries the words out of the pickler."""


class _PastCap(Exception):
    """The buffer is full."""


class _Pickler(cloudpickle.Pickler):
    """Looks at every object on the way, so that what hides inside a list or a model is refused by name as well."""

    def reducer_override(self, obj: Any) -> Any:
        if words := unfit(obj):
            raise _Unfit(words)
        return super().reducer_override(obj)


class _Capped(io.BytesIO):
    def __init__(self, cap_bytes: int) -> None:
        super().__init__()
        self._cap_bytes = cap_bytes

    def write(self, data: Any) -> int:
        if self.tell() + memoryview(data).nbytes > self._cap_bytes:
            raise _PastCap
        return super().write(data)


def _dump(pickler: _Pickler, name: str, value: Any) -> None:
    try:
        pickler.dump(value)
    except _PastCap:
        raise
    except _Unfit as error:
        raise TransferError(f"`{name}` is or holds {error}") from error
    except Exception as error:  # pickling runs the value's own code, which may raise anything
        raise TransferError(f"`{name}` ({type(value).__name__}) cannot be sent: {one_line(str(error))}") from error


class Replacing:
    """A file that takes its final name only when written whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unfinished = path.with_name(f".{path.name}.part")

    def __enter__(self) -> IO[bytes]:
        self._file = self._unfinished.open("wb")
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        if kind is None:
            os.replace(self._unfinished, self._path)
        else:
            self._unfinished.unlink(missing_ok=True)
