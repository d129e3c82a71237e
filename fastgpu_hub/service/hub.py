"""JupyterHub's REST API as the broker's HubApi port."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse

from fastgpu_hub.broker.ports.world import HubUnavailable, HubUser

TIMEOUT_SECONDS = 10.0


class RestHub:
    """Asks the hub with the service's own token.

    Everything but a clear answer raises HubUnavailable: no connection, 5xx, a missing right, an unreadable body.
    """

    def __init__(self, api_url: str, token: str, *, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        self._api_url = api_url.rstrip("/")
        self._token = token
        self._timeout_seconds = timeout_seconds

    async def user(self, name: str) -> HubUser | None:
        """A person and their groups, None when the hub has nobody of this name."""
        model = await self._get(f"users/{quote(name, safe='')}")
        if model is None:
            return None
        groups = self._field(model, "groups", list)
        return HubUser(str(model["name"]), tuple(sorted(map(str, groups))), bool(model.get("admin")))

    async def class_members(self, name: str) -> list[str] | None:
        """Names in a group, None when there is no such group."""
        model = await self._get(f"groups/{quote(name, safe='')}")
        return None if model is None else sorted(map(str, self._field(model, "users", list)))

    async def server_active(self, owner: str, server_name: str) -> bool:
        """True while the hub lists the server: it lists those that start, run or stop."""
        model = await self._get(f"users/{quote(owner, safe='')}")
        return model is not None and server_name in self._field(model, "servers", dict)

    async def stop_server(self, owner: str, server_name: str) -> None:
        """Tell the hub to stop a server; one that is gone already is fine."""
        path = f"users/{quote(owner, safe='')}/" + (
            f"servers/{quote(server_name, safe='')}" if server_name else "server"
        )
        response = await self._fetch("DELETE", path)
        if response.code not in (202, 204, 404):
            raise self._unclear("DELETE", path, response)

    @staticmethod
    def _field(model: dict[str, Any], name: str, kind: type) -> Any:
        value = model.get(name)
        if not isinstance(value, kind):
            raise HubUnavailable(f"the hub's answer has no {name}: the service's role lacks the right to read them")
        return value

    async def _get(self, path: str) -> dict[str, Any] | None:
        response = await self._fetch("GET", path)
        if response.code == 404:
            return None
        if response.code != 200:
            raise self._unclear("GET", path, response)
        try:
            model = json.loads(response.body)
        except ValueError:
            model = None
        if not isinstance(model, dict):
            raise HubUnavailable(f"GET {path}: the hub's answer is not a JSON object")
        return model

    async def _fetch(self, method: str, path: str) -> HTTPResponse:
        request = HTTPRequest(
            f"{self._api_url}/{path}",
            method=method,
            headers={"Authorization": f"token {self._token}"},
            connect_timeout=self._timeout_seconds,
            request_timeout=self._timeout_seconds,
        )
        try:
            return await AsyncHTTPClient().fetch(request, raise_error=False)
        except (OSError, HTTPClientError) as error:
            raise HubUnavailable(f"{method} {path}: {error}") from error

    @staticmethod
    def _unclear(method: str, path: str, response: HTTPResponse) -> HubUnavailable:
        return HubUnavailable(f"{method} {path}: the hub answered {response.code} {response.reason}")
