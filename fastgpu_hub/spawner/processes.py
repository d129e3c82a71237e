"""Find and end every process of a local server, however deep it has hidden: by a mark in its environment.

Kernels run in sessions of their own and double forks lose their parent, so neither the process group nor the tree of
children finds them all. Every descendant inherits the environment it was started with; the mark in it finds them.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

import psutil

MARK_VARIABLE = "FASTGPU_SERVER_MARK"


def marked(mark: str) -> list[psutil.Process]:
    """Living processes (zombies excluded) that carry the mark, and their children. Empty for an empty mark."""
    if not mark:
        return []
    found: dict[int, psutil.Process] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARK_VARIABLE) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found[process.pid] = process
                for child in process.children(recursive=True):
                    if child.status() != psutil.STATUS_ZOMBIE:
                        found[child.pid] = child
    return list(found.values())


async def end_marked(mark: str, *, grace_seconds: float = 1.0, give_up_seconds: float = 10.0) -> bool:
    """SIGTERM to all marked processes, SIGKILL after the grace; True when they are known gone.

    Looks again after each round, because a dying process may have started another.
    """
    began = time.monotonic()
    while processes := await asyncio.to_thread(marked, mark):
        elapsed = time.monotonic() - began
        if elapsed > give_up_seconds:
            return False
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                if elapsed < grace_seconds:
                    process.terminate()
                else:
                    process.kill()
        await asyncio.sleep(0.05)
    return True
