"""The extension itself: reads its settings, makes the one client of the service, adds the routes."""

from __future__ import annotations

import os
import time

from jupyter_server.extension.application import ExtensionApp
from traitlets import Float, Unicode

from fastgpu.aio import AsyncGPUClient
from fastgpu.models import Status
from fastgpu_magics.server.handlers import EventsHandler, StatusHandler
from fastgpu_magics.server.relay import RETRY_SECONDS, NoticeRelay
from fastgpu_magics.server.sampler import StatusSampler
from fastgpu_magics.server.settings import ServerSettings


class FastGPUServerExtension(ExtensionApp):
    """Relays status and news of this server's owner to JupyterLab, without handing the token to the browser."""

    name = "fastgpu"

    min_interval_seconds = Float(
        1.0,
        min=0.1,
        help="""
        Shortest time between two questions to the FastGPU service, in seconds.

        All browser tabs of this server share one sample, so this is also how old a figure on screen may be. Higher
        values spare the service when very many servers run.
        """,
    ).tag(config=True)

    timeout_seconds = Float(
        10.0,
        min=0.1,
        help="""
        How long to wait for the FastGPU service before JupyterLab says that it does not answer, in seconds.

        A service that restarts meanwhile goes unnoticed. Nothing is lost by a wait that ends: the next question is
        asked as usual.
        """,
    ).tag(config=True)

    public_url = Unicode(
        "",
        help="""
        Address of FastGPU's page as a browser reaches it; the status bar opens it.

        Empty (the default) means: on JupyterLab's own host, at the path of ``FASTGPU_URL``. Set it where JupyterHub
        serves its services from another host (``subdomain_host``).
        """,
    ).tag(config=True)

    def initialize_handlers(self) -> None:
        """Add the routes (jupyter-server calls this once)."""
        settings = ServerSettings.from_environment(os.environ, self.public_url)
        self._client: AsyncGPUClient | None = None
        self._sampler = StatusSampler(
            lambda: self._fetch_status(settings),
            min_interval_seconds=self.min_interval_seconds,
            timeout_seconds=self.timeout_seconds,
            monotonic=time.monotonic,
        )
        self._relay = NoticeRelay(lambda after: self._connect(settings).events(after), retry_seconds=RETRY_SECONDS)
        status = (r"/fastgpu/api/status", StatusHandler, {"settings": settings, "sampler": self._sampler})
        events = (r"/fastgpu/api/events", EventsHandler, {"settings": settings, "relay": self._relay})
        self.handlers.extend([status, events])

    async def stop_extension(self) -> None:
        """Close the connections to the service."""
        await self._sampler.close()
        await self._relay.close()
        if self._client is not None:
            await self._client.close()

    def _connect(self, settings: ServerSettings) -> AsyncGPUClient:
        if self._client is None:
            self._client = AsyncGPUClient(settings.url or None, settings.token or None)
        return self._client

    async def _fetch_status(self, settings: ServerSettings) -> Status:
        return await self._connect(settings).status()
