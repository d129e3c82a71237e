"""Supervisor of jobs, one after the other, forked by ``fork_server.py``. Standard library only, imports none of ours.

In a session of its own it outlasts the service and the fork server, and a job's processes cannot get away from it
(child subreaper): it has no other job before none of them is left. It reads ``launch`` from the job's records and adds

- ``shepherd`` before anything of the job runs: who supervises it, in which boot of the machine,
- ``started`` once the command has been executed,
- ``exit`` when no process of the job is left: exit code, ending, when.

Open file 3 is the engine's socket. A message on it is a job: its folder, and its file of records, which becomes open
file 4 and is locked by that mere open file until the end is recorded or this process is gone, whatever ends it. One
byte back says that ``started`` or ``exit`` is there. When the socket is closed, the service is gone: then it ends with
its job. SIGTERM asks for a stop; ``stop.json`` may hold the grace for it. The time at which the records were modified
is a heartbeat.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import socket
import time
from functools import cache

TYPE_CHECKING = False  # importing typing would take as long as everything else here together
if TYPE_CHECKING:
    from typing import Any

CONTROL_FD = 3
RECORDS_FD = 4
MOST_PATH_BYTES = 8192
HEARTBEAT_SECONDS = 10.0
LEFTOVER_PAUSE_SECONDS = 0.2  # what ends by itself right after the command (a `tee`) is let finish
LEFTOVER_GRACE_SECONDS = 1.0
KILL_ROUND_SECONDS = 0.02
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def wall_ms() -> int:
    """Now, in milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def elapsed_ms() -> int:
    """Milliseconds since the machine was booted, its sleep included as in the bill; nobody sets this clock."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def _elapsed() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@cache
def boot_id() -> str:
    """Names this boot of the machine; another value means that every process from before is gone."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return file.read().strip()


def _stat_fields(pid: int | str) -> list[bytes] | None:
    """Fields of ``/proc/PID/stat`` after the command's name: state, parent, group, session …; None when gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()
    except OSError:
        return None


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with the pid it names one process for good."""
    fields = _stat_fields(pid)
    return int(fields[19]) if fields else None


class Process:
    """One line of the machine's process table."""

    def __init__(self, fields: list[bytes]) -> None:
        self.dead = fields[0] == b"Z"
        self.parent, self.group, self.session = (int(field) for field in fields[1:4])
        self.start_ticks = int(fields[19])


def process_table() -> dict[int, Process]:
    """Every process by its pid."""
    stats = {int(entry): _stat_fields(entry) for entry in os.listdir("/proc") if entry.isdigit()}
    return {pid: Process(fields) for pid, fields in stats.items() if fields}


def descendants(root: int) -> dict[int, Process]:
    """Children of ``root``, their children and so on, without ``root``; the dead who wait to be collected too."""
    table = process_table()
    children: dict[int, list[int]] = {}
    for pid, process in table.items():
        children.setdefault(process.parent, []).append(pid)
    found: dict[int, Process] = {}
    pending = [root]
    while pending:
        for pid in children.get(pending.pop(), ()):
            if pid not in found:
                found[pid] = table[pid]
                pending.append(pid)
    return found


def send(pid: int, number: int) -> None:
    """Send a signal, if the process is there and we may. Whether it obeyed is seen by looking again."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def kill(processes: dict[int, Process]) -> None:
    """Kill these processes and their groups.

    A group dies as one: a process that keeps forking and leaving has moved on before its number is known, but it
    leaves its dead behind, and they name its group. Processes of a job share no group with others.
    """
    for group in {process.group for process in processes.values()} - {0, 1, os.getpgrp()}:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for pid, process in processes.items():
        if not process.dead:
            send(pid, signal.SIGKILL)


def end_all() -> None:
    """Kill and collect every descendant of this process, until none is left."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            kill(descendants(os.getpid()))
            time.sleep(KILL_ROUND_SECONDS)


def write_record(records: int, name: str, record: dict[str, Any], *, durable: bool = False) -> None:
    """Add a record to a file that was opened for appending; ``durable``: it also survives a power cut.

    It begins a line of its own, whatever a write that was cut off has left.
    """
    line = f"\n{name} {json.dumps(record)}\n".encode()
    while line:
        line = line[os.write(records, line) :]
    if durable:
        os.fsync(records)


def read_record(records: bytes, name: str) -> dict[str, Any] | None:
    """The latest record of a name in what :func:`write_record` has written; None when there is none, or half of it."""
    begin = records.rfind(f"\n{name} ".encode()) + 1
    end = records.find(b"\n", begin)
    return _parsed(records[begin + len(name) : end]) if begin and end > 0 else None


def read_json(folder: str, name: str) -> dict[str, Any] | None:
    """A file with one record; None when there is none."""
    try:
        with open(os.path.join(folder, name), "rb") as file:
            return _parsed(file.read())
    except OSError:
        return None


def _parsed(text: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(text)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _own_record(name: str) -> dict[str, Any] | None:
    return read_record(os.pread(RECORDS_FD, os.fstat(RECORDS_FD).st_size, 0), name)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


class Log:
    """The job's output: copied from its pipe into ``output.log``, up to a limit that the log itself mentions."""

    def __init__(self, path: str, limit_bytes: int) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._limit = limit_bytes
        self._left = limit_bytes
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)

    def close(self) -> None:
        """Let go of it."""
        self.close_writer()
        os.close(self.reader)
        os.close(self._fd)

    def close_writer(self) -> None:
        """Only the job's processes write."""
        if self.writer >= 0:
            os.close(self.writer)
        self.writer = -1

    def copy(self, most_bytes: int = 1 << 20) -> bool:
        """Copy what is there; False at the end of the pipe (every writer has closed it)."""
        while most_bytes > 0:
            try:
                chunk = os.read(self.reader, 65536)
            except BlockingIOError:
                return True
            if not chunk:
                return False
            most_bytes -= len(chunk)
            if self._left > 0:
                self._write(chunk[: self._left])
                self._left -= len(chunk)
                if self._left <= 0:
                    self.say(f"the log is cut here: it reached its limit of {self._limit} bytes")
        return True

    def say(self, sentence: str) -> None:
        """Add a line of our own."""
        self._write(f"\n[fastgpu] {sentence}\n".encode())

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # a full disk costs log lines, never the supervision of the job
            while data:
                data = data[os.write(self._fd, data) :]


def _execute(launch: dict[str, Any], log: Log, shepherd: int) -> None:
    """In the child: become the job. Only returns by raising; what went wrong is the exception's text."""
    os.setsid()
    os.dup2(log.writer, 1)
    os.dup2(log.writer, 2)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # those that we have handlers for, exec resets
        signal.signal(number, signal.SIG_DFL)
    os.umask(0o022)
    if launch.get("uid") is not None:
        os.setgroups(launch["groups"])
        os.setgid(launch["gid"])
        os.setuid(launch["uid"])
    # Without its supervisor the job would run unlimited; set after setuid, which clears it.
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != shepherd:
        os._exit(1)
    os.chdir(launch["work"])
    _replace_by(launch["argv"], launch["environment"])


def _replace_by(argv: list[str], environment: dict[str, str]) -> None:
    """Execute a program, found on its own PATH. Only returns by raising: the error of the first place that has it."""
    folders = [""] if "/" in argv[0] else environment.get("PATH", os.defpath).split(":")
    lacks: OSError | None = None
    found: OSError | None = None
    for folder in folders:
        path = os.path.join(folder, argv[0])
        try:
            os.stat(path)  # costs nothing beside an execve that fails
            os.execve(path, argv, environment)  # noqa: S606  the point of it: no shell
        except (FileNotFoundError, NotADirectoryError) as error:
            lacks = error
        except OSError as error:
            found = found or error
    raise found or lacks or OSError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])


def _why(error: BaseException, launch: dict[str, Any]) -> str:
    """What went wrong, for the job's owner. Runs as the job's user, so it sees what that user sees."""
    if not isinstance(error, OSError):
        return str(error) or type(error).__name__
    work, program, user = launch["work"], launch["argv"][0], launch["user"]
    path = work if error.filename == work else program
    closed = _closed_to_us(path) if isinstance(error, PermissionError) else ""
    if not closed:
        return f"{error.strerror}: {path}"
    if path == work:
        return (
            f"{user} cannot reach the job's folder {work}: {closed} is closed to that user. The administrator can open "
            f"the way with `chmod o+x {closed}`, or set c.LocalEngine.state_dir to a folder that all can pass."
        )
    if path == launch["python"]:
        return (
            f"{user} cannot run the jobs' Python {path}: {closed} is closed to that user. The administrator can set "
            "c.LocalEngine.python to a Python that everybody can read, for example below /opt."
        )
    return f"{user} cannot run {path}: {closed} is closed to that user."


def _closed_to_us(path: str) -> str:
    """The first folder on the way to a file, over all its links, that we may not pass; else the file if we may not run
    it; the empty string when neither is the trouble."""
    if not os.path.isabs(path):
        return ""
    for _ in range(40):  # as many links as the kernel follows
        parts = path.split("/")
        for count in range(1, len(parts) + 1):
            here = "/".join(parts[:count]) or "/"
            if os.path.islink(here):
                path = os.path.join(os.path.dirname(here), os.readlink(here), *parts[count:])
                break
            if not os.access(here, os.X_OK):
                return here if os.path.lexists(here) else ""
        else:
            return ""
    return ""


class Shepherd:
    """One job from its start to the end of its last process."""

    def __init__(self, folder: str, launch: dict[str, Any]) -> None:
        self.folder = folder
        self.launch = launch
        self.log = Log(os.path.join(folder, "output.log"), launch["max_log_bytes"])
        self.root = 0
        self.root_status: int | None = None
        self.ending = "exit"
        self.stop_asked = False
        self.kill_at: float | None = None
        self.leftovers_since: float | None = None
        self.leftovers_asked = False
        self.limit_at = float("inf")

    def run(self) -> dict[str, Any]:
        """Start the command, wait until nothing of it is left; the record of its end."""
        self._wake, wake_writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        try:
            return self._run()
        finally:
            signal.set_wakeup_fd(-1)
            os.close(self._wake)
            os.close(wake_writer)

    def _run(self) -> dict[str, Any]:
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # held back since the job was taken
        if read_json(self.folder, "stop.json"):
            return {"ending": "stopped", "exit_code": None}
        if failure := self._start():
            end_all()
            return {"ending": "failed_to_start", "exit_code": None, "message": failure}
        started_ms, began = wall_ms(), elapsed_ms()
        self.limit_at = (began + self.launch["time_limit_ms"]) / 1000
        started = {"pid": self.root, "start_ticks": start_ticks(self.root), "at_ms": started_ms, "elapsed_ms": began}
        write_record(RECORDS_FD, "started", started)
        _tell()
        self.stop_asked = self.stop_asked or read_json(self.folder, "stop.json") is not None
        self._watch()
        # By the clock that nobody sets: the wall clock may have jumped meanwhile.
        ended_ms = started_ms + elapsed_ms() - began
        self.log.copy(1 << 26)
        code = self._exit_code()
        return {"ending": self.ending, "exit_code": code, "started_ms": started_ms, "ended_ms": ended_ms}

    def _start(self) -> str:
        """Fork and execute; the empty string, or what went wrong."""
        errors_reader, errors_writer = os.pipe()
        me = os.getpid()
        self.root = os.fork()
        if self.root == 0:
            try:
                _execute(self.launch, self.log, me)
            except BaseException as error:
                os.write(errors_writer, _why(error, self.launch).encode(errors="replace")[:1000])
            os._exit(127)
        os.close(errors_writer)
        self.log.close_writer()
        with os.fdopen(errors_reader, "rb") as errors:
            return errors.read().decode(errors="replace")

    def _on_stop(self, *_: object) -> None:
        self.stop_asked = True

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(self.log.reader, select.POLLIN)
        heartbeat_at = _elapsed()
        while self._reap():
            now = _elapsed()
            if now >= heartbeat_at:
                os.utime(RECORDS_FD)
                heartbeat_at = now + HEARTBEAT_SECONDS
            wait = min(self._decide(now), heartbeat_at - now)
            for fd, _event in poll.poll(max(0.0, wait) * 1000):
                if fd == self._wake:
                    os.read(self._wake, 4096)
                elif not self.log.copy():
                    poll.unregister(self.log.reader)

    def _decide(self, now: float) -> float:
        """Do what is due; seconds until something is due next."""
        if self.stop_asked:
            self.stop_asked = False
            asked = read_json(self.folder, "stop.json") or {}
            self._end("stopped", now, asked.get("grace_ms", self.launch["grace_ms"]))
        if now >= self.limit_at and self.kill_at is None:
            self.log.say(f"stopped at its time limit of {self.launch['time_limit_ms'] / 1000:g} seconds")
            self._end("timed_out", now, self.launch["grace_ms"])
        if self.root_status is not None and self.leftovers_since is None:
            self.leftovers_since = now
        if self.leftovers_since is not None:
            if not self.leftovers_asked and now >= self.leftovers_since + LEFTOVER_PAUSE_SECONDS:
                self.leftovers_asked = True
                for pid in descendants(os.getpid()):
                    send(pid, signal.SIGTERM)
            end = self.leftovers_since + LEFTOVER_PAUSE_SECONDS + LEFTOVER_GRACE_SECONDS
            self.kill_at = end if self.kill_at is None else min(self.kill_at, end)
        if self.kill_at is not None and now >= self.kill_at:
            kill(descendants(os.getpid()))
            return KILL_ROUND_SECONDS
        due = [self.limit_at if self.kill_at is None else self.kill_at]
        if self.leftovers_since is not None and not self.leftovers_asked:
            due.append(self.leftovers_since + LEFTOVER_PAUSE_SECONDS)
        return min(due) - now

    def _end(self, ending: str, now: float, grace_ms: int) -> None:
        """Ask the command's process group to end; a later, shorter grace shortens the first one."""
        kill_at = now + grace_ms / 1000
        if self.kill_at is None:
            self.ending = ending
            self.kill_at = kill_at
            if self.root_status is None:
                send(-self.root, signal.SIGTERM)  # its process group
                send(-self.root, signal.SIGCONT)
        self.kill_at = min(self.kill_at, kill_at)

    def _reap(self) -> bool:
        """Collect the dead; False when no child is left, and so no process of the job at all."""
        for _ in range(1000):  # a job can make them faster than they are collected
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                break
            if pid == self.root:
                self.root_status = status
        return True

    def _exit_code(self) -> int | None:
        """The command's exit code; 128 + the signal's number when one ended it, as shells count."""
        code = None if self.root_status is None else os.waitstatus_to_exitcode(self.root_status)
        return 128 - code if code is not None and code < 0 else code


def _tell() -> None:
    with contextlib.suppress(OSError):  # the service that asked may be gone; its successor reads the files
        os.write(CONTROL_FD, b"!")


def supervise(folder: str) -> None:
    """Supervise the job in ``folder`` to its end."""
    job: Shepherd | None = None
    try:
        me = os.getpid()
        launch = _own_record("launch")
        if launch is None:
            raise OSError("the job's record cannot be read")
        job = Shepherd(folder, launch)
        record = {"pid": me, "start_ticks": start_ticks(me), "boot_id": boot_id(), "at_ms": wall_ms()}
        write_record(RECORDS_FD, "shepherd", record | {"log_pipe": os.fstat(job.log.reader).st_ino})
        result = job.run()
    except Exception as error:
        started = _own_record("started") or {}
        end_all()
        ending = "killed" if started else "failed_to_start"
        result = {"ending": ending, "exit_code": None, "started_ms": started.get("at_ms"), "message": str(error)}
        result["fault"] = True  # ours: what is wrong with the job's command comes back from the child
    result.setdefault("ended_ms", wall_ms())
    while True:  # a full disk: the lock stays held, so nobody takes the job for lost
        try:
            write_record(RECORDS_FD, "exit", result, durable=True)
            break
        except OSError:
            time.sleep(1)
    _tell()
    if job is not None:
        job.log.close()


def _next_job(control: socket.socket) -> str:
    """Wait for a job and take its lock; the empty string when none will come any more.

    A stop ends this process while it has no job. From the job's message on it is held back until it can be obeyed.
    """
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    message, files, _, _ = socket.recv_fds(control, MOST_PATH_BYTES, 1)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    for lock in files:
        os.dup2(lock, RECORDS_FD, inheritable=False)
        os.close(lock)
    return os.fsdecode(message)


def main() -> None:
    """Supervise one job after the other."""
    os.set_inheritable(CONTROL_FD, False)
    os.closerange(CONTROL_FD + 1, 65536)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    control = socket.socket(fileno=CONTROL_FD)
    while True:
        os.dup2(0, RECORDS_FD, inheritable=False)  # /dev/null: lets go of the last lock, keeps the number
        folder = _next_job(control)
        if not folder:
            os._exit(0)
        supervise(folder)
