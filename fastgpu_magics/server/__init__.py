"""The jupyter-server extension: what JupyterLab asks of FastGPU, asked with this server's own token.

Enabled by ``etc/jupyter/jupyter_server_config.d/fastgpu_magics.json``, which the wheel brings along.
"""

from __future__ import annotations

from typing import Any


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    """Where jupyter-server finds the extension; imported late, so that magics alone never load a web server."""
    from fastgpu_magics.server.extension import FastGPUServerExtension

    return [{"module": "fastgpu_magics.server", "app": FastGPUServerExtension}]
