"""The spawn page's half of the mixin: the form shown, the form read, and the client that asks the service."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any
from weakref import WeakKeyDictionary

from traitlets import Integer, Unicode, default
from traitlets.config import LoggingConfigurable

from fastgpu.aio import AsyncGPUClient
from fastgpu.errors import FastGPUError, Unavailable
from fastgpu.models import Options
from fastgpu_hub.spawner import leasing
from fastgpu_hub.spawner.form import render_form
from fastgpu_hub.spawner.options import OptionError, ServerChoice, parse_options, shown_values
from fastgpu_hub.spawner.refusal import GpuRefused, ShowForm
from fastgpu_hub.spawner.waiting import within

_clients: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, str], AsyncGPUClient]] = WeakKeyDictionary()


class _CalmLog(logging.Filter):
    """The hub logs whatever a form or a link led to as a failure with a traceback.

    A refusal keeps its line and loses the traceback; a link that only prefills the form is no failure at all.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
        if isinstance(error, ShowForm):
            return False
        if isinstance(error, GpuRefused):
            record.exc_info = None
        return True


class SpawnPage(LoggingConfigurable):
    """Shows what the service offers, reads what a person chose. Part of ``FastGPUSpawnerMixin``."""

    fastgpu_url = Unicode(
        help="""
        Address at which the hub reaches the FastGPU service.

        Default: environment variable FASTGPU_URL, else `http://127.0.0.1:10180/services/fastgpu`. `setup_fastgpu`
        sets it.
        """,
    ).tag(config=True)

    fastgpu_token = Unicode(
        help="""
        Token of the hub service `fastgpu-spawner`, with the scope `custom:fastgpu:spawn`.

        Default: environment variable FASTGPU_SPAWNER_TOKEN. `setup_fastgpu` makes one and sets it. It never reaches
        a person's server.
        """,
    ).tag(config=True)

    options_timeout = Integer(
        5,
        min=1,
        help="""
        Seconds the spawn page waits for prices and free GPUs from the service.

        After that the page offers a server without a GPU and says why.
        """,
    ).tag(config=True)

    # What was typed or linked to just now, to be shown again once.
    _fields: dict[str, Any] | None = None

    @default("fastgpu_url")
    def _default_fastgpu_url(self) -> str:
        return os.environ.get("FASTGPU_URL", "http://127.0.0.1:10180/services/fastgpu")

    @default("fastgpu_token")
    def _default_fastgpu_token(self) -> str:
        return os.environ.get("FASTGPU_SPAWNER_TOKEN", "")

    @default("options_from_form")
    def _default_options_from_form(self) -> Any:
        return self._read_form

    async def get_options_form(self) -> str:
        """The spawn page's form; without an answer of the service it still offers a server without a GPU."""
        shown = shown_values(self.user_options if self._fields is None else self._fields)
        # Once: a link that somebody followed must not choose their GPUs the next time they come.
        for spawner in (self, *getattr(self.user, "spawners", {}).values()):
            spawner._fields = None
        account, promo_code = shown.get("account") or None, shown.get("promo_code") or None
        options, trouble = await self._offered(account, promo_code)
        if options is None and trouble and (account or promo_code):
            # A code that has ended, or an account that is gone, must not hide the fields that correct it.
            options, again = await self._offered(None, None)
            trouble = trouble if options else again
        return render_form(options, shown, trouble=trouble)

    async def _offered(self, account: str | None, promo_code: str | None) -> tuple[Options | None, str]:
        """What the service offers, or why it offers nothing."""
        try:
            asked = self._client().options(self.user.name, account=account, promo_code=promo_code)
            return await within(self.options_timeout, asked), ""
        except asyncio.TimeoutError:
            trouble = f"The GPU service did not answer within {self.options_timeout} s."
        except Unavailable as error:
            trouble = "The GPU service does not answer right now."
            self.log.warning("Spawn page of %s without GPUs: %s", self._log_name, error)
        except FastGPUError as error:
            trouble = f"{error.message} {error.hint}".strip()
            self.log.warning("Spawn page of %s without GPUs: %s", self._log_name, error)
        return None, trouble

    def _read_form(self, form_data: dict[str, Any]) -> dict[str, Any]:
        self._show_again(form_data)
        return self._parsed(form_data).user_options()

    def options_from_query(self, query_data: dict[str, Any]) -> dict[str, Any]:
        """A link to the spawn page prefills the form. It never starts a server: a GET must not spend money."""
        self._show_again(query_data)
        raise ShowForm

    def _show_again(self, fields: dict[str, Any]) -> None:
        if not any(isinstance(known, _CalmLog) for known in self.log.filters):
            self.log.addFilter(_CalmLog())
        # The hub draws the form of a refused start from the default server's spawner, whichever server it was for.
        for spawner in (self, getattr(self.user, "spawner", self)):
            spawner._fields = fields

    def _parsed(self, raw: Any) -> ServerChoice:
        try:
            return parse_options(raw)
        except OptionError as error:
            raise GpuRefused("invalid_options", [f"This server cannot start: {error}."], status_code=422) from None

    async def _run_apply_user_options(self, user_options: Any) -> None:
        """Without a hook of the administrator's there is nothing to apply: ``start`` reads the options itself."""
        if self.apply_user_options:
            await super()._run_apply_user_options(user_options)

    def _client(self) -> leasing.Client:
        """The hub's one client per address and token: making one reads certificates, which would hold up the hub."""
        clients = _clients.setdefault(asyncio.get_running_loop(), {})
        key = (self.fastgpu_url, self.fastgpu_token)
        if key not in clients:
            clients[key] = AsyncGPUClient(url=self.fastgpu_url, token=self.fastgpu_token)
        return clients[key]
