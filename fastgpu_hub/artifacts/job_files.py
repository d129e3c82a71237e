"""The artifact store: a local folder, or whatever else fsspec reaches (S3 and its like)."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import fsspec
from fsspec.spec import AbstractFileSystem
from traitlets import Dict, Int, List, TraitError, Unicode, validate
from traitlets.config import LoggingConfigurable

from fastgpu_hub.artifacts import sources
from fastgpu_hub.artifacts.places import place_of, secrets_in, without
from fastgpu_hub.broker.ports.files import CannotFetch, FilesUnavailable
from fastgpu_hub.pricing.explain import Refused

PART_BYTES = 1 << 20
DAY_MS = 24 * 3600 * 1000


class JobFiles(LoggingConfigurable):
    """Files that jobs leave and fetch: where artifacts are kept, where inputs may come from, how long things stay."""

    artifacts_url = Unicode(
        "",
        help="""
        Where files are kept that a job names as its outputs, as an fsspec address: a folder, or ``s3://bucket/prefix``.

        Default: the folder ``artifacts`` in the service's state folder. For S3 and its like install
        ``fastgpu-hub[s3]``; what is beyond belongs to the service alone, people read it through the API. Changing it
        moves nothing: what was kept before is read where it was kept.
        """,
    ).tag(config=True)
    artifacts_options = Dict(
        help="""
        fsspec's storage options for ``artifacts_url``: for S3 ``key``, ``secret`` and ``endpoint_url``.

        Without ``key`` the usual places count, such as AWS_ACCESS_KEY_ID in the service's environment. No value of them
        is ever logged or shown.
        """,
    ).tag(config=True)
    max_artifacts = Int(
        1000,
        min=1,
        max=9999,
        help="""
        Most files kept of one job. The job's outputs are refused as a whole beyond that, and its owner is told.
        """,
    ).tag(config=True)
    max_artifact_bytes = Int(
        20 * 2**30,
        min=1,
        help="""
        Most bytes kept of one job; 20 GiB by default. For what a person or a class may keep in all, set a quota with
        the metric ``artifact_bytes``.
        """,
    ).tag(config=True)
    source_prefixes = List(
        Unicode(),
        help="""
        Beginnings of the addresses from which inputs (``sources`` of a job) may be fetched, each ending with ``/``.

        For example ``["https://data.example.org/courses/", "s3://course-data/"]``. None by default: then only files
        kept of one's own earlier jobs are (``artifact:JOB/PATH``). The service fetches with its own rights and from
        its own place in the network, so list what everybody may read. An address on this machine, or of the network's
        own services (loopback, link-local), is fetched only where a prefix names it in so many words; redirects are
        followed within the prefixes only.
        """,
    ).tag(config=True)
    source_options = Dict(
        help="""
        fsspec's storage options for fetching, by protocol: ``{"s3": {"anon": True}}``. No value of them is ever logged.
        """,
    ).tag(config=True)
    max_source_bytes = Int(
        20 * 2**30,
        min=1,
        help="""
        Most bytes fetched for one job, all its ``sources`` together; 20 GiB by default.
        """,
    ).tag(config=True)
    fetch_seconds = Int(
        600,
        min=1,
        help="""
        Longest time that fetching the inputs of one job may take. Its GPUs are kept for it meanwhile, unbilled.
        """,
    ).tag(config=True)
    keep_files_days = Int(
        0,
        min=0,
        help="""
        Days after a job's end for which its folder and its log are kept; 0: for ever.

        Looked after once a day. What is removed is said to have been removed, and when. Input files that no remaining
        job names are removed with them.
        """,
    ).tag(config=True)
    keep_artifacts_days = Int(
        0,
        min=0,
        help="""
        Days for which artifacts are kept; 0: until somebody deletes them.
        """,
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._made: dict[str, AbstractFileSystem] = {}
        self._making = threading.Lock()

    @validate("source_prefixes")
    def _whole_prefixes(self, proposal: Any) -> list[str]:
        for prefix in proposal["value"]:
            if why := sources.why_bad_prefix(prefix):
                raise TraitError(f"JobFiles.source_prefixes: {prefix!r} {why}")
        return list(proposal["value"])

    @property
    def root(self) -> str:
        """The address that every kept file's begins with, without a slash at its end."""
        url = self.artifacts_url.rstrip("/")
        return url if "://" in url else f"file://{os.path.abspath(url or 'artifacts')}"

    def check(self) -> None:
        """Make the folder, or see that the package for the address is there. Raises ValueError with what is missing."""
        if self.root.startswith("file://"):
            Path(self.root.removeprefix("file://")).mkdir(mode=0o700, parents=True, exist_ok=True)
            return
        try:
            self._system(self.root)
        except (ImportError, ValueError) as error:
            what = "install fastgpu-hub[s3]" if self.root.startswith("s3:") else str(error)
            raise ValueError(f"JobFiles.artifacts_url {self.artifacts_url!r} cannot be used: {what}") from None

    # ------------------------------------------------------------ what is kept

    def url_of(self, owner: str, workload_id: str, path: str) -> str:
        """Where a file is kept."""
        return f"{self.root}/{place_of(owner, workload_id, path)}"

    def put(self, url: str, source: BinaryIO, size_bytes: int) -> None:
        """Keep the bytes of ``source``. Raises ValueError when they are not ``size_bytes``, FilesUnavailable."""
        with self._available(f"write {url}", missing=FilesUnavailable):
            written = 0
            with self._system(url).open(url, "wb") as target:
                while written <= size_bytes and (part := source.read(PART_BYTES)):
                    written += len(part)
                    target.write(part)
                _flush(target)
        if written != size_bytes:
            self.remove(url)
            raise ValueError(f"it was {size_bytes} bytes when it was looked at, and {written} or more when it was read")

    def open(self, url: str) -> BinaryIO:
        """To read what was put. Raises FileNotFoundError, FilesUnavailable."""
        with self._available(f"read {url}"):
            return cast("BinaryIO", self._system(url).open(url, "rb"))

    def remove(self, url: str) -> None:
        """Remove what lies there, if anything does. Raises FilesUnavailable."""
        with self._available(f"remove {url}"):
            system = self._system(url)
            try:
                system.rm_file(url)
            except FileNotFoundError:
                return
            if url.startswith(f"{self.root}/") and url.startswith("file://"):
                _remove_empty(Path(url.removeprefix("file://")).parent, Path(self.root.removeprefix("file://")))

    # ------------------------------------------------------------ what is fetched

    def check_source(self, address: str) -> Refused | None:
        """Why nothing is fetched from an address; None when a prefix allows it."""
        return sources.refusal(address, self.source_prefixes)

    def fetch(self, address: str, into: BinaryIO, limit_bytes: int, go_on: Callable[[], bool]) -> int:
        """Write what lies at an address. Raises CannotFetch."""
        if refused := self.check_source(address):
            raise CannotFetch(refused.message)
        options = self.source_options.get(urlsplit(address).scheme)
        if options is None and address.startswith(f"{self.root.partition('://')[0]}://"):
            options = self.artifacts_options
        secrets = secrets_in(options) + secrets_in(self.artifacts_options)
        try:
            with sources.opened(address, self.source_prefixes, dict(options or {})) as source:
                return sources.copy(source, into, limit_bytes, go_on)
        except CannotFetch:
            raise
        except Exception as error:  # every protocol has errors of its own
            if isinstance(error, FileNotFoundError) or getattr(error, "status", None) in (404, 410):
                raise CannotFetch(f"There is nothing at {sources.shown(address)}.") from None
            self.log.warning("%s could not be fetched: %s", sources.shown(address), without(_told(error), secrets))
            raise CannotFetch(f"{sources.shown(address)} could not be read ({type(error).__name__}).") from None

    # ------------------------------------------------------------ fsspec

    def _system(self, url: str) -> AbstractFileSystem:
        protocol = url.partition("://")[0]
        with self._making:
            if protocol not in self._made:
                ours = protocol == self.root.partition("://")[0]
                options = dict(self.artifacts_options if ours else self.source_options.get(protocol, {}))
                if protocol == "file":
                    options = {"auto_mkdir": True}
                if protocol != "memory":
                    options |= {"skip_instance_cache": True, "use_listings_cache": False}
                self._made[protocol] = fsspec.filesystem(protocol, **options)
            return self._made[protocol]

    @contextmanager
    def _available(self, what: str, missing: type[Exception] = FileNotFoundError) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise missing(
                f"cannot {what}: {_told(error)}"
            ) from None  # when writing, it is the bucket that is not there
        except Exception as error:  # every protocol has errors of its own
            secrets = secrets_in(self.artifacts_options) + secrets_in(self.source_options)
            raise FilesUnavailable(without(f"cannot {what}: {_told(error)}", secrets)) from None

    def close(self) -> None:
        """Close connections."""
        with self._making:
            for system in self._made.values():
                sources.close(system)
            self._made.clear()


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _flush(target: Any) -> None:
    """A local file is to survive a power cut once it counts as kept; object stores see to that themselves."""
    if (descriptor := getattr(getattr(target, "f", None), "fileno", None)) is not None:
        target.flush()
        os.fsync(descriptor())


def _remove_empty(folder: Path, root: Path) -> None:
    while folder != root and folder.is_relative_to(root):
        try:
            folder.rmdir()
        except OSError:
            return
        folder = folder.parent
