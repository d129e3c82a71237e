"""What runs beside JupyterHub: pricing and scheduling decide, the broker coordinates, the rest is I/O.

``setup_fastgpu`` is imported on first use, so that ``import fastgpu_hub.pricing`` needs no JupyterHub.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastgpu_hub.setup import setup_fastgpu

__all__ = ["setup_fastgpu"]


def __getattr__(name: str) -> Any:
    if name == "setup_fastgpu":
        from fastgpu_hub.setup import setup_fastgpu

        return setup_fastgpu
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
