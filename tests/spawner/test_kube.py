"""FastGPUKubeSpawner's pods, whole: GPUs as resources, Pod Security "restricted", no service account token."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from traitlets.config import Config

from fastgpu_hub.spawner import kube_manifest
from fastgpu_hub.spawner.kube_manifest import GpuOverrides, UnmappedGpuType, gpu_overrides
from fastgpu_hub.spawner.refusal import GpuRefused

GOLDEN = Path(__file__).parent / "golden"
MAPPING = {
    "h100-80gb": {"node_selector": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}},
    "h100-80gb.1g.10gb": {"node_selector": {"nvidia.com/mig.strategy": "mixed"}},
    "half-a100": {"resource": "nvidia.com/gpu.shared", "node_selector": {"gpu": "a100"}},
}


@pytest.mark.parametrize(
    ("gpu_type", "count", "expected"),
    [
        ("", 1, GpuOverrides()),
        ("h100-80gb", 2, GpuOverrides({"nvidia.com/gpu": "2"}, MAPPING["h100-80gb"]["node_selector"])),
        ("h100-80gb.1g.10gb", 1, GpuOverrides({"nvidia.com/mig-1g.10gb": "1"}, {"nvidia.com/mig.strategy": "mixed"})),
        ("half-a100", 1, GpuOverrides({"nvidia.com/gpu.shared": "1"}, {"gpu": "a100"})),
    ],
)
def test_a_gpu_type_means_a_resource_and_a_node(gpu_type, count, expected):
    assert gpu_overrides(gpu_type, count, MAPPING) == expected


def test_an_unmapped_type_is_refused_by_name():
    with pytest.raises(UnmappedGpuType, match=r"b200 is not mapped to this cluster \(mapped: h100-80gb, "):
        gpu_overrides("b200", 1, MAPPING)


def test_gpus_come_with_a_lease_or_not_at_all():
    configured = {"nvidia.com/gpu": "8", "nvidia.com/mig-1g.10gb": "1", "example.com/fpga": "1"}
    assert kube_manifest.without_gpus(configured) == {"example.com/fpga": "1"}
    assert kube_manifest.gpu_environment({"A": "1", "CUDA_VISIBLE_DEVICES": "GPU-1"}, leased=True) == {"A": "1"}
    without = kube_manifest.gpu_environment({"CUDA_VISIBLE_DEVICES": ""}, leased=False)
    assert without == {"CUDA_VISIBLE_DEVICES": "", "NVIDIA_VISIBLE_DEVICES": "void"}


def test_kubespawner_is_imported_only_when_it_is_used():
    code = "import sys, fastgpu_hub.spawner, fastgpu_hub.setup; sys.exit('kubespawner' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


@pytest.fixture
def make_pod(monkeypatch, service, make_lease):
    """The manifest of a pod as KubeSpawner would send it, after a real ``_acquire`` from the fake service."""
    import kubespawner.spawner
    from kubernetes_asyncio.client import ApiClient

    from fastgpu_hub.spawner.kube import FastGPUKubeSpawner

    # KubeSpawner reads a kubeconfig in its constructor, even with _mock.
    monkeypatch.setattr(kubespawner.spawner, "load_config", lambda **_: None)
    monkeypatch.setattr(kubespawner.spawner, "shared_client", lambda *_, **__: None)

    class Pod(FastGPUKubeSpawner):
        def _client(self):
            return service

    async def make(user_options, **config):
        spawner = Pod(
            _mock=True,
            config=Config({"FastGPUKubeSpawner": {"gpu_resources": MAPPING, **config}}),
            fastgpu_url="http://127.0.0.1:10180/services/fastgpu",
            fastgpu_server_url="http://hub:10180/services/fastgpu",
            fastgpu_token="the-spawners-secret",
            api_token="the-servers-token",
        )
        choice = spawner._parsed(user_options)
        spawner.prepare(choice)
        if choice.wants_gpu:
            await spawner._acquire(choice, 0.0)
        async with ApiClient() as api:
            return api.sanitize_for_serialization(await spawner.get_pod_manifest())

    return make


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pod_no_gpu.json", {}),
        ("pod_two_h100.json", {"gpu_type": "h100-80gb", "gpu_count": 2}),
        ("pod_mig.json", {"gpu_type": "h100-80gb.1g.10gb"}),
    ],
)
async def test_the_whole_manifest_is_the_one_looked_at(name, options, make_pod):
    manifest = json.dumps(_without_versions(await make_pod(options)), indent=2, sort_keys=True) + "\n"
    path = GOLDEN / name
    if not path.exists():
        path.write_text(manifest, encoding="utf-8")
        pytest.fail(f"{path} was missing and is written now: look at it, then run again")
    assert manifest == path.read_text(encoding="utf-8")


def _without_versions(manifest):
    """The manifest without what follows the installed versions of JupyterHub and KubeSpawner."""
    for kind in ("labels", "annotations"):
        notes = manifest["metadata"][kind]
        manifest["metadata"][kind] = {name: value for name, value in notes.items() if "version" not in name}
    return manifest


@pytest.mark.parametrize("options", [{}, {"gpu_type": "h100-80gb"}])
async def test_a_pod_meets_pod_security_restricted(options, make_pod):
    spec = (await make_pod(options))["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
    for container in spec["containers"]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["runAsUser"] != 0
        assert not context.get("privileged")
        assert all("hostPort" not in port for port in container["ports"])
    assert not any("hostPath" in volume for volume in spec.get("volumes", []))


async def test_the_spawners_token_stays_out_of_the_pod(make_pod):
    assert "the-spawners-secret" not in json.dumps(await make_pod({"gpu_type": "h100-80gb"}))


async def test_configured_gpus_are_replaced_by_the_leases(make_pod):
    pod = await make_pod({}, extra_resource_limits={"nvidia.com/gpu": "8"}, node_selector={"pool": "teaching"})
    assert "nvidia.com/gpu" not in pod["spec"]["containers"][0]["resources"].get("limits", {})
    pod = await make_pod({"gpu_type": "h100-80gb"}, node_selector={"pool": "teaching"})
    assert pod["spec"]["nodeSelector"] == {"pool": "teaching", "nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}


async def test_a_type_the_cluster_does_not_have_is_refused_before_a_lease_is_asked_for(make_pod, service):
    with pytest.raises(GpuRefused, match="b200 is not mapped"):
        await make_pod({"gpu_type": "b200"})
    assert service.calls == []
