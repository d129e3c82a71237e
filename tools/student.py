"""A student without a screen: signs in to a hub, starts a server, runs a notebook's cells in its kernel."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

READY_SECONDS = 90
CELL_SECONDS = 90


@dataclass
class CellResult:
    """What running one cell gave: printed text, results as plain text, the error if there was one."""

    source: str
    printed: str = ""
    results: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""


class Student:
    """One person's way through a hub: token, server, kernel. Use as an async context manager."""

    def __init__(self, hub_url: str, name: str, password: str) -> None:
        self.hub_url, self.name, self.password = hub_url, name, password
        self.token = ""
        self.http = httpx.AsyncClient(base_url=hub_url, timeout=60, follow_redirects=True)

    async def __aenter__(self) -> Student:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.http.aclose()

    async def sign_in(self) -> None:
        """Through the sign-in form, like a browser; then a token of one's own. Raises RuntimeError when refused."""
        await self.http.get("/hub/login")
        form = {"username": self.name, "password": self.password, "_xsrf": self._xsrf()}
        answer = await self.http.post("/hub/login", data=form)
        if answer.url.path.endswith("/hub/login"):
            raise RuntimeError(f"the hub did not sign {self.name} in")
        await self.http.get("/hub/token")
        answer = await self.http.post(
            f"/hub/api/users/{self.name}/tokens",
            json={"note": "demo", "expires_in": 3600},
            headers={"X-XSRFToken": self._xsrf(), "Referer": f"{self.hub_url}/hub/token"},
        )
        answer.raise_for_status()
        self.token = answer.json()["token"]
        self.http.headers["Authorization"] = f"token {self.token}"

    def _xsrf(self) -> str:
        """The hub's own: a running server sets a cookie of the same name for its path."""
        return next((c.value or "" for c in self.http.cookies.jar if (c.name, c.path) == ("_xsrf", "/hub/")), "")

    async def start_server(self, options: dict[str, Any], tell: Callable[[str], None] = lambda _: None) -> None:
        """Start the default server and follow its progress until it is ready. Raises RuntimeError when it fails."""
        answer = await self.http.post(f"/hub/api/users/{self.name}/server", json=options)
        if answer.status_code >= 400:
            raise RuntimeError(answer.json().get("message", answer.text))
        async with self.http.stream(
            "GET", f"/hub/api/users/{self.name}/server/progress", timeout=READY_SECONDS
        ) as stream:
            async for line in stream.aiter_lines():
                if line.startswith("data:"):
                    event = json.loads(line.removeprefix("data:"))
                    tell(event.get("message", ""))
                    if event.get("failed"):
                        raise RuntimeError(event.get("message", "the server failed to start"))
                    if event.get("ready"):
                        return
        raise RuntimeError("the server did not become ready")

    async def stop_server(self) -> None:
        """Stop the default server and wait until it is gone."""
        await self.http.delete(f"/hub/api/users/{self.name}/server")
        for _ in range(200):
            user = (await self.http.get(f"/hub/api/users/{self.name}")).json()
            if not user.get("servers"):
                return
            await asyncio.sleep(0.1)
        raise RuntimeError("the server did not stop")

    async def run_cells(self, cells: list[str], tell: Callable[[CellResult], None]) -> list[CellResult]:
        """Run cells in a fresh kernel of the running server; stops at the first error."""
        base = f"/user/{self.name}/api/kernels"
        kernel = (await self.http.post(base, json={"name": "python3"})).raise_for_status().json()["id"]
        address = f"{self.hub_url.replace('http', 'ws', 1)}{base}/{kernel}/channels"
        socket = await websocket_connect(HTTPRequest(address, headers={"Authorization": f"token {self.token}"}))
        results = []
        try:
            for source in cells:
                result = await asyncio.wait_for(_run_cell(socket, source), CELL_SECONDS)
                tell(result)
                results.append(result)
                if result.error:
                    break
        finally:
            socket.close()
            await self.http.delete(f"{base}/{kernel}")
        return results


def code_cells(notebook: Path) -> list[str]:
    """Sources of a notebook's code cells."""
    cells = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


async def _run_cell(socket: Any, source: str) -> CellResult:
    message_id = uuid.uuid4().hex
    header = {"msg_id": message_id, "msg_type": "execute_request", "session": message_id, "version": "5.3"}
    content = {"code": source, "silent": False, "store_history": True, "stop_on_error": True, "allow_stdin": False}
    message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}
    await socket.write_message(json.dumps(message))
    result = CellResult(source)
    idle = replied = False
    while not (idle and replied):
        raw = await socket.read_message()
        if raw is None:
            raise RuntimeError("the kernel's connection was closed")
        answer = json.loads(raw)
        if answer.get("parent_header", {}).get("msg_id") != message_id:
            continue
        kind, body = answer["header"]["msg_type"], answer["content"]
        if kind == "stream":
            result.printed += body["text"]
        elif kind in ("execute_result", "display_data"):
            result.results.append(body["data"])
        elif kind == "error":
            result.error = f"{body['ename']}: {body['evalue']}"
        elif kind == "status" and body["execution_state"] == "idle":
            idle = True
        elif kind == "execute_reply":
            replied = True
            if body["status"] != "ok" and not result.error:  # a UsageError is only printed
                result.error = result.printed.strip() or body["status"]
    return result
