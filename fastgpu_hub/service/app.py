"""The Tornado application: every row of the route table becomes a served address."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from jinja2 import Environment
from tornado.web import Application

from fastgpu_hub.service.auth import FastGPUAuth
from fastgpu_hub.service.events import EventsHandler
from fastgpu_hub.service.handlers import ApiHandler, NotFoundHandler, log_request
from fastgpu_hub.service.metrics import ServiceMetrics
from fastgpu_hub.service.openapi import document
from fastgpu_hub.service.pages.handler import CallbackHandler, PageHandler
from fastgpu_hub.service.pages.render import environment
from fastgpu_hub.service.routes import ROUTES
from fastgpu_hub.service.routing import EVENTS, Route

if TYPE_CHECKING:
    from fastgpu_hub.broker.broker import Broker

UPLOADS_AT_ONCE = 2


@dataclass(slots=True)
class Site:
    """What every handler needs. ``prefix`` is the service's root, ``/services/fastgpu/``."""

    broker: Broker
    auth: FastGPUAuth
    currency: str = "credits"
    time_zone: str = "UTC"
    prefix: str = "/services/fastgpu/"
    hub_home: str = "/hub/home"
    metrics: ServiceMetrics = field(init=False)
    uploads: asyncio.Semaphore = field(init=False)
    openapi: bytes = field(init=False)
    pages: Environment = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = ServiceMetrics()
        # Uploads are collected in memory; this bounds it.
        self.uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)
        self.openapi = json.dumps(document(ROUTES, server=self.prefix, version=_version())).encode()
        self.pages = environment(
            currency=self.currency, time_zone=self.time_zone, prefix=self.prefix, hub_home=self.hub_home
        )


def _version() -> str:
    try:
        return version("fastgpu-hub")
    except PackageNotFoundError:  # run from a checkout
        return "0"


def make_app(site: Site, cookie_secret: bytes, routes: Sequence[Route] = ROUTES) -> Application:
    """The application over ``site``. ``cookie_secret`` signs the sign-in cookie; keep it over restarts."""
    by_path: dict[str, dict[str, Route]] = {}
    for route in routes:
        by_path.setdefault(route.path, {})[route.method] = route
    handlers = [
        (f"{re.escape(site.prefix)}{next(iter(rows.values())).regex}", _handler(rows), {"site": site, "rows": rows})
        for rows in by_path.values()
    ]
    return Application(
        handlers,
        default_handler_class=NotFoundHandler,
        default_handler_args={"site": site},
        cookie_secret=cookie_secret,
        log_function=log_request,
    )


def _handler(rows: dict[str, Route]) -> type[ApiHandler | PageHandler | CallbackHandler]:
    row = next(iter(rows.values()))
    if row.name == "oauth_callback":
        return CallbackHandler
    if row.media == EVENTS:
        return EventsHandler
    return PageHandler if row.is_page else ApiHandler
