"""``tools/hub.py``: a start that is refused says why; an end leaves nothing behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.hub import MARK, ROOT, HubProcess, Ports, main, only_one, problem

pytestmark = pytest.mark.slow  # many processes, or every step of a life: too long for the quick run

# Instead of a hub: a process with a child in a session of its own, which outlives it and a polite request to end.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = [sys.executable, "-S", "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); print(1); time.sleep(99)"]
subprocess.Popen(child, start_new_session=True, stdout=subprocess.PIPE).stdout.readline()
print("up", flush=True)
time.sleep({seconds})
"""


@pytest.fixture
def stubborn(tmp_path: Path) -> Iterator[Callable[..., HubProcess]]:
    made: list[HubProcess] = []

    def start(seconds: float) -> HubProcess:
        hub = HubProcess(tmp_path, Ports.free())
        code = [sys.executable, "-S", "-c", STUBBORN.format(seconds=seconds)]
        hub.process = subprocess.Popen(code, env={**os.environ, MARK: hub.mark}, stdout=subprocess.PIPE)
        assert hub.process.stdout is not None
        hub.process.stdout.readline()
        hub.process.stdout.close()
        made.append(hub)
        return hub

    yield start
    for hub in made:
        hub.stop(0)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def test_free_ports_are_free_and_differ() -> None:
    ports = Ports.free()
    assert len({ports.public, ports.hub, ports.proxy, ports.service}) == 4
    assert ports.taken() == {}
    assert Ports.around(8123).public == 8123


def test_a_taken_port_is_named_with_its_use_and_another_is_offered(taken_port: int) -> None:
    free = Ports.free()
    ports = Ports(free.public, free.hub, free.proxy, taken_port)
    assert ports.taken() == {"FastGPU": taken_port}
    why = problem(ports, alone=True)
    assert f"port {taken_port} (FastGPU)." in why
    assert "make hub PORT=" in why
    assert problem(free, alone=True) == ""


def test_the_program_refuses_a_taken_port_in_words_and_starts_nothing(
    taken_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tools.hub.ROOT", tmp_path)
    assert main([str(taken_port)]) == 1
    assert f"taken by another program: port {taken_port} (the hub)." in capsys.readouterr().out
    assert not (tmp_path / ".fastgpu" / "hub.log").exists()


@pytest.mark.parametrize("port", ["0", "65536", "eight", "-1"])
def test_what_is_no_port_is_refused(port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([port]) == 2
    assert f"'{port}' is not a port" in capsys.readouterr().out


def test_one_folder_runs_one_hub(tmp_path: Path) -> None:
    with only_one(tmp_path / "state") as first, only_one(tmp_path / "state") as second:
        assert first
        assert not second
        assert "`make hub` runs already in this folder" in problem(Ports.free(), second)
    with only_one(tmp_path / "state") as again:
        assert again


def test_a_stop_ends_what_detached_itself_and_ignores_being_asked(stubborn: Callable[..., HubProcess]) -> None:
    hub = stubborn(99)
    processes = hub.processes()
    assert len(processes) == 2
    assert len(hub.stop(0.2)) == 2
    assert not any(process.is_running() for process in processes)
    assert hub.processes() == []
    assert hub.stop(0.2) == []


def test_a_stop_finds_the_children_of_a_hub_that_is_gone(stubborn: Callable[..., HubProcess]) -> None:
    hub = stubborn(0)
    assert hub.process is not None
    hub.process.wait(10)
    [orphan] = hub.processes()
    [killed] = hub.stop()
    assert "signal.SIG_IGN" in killed
    assert not orphan.is_running()


def test_a_stop_leaves_other_processes_alone(stubborn: Callable[..., HubProcess]) -> None:
    first, second = stubborn(99), stubborn(99)
    first.stop(0.1)
    assert len(second.processes()) == 2


def test_a_hub_that_ends_while_it_starts_is_told(tmp_path: Path) -> None:
    config = tmp_path / "config.py"
    config.write_text("raise SystemExit('no')\n")
    with (tmp_path / "log").open("wb") as log:
        hub = HubProcess(tmp_path / "state", Ports.free(), config=config, log=log)
        began = time.monotonic()
        with pytest.raises(RuntimeError, match="the hub ended with exit code"):
            hub.start()
        assert time.monotonic() - began < 30
        assert hub.stop() == []


def test_the_makefiles_list_names_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = makefile.split(".PHONY: ")[1].splitlines()[0].split()
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == phony
