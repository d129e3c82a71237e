"""Which of a job's files are its outputs, and whether they may be kept. Pure."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from fastgpu_hub.broker.jobs_input import MAX_PATH_DEPTH, check_input_paths
from fastgpu_hub.broker.ports.world import FileEntry
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.quota_words import format_bytes

ANY_DEPTH = "**"
SAVE_POINTS = "@checkpoints"


def check_outputs(patterns: Iterable[str]) -> Refused | None:
    """Refuse patterns that cannot name a file of a job: absolute, ``..``, empty parts, control characters, too long."""
    for pattern in patterns:
        plain = pattern.removesuffix("/")
        if refused := check_input_paths([plain]):
            return Refused(
                "invalid_request",
                refused.message.replace("input path", "output pattern"),
                instead="Give patterns relative to the job's folder, like results/*.csv or checkpoints/.",
            )
    return None


def matching(patterns: Sequence[str], files: Iterable[FileEntry]) -> list[FileEntry]:
    """The files that any of the patterns names, in their order.

    ``*``, ``?`` and ``[…]`` stand for characters within one part of a path, ``**`` for any number of parts. A pattern
    that names a folder means all that is in it. Save points, which are listed below ``@checkpoints``, are meant only
    where a pattern begins so.
    """
    saved = [_parts(pattern) for pattern in patterns if _is_saved(pattern)]
    plain = [_parts(pattern) for pattern in patterns if not _is_saved(pattern)]
    return [
        entry
        for entry in files
        if any(_names(parts, entry.path.split("/")) for parts in (saved if _is_saved(entry.path) else plain))
    ]


def _is_saved(path: str) -> bool:
    return path.partition("/")[0] == SAVE_POINTS


def _parts(pattern: str) -> tuple[re.Pattern[str] | None, ...]:
    return tuple(None if part == ANY_DEPTH else _part(part) for part in pattern.removesuffix("/").split("/"))


@lru_cache(maxsize=512)
def _part(part: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(part))


def _names(pattern: tuple[re.Pattern[str] | None, ...], parts: list[str]) -> bool:
    """Whether a pattern names the path, or a folder on the way to it."""
    reached = {0}  # how many parts of the pattern are used up, after each part of the path
    for depth, name in enumerate(parts[:MAX_PATH_DEPTH]):
        reached = _skip(pattern, reached)
        if len(pattern) in reached and depth:
            return True
        further = set()
        for used in reached:
            if used < len(pattern):
                here = pattern[used]
                if here is None:
                    further.add(used)
                elif here.match(name):
                    further.add(used + 1)
        reached = further
    return len(pattern) in _skip(pattern, reached)


def _skip(pattern: tuple[re.Pattern[str] | None, ...], reached: set[int]) -> set[int]:
    """``**`` may stand for no part at all."""
    found = set(reached)
    for used in reached:
        while used < len(pattern) and pattern[used] is None:
            used += 1
            found.add(used)
    return found


def over_caps(files: Sequence[FileEntry], most_files: int, most_bytes: int) -> Refused | None:
    """Why so many, or so large, files of one job are not kept."""
    size = sum(entry.size_bytes for entry in files)
    numbers: dict[str, int | str] = {"files": len(files), "bytes": size}
    if len(files) > most_files:
        return Refused(
            "too_many_artifacts",
            f"The outputs are {len(files)} files; at most {most_files} of one job are kept.",
            {**numbers, "limit_files": most_files},
            instead="Keep fewer, or pack them into one file.",
        )
    if size > most_bytes:
        return Refused(
            "artifacts_too_large",
            f"The outputs are {format_bytes(size)}; at most {format_bytes(most_bytes)} of one job are kept.",
            {**numbers, "limit_bytes": most_bytes},
            instead="Keep fewer or smaller files.",
        )
    return None
