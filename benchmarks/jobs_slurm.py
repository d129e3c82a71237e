"""Jobs benchmark, Slurm's side: slurmctld and slurmd of our own on 127.0.0.1, one node that pretends to have 8 GPUs.

Everything is below one folder; nothing of the system's own Slurm, if there is one, is read or changed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

GPUS = 8
SUBMITTERS = 4
POLL_SECONDS = 0.0005
LONGEST_SECONDS = 60
LONGEST_FOLDER = 60  # slurmstepd listens on a socket in it, whose path has room for about 100 characters
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "sinfo")
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"

# No authentication, accounting, process tracking by cgroup or task plugin: what a Slurm can leave out, it leaves out.
CONFIG = """
ClusterName=benchmark
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/none
CredType=cred/none
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldDebug=error
SlurmdDebug=error
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
PriorityType=priority/basic
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
EpilogMsgTime=0
CompleteWait=0
MaxJobCount=50000
MinJobAge=86400
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} Boards=1 SocketsPerBoard=1 CoresPerSocket={cores} ThreadsPerCore=1 RealMemory=1024 Gres=gpu:{gpus}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""  # noqa: E501  (a node is one line)


def configuration(folder: Path, host: str, user: str, ports: tuple[int, int]) -> dict[str, str]:
    """The configuration files by their names."""
    values = {"folder": folder, "host": host, "user": user, "gpus": GPUS, "cores": 2 * GPUS}
    main = CONFIG.format(controller_port=ports[0], node_port=ports[1], **values)
    return {"slurm.conf": main.lstrip(), "gres.conf": f"Name=gpu File={folder}/gpu[0-{GPUS - 1}]\n", "cgroup.conf": ""}


def missing() -> list[str]:
    """Slurm's programs that are not installed."""
    return [program for program in PROGRAMS if shutil.which(program, path=_PATH) is None]


class Slurm:
    """A cluster of one node. ``sbatch`` submits; a job's output is a file that is looked at twice a millisecond."""

    name = "Slurm"

    def __init__(self, folder: Path) -> None:
        if len(str(folder)) > LONGEST_FOLDER:
            raise ValueError(f"Slurm needs a shorter path than {folder}; set TMPDIR to one like /tmp")
        folder.mkdir()
        self._folder = folder
        self._environment = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._numbers = itertools.count(1)
        self._jobs = 0

    def __enter__(self) -> Slurm:
        for name in ("state", "spool"):
            (self._folder / name).mkdir()
        for number in range(GPUS):
            (self._folder / f"gpu{number}").touch()
        user = pwd.getpwuid(os.geteuid()).pw_name
        host = socket.gethostname().partition(".")[0]
        for name, text in configuration(self._folder, host, user, _free_ports()).items():
            (self._folder / name).write_text(text, encoding="utf-8")
        with contextlib.ExitStack() as stack:
            stack.callback(self._stop)
            for program in ("slurmctld", "slurmd"):
                self._daemons.append(self._start(program))
            until = time.monotonic() + 30
            while self._run("sinfo", "-h", "-o", "%t").strip() != "idle":
                if time.monotonic() > until:
                    raise RuntimeError(f"Slurm did not start:\n{self._complaints()}")
                time.sleep(0.1)
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _start(self, program: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{program}.out").open("wb") as out:
            return subprocess.Popen([program, "-c", "-D"], env=self._environment, stdout=out, stderr=out)

    def _stop(self) -> None:
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def _complaints(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-2000:] for path in sorted(self._folder.glob("*.out")))

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        return done.stdout

    def _submit(self, command: str, output: str) -> None:
        line = ["sbatch", "--quiet", "--gres=gpu:1", f"--output={output}", "--wrap", command]
        subprocess.run(line, env=self._environment, cwd=self._folder, check=True)

    def first_line(self) -> float:
        """Seconds from before a command is submitted until its first line is in its output file."""
        output = self._folder / f"line-{next(self._numbers)}"
        began = time.perf_counter()
        self._submit("echo x", str(output))
        while not _has_content(output):
            if time.perf_counter() > began + LONGEST_SECONDS:
                raise RuntimeError(f"Slurm ran no job in {LONGEST_SECONDS} s:\n{self._complaints()}")
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
        self._jobs += 1
        self._drain()
        return seconds

    def jobs_per_s(self, count: int) -> float:
        """Trivial jobs of one GPU a second, from the first submission until the controller knows the last one's end."""
        began = time.perf_counter()
        with ThreadPoolExecutor(SUBMITTERS) as threads:
            list(threads.map(lambda _: self._submit("true", "/dev/null"), range(count)))
        self._drain()
        seconds = time.perf_counter() - began
        self._jobs += count
        completed = len(self._run("squeue", "-h", "-t", "CD", "-o", "%i").split())
        if completed != self._jobs:
            raise SystemExit(f"Slurm: {completed} of {self._jobs} jobs completed")
        return count / seconds

    def _drain(self) -> None:
        while self._run("squeue", "-h", "-t", "PD,R,CG", "-o", "%i").strip():
            time.sleep(0.05)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]
