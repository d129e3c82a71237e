"""Shares of GPUs: named, counted and priced as devices of their own, read as the GPU they are of."""

from __future__ import annotations

import pytest

from fastgpu_hub.broker.ports.world import GpuProbe, GpuSample, physical_uuids
from fastgpu_hub.pricing.fractions import fraction_of
from fastgpu_hub.probes import find_probe
from fastgpu_hub.probes.nvml import NvmlProbe
from fastgpu_hub.probes.shared import SharedProbe
from fastgpu_hub.probes.simulated import SimulatedProbe

GIB = 1024**3


def test_each_device_of_a_shared_type_comes_as_its_shares_and_others_stay_whole() -> None:
    probe, _ = find_probe("simulated", count=2, gpu_type="l40s-48gb", memory_bytes=48 * GIB, shared_gpus={"l4-24gb": 2})
    assert [device.gpu_type for device in probe.devices()] == ["l40s-48gb"] * 2
    probe, _ = find_probe(
        "simulated", count=2, gpu_type="l40s-48gb", memory_bytes=48 * GIB, shared_gpus={"l40s-48gb": 4}
    )
    devices = probe.devices()
    whole = SimulatedProbe(2).devices()[0].uuid
    assert [device.uuid for device in devices[:4]] == [f"{whole}#{number}" for number in (1, 2, 3, 4)]
    assert len({device.uuid for device in devices}) == 8
    assert {(d.name, d.gpu_type, d.memory_bytes, d.simulated) for d in devices} == {
        ("Simulated L40S 48GB, one of 4 shares", "l40s-48gb.share-4", 12 * GIB, True)
    }
    assert fraction_of(devices[0].gpu_type) == ("l40s-48gb", pytest.approx(0.25))


def test_a_shares_reading_is_its_gpus_with_the_processes_of_all_shares() -> None:
    class Probe(SimulatedProbe):
        def sample(self, root_pids):
            self.asked = root_pids
            return {device.uuid: GpuSample(device.uuid, 1, 40, lost=device.index == 1) for device in self.devices()}

    inner = Probe(2, "l40s-48gb")
    first, second = (device.uuid for device in inner.devices())
    samples = SharedProbe(inner, {"l40s-48gb": 2}).sample({f"{first}#1": [7], f"{first}#2": [8, 9]})
    assert inner.asked == {first: [7, 8, 9]}
    assert samples == {
        f"{uuid}#{number}": GpuSample(f"{uuid}#{number}", 1, 40, lost=uuid == second)
        for uuid in (first, second)
        for number in (1, 2)
    }


def test_real_gpus_are_shared_too(probe: NvmlProbe) -> None:
    whole = probe.devices()
    gpu_type = whole[0].gpu_type
    shared: GpuProbe = SharedProbe(probe, {gpu_type: 3})
    devices = shared.devices()
    assert [d.gpu_type for d in devices].count(f"{gpu_type}.share-3") == 3 * [d.gpu_type for d in whole].count(gpu_type)
    samples, readings = shared.sample({}), probe.sample({})
    assert samples.keys() == {device.uuid for device in devices}
    for uuid, sample in samples.items():
        assert sample.utilisation_percent == readings[physical_uuids([uuid])[0]].utilisation_percent


def test_several_shares_of_a_gpu_are_that_gpu_once() -> None:
    assert physical_uuids(["GPU-b#2", "GPU-a", "GPU-b#1"]) == ("GPU-b", "GPU-a")


@pytest.mark.parametrize("shared", [{"l4-24gb": 1}, {"l4-24gb": 65}, {"l4-24gb": True}, {"l4-24gb": "2"}])
def test_a_number_of_shares_that_makes_no_sense_is_refused(shared: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="from 2 to 64 shares"):
        find_probe("simulated", shared_gpus=shared)


@pytest.mark.parametrize("gpu_type", ["l4-24gb.share-2", "l" * 60])
def test_a_share_is_not_shared_again_and_its_name_is_a_gpu_type(gpu_type: str) -> None:
    with pytest.raises(ValueError, match="no GPU type that has shares"):
        find_probe("simulated", shared_gpus={gpu_type: 2})
