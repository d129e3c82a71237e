"""FastGPUKubeSpawner: servers as pods, through KubeSpawner. Needs ``pip install fastgpu-hub[kubernetes]``."""

from __future__ import annotations

from typing import Any

from kubespawner import KubeSpawner
from traitlets import Dict, default

from fastgpu_hub.spawner import kube_manifest
from fastgpu_hub.spawner.mixin import FastGPUSpawnerMixin
from fastgpu_hub.spawner.options import ServerChoice
from fastgpu_hub.spawner.refusal import GpuRefused


class FastGPUKubeSpawner(FastGPUSpawnerMixin, KubeSpawner):
    """A pod with the lease's GPUs as resources, under Pod Security "restricted", without a service account token."""

    gpu_resources = Dict(
        help="""
        What each GPU type is in this cluster: its node selector and, where the name does not tell, its resource.

        GPU type -> `{"node_selector": {label: value}, "resource": name}`. `resource` defaults to
        `nvidia.com/mig-1g.10gb` for a type that ends in `.1g.10gb`, else to `nvidia.com/gpu`. A GPU type that is not
        listed cannot be started: without a node selector the pod could land on another, dearer GPU.

        Example::

            c.FastGPUKubeSpawner.gpu_resources = {
                "h100-80gb": {"node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}},
                "h100-80gb.1g.10gb": {"node_selector": {"nvidia.com/mig.strategy": "mixed"}},
            }
        """,
    ).tag(config=True)

    _leased_selector: dict[str, str] = {}  # noqa: RUF012  replaced, never changed

    @default("uid")
    def _default_uid(self) -> int:
        return 1000

    @default("fs_gid")
    def _default_fs_gid(self) -> int:
        return 100

    @default("automount_service_account_token")
    def _default_automount_service_account_token(self) -> bool:
        return False

    @default("pod_security_context")
    def _default_pod_security_context(self) -> dict[str, Any]:
        return dict(kube_manifest.POD_SECURITY)

    @default("container_security_context")
    def _default_container_security_context(self) -> dict[str, Any]:
        return dict(kube_manifest.CONTAINER_SECURITY)

    def prepare(self, choice: ServerChoice) -> None:
        """Put the lease's GPUs, or none, into the pod to come."""
        try:
            wanted = kube_manifest.gpu_overrides(choice.gpu_type, choice.gpu_count, self.gpu_resources)
        except kube_manifest.UnmappedGpuType as error:
            raise GpuRefused("unmapped_gpu_type", [f"{error}."], status_code=503) from None
        for name in ("extra_resource_limits", "extra_resource_guarantees"):
            setattr(self, name, {**kube_manifest.without_gpus(getattr(self, name)), **wanted.resources})
        # A spawner may start again with another choice: what an earlier lease asked for goes.
        configured = {key: value for key, value in self.node_selector.items() if key not in self._leased_selector}
        self._leased_selector = wanted.node_selector
        self.node_selector = {**configured, **wanted.node_selector}

    def gpu_environment(self) -> dict[str, str]:
        """The mixin's variables, as a pod needs them."""
        return kube_manifest.gpu_environment(super().gpu_environment(), leased=bool(self.lease_id))
