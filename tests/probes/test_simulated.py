from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from fastgpu_hub.broker.ports.world import GpuProbe
from fastgpu_hub.probes import find_probe
from fastgpu_hub.probes.simulated import SimulatedProbe

GIB = 1024**3


def test_simulated_gpus_say_so() -> None:
    probe, sentence = find_probe("simulated")
    port: GpuProbe = probe
    devices = port.devices()
    assert [d.uuid for d in devices] == [f"GPU-51a70000-0000-0000-0000-{i:012d}" for i in range(4)]
    assert {(d.name, d.gpu_type, d.memory_bytes, d.simulated) for d in devices} == {
        ("Simulated H100 80GB", "h100-80gb", 80 * GIB, True)
    }
    assert sentence == "Using 4 simulated h100-80gb GPUs (as configured)."


def test_an_idle_device_is_at_zero_and_tells_no_power_and_no_temperature() -> None:
    probe = SimulatedProbe(2)
    for sample in probe.sample({}).values():
        assert (sample.utilisation_percent, sample.memory_used_bytes, sample.memory_total_bytes) == (0, 0, 80 * GIB)
        assert (sample.power_watts, sample.temperature_celsius, sample.lost) == (None, None, False)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _until_busy_for(process: psutil.Process, cpu_seconds: float) -> None:
    """However busy the machine is with other things."""
    enough = _cpu_seconds(process) + cpu_seconds
    while _cpu_seconds(process) < enough:
        time.sleep(0.02)


def test_use_is_the_cpu_load_and_memory_of_the_lease_with_its_children() -> None:
    probe = SimulatedProbe(2)
    busy_uuid, idle_uuid = (device.uuid for device in probe.devices())
    # The busy process is the child of the one that is named.
    parent = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'while True: pass'])"
    busy = subprocess.Popen([sys.executable, "-c", parent], start_new_session=True)
    idle = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        while not (children := psutil.Process(busy.pid).children()):
            time.sleep(0.01)
        roots = {busy_uuid: [busy.pid], idle_uuid: [idle.pid]}
        _until_busy_for(children[0], 0.1)
        before, began = _cpu_seconds(children[0]), time.monotonic()
        probe.sample(roots)
        _until_busy_for(children[0], 0.4)
        samples = probe.sample(roots)
        load = 100 * (_cpu_seconds(children[0]) - before) / (time.monotonic() - began)
        assert samples[busy_uuid].utilisation_percent == pytest.approx(load, abs=10)
        assert samples[idle_uuid].utilisation_percent in range(10)
        assert 10**6 < (samples[busy_uuid].memory_used_bytes or 0) < GIB
    finally:
        os.killpg(busy.pid, signal.SIGKILL)
        idle.communicate(b"")
        busy.wait()


def test_the_first_reading_is_an_average_over_the_process_life() -> None:
    probe = SimulatedProbe(1)
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        process = psutil.Process(busy.pid)
        _until_busy_for(process, 0.4)
        (sample,) = probe.sample({probe.devices()[0].uuid: [busy.pid]}).values()
        load = 100 * _cpu_seconds(process) / (time.time() - process.create_time())
        assert sample.utilisation_percent == pytest.approx(load, abs=10)
    finally:
        busy.kill()
        busy.wait()


@pytest.mark.parametrize("pid", [2**22 + 1, 0x7FFFFFFF])
def test_a_process_that_is_gone_counts_as_idle(pid: int) -> None:
    probe = SimulatedProbe(1)
    (sample,) = probe.sample({probe.devices()[0].uuid: [pid]}).values()
    assert (sample.utilisation_percent, sample.memory_used_bytes) == (0, 0)
