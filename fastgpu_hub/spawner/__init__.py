"""Spawners that start a person's server in a GPU lease: one mixin, and two spawners made with it.

``FastGPUKubeSpawner`` is in :mod:`fastgpu_hub.spawner.kube`, which needs kubespawner and is imported only by name.
"""

from __future__ import annotations

from fastgpu_hub.spawner.local import FastGPULocalSpawner
from fastgpu_hub.spawner.mixin import FastGPUSpawnerMixin

__all__ = ["FastGPULocalSpawner", "FastGPUSpawnerMixin"]
