"""Where the service is and who I am: explicit arguments first, then the environment. Plus the transport's settings."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from fastgpu.errors import NotSignedIn, Unavailable
from fastgpu.requests import service_url

CONNECT_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Connection:
    """Address of the service and the token to show it; the token never appears in a repr.

    ``public_hub_url`` is for a server that a hub started: where browsers find that hub, empty when it did not say;
    None elsewhere.
    """

    url: str
    token: str = field(repr=False)
    public_hub_url: str | None = None

    @property
    def through_proxies(self) -> bool:
        """Whether the environment's HTTP proxies apply: never to a service on this very machine."""
        return urlsplit(self.url).hostname not in ("127.0.0.1", "localhost", "::1")

    @property
    def headers(self) -> dict[str, str]:
        """Headers of every call."""
        return {"Authorization": f"token {self.token}", "Accept": "application/json"}

    def page(self, path: str) -> str:
        """Address of one of the service's pages, for the browser of whoever reads it.

        A server of the hub reaches the service at an address that browsers may not. There it is below the hub's public
        address, or where the hub does not tell that, a path on the hub.
        """
        if self.public_hub_url is None:
            return self.address(path)
        public = urlsplit(self.public_hub_url)
        host = f"{public.scheme}://{public.netloc}" if public.netloc else ""
        return f"{host}{urlsplit(self.url).path}/{path}"

    def address(self, path: str) -> str:
        """The whole address of a path relative to the service."""
        return f"{self.url}/{path}"


def find_connection(
    url: str | None = None, token: str | None = None, environment: Mapping[str, str] | None = None
) -> Connection:
    """Connection from arguments or the environment (``FASTGPU_URL``; ``FASTGPU_TOKEN``, ``JUPYTERHUB_API_TOKEN``).

    Raises Unavailable without an address and NotSignedIn without a token, each saying what to set.
    """
    env = os.environ if environment is None else environment
    address = url or env.get("FASTGPU_URL", "")
    if not address:
        raise Unavailable(
            "I do not know where FastGPU is.",
            hint="Start your server through the hub, or set FASTGPU_URL (https://HUB/services/fastgpu).",
        )
    secret = token or env.get("FASTGPU_TOKEN") or env.get("JUPYTERHUB_API_TOKEN") or ""
    if not secret:
        raise NotSignedIn(
            "There is no token to sign in to FastGPU with.",
            hint="Set FASTGPU_TOKEN to a token made on the hub's token page, or pass token=.",
        )
    of_hub = env.get("JUPYTERHUB_PUBLIC_HUB_URL", "") if url is None and "JUPYTERHUB_USER" in env else None
    return Connection(service_url(address), secret.strip(), of_hub)
