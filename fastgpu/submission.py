"""From what a person types to a job: reading durations and amounts, choosing files, naming the GPU type.

Reads the files it names and hashes them; sends nothing.
"""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from fastgpu import models
from fastgpu.deadlines import AT_ONCE, Timing
from fastgpu.errors import InvalidRequest
from fastgpu.formatting import one_line, parse_bytes, parse_money
from fastgpu.keeping import NOTHING_AROUND, Around
from fastgpu.together import ALONE, Together

M = TypeVar("M", bound=BaseModel)

Script = str | Path | Sequence[str]
Amount = str | int | Decimal
Kind = Literal["script", "notebook", "command"]
_HASH_BYTES = 1024 * 1024
_SHORTEST_PREFIX = 2


@dataclass(frozen=True, slots=True)
class Upload:
    """An input file: where it goes in the job's directory, its hash and size, and its bytes or where they lie."""

    path: str
    sha256: str
    size_bytes: int
    source: Path | bytes

    @property
    def input(self) -> models.InputFile:
        """How the submission names it."""
        return make(models.InputFile, path=self.path, sha256=self.sha256, size_bytes=self.size_bytes)


def make(model: type[M], **fields: Any) -> M:
    """A request model, or InvalidRequest with one sentence on the first field that is wrong."""
    try:
        return model(**fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        given = "" if isinstance(first["input"], dict) else f", not {one_line(repr(first['input']))[:80]}"
        raise InvalidRequest(f"{where}: {first['msg']}{given}.") from error


def seconds_of(duration: str | int) -> int:
    """Whole seconds of a written duration. Raises InvalidRequest."""
    try:
        return models.parse_duration(duration)
    except ValueError as error:
        raise InvalidRequest(f"{error}.") from error


def micros_of(amount: Amount | None) -> int | None:
    """Micro-units of an amount in whole units; None stays None. Raises InvalidRequest."""
    try:
        return None if amount is None else parse_money(amount)
    except (TypeError, ValueError) as error:
        raise InvalidRequest(f"{error}.") from error


def bytes_of(size: str) -> int:
    """Bytes of a written size. Raises InvalidRequest."""
    try:
        return parse_bytes(size)
    except ValueError as error:
        raise InvalidRequest(f"{error}.") from error


def asked_amount(text: str, quota_id: int | None, account: str | None, quotas: Iterable[models.QuotaUse]) -> int:
    """How much more is asked for, in the limit's unit: GPUs, GPU-seconds of ``10h``, bytes of ``5GiB``, micro-units of
    ``2.50``.

    For an account it is credit. Raises InvalidRequest when neither or both are named, the limit is not among
    ``quotas``, or the text is not in its unit.
    """
    metric = models.QuotaMetric.spend_micros
    if (quota_id is None) == (account is None):
        raise InvalidRequest("Say of what you want more: a limit (--limit NUMBER) or credit (--account NAME).")
    if quota_id is not None:
        found = [quota.metric for quota in quotas if quota.quota_id == quota_id]
        if not found:
            raise InvalidRequest(
                f"You fall under no limit with the number {quota_id}; see the numbers with: quota --json."
            )
        metric = found[0]
    if metric is models.QuotaMetric.spend_micros:
        return micros_of(text) or 0
    if metric is models.QuotaMetric.gpu_seconds:
        return seconds_of(text)
    if metric is models.QuotaMetric.artifact_bytes:
        return bytes_of(text)
    if not (text.isascii() and text.isdigit()):
        raise InvalidRequest(f"{text!r} is not a whole number, which more of this limit is asked for in.")
    return int(text)


def upload_of_bytes(path: str, content: bytes) -> Upload:
    """An input made in memory."""
    return Upload(path, hashlib.sha256(content).hexdigest(), len(content), content)


def upload_of_file(path: str, source: Path) -> Upload:
    """An input that lies on disk; reads it once for its hash. Raises InvalidRequest when it cannot be read."""
    digest, size = hashlib.sha256(), 0
    try:
        with source.open("rb") as file:
            while part := file.read(_HASH_BYTES):
                digest.update(part)
                size += len(part)
    except OSError as error:
        raise InvalidRequest(f"cannot read {path}: {error.strerror or error}.") from error
    return Upload(path, digest.hexdigest(), size, source)


def uploads_of_globs(patterns: Iterable[str], base: Path) -> list[Upload]:
    """The files that patterns name, each once, sorted, with paths relative to ``base``.

    Directories are passed over. Raises InvalidRequest when a pattern names no file or one outside ``base``.
    """
    found: dict[str, Path] = {}
    for pattern in patterns:
        names = [name for name in glob.glob(pattern, root_dir=base, recursive=True) if (base / name).is_file()]
        if not names:
            raise InvalidRequest(f"no file matches {pattern!r} in {base}.", hint="Paths are relative to that folder.")
        for name in names:
            found[_inside(name, base)] = base / name
    return [upload_of_file(path, found[path]) for path in sorted(found)]


def program_of(script: Script, args: Sequence[str], base: Path) -> tuple[Kind, tuple[str, ...], list[Upload]]:
    """Kind, argument vector and program file of what is to run.

    A ``.py`` file is a script, an ``.ipynb`` file a notebook, a list of words a command of the job's machine. A program
    outside ``base`` is put into the job's directory under its bare name.
    """
    if not isinstance(script, str | Path):
        return "command", (*script, *args), []
    source = base / script
    if source.suffix not in (".py", ".ipynb"):
        raise InvalidRequest(
            f"{one_line(str(script))!r} is neither a .py nor an .ipynb file.",
            hint="To run another program give its words as a list, for example ['nvidia-smi', '-L'].",
        )
    if source.suffix == ".ipynb" and args:
        raise InvalidRequest("a notebook takes no arguments.", hint="Give it values as environment variables.")
    try:
        path = _inside(str(script), base)
    except InvalidRequest:
        path = source.name
    kind: Kind = "script" if source.suffix == ".py" else "notebook"
    return kind, (path, *args), [upload_of_file(path, source)]


def gather(
    script: Script, args: Sequence[str], files: Iterable[str], base: Path
) -> tuple[Kind, tuple[str, ...], list[Upload]]:
    """Kind, argument vector and every input of a job: the program and the files named, nothing else of the folder."""
    kind, argv, program = program_of(script, args, base)
    uploads = {upload.path: upload for upload in (*uploads_of_globs(files, base), *program)}
    return kind, argv, list(uploads.values())


def job_request(
    kind: Kind,
    argv: Sequence[str],
    gpu_type: str,
    gpu_count: int,
    time_limit: str | int,
    uploads: Iterable[Upload],
    *,
    name: str | None = None,
    account: str | None = None,
    promo_code: str | None = None,
    max_cost: Amount | None = None,
    env: Mapping[str, str] | None = None,
    fingerprint: str | None = None,
    again: bool = False,
    timing: Timing = AT_ONCE,
    around: Around = NOTHING_AROUND,
    together: Together = ALONE,
) -> models.JobSubmit:
    """The submission itself. Raises InvalidRequest on anything the service would refuse for its form."""
    return make(
        models.JobSubmit,
        name=name or Path(argv[0]).name or "job",
        kind=kind,
        argv=tuple(argv),
        gpu_type=gpu_type,
        gpu_count=gpu_count,
        time_limit_seconds=seconds_of(time_limit),
        account=account,
        promo_code=promo_code,
        max_cost_micros=micros_of(max_cost),
        inputs=tuple(upload.input for upload in uploads),
        environment=dict(env or {}),
        fingerprint=fingerprint,
        again=again,
        **timing.fields,
        **around.fields,
        **together.fields,
    )


def choose_gpu_type(text: str | None, offers: Sequence[models.Offer]) -> str:
    """The GPU type a person means: its name, an unambiguous beginning of it, or the only one there is.

    Raises InvalidRequest naming the types there are.
    """
    names = [offer.gpu_type for offer in offers]
    there_are = f"There are: {', '.join(names)}." if names else "This hub offers none."
    if text is None:
        if len(names) == 1:
            return names[0]
        raise InvalidRequest("which GPU type?", hint=f"Add --gpu. {there_are}")
    wanted = text.lower()
    if wanted in names:
        return wanted
    matching = [name for name in names if len(wanted) >= _SHORTEST_PREFIX and name.startswith(wanted)]
    if len(matching) == 1:
        return matching[0]
    problem = "could be several GPU types" if matching else "is not a GPU type here"
    raise InvalidRequest(f"{one_line(text)!r} {problem}.", hint=there_are)


def _inside(name: str, base: Path) -> str:
    """``name`` relative to ``base`` in POSIX form, links left as they are. Raises InvalidRequest if outside."""
    absolute = Path(base, name).absolute()
    parts: list[str] = []
    for part in absolute.parts:
        if part == ".." and parts:
            parts.pop()
        elif part != "..":
            parts.append(part)
    try:
        return Path(*parts).relative_to(base.absolute()).as_posix()
    except ValueError as error:
        raise InvalidRequest(f"{name} lies outside {base}.", hint="Copy it here first, or start there.") from error
