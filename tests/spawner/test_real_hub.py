"""The spawner in a real hub with its real proxy; the service behind it is absent or a stand-in."""

from __future__ import annotations

import http.cookiejar
import json
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.hub]

CONFIG = """
from fastgpu_hub import setup_fastgpu
setup_fastgpu(c, port=FASTGPU_PORT, state_dir="state", teachers={{"cs101": ["teacher"]}}, service_command={command})
c.FastGPUService.currency = "credits"
c.JupyterHub.cleanup_servers = False
c.JupyterHub.load_groups = {{"cs101": {{"users": ["alice"]}}}}
c.Spawner.poll_interval = 1
c.JupyterHub.tornado_settings = {{"slow_spawn_timeout": 1}}
"""
FAKE = f"[sys.executable, {str(Path(__file__).with_name('fake_service.py'))!r}]"
AWAY = """
c.FastGPUSpawnerMixin.fastgpu_url = "http://127.0.0.1:9/services/fastgpu"
c.FastGPUSpawnerMixin.fastgpu_server_url = f"http://127.0.0.1:{FASTGPU_PORT}/services/fastgpu"
"""


def calls(hub, ending):
    lines = (hub.folder / "state" / "calls.jsonl").read_text().splitlines()
    return [call for call in map(json.loads, lines) if call.get("path", "").endswith(ending)]


def until(check, seconds=20):
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return found


def server_process(hub, user):
    home = str(hub.folder / "home" / user)
    for process in psutil.process_iter():
        try:
            if process.cwd() == home and process.environ().get("JUPYTERHUB_USER") == user:
                return process
        except psutil.Error:
            continue
    raise AssertionError(f"{user} has no server process")


class Browser:
    """A signed-in person without JavaScript."""

    def __init__(self, hub, user):
        self.url = hub.url
        self.jar = http.cookiejar.CookieJar()
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar))
        self.get("/hub/login")
        self.post("/hub/login", username=user, password="x")

    def get(self, path):
        with self.opener.open(self.url + path, timeout=60) as answer:
            return answer.status, answer.read().decode()

    def post(self, path, **fields):
        xsrf = next(cookie.value for cookie in self.jar if cookie.name == "_xsrf" and cookie.path == "/hub/")
        body = urllib.parse.urlencode({**fields, "_xsrf": xsrf}).encode() if path == "/hub/login" else None
        body = body or urllib.parse.urlencode(fields).encode()
        try:
            with self.opener.open(f"{self.url}{path}?_xsrf={urllib.parse.quote(xsrf)}", body, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


def test_a_server_without_gpu_starts_while_the_service_is_away(real_hub):
    hub = real_hub(CONFIG.format(command=FAKE) + AWAY)
    hub.api("POST", "/users/alice")
    assert hub.api("POST", "/users/alice/server", {}).status in (201, 202)
    hub.wait_ready("alice")
    environment = server_process(hub, "alice").environ()
    assert environment["CUDA_VISIBLE_DEVICES"] == ""
    assert environment["FASTGPU_URL"] == f"http://127.0.0.1:{hub.fastgpu_port}/services/fastgpu"
    status, page = Browser(hub, "bob").get("/hub/spawn")
    assert status == 200
    assert re.search("The GPU service (does|did) not answer", page)
    assert "You can start a server without a GPU" in page
    hub.api("DELETE", "/users/alice/server")
    hub.wait_gone("alice")


def test_a_leased_server_lives_and_ends_with_its_lease(real_hub):
    hub = real_hub(CONFIG.format(command=FAKE))
    until(lambda: (hub.folder / "state" / "calls.jsonl").exists())
    settings = json.loads((hub.folder / "state" / "calls.jsonl").read_text().splitlines()[0])
    assert settings == {"config": {"FastGPUService": {"currency": "credits"}}, "name": "fastgpu"}

    # A link with options shows the form, prefilled, and starts nothing.
    browser = Browser(hub, "alice")
    status, page = browser.get("/hub/spawn?opt-gpu=h100-80gb&opt-count=2")
    assert status == 200
    assert re.search(r'value="h100-80gb"[^>]* checked', page)
    assert 'name="gpu_count" min="1" max="4" step="1" value="2"' in page
    assert "&lt;i&gt;h100-80gb&lt;/i&gt;" in page
    assert hub.server("alice") is None
    assert "Traceback" not in hub.log_text()

    # A refusal is shown above the form, which keeps what was typed; the hub shrugs it off.
    for _ in range(6):
        status, page = browser.post("/hub/spawn", gpu_type="broke", gpu_count="3")
    assert status == 403
    assert "class cs101: 10.00 of 10.00 credits are used. Wait &lt;b&gt;1&lt;/b&gt; h." in page
    assert 'value="3"' in page
    assert "Traceback" not in hub.log_text()

    # A place in the queue is given up by stopping the pending server.
    assert hub.api("POST", "/users/alice/server", {"user_options": {"gpu_type": "bad type"}}).status == 422
    for person in ("carol", "dave"):
        hub.api("POST", f"/users/{person}")
    hub.api("POST", "/users/carol/server", {"user_options": {"gpu_type": "full"}})
    assert (hub.server("carol") or {}).get("pending") == "spawn"
    hub.api("DELETE", "/users/carol/server")
    hub.wait_gone("carol")
    until(lambda: calls(hub, "leases/full/release"))

    # Granted: the server runs in its lease with a token that may use FastGPU but not the spawner's.
    assert browser.post("/hub/spawn", gpu_type="h100-80gb", gpu_count="2", time_limit="2h")[0] == 200
    hub.wait_ready("alice")
    process = server_process(hub, "alice")
    environment = process.environ()
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["FASTGPU_LEASE_ID"]) == ("GPU-1", "h100-80gb")
    request = calls(hub, "users/alice/leases")[-1]
    assert request["body"]["time_limit_seconds"] == 7200
    assert [call["body"] for call in calls(hub, "h100-80gb/started")] == [{"pid": process.pid}]
    scopes = hub.api("GET", "/user", token=environment["JUPYTERHUB_API_TOKEN"]).body["scopes"]
    assert {"custom:fastgpu:use", "access:services!service=fastgpu"} <= set(scopes)
    assert request["token"] != [environment["JUPYTERHUB_API_TOKEN"]]

    # A restart of the hub resumes: same process, no release; the stop after it releases.
    hub.restart()
    hub.wait_ready("alice")
    assert process.is_running()
    assert calls(hub, "h100-80gb/release") == []
    hub.api("DELETE", "/users/alice/server")
    hub.wait_gone("alice")
    assert len(until(lambda: calls(hub, "h100-80gb/release"))) == 1
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE

    # A server that is killed is noticed, and its GPUs come back.
    hub.api("POST", "/users/dave/server", {"user_options": {"gpu_type": "a100"}})
    hub.wait_ready("dave")
    server_process(hub, "dave").kill()
    until(lambda: calls(hub, "a100/release"))
