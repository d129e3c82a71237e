"""What a job may bring along: environment variables, input paths, arguments. Pure checks, made before money is held."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from fastgpu_hub.pricing.explain import Refused

MAX_ENVIRONMENT_BYTES = 64 * 1024
MAX_ARGUMENT_BYTES = 256 * 1024
MAX_PATH_BYTES = 1000
MAX_PATH_DEPTH = 32

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_RESERVED = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "PYTHONPATH", "PYTHONHOME", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"}
)
_RESERVED_PREFIXES = ("LD_", "NVIDIA_", "JUPYTERHUB_", "FASTGPU_")


def _refused(message: str, instead: str = "") -> Refused:
    return Refused(code="invalid_request", message=message, instead=instead)


def _printable(text: str) -> str:
    short = text if len(text) <= 80 else text[:79] + "…"
    return ascii(short) if not short.isprintable() else repr(short)


def _bytes(text: str) -> bytes | None:
    """UTF-8 of a text that an operating system call can take, else None (NUL, lone surrogates)."""
    if "\0" in text:
        return None
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None


def check_environment(environment: Mapping[str, str]) -> Refused | None:
    """Refuse variables that steer the loader, the interpreter, the GPUs or the hub, and what no process can be given.

    Names match ``[A-Za-z_][A-Za-z0-9_]*`` (at most 128 characters); all together take at most 64 KiB.
    """
    size = 0
    for name, value in environment.items():
        if not _NAME.fullmatch(name):
            return _refused(
                f"{_printable(name)} is not a name for an environment variable.",
                "Use letters, digits and underscores, at most 128 characters.",
            )
        if name in _RESERVED or name.startswith(_RESERVED_PREFIXES):
            return _refused(
                f"The environment variable {name} is set by FastGPU and may not be given by a job.",
                "Leave it out, or set it inside the job's own code.",
            )
        raw = _bytes(value)
        if raw is None:
            return _refused(f"The value of the environment variable {name} holds characters that cannot be passed on.")
        size += len(name) + len(raw) + 2
    if size > MAX_ENVIRONMENT_BYTES:
        return Refused(
            code="invalid_request",
            message=f"The job's environment variables take {size} bytes; at most {MAX_ENVIRONMENT_BYTES} are allowed.",
            numbers={"bytes": size, "limit_bytes": MAX_ENVIRONMENT_BYTES},
            instead="Put large values into an input file.",
        )
    return None


def _why_bad_path(path: str) -> str:
    raw = _bytes(path)
    parts = path.split("/")
    if raw is None or any(ord(c) < 32 or ord(c) == 127 for c in path):
        return "holds control characters"
    if path.startswith("/"):
        return "is absolute"
    if "\\" in path:
        return "holds a backslash"
    if ".." in parts:
        return "leads out of the job's folder"
    if any(part in ("", ".") for part in parts):
        return "has an empty part"
    if len(raw) > MAX_PATH_BYTES or len(parts) > MAX_PATH_DEPTH or any(len(part.encode()) > 255 for part in parts):
        return "is too long"
    return ""


def check_input_paths(paths: Iterable[str]) -> Refused | None:
    """Refuse input paths that are not plain and relative, and two that get in each other's way.

    Refused are: empty, absolute, ``..`` or ``.`` parts, backslash, control characters, over-long, the same path twice,
    and a path that is a file in one place and a folder in another.
    """
    files: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        if why := _why_bad_path(path):
            return _refused(
                f"The input path {_printable(path)} {why}.",
                "Give paths relative to the job's folder, like data/train.csv.",
            )
        if path in files:
            return _refused(f"The input path {_printable(path)} is given twice.")
        files.add(path)
        parts = path.split("/")
        folders.update("/".join(parts[:depth]) for depth in range(1, len(parts)))
    if both := sorted(files & folders):
        return _refused(f"The input path {_printable(both[0])} is both a file and a folder.")
    return None


def check_arguments(kind: str, argv: Sequence[str]) -> Refused | None:
    """Refuse arguments that no process can be started with, and a script or notebook that is really an option."""
    if not argv or not argv[0]:
        return _refused("The job names nothing to run.", "Give a script, a notebook or a command.")
    if any(_bytes(argument) is None for argument in argv):
        return _refused("An argument of the job holds characters that cannot be passed on.")
    if kind != "command" and argv[0].startswith("-"):
        return _refused(f"{_printable(argv[0])} is an option, not a {kind}.", f"Give the {kind}'s path first.")
    size = sum(len(argument.encode()) + 1 for argument in argv)
    if size > MAX_ARGUMENT_BYTES:
        return Refused(
            code="invalid_request",
            message=f"The job's arguments take {size} bytes; at most {MAX_ARGUMENT_BYTES} are allowed.",
            numbers={"bytes": size, "limit_bytes": MAX_ARGUMENT_BYTES},
            instead="Put long arguments into an input file.",
        )
    return None


def check_job_input(
    kind: str, argv: Sequence[str], environment: Mapping[str, str], input_paths: Iterable[str]
) -> Refused | None:
    """The first refusal among arguments, environment and input paths of a job; None when all may pass."""
    return check_arguments(kind, argv) or check_environment(environment) or check_input_paths(input_paths)
