from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgpu_hub.probes.gpu_types import gpu_type_of

MIB = 1024**2


@pytest.mark.parametrize(
    ("name", "mib", "gpu_type"),
    [
        ("NVIDIA H100 80GB HBM3", 81559, "h100-80gb"),
        ("NVIDIA H100 PCIe", 81559, "h100-80gb"),
        ("NVIDIA H100 NVL", 95830, "h100-94gb"),
        ("NVIDIA H200", 143771, "h200-141gb"),
        ("NVIDIA GH200 480GB", 97871, "gh200-96gb"),
        ("NVIDIA B200", 183359, "b200-180gb"),
        ("NVIDIA A100-SXM4-40GB", 40960, "a100-40gb"),
        ("NVIDIA A100-SXM4-80GB", None, "a100-80gb"),
        ("NVIDIA A10G", 23028, "a10g-24gb"),
        ("NVIDIA A40", 46068, "a40-48gb"),
        ("NVIDIA L4", 23034, "l4-24gb"),
        ("Tesla T4", 15360, "t4-16gb"),
        ("Tesla V100-SXM2-16GB", 16160, "v100-16gb"),
        ("NVIDIA GeForce RTX 4090", 24564, "rtx-4090-24gb"),
        ("NVIDIA GeForce GTX 1080 Ti", 11178, "gtx-1080-ti-11gb"),
        ("NVIDIA RTX 6000 Ada Generation", 49140, "rtx-6000-ada-48gb"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 81559, "h100-80gb.1g.10gb"),
        ("NVIDIA H100 PCIe MIG 3g.40gb", 81559, "h100-80gb.3g.40gb"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", 81559, "h100-80gb.1g.10gb.me"),
        ("NVIDIA GB10", None, "gb10"),
        ("NVIDIA Graphics Device", 81559, "gpu-80gb"),
        ("", None, "gpu"),
    ],
)
def test_a_device_name_becomes_the_type_that_is_priced(name: str, mib: int | None, gpu_type: str) -> None:
    assert gpu_type_of(name, mib and mib * MIB) == gpu_type


@given(st.text(max_size=200), st.none() | st.integers(0, 2**50))
def test_every_name_gives_a_type_that_can_be_asked_for(name: str, memory_bytes: int | None) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9.\-]{0,62}", gpu_type_of(name, memory_bytes))
