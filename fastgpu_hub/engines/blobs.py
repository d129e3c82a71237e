"""Input bytes kept under their SHA-256."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import BinaryIO, cast

_SHA256 = re.compile(r"[0-9a-f]{64}")


class BlobFolder:
    """A folder of files named by the hash of their bytes, readable by the service alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> None:
        """Make the folder if there is none."""
        self._path.mkdir(parents=True, exist_ok=True)
        self._path.chmod(0o700)

    def path(self, sha256: str) -> Path:
        """Where the bytes of this hash are. Raises ValueError when it is no SHA-256 in lower-case hex."""
        if not _SHA256.fullmatch(sha256):
            raise ValueError(f"not a SHA-256 in lower-case hexadecimal: {sha256[:80]!r}")
        return self._path / sha256

    def has(self, sha256: str) -> bool:
        """Whether the bytes of this hash are here. Then they stay for a while: somebody may be about to name them."""
        if not _SHA256.fullmatch(sha256):
            return False
        try:
            os.utime(self.path(sha256))
        except FileNotFoundError:
            return False
        return True

    def put(self, sha256: str, chunks: Iterable[bytes]) -> None:
        """Keep bytes, durably. Raises ValueError when they do not have this hash; nothing is kept then."""
        self.path(sha256)

        def write(file: BinaryIO) -> None:
            for chunk in chunks:
                file.write(chunk)

        self.add(write, sha256)

    def add(self, write: Callable[[BinaryIO], None], expected: str | None = None) -> str:
        """Keep what ``write`` writes, durably, under its hash; returns that.

        Nothing is kept when ``write`` raises, nor when the hash is not the ``expected`` one: then ValueError is raised.
        """
        fd, temporary = tempfile.mkstemp(dir=self._path, prefix=".put-")  # mode 0600
        try:
            with os.fdopen(fd, "wb") as file:
                hashing = _Hashing(file)
                write(cast("BinaryIO", hashing))
                file.flush()
                os.fsync(fd)
            sha256 = hashing.digest.hexdigest()
            if expected not in (None, sha256):
                raise ValueError(f"the bytes have the SHA-256 {sha256}, not {expected}")
            os.rename(temporary, self.path(sha256))
        except BaseException:
            os.unlink(temporary)
            raise
        return sha256

    def sweep(self, named: Collection[str], before_ms: int) -> int:
        """Remove what is not named and was neither put nor asked for since an instant; how many."""
        removed = 0
        for path in self._path.iterdir():
            if path.name not in named and path.stat().st_mtime_ns // 1_000_000 < before_ms:
                path.unlink()
                removed += 1
        return removed


class _Hashing:
    """A file to write to that hashes what is written."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)
