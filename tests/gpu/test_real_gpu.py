from __future__ import annotations

from collections.abc import Iterator

import pytest

from fastgpu_hub.probes.nvml import NvmlProbe

pytestmark = pytest.mark.gpu


@pytest.fixture
def probe() -> Iterator[NvmlProbe]:
    probe = NvmlProbe()
    found, reason = probe.available()
    if not found:
        pytest.skip(reason)
    yield probe
    probe.close()


def test_a_real_gpu_is_read_plausibly(probe: NvmlProbe) -> None:
    devices = probe.devices()
    samples = probe.sample({})
    assert set(samples) == {device.uuid for device in devices}
    for device in devices:
        sample = samples[device.uuid]
        assert device.uuid.startswith(("GPU-", "MIG-"))
        assert device.gpu_type[0].isalnum()
        assert not device.simulated
        assert not sample.lost
        assert sample.utilisation_percent is None or 0 <= sample.utilisation_percent <= 100
        assert sample.temperature_celsius is None or 5 < sample.temperature_celsius < 120
        if sample.memory_total_bytes is not None:
            assert 2**30 < sample.memory_total_bytes < 2**40
            assert sample.memory_used_bytes is not None
            assert 0 <= sample.memory_used_bytes <= sample.memory_total_bytes
