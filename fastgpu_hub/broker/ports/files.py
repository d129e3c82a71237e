"""Files that outlive their job, and files that a job asks for. All calls block: the broker runs them in threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Protocol

from fastgpu_hub.pricing.explain import Refused


class FilesUnavailable(Exception):
    """The place where files are kept does not answer, or does not take them. The message is for the log: no keys."""


class CannotFetch(Exception):
    """An input cannot be fetched; the message is a sentence for the job's owner."""


class FileStore(Protocol):
    """Keeps artifacts, and fetches inputs from addresses that the administrator allows."""

    def url_of(self, owner: str, workload_id: str, path: str) -> str:
        """Where a file is kept: the same for the same file, another one for any other."""

    def put(self, url: str, source: BinaryIO, size_bytes: int) -> None:
        """Keep the bytes of ``source``, in place of what lies there.

        Raises ValueError when they are not ``size_bytes``, FilesUnavailable when they cannot be written.
        """

    def open(self, url: str) -> BinaryIO:
        """To read what was put. Raises FileNotFoundError, FilesUnavailable."""

    def remove(self, url: str) -> None:
        """Remove what lies there, if anything does. Raises FilesUnavailable."""

    def check_source(self, address: str) -> Refused | None:
        """Why nothing is fetched from an address, by its form alone; None when it is allowed."""

    def fetch(self, address: str, into: BinaryIO, limit_bytes: int, go_on: Callable[[], bool]) -> int:
        """Write what lies at an address, at most ``limit_bytes``, as long as ``go_on`` says so; how many bytes.

        Raises CannotFetch.
        """

    def close(self) -> None:
        """Close connections."""
