"""Input bytes kept under their SHA-256."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

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
        """Whether the bytes of this hash are here."""
        return _SHA256.fullmatch(sha256) is not None and self.path(sha256).is_file()

    def put(self, sha256: str, chunks: Iterable[bytes]) -> None:
        """Keep bytes, durably. Raises ValueError when they do not have this hash; nothing is kept then."""
        final = self.path(sha256)
        digest = hashlib.sha256()
        fd, temporary = tempfile.mkstemp(dir=self._path, prefix=".put-")  # mode 0600
        try:
            with os.fdopen(fd, "wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            if digest.hexdigest() != sha256:
                raise ValueError(f"the bytes have the SHA-256 {digest.hexdigest()}, not {sha256}")
            os.rename(temporary, final)
        except BaseException:
            os.unlink(temporary)
            raise
