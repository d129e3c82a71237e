"""What a lease means in a pod: resources, node selector, environment, security. Pure: data in, data out.

We decide whether and when; the cluster decides where. The device plugin of the node hands the devices out, so a pod
never names one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

WHOLE_GPU = "nvidia.com/gpu"
_MIG_SLICE = re.compile(r"\.(\d+g\.\d+gb)$")
_GPU_RESOURCE = re.compile(r"^(nvidia\.com/(gpu|mig-).*|amd\.com/gpu|gpu\.intel\.com/.*)$")

# Pod Security Standard "restricted" (https://kubernetes.io/docs/concepts/security/pod-security-standards/).
POD_SECURITY: dict[str, Any] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER_SECURITY: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


class UnmappedGpuType(LookupError):
    """The hub's configuration does not say what this GPU type is in the cluster."""


@dataclass(frozen=True, slots=True)
class GpuOverrides:
    """What to change in a pod: extended resources (limit = request) and the labels its node must have."""

    resources: dict[str, str] = field(default_factory=dict)
    node_selector: dict[str, str] = field(default_factory=dict)


def gpu_overrides(gpu_type: str, gpu_count: int, mapping: Mapping[str, Mapping[str, Any]]) -> GpuOverrides:
    """What ``gpu_count`` GPUs of a type mean. ``mapping``: GPU type -> ``resource`` (optional), ``node_selector``.

    Without ``resource`` a MIG slice such as ``h100-80gb.1g.10gb`` is ``nvidia.com/mig-1g.10gb``, anything else
    ``nvidia.com/gpu``. No GPU type, no change. Raises :class:`UnmappedGpuType` for a type that is not in ``mapping``:
    without a node selector the pod could land on another, dearer GPU.
    """
    if not gpu_type:
        return GpuOverrides()
    if gpu_type not in mapping:
        known = ", ".join(sorted(mapping)) or "none"
        raise UnmappedGpuType(
            f"GPU type {gpu_type} is not mapped to this cluster (mapped: {known}); an administrator sets "
            "c.FastGPUKubeSpawner.gpu_resources"
        )
    entry = mapping[gpu_type]
    return GpuOverrides(
        resources={str(entry.get("resource") or default_resource(gpu_type)): str(gpu_count)},
        node_selector={str(key): str(value) for key, value in entry.get("node_selector", {}).items()},
    )


def default_resource(gpu_type: str) -> str:
    """The extended resource a GPU type is by its name."""
    slice_ = _MIG_SLICE.search(gpu_type)
    return f"nvidia.com/mig-{slice_.group(1)}" if slice_ else WHOLE_GPU


def without_gpus(resources: Mapping[str, Any]) -> dict[str, Any]:
    """Resources with any GPU taken out: GPUs come with a lease or not at all."""
    return {name: amount for name, amount in resources.items() if not _GPU_RESOURCE.match(name)}


def gpu_environment(environment: Mapping[str, str], *, leased: bool) -> dict[str, str]:
    """The GPU variables of a pod.

    With a lease the device plugin numbers the pod's devices itself, so the hub's ids are left out. Without one, CUDA
    images that ask for all devices (``NVIDIA_VISIBLE_DEVICES=all``) must not get any on nodes whose default runtime
    would grant it.
    """
    kept = {name: value for name, value in environment.items() if name != "CUDA_VISIBLE_DEVICES"}
    return kept if leased else {**kept, "CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}
