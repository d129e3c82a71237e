"""Jobs benchmark, task-spooler's side: a queue of one's own in a folder, eight jobs at a time, nothing kept on disk."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SLOTS = 8
SUBMITTERS = 4
POLL_SECONDS = 0.0005


def program() -> str | None:
    """Path of ``tsp`` (Debian) or ``ts``'s successor under that name; None when it is not installed."""
    return shutil.which("tsp")


class TaskSpooler:
    """``tsp`` with a socket of its own. It knows no GPUs: eight slots stand for them."""

    name = "task-spooler"

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder
        self._tsp = program() or "tsp"
        self._environment = {
            **os.environ,
            "TS_SOCKET": str(folder / "socket"),
            "TMPDIR": str(folder),
            "TS_MAXFINISHED": "1000000",
        }
        self._numbers = itertools.count(1)
        self._jobs = 0

    def __enter__(self) -> TaskSpooler:
        self._run("-S", str(SLOTS))
        return self

    def __exit__(self, *_: object) -> None:
        self._run("-K")

    def _run(self, *arguments: str, folder: Path | None = None) -> str:
        environment = self._environment if folder is None else {**self._environment, "TMPDIR": str(folder)}
        done = subprocess.run([self._tsp, *arguments], env=environment, capture_output=True, text=True, check=True)
        return done.stdout

    def first_line(self) -> float:
        """Seconds from before a command is submitted until its first line is in its output file."""
        # It names the output's file itself; in a folder of its own the submitter finds it without asking again.
        folder = self._folder / f"line-{next(self._numbers)}"
        folder.mkdir()
        began = time.perf_counter()
        self._run("echo", "x", folder=folder)
        while not any(entry.stat().st_size for entry in os.scandir(folder)):
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
        self._jobs += 1
        return seconds

    def jobs_per_s(self, count: int) -> float:
        """Trivial jobs a second, from the first submission until the last has ended."""
        began = time.perf_counter()
        with ThreadPoolExecutor(SUBMITTERS) as threads:
            list(threads.map(lambda _: self._run("true"), range(count)))
        while (states := self._states()) & {"queued", "running", "allocating"}:
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        self._jobs += count
        if states != {"finished"} or len(self._lines()) != self._jobs:
            raise SystemExit(f"task-spooler: {len(self._lines())} of {self._jobs} jobs, states {sorted(states)}")
        return count / seconds

    def _lines(self) -> list[list[str]]:
        return [line.split() for line in self._run().splitlines()[1:]]

    def _states(self) -> set[str]:
        return {fields[1] for fields in self._lines()}
