"""Tells when a job prints: the kernel's word for it (inotify), asked for only while somebody waits for it."""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

_IN_MODIFY = 0x2
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC  # the numbers of IN_NONBLOCK and IN_CLOEXEC too
_EVENT = struct.Struct("iIII")
_LOG = b"output.log"


@dataclass(slots=True)
class _Followed:
    """Who waits for a job's output, and the kernel's number for its folder, once there is one."""

    folder: Path
    number: int | None = None
    tell: list[Callable[[], None]] = field(default_factory=list)


class LogNews:
    """Calls back when the output of a job grows. All methods run on the event loop.

    Where the kernel cannot watch (no more watches for this user) nobody is called: look now and then all the same.
    """

    def __init__(self) -> None:
        self._fd: int | None = None
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._followed: dict[str, _Followed] = {}
        self._of_number: dict[int, _Followed] = {}

    def on(self, lease_id: str, folder: Path, tell: Callable[[], None]) -> Callable[[], None]:
        """Have ``tell`` called, perhaps for nothing, until the returned function is called."""
        followed = self._followed.setdefault(lease_id, _Followed(folder))
        followed.tell.append(tell)
        self._watch(followed)

        def stop() -> None:
            followed.tell.remove(tell)
            if not followed.tell and self._followed.get(lease_id) is followed:
                del self._followed[lease_id]
                self._forget(followed)

        return stop

    def here(self, lease_id: str) -> None:
        """The job's folder was made: who waited for its output before is told of it from now on."""
        if (followed := self._followed.get(lease_id)) is not None:
            self._watch(followed)

    def close(self) -> None:
        """Tell nobody any more."""
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
        self._fd = None
        self._followed.clear()
        self._of_number.clear()

    def _watch(self, followed: _Followed) -> None:
        if followed.number is not None:
            return
        if self._fd is None:
            fd = self._libc.inotify_init1(_FLAGS)
            if fd < 0:
                return
            self._fd = fd
            asyncio.get_running_loop().add_reader(fd, self._read)
        number = self._libc.inotify_add_watch(self._fd, os.fsencode(followed.folder), _IN_MODIFY)
        if number >= 0:
            followed.number = number
            self._of_number[number] = followed

    def _forget(self, followed: _Followed) -> None:
        if followed.number is not None and self._fd is not None:
            self._libc.inotify_rm_watch(self._fd, followed.number)
            self._of_number.pop(followed.number, None)

    def _read(self) -> None:
        assert self._fd is not None
        try:
            data = os.read(self._fd, 65536)
        except BlockingIOError:
            return
        grown = set()
        while data:
            number, _mask, _cookie, length = _EVENT.unpack_from(data)
            if data[_EVENT.size : _EVENT.size + length].rstrip(b"\0") == _LOG:
                grown.add(number)
            data = data[_EVENT.size + length :]
        for followed in [self._of_number[number] for number in grown if number in self._of_number]:
            for tell in list(followed.tell):
                tell()
