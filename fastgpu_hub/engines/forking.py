"""The engine's side of its shepherds: has them forked, hands them jobs, one after the other, and hears their news."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
from pathlib import Path

from fastgpu_hub.engines import fork_server, shepherd

MOST_IDLE = 16
IDLE_SECONDS = 30.0

_ENVIRONMENT = ("PATH", "LANG", "LD_LIBRARY_PATH")


class Line:
    """The connection to one shepherd; ``over`` once the shepherd is gone, or never came."""

    def __init__(self, ours: socket.socket) -> None:
        self.over = False
        self._socket = ours
        self._told = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(ours, self._read)

    def _read(self) -> None:
        try:
            self.over = not self._socket.recv(64)
        except BlockingIOError:
            return
        except OSError:
            self.over = True
        if self.over:
            self._loop.remove_reader(self._socket)
        self._told.set()

    def hand(self, folder: Path, lock: int) -> None:
        """Give the shepherd a prepared job, with its lock. Raises OSError when it is gone."""
        self._told.clear()
        socket.send_fds(self._socket, [os.fsencode(folder)], [lock])

    async def wait(self) -> None:
        """Return when something was told since the last wait, or nothing will be any more."""
        if not self.over:
            await self._told.wait()
            self._told.clear()

    def close(self) -> None:
        """Listen no longer. The shepherd ends when its job has."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()


class Shepherds:
    """Finds a shepherd for each job: an idle one, else a new one.

    A shepherd that has seen a job to its end keeps nothing of it, and takes the next one: to fork one anew costs more
    than to run a small job. The process that forks them is replaced when it was killed.
    """

    def __init__(self) -> None:
        self._idle: list[Line] = []
        self._requests: socket.socket | None = None
        self.fork_server: int | None = None

    def start(self) -> None:
        """Have a fork server running. Raises OSError when none can be started."""
        if self._requests is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self.fork_server = _spawn(theirs.fileno())
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self._requests = ours

    def hand(self, folder: Path, lock: int) -> Line:
        """Hand a prepared job to a shepherd, which takes over its lock. Raises OSError when there is none to be had."""
        while self._idle:
            line = self._idle.pop()
            with contextlib.suppress(OSError):
                line.hand(folder, lock)
                return line
            line.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        line = Line(ours)
        with theirs:
            try:
                line.hand(folder, lock)  # waits there for the shepherd, who may not live long enough to be handed it
                self._fork(theirs)
            except BaseException:
                line.close()
                raise
        return line

    def _fork(self, theirs: socket.socket) -> None:
        try:
            self._ask(theirs)
        except OSError:  # it was killed, or it hangs
            self._end_fork_server()
            self._ask(theirs)

    def _ask(self, theirs: socket.socket) -> None:
        self.start()
        assert self._requests is not None
        socket.send_fds(self._requests, [b"!"], [theirs.fileno()])

    def take_back(self, line: Line) -> None:
        """A shepherd's job has ended, as it told itself: it may have another one."""
        if line.over or self._requests is None or len(self._idle) >= MOST_IDLE:
            line.close()
            return
        self._idle.append(line)
        asyncio.get_running_loop().call_later(IDLE_SECONDS, self._let_go)

    def _let_go(self) -> None:
        """One for each that was taken back: so at the latest after that time without jobs none is left."""
        if self._idle:
            self._idle.pop(0).close()

    def stop(self) -> None:
        """End those that are idle, and the fork server. Those with jobs stay."""
        for line in self._idle:
            line.close()
        self._idle.clear()
        self._end_fork_server()

    def _end_fork_server(self) -> None:
        requests, self._requests = self._requests, None
        if requests is not None:
            requests.close()
        pid, self.fork_server = self.fork_server, None
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _spawn(requests: int) -> int:
    """The fork server's process. It gets next to nothing of our environment."""
    # A copy above the numbers that it expects, so that none overwrites the other on its way there.
    high = fcntl.fcntl(requests, fcntl.F_DUPFD_CLOEXEC, 10)
    try:
        return os.posix_spawn(
            sys.executable,
            [sys.executable, "-I", "-S", fork_server.__file__, shepherd.__file__],
            {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, high, fork_server.SOCKET_FD),
                *((os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE],
        )
    finally:
        os.close(high)
