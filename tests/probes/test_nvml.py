"""Promise 19: whatever NVML answers, or does not, the probe tells the truth and does not fall."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import pytest

from fastgpu_hub.broker.ports.world import GpuDevice, GpuProbe, GpuSample
from fastgpu_hub.probes import find_probe
from fastgpu_hub.probes.nvml import NvmlProbe
from fastgpu_hub.probes.simulated import SimulatedProbe

MIB = 1024**2
Describe = Callable[..., None]


def test_four_gpus_are_found_with_their_types(probe: NvmlProbe, describe_gpus: Describe) -> None:
    describe_gpus("name 1 Tesla T4", "memory 1 15360", "name 2 NVIDIA A100-SXM4-40GB", "memory 2 40960")
    port: GpuProbe = probe
    devices = port.devices()
    assert [d.gpu_type for d in devices] == ["h100-80gb", "t4-16gb", "a100-40gb", "h100-80gb"]
    assert [d.index for d in devices] == [0, 1, 2, 3]
    assert devices[1] == GpuDevice("GPU-00000001-stub", 1, "Tesla T4", "t4-16gb", 15360 * MIB)
    assert not any(d.simulated for d in devices)


def test_a_reading_has_use_memory_power_and_temperature(probe: NvmlProbe) -> None:
    probe.devices()
    before = time.time_ns() // 10**6
    sample = probe.sample({})["GPU-00000000-stub"]
    assert before <= sample.at_ms <= time.time_ns() // 10**6
    assert sample == GpuSample("GPU-00000000-stub", sample.at_ms, 63, 1024 * MIB, 81559 * MIB, 346, 41)


def test_an_old_driver_without_the_second_memory_call_is_read_too(probe: NvmlProbe, describe_gpus: Describe) -> None:
    describe_gpus("old 0 1")
    assert probe.devices()[0].memory_bytes == 81559 * MIB


def test_not_available_is_none_and_never_sixteen_exbibytes(probe: NvmlProbe, describe_gpus: Describe) -> None:
    describe_gpus("sentinel 1 1", "name 1 NVIDIA L4")
    device = probe.devices()[1]
    assert (device.memory_bytes, device.gpu_type) == (None, "l4")
    sample = probe.sample({})[device.uuid]
    assert (sample.memory_used_bytes, sample.memory_total_bytes, sample.power_watts) == (None, None, None)
    assert (sample.utilisation_percent, sample.temperature_celsius, sample.lost) == (63, 41, False)


def test_every_error_code_costs_its_field_only(probe: NvmlProbe, describe_gpus: Describe) -> None:
    """Errors of a reading, other than a lost GPU's (15, 16, 28) and a driver that is gone (1, 9, 18)."""
    probe.devices()
    for code in sorted({*range(2, 30), 999} - {9, 15, 16, 18, 28}):
        describe_gpus(f"fail 2 {code}")
        samples = probe.sample({})
        broken = samples["GPU-00000002-stub"]
        assert broken == GpuSample("GPU-00000002-stub", broken.at_ms), f"error code {code}"
        assert samples["GPU-00000001-stub"].utilisation_percent == 63, f"error code {code}"


@pytest.mark.parametrize("code", [1, 9, 18])
def test_a_driver_that_goes_away_and_comes_back_is_found_again(
    probe: NvmlProbe, describe_gpus: Describe, code: int
) -> None:
    devices = probe.devices()
    describe_gpus(f"fail 0 {code}")
    samples = probe.sample({})
    assert {s.lost for s in samples.values()} == {False}
    assert {s.utilisation_percent for s in samples.values()} == {None}
    assert probe.devices() == devices
    describe_gpus()
    assert probe.sample({})["GPU-00000003-stub"].utilisation_percent == 63


@pytest.mark.parametrize("how", ["lost 2 1", "gone 2 1", "fail 2 16", "fail 2 28"])
def test_a_lost_gpu_is_lost_alone_and_stays_listed(probe: NvmlProbe, describe_gpus: Describe, how: str) -> None:
    before = probe.devices()
    describe_gpus(how)
    samples = probe.sample({})
    assert {uuid for uuid, sample in samples.items() if sample.lost} == {"GPU-00000002-stub"}
    assert samples["GPU-00000003-stub"].utilisation_percent == 63
    assert probe.devices() == before
    describe_gpus()
    assert not probe.sample({})["GPU-00000002-stub"].lost


def test_a_gpu_that_vanishes_from_the_count_is_lost(probe: NvmlProbe, describe_gpus: Describe) -> None:
    probe.devices()
    describe_gpus("count 0 3")
    assert probe.sample({})["GPU-00000003-stub"].lost
    assert len(probe.devices()) == 4


def test_mig_devices_are_listed_instead_of_their_gpu(probe: NvmlProbe, describe_gpus: Describe) -> None:
    describe_gpus("mig 1 2", "mig 3 0", "name 1 NVIDIA H100 PCIe")
    devices = probe.devices()
    assert [d.uuid for d in devices] == [
        "GPU-00000000-stub",
        "MIG-00000001-1",
        "MIG-00000001-2",
        "GPU-00000002-stub",
    ]
    assert devices[1].gpu_type == "h100-80gb.1g.10gb"
    assert devices[1].memory_bytes == 9984 * MIB
    sample = probe.sample({})["MIG-00000001-1"]
    assert sample == GpuSample("MIG-00000001-1", sample.at_ms, None, 1024 * MIB, 9984 * MIB)


def test_a_gpu_cut_into_mig_devices_is_no_longer_listed_whole(probe: NvmlProbe, describe_gpus: Describe) -> None:
    probe.devices()
    describe_gpus("mig 0 1", "mig 1 0")
    uuids = ["MIG-00000000-1", "GPU-00000002-stub", "GPU-00000003-stub"]
    assert [d.uuid for d in probe.devices()] == uuids
    assert not any(sample.lost for sample in probe.sample({}).values())


def test_mig_devices_of_a_lost_gpu_are_lost_with_it(probe: NvmlProbe, describe_gpus: Describe) -> None:
    describe_gpus("mig 1 2")
    probe.devices()
    describe_gpus("mig 1 2", "gone 1 1")
    assert {u for u, s in probe.sample({}).items() if s.lost} == {"MIG-00000001-1", "MIG-00000001-2"}


@pytest.mark.slow
def test_a_hang_costs_at_most_five_seconds_and_loses_nothing(describe_gpus: Describe) -> None:
    probe = NvmlProbe()
    try:
        probe.devices()
        describe_gpus("hang 1 60")
        began = time.monotonic()
        samples = probe.sample({})
        assert time.monotonic() - began < 5
        assert len(samples) == 4
        assert {(s.lost, s.utilisation_percent) for s in samples.values()} == {(False, None)}
        describe_gpus()
        assert probe.sample({})["GPU-00000001-stub"].utilisation_percent == 63
    finally:
        probe.close()


def test_no_helper_process_is_left(probe: NvmlProbe) -> None:
    before = set(psutil.Process().children())
    probe.devices()
    assert set(psutil.Process().children()) - before
    probe.close()
    assert not set(psutil.Process().children()) - before


def test_a_killed_helper_is_replaced(probe: NvmlProbe) -> None:
    before = set(psutil.Process().children())
    probe.devices()
    (helper,) = set(psutil.Process().children()) - before
    helper.kill()
    probe.sample({})
    assert probe.sample({})["GPU-00000000-stub"].utilisation_percent == 63


def test_the_real_gpus_are_chosen_when_there_are_any(describe_gpus: Describe) -> None:
    probe, sentence = find_probe("auto")
    assert isinstance(probe, NvmlProbe)
    assert sentence == "NVML finds 4 GPU(s): h100-80gb."
    probe.close()


def test_without_a_gpu_the_reason_is_said(probe: NvmlProbe, describe_gpus: Describe) -> None:
    describe_gpus("count 0 0")
    assert probe.available() == (False, "NVML finds no GPU that can be leased.")
    describe_gpus("init 0 9")
    found, sentence = find_probe("auto", count=2)
    assert isinstance(found, SimulatedProbe)
    assert len(found.devices()) == 2
    assert sentence == "Using 2 simulated h100-80gb GPUs (NVML is not available: Driver Not Loaded)."
    with pytest.raises(RuntimeError, match="Driver Not Loaded"):
        find_probe("nvml")


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="auto, nvml or simulated"):
        find_probe("cuda")
