"""The service as a process: one port, one parent, an orderly end."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import signal
import socket
import stat
import sys
from pathlib import Path
from urllib.parse import urlsplit

_PR_SET_PDEATHSIG = 1
_M_ARENA_MAX = -8


class CannotListen(Exception):
    """The address is taken or not ours; the message says what to do."""


def die_with_parent() -> None:
    """Get SIGTERM when the hub that started us is gone, so that its successor finds the port free. Linux only."""
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # It may have died before we asked.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def share_memory() -> None:
    """Let threads share two heaps: glibc gives each its own, and what one has freed helps no other. Before threads."""
    if hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(_M_ARENA_MAX, 2)


def address_of(url: str) -> tuple[str, int]:
    """Host and port of a service URL. Raises CannotListen when it has no port."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if not parts.hostname or not port:
        raise CannotListen(f"JUPYTERHUB_SERVICE_URL is {url!r}; give the service a url like http://127.0.0.1:10180")
    return parts.hostname, port


async def bind(host: str, port: int, *, wait_seconds: float = 10.0) -> socket.socket:
    """A listening socket. While the port is taken, tries on: the service before this one may still be closing.

    Raises CannotListen when it stays taken, or the address is not this machine's.
    """
    until = asyncio.get_running_loop().time() + wait_seconds
    while True:
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            listening = socket.create_server((host, port), family=family)
            listening.setblocking(False)
            return listening
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise CannotListen(f"Cannot listen on {host}:{port}: {error.strerror or error}.") from None
            if asyncio.get_running_loop().time() >= until:
                message = (
                    f"Port {port} on {host} is taken by another program. "
                    "End it, or give FastGPU another one: setup_fastgpu(c, port=…)."
                )
                raise CannotListen(message) from None
        await asyncio.sleep(0.2)


def let_pass(folder: Path) -> None:
    """Let everybody go through a folder of ours, without seeing what is in it."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o011 != 0o011:
        folder.chmod(mode | 0o011)


def kept_secret(path: Path, length: int = 32) -> bytes:
    """Random bytes that stay the same over restarts, in a file only we can read."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        found = path.read_bytes()
        if len(found) == length:
            return found
        path.unlink()
        return kept_secret(path, length)
    with os.fdopen(descriptor, "wb") as file:
        secret = os.urandom(length)
        file.write(secret)
    return secret
