"""Forks shepherds: ``python -I -S fork_server.py SHEPHERD_PY``. Standard library only, imports none of ours.

A Python takes some 15 ms to come up, a fork of one that is up a fifth of a millisecond. The engine starts this process
once. Over the socket that is open file 3 it sends, for each shepherd it wants, the other end of a socket of its own, on
which that shepherd gets its jobs. Nothing is kept here: a shepherd leaves in a session of its own and outlasts this
process, which ends when the engine closes its side. A request that it dies with is seen by the engine, for then nobody
holds the other end.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import os
import signal
import socket
import sys

TYPE_CHECKING = False  # importing typing would take as long as everything else here together
if TYPE_CHECKING:
    from collections.abc import Callable

SOCKET_FD = 3


def serve(requests: socket.socket, shepherd: Callable[[], None]) -> None:
    """Fork a shepherd per request, until the other side is closed."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel collects dead shepherds
    while True:
        request, files, _, _ = socket.recv_fds(requests, 1, 1)
        if not request:
            return
        for control in files:
            with contextlib.suppress(OSError):  # no more processes: the engine sees that nobody came, and tries again
                if os.fork() == 0:
                    become(shepherd, control)
            os.close(control)


def become(shepherd: Callable[[], None], control: int) -> None:
    """In the child: be a shepherd, with the socket under the number that it expects. Never returns."""
    try:
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(control, SOCKET_FD)
        shepherd()
    finally:
        os._exit(1)


def main(shepherd_path: str) -> None:
    """Serve with the program of that path."""
    spec = importlib.util.spec_from_file_location("shepherd", shepherd_path)
    assert spec is not None
    assert spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    gc.collect()
    gc.freeze()  # else the first collection in each shepherd would copy every page of this process
    serve(socket.socket(fileno=SOCKET_FD), program.main)


if __name__ == "__main__":
    main(sys.argv[1])
