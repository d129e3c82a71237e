"""What this Jupyter server knows of FastGPU: its spawner put it into the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Where the service is and who this server is to it.

    ``url`` is the service's address as seen from this machine and ``token`` this server's own (both empty when the
    server was not started by a FastGPU spawner), ``lease_id`` the lease whose GPUs the server holds (None without
    a GPU), ``public_url`` the service's page as a browser reaches it (None when unknown).
    """

    url: str
    token: str = field(repr=False)
    lease_id: str | None
    public_url: str | None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str], public_url: str = "") -> ServerSettings:
        """Read ``FASTGPU_URL``, ``JUPYTERHUB_API_TOKEN`` and ``FASTGPU_LEASE_ID``.

        Without a ``public_url`` the page is taken to lie on the same host as JupyterLab, at the path of
        ``FASTGPU_URL``: the host in that address is the service's own, which a browser need not reach.
        """
        url = environ.get("FASTGPU_URL", "").rstrip("/")
        page = public_url or (f"{urlsplit(url).path}/" if url else "")
        return cls(
            url=url,
            token=environ.get("JUPYTERHUB_API_TOKEN", ""),
            lease_id=environ.get("FASTGPU_LEASE_ID") or None,
            public_url=page or None,
        )
