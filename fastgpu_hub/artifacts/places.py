"""Where a job's file is kept: one address for each file, whatever its name holds. Pure."""

from __future__ import annotations

import hashlib
import re

# What every file system and object store takes as it is, and what no shell, glob or address gives a meaning to.
_PLAIN = re.compile(r"[\w@][\w.+=@,() -]{0,199}")
_MAX_KEY_BYTES = 800


def place_of(owner: str, workload_id: str, path: str) -> str:
    """Relative to the store's root: the names themselves where they are plain, else a hash; never the same for two.

    ``~`` begins hashes only, so that no name is taken for one.
    """
    parts = [_part(owner), workload_id, *(_part(part) for part in path.split("/"))]
    if sum(len(part.encode()) + 1 for part in parts) > _MAX_KEY_BYTES:
        parts = [_hash(owner), workload_id, _hash(path)]
    return "/".join(parts)


def _part(name: str) -> str:
    return name if _PLAIN.fullmatch(name) and len(name.encode()) <= 200 else _hash(name)


def _hash(name: str) -> str:
    return "~" + hashlib.sha256(name.encode()).hexdigest()[:40]


def without(text: str, secrets: list[str]) -> str:
    """A text for the log with these values taken out."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def secrets_in(options: object) -> list[str]:
    """Every text in storage options that may be a key: all but addresses and short words."""
    if isinstance(options, dict):
        return [secret for value in options.values() for secret in secrets_in(value)]
    if isinstance(options, list | tuple):
        return [secret for value in options for secret in secrets_in(value)]
    if isinstance(options, str) and len(options) >= 4 and not options.startswith(("http://", "https://")):
        return [options]
    return []
