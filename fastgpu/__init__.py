"""What you program FastGPU with: ``GPUClient``, its async twin ``AsyncGPUClient``, the wire models and the errors.

Names are loaded when first used, so that ``import fastgpu`` costs a job or a notebook next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastgpu.inside import checkpoint_dir, parameters
from fastgpu.progress import log_metric, progress

if TYPE_CHECKING:
    from fastgpu.aio import AsyncGPUClient, AsyncJob
    from fastgpu.client import GPUClient
    from fastgpu.errors import (
        Conflict,
        FastGPUError,
        InvalidRequest,
        JobFailed,
        NotAllowed,
        NotFound,
        NotSignedIn,
        QuotaError,
        Removed,
        Unavailable,
    )
    from fastgpu.job import Job
    from fastgpu.job_array import AsyncJobArray, JobArray

_HOME = {
    "AsyncGPUClient": "fastgpu.aio",
    "AsyncJob": "fastgpu.aio",
    "GPUClient": "fastgpu.client",
    "Job": "fastgpu.job",
    "AsyncJobArray": "fastgpu.job_array",
    "JobArray": "fastgpu.job_array",
    **dict.fromkeys(
        (
            "Conflict",
            "FastGPUError",
            "InvalidRequest",
            "JobFailed",
            "NotAllowed",
            "NotFound",
            "NotSignedIn",
            "QuotaError",
            "Removed",
            "Unavailable",
        ),
        "fastgpu.errors",
    ),
}

__all__ = [
    "AsyncGPUClient",
    "AsyncJob",
    "AsyncJobArray",
    "Conflict",
    "FastGPUError",
    "GPUClient",
    "InvalidRequest",
    "Job",
    "JobArray",
    "JobFailed",
    "NotAllowed",
    "NotFound",
    "NotSignedIn",
    "QuotaError",
    "Removed",
    "Unavailable",
    "checkpoint_dir",
    "log_metric",
    "parameters",
    "progress",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastgpu' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
