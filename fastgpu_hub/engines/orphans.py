"""Find and end the processes of a job whose shepherd was killed."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from fastgpu_hub.engines.shepherd import Process, kill, process_table

QUIET_ROUNDS = 5  # one look may miss a process that changes its pid all the time by forking and leaving


@dataclass(frozen=True, slots=True)
class Marks:
    """How a job's processes are recognised: any one of the marks is enough.

    ``lease_id`` stands in their environment; ``session`` is the one the job's command leads (its pid, with its start
    ticks to tell it from a later process of that number); ``log_pipe`` is the inode of the pipe their output goes to.
    No process from before ``since_ticks`` is one of them.
    """

    lease_id: str
    since_ticks: int
    session: int | None = None
    session_ticks: int | None = None
    log_pipe: int | None = None


def _environment(pid: int) -> bytes | None:
    """Environment a process was started with; empty when it is gone, None when we may not look."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read()
    except PermissionError:
        return None
    except OSError:
        return b""


def _runs_as_us(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/status") as file:
            uids = next(line for line in file if line.startswith("Uid:")).split()[1:]
    except (OSError, StopIteration):
        return False
    return str(os.geteuid()) in uids


def _writes_to(pid: int, pipe: int) -> bool:
    for fd in (1, 2):
        try:
            if os.readlink(f"/proc/{pid}/fd/{fd}") == f"pipe:[{pipe}]":
                return True
        except OSError:
            continue
    return False


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at the machine shows: living processes of the job, by pid.

    ``hidden``: a process of our own user does not show its environment, so it may be one. ``strays``: dead processes
    that lost their parent since the job began; when they keep coming, something that forks and leaves is at work.
    """

    found: dict[int, Process]
    hidden: bool
    strays: frozenset[int]


def look(marks: Marks) -> Look:
    """Look for the job's processes once."""
    wanted = f"FASTGPU_LEASE_ID={marks.lease_id}".encode()
    table = process_table()
    leader = table.get(marks.session or 0)
    same_session = marks.session and (leader is None or leader.start_ticks == marks.session_ticks)
    # Those that a process without a parent is handed to: the machine's init, or somebody between it and us.
    heirs = _ancestors(table, os.getpid())
    found: dict[int, Process] = {}
    hidden = False
    strays = set()
    for pid, process in table.items():
        if pid == os.getpid() or process.start_ticks < marks.since_ticks:
            continue
        if process.dead:
            if process.parent in heirs:
                strays.add(pid)
        elif same_session and process.session == marks.session:
            found[pid] = process
        elif (environment := _environment(pid)) is None:
            hidden = hidden or _runs_as_us(pid)
        elif wanted in environment.split(b"\0") or (marks.log_pipe and _writes_to(pid, marks.log_pipe)):
            found[pid] = process
    return Look(found, hidden, frozenset(strays))


def _ancestors(table: dict[int, Process], pid: int) -> set[int]:
    found: set[int] = set()
    while (process := table.get(pid)) is not None and process.parent not in found:
        pid = process.parent
        found.add(pid)
    return found


def end_all(marks: Marks, seconds: float = 5.0) -> bool | None:
    """Kill every process of the job. True: some were found and all are gone. False: there was none. None: cannot tell.

    Blocks for at most about ``seconds``.
    """
    killed = False
    quiet_rounds = 0
    strays: frozenset[int] | None = None
    until = time.monotonic() + seconds
    while quiet_rounds < QUIET_ROUNDS:
        seen = look(marks)
        if time.monotonic() >= until or (seen.hidden and not seen.found):
            return None
        quiet = not seen.found and (strays is None or seen.strays <= strays)
        quiet_rounds = quiet_rounds + 1 if quiet else 0
        strays = seen.strays | (strays or frozenset())
        killed = killed or bool(seen.found)
        kill(seen.found)
        time.sleep(0.01)
    return killed
