"""HTTP routes for JupyterLab under ``<base_url>fastgpu/api/``. The service's token stays on this side."""

from __future__ import annotations

import json
from typing import Any

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import APIHandler
from tornado import web

from fastgpu.models import Status, json_of
from fastgpu_magics.server.sampler import Problem, StatusSampler
from fastgpu_magics.server.settings import ServerSettings


def status_answer(settings: ServerSettings, sample: Status | Problem) -> dict[str, Any]:
    """The body of ``GET fastgpu/api/status``; exactly one of ``status`` and ``problem`` is null."""
    problem = None
    if isinstance(sample, Problem):
        since = sample.since.isoformat()
        problem = {"code": sample.code, "message": sample.message, "hint": sample.hint, "since": since}
    return {
        "lease_id": settings.lease_id,
        "service_url": settings.public_url,
        "status": None if isinstance(sample, Problem) else json_of(sample),
        "problem": problem,
    }


class StatusHandler(APIHandler):
    """``GET fastgpu/api/status``: the service's status of this server's owner, at most a second old.

    A service in trouble is still an answer (200 with ``problem``): this server works, and can say since when the
    service has not. Other codes mean that this server itself refused (403) or broke.
    """

    auth_resource = "fastgpu"
    # A page that polls is not a person at work: it must not keep an idle server alive.
    _track_activity = False

    def initialize(self, settings: ServerSettings, sampler: StatusSampler) -> None:
        """Take what all requests share."""
        self._fastgpu_settings = settings
        self._sampler = sampler

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer with the shared sample."""
        answer = status_answer(self._fastgpu_settings, await self._sampler.sample())
        self.set_header("Cache-Control", "no-store")
        self.finish(json.dumps(answer))
