"""Fetching inputs from addresses that the administrator lists, and from nowhere else."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import posixpath
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit

import fsspec

from fastgpu_hub.broker.ports.files import CannotFetch
from fastgpu_hub.pricing.explain import Refused

PART_BYTES = 1 << 20
_READ_SECONDS = 60
_CLOSE_SECONDS = 5


def shown(address: str) -> str:
    """An address for people and logs: without its query, which may be a signature, and not endless."""
    plain = address.partition("?")[0]
    return ascii(plain if len(plain) <= 200 else plain[:199] + "…")


def why_bad_prefix(prefix: str) -> str:
    """What is wrong with a prefix; the empty string when nothing is."""
    parts = urlsplit(prefix)
    if not parts.scheme or "://" not in prefix:
        return "is no address: write for example https://data.example.org/courses/"
    if not prefix.endswith("/"):
        return "must end with a slash, or it would match the beginnings of other names"
    if (parts.scheme == "file") == bool(parts.netloc):
        return "names no host or bucket, or a file on another host"
    return _why_bad(prefix)


def refusal(address: str, prefixes: Sequence[str]) -> Refused | None:
    """Why nothing is fetched from an address; None when one of the prefixes allows it."""
    why = _why_bad(address)
    if not why and not _allowed(address, prefixes):
        why = "is not below any of the addresses that the administrator allows"
    if not why:
        return None
    known = ", ".join(prefixes) or "none"
    return Refused(
        "invalid_request",
        f"The source {shown(address)} {why}.",
        instead=f"Allowed are artifact:JOB/PATH for files kept of your own jobs, and what begins with: {known}.",
    )


def _why_bad(address: str) -> str:
    """What could make an address mean another place than it seems to."""
    try:
        parts = urlsplit(address)
        named = parts.hostname
    except ValueError:
        return "cannot be read"
    if any(ord(c) <= 32 or ord(c) == 127 for c in address) or "\\" in address:
        return "holds blanks, backslashes or control characters"
    if "::" in address.partition("//")[0] or "::" in address.partition("//")[2].partition("/")[2] or "#" in address:
        return "holds :: or #, which is not possible here"
    if "@" in parts.netloc or (parts.scheme != "file" and not named):
        return "names a user, or no host"
    segments = unquote(unquote(parts.path)).split("/")
    if any(segment in (".", "..") for segment in segments):
        return "holds . or .. as a part of its path"
    return ""


def _allowed(address: str, prefixes: Sequence[str]) -> bool:
    wanted = urlsplit(address)
    for prefix in prefixes:
        allowed = urlsplit(prefix)
        same_place = (wanted.scheme, wanted.netloc.lower()) == (allowed.scheme, allowed.netloc.lower())
        if same_place and unquote(wanted.path).startswith(unquote(allowed.path)):
            return True
    return False


@contextmanager
def opened(address: str, prefixes: Sequence[str], options: dict[str, Any]) -> Iterator[BinaryIO]:
    """The file at an allowed address, to read from its beginning to its end."""
    scheme = urlsplit(address).scheme
    if scheme == "file":
        with _local(address, prefixes) as file:
            yield file
        return
    more: dict[str, Any] = {}
    if scheme in ("http", "https"):
        options = {**options, "get_client": partial(_guarded_client, prefixes)}
        more = {"block_size": 0, "size": 1}  # one request, read as it comes
    system = fsspec.filesystem(scheme, skip_instance_cache=True, use_listings_cache=False, **options)
    try:
        with system.open(address, "rb", **more) as file:
            yield cast("BinaryIO", file)
    finally:
        close(system)


@contextmanager
def _local(address: str, prefixes: Sequence[str]) -> Iterator[BinaryIO]:
    """A file below a listed folder, with every link resolved."""
    real = os.path.realpath(unquote(urlsplit(address).path))
    roots = [os.path.realpath(unquote(urlsplit(prefix).path)) for prefix in prefixes if prefix.startswith("file:")]
    if not any(posixpath.commonpath([real, root]) == root for root in roots):
        raise CannotFetch(f"{shown(address)} leads out of the folder that the administrator allows.")
    descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not os.path.isfile(descriptor):
            raise CannotFetch(f"{shown(address)} is not a file.")
        yield file


def copy(source: BinaryIO, into: BinaryIO, limit_bytes: int, go_on: Callable[[], bool]) -> int:
    """Copy to the end. Raises CannotFetch when it is more than ``limit_bytes``, or is not to go on."""
    copied = 0
    while part := source.read(PART_BYTES):
        copied += len(part)
        if copied > limit_bytes:
            raise CannotFetch(f"It is larger than the {limit_bytes} bytes that may still be fetched for this job.")
        if not go_on():
            raise CannotFetch("Fetching the sources took too long.")
        into.write(part)
    return copied


def close(system: Any) -> None:
    """Close a file system's connections, where it has any."""
    if (client := getattr(system, "_s3creator", None)) is not None:
        closing = client.__aexit__(None, None, None)
    elif (session := getattr(system, "_session", None)) is not None:
        closing = session.close()
    else:
        return
    with suppress(Exception):  # what cannot be closed is closed with the process
        asyncio.run_coroutine_threadsafe(closing, system.loop).result(_CLOSE_SECONDS)


# ---------------------------------------------------------------- http


async def _guarded_client(prefixes: Sequence[str], **kwargs: Any) -> Any:
    """An HTTP client that stays within the prefixes, and off this machine unless they name it."""
    import aiohttp

    class Resolver(aiohttp.ThreadedResolver):
        async def resolve(self, host: str, port: int = 0, family: Any = socket.AF_INET) -> Any:
            found = await super().resolve(host, port, family)
            if not _names_itself(host):
                for each in found:
                    if _local_address(each["host"]):
                        raise OSError(f"{host} is an address of this machine or its network's own services")
            return found

    async def on_redirect(_session: Any, _context: Any, seen: Any) -> None:
        target = str(seen.response.url.join(_location(seen.response)))
        if _why_bad(target) or not _allowed(target, prefixes):
            raise CannotFetch(f"It redirects to {shown(target)}, which is not allowed.")

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(on_redirect)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_READ_SECONDS, sock_read=_READ_SECONDS)
    connector = aiohttp.TCPConnector(resolver=Resolver())
    # The bytes as they lie there, whatever the server would make of them on the way. A refusal is let go of by whoever
    # sent the request, or its connection stays.
    plain: dict[str, Any] = {"headers": {"Accept-Encoding": "identity"}, "auto_decompress": False}
    plain["raise_for_status"] = True
    return aiohttp.ClientSession(connector=connector, trace_configs=[trace], timeout=timeout, **plain, **kwargs)


def _location(response: Any) -> Any:
    from yarl import URL

    return URL(response.headers.get("Location") or response.headers.get("URI") or "")


def _names_itself(host: str) -> bool:
    """Whether a name says in so many words that it is this machine, or an address: then a prefix lists just that."""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return host.rstrip(".").lower() == "localhost"


def _local_address(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(
        mapped.is_loopback or mapped.is_link_local or mapped.is_unspecified or mapped.is_multicast or mapped.is_reserved
    )
