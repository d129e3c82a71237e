"""A real JupyterHub with a configuration of one's own, driven through its REST API: for benchmarks and tests.

with RunningHub(config_text, folder) as hub:
    hub.api("POST", "/users/alice/server")
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools.hub import MARK, ROOT, HubProcess, Ports

_CONFIG = """
import os, sys
c = get_config()
c.JupyterHub.bind_url = "http://127.0.0.1:{ports.public}"
c.JupyterHub.hub_port = {ports.hub}
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{ports.proxy}"
c.ConfigurableHTTPProxy.pid_file = "{folder}/proxy.pid"
c.JupyterHub.db_url = "sqlite:///{folder}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{folder}/cookie_secret"
c.JupyterHub.authenticator_class = "dummy"
c.Authenticator.allow_all = True
c.JupyterHub.services = [{{"name": "driver", "api_token": {token!r}}}]
c.JupyterHub.load_roles = [
    {{"name": "driver", "services": ["driver"],
     "scopes": ["admin:users", "admin:servers", "admin:groups", "access:servers", "access:services", "tokens"]}}
]
c.SimpleLocalProcessSpawner.home_dir_template = "{folder}/home/{{username}}"
c.Spawner.cmd = [sys.executable, "-m", "jupyterhub.singleuser"]
c.Spawner.args = ["--allow-root"] if os.getuid() == 0 else []
c.Spawner.env_keep.append({mark!r})
FASTGPU_PORT = {ports.service}
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the hub's API."""

    status: int
    body: Any


def proxy_program() -> str | None:
    """Path of configurable-http-proxy: on PATH, else beside this Python."""
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return shutil.which("configurable-http-proxy", path=beside)


class RunningHub(HubProcess):
    """A hub with ``config`` (Python text) after its own lines. ``api`` speaks with an all-mighty token.

    Attributes: ``url`` (public address), ``token``, ``folder``, ``log_path``, ``fastgpu_port`` (a free port that
    ``config`` may name as ``FASTGPU_PORT``).
    """

    def __init__(self, config: str, folder: Path, *, environment: dict[str, str] | None = None) -> None:
        self.folder = Path(folder)
        self.token = secrets.token_hex(16)
        self.log_path = self.folder / "hub.log"
        ports = Ports.free()
        self.fastgpu_port = ports.service
        own = _CONFIG.format(ports=ports, folder=self.folder, token=self.token, mark=MARK)
        file = self.folder / "jupyterhub_config.py"
        file.write_text(f"{own}\n{config}\n", encoding="utf-8")
        (self.folder / "home").mkdir(exist_ok=True)
        environment = {"PYTHONPATH": str(ROOT), **(environment or {})}
        super().__init__(self.folder, ports, config=file, log=self.log_path.open("ab"), environment=environment)

    def answering(self) -> list[str]:
        """The hub only: whether there is a service is up to ``config``."""
        return [f"{self.url}/hub/api"]

    def __enter__(self) -> RunningHub:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the hub itself. Raises RuntimeError when it is not started."""
        if self.process is None:
            raise RuntimeError("the hub is not started")
        return self.process.pid

    def stop(self, grace_seconds: float = 30) -> list[str]:
        """As for any hub; the log is closed."""
        killed = super().stop(grace_seconds)
        if self.log is not None:
            self.log.close()
        return killed

    def log_text(self) -> str:
        """The hub's log so far, with its services' and servers'."""
        return self.log_path.read_text(encoding="utf-8", errors="replace")

    def restart(self) -> None:
        """End the hub in good order and start it again; with ``cleanup_servers = False`` people's servers run on."""
        self.terminate()
        self.start()

    def api(self, method: str, path: str, body: Any = None, *, token: str | None = None) -> Answer:
        """One call of the hub's REST API. Raises OSError when the hub cannot be reached."""
        request = urllib.request.Request(
            f"{self.url}/hub/api{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {token or self.token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return Answer(response.status, _json(response.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, _json(error.read()))

    def server(self, user: str, name: str = "") -> dict[str, Any] | None:
        """A person's server as the hub shows it while it is active; None when there is none."""
        body = self.api("GET", f"/users/{user}").body or {}
        found: dict[str, Any] | None = body.get("servers", {}).get(name)
        return found

    def wait_ready(self, user: str, timeout_seconds: float = 120) -> None:
        """Wait for the hub's own `ready` flag, asked every 20 ms. Raises TimeoutError with the log, at the latest."""
        self._wait(lambda: (self.server(user) or {}).get("ready"), f"{user}'s server is not ready", timeout_seconds)

    def wait_gone(self, user: str, timeout_seconds: float = 120) -> None:
        """Wait until the hub no longer has the server. Raises TimeoutError with the log."""
        self._wait(lambda: self.server(user) is None, f"{user}'s server is not gone", timeout_seconds)

    def _wait(self, done: Callable[[], Any], complaint: str, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while not done():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{complaint} after {timeout_seconds} s:\n{self.log_text()[-4000:]}")
            time.sleep(0.02)


def _json(content: bytes) -> Any:
    return json.loads(content) if content[:1] in (b"{", b"[") else None
