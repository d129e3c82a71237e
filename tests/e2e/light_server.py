"""A single-user server in miniature, for hubs with many: answers below its prefix, tells the hub that it is active.

Like a real one it has a child in a session of its own, as kernels are. Its owner's name says how it misbehaves:
``portless-…`` never listens, ``late-…`` only after some seconds, ``deaf-…`` ignores the signals that ask it to end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

NAME = os.environ["JUPYTERHUB_USER"]
PREFIX = os.environ["JUPYTERHUB_SERVICE_PREFIX"]
ACTIVITY_SECONDS = 2
LATE_SECONDS = 8


class Answers(BaseHTTPRequestHandler):
    """Says who it is below its own prefix, nothing anywhere else."""

    def do_GET(self) -> None:
        """Any address below the prefix."""
        known = self.path.startswith(PREFIX)
        body = json.dumps({"user": NAME, "pid": os.getpid()}).encode()
        self.send_response(200 if known else 404)
        self.send_header("X-JupyterHub-Version", os.environ.get("JUPYTERHUB_VERSION", "6.1.1"))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Twenty servers' access logs tell nothing."""


def report_activity() -> None:
    """As a server must, or it is culled; a hub that is away is told the next time."""
    while True:
        now = datetime.now(timezone.utc).isoformat()
        servers = {os.environ.get("JUPYTERHUB_SERVER_NAME", ""): {"last_activity": now}}
        request = urllib.request.Request(
            os.environ["JUPYTERHUB_ACTIVITY_URL"],
            data=json.dumps({"servers": servers, "last_activity": now}).encode(),
            headers={"Authorization": f"token {os.environ['JUPYTERHUB_API_TOKEN']}"},
        )
        with contextlib.suppress(OSError):
            urllib.request.urlopen(request, timeout=10).close()
        time.sleep(ACTIVITY_SECONDS)


def main() -> None:
    """Serve until a signal."""
    if NAME.startswith("deaf"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["sleep", "900"], start_new_session=True)
    if NAME.startswith("portless"):
        time.sleep(900)
    if NAME.startswith("late"):
        time.sleep(LATE_SECONDS)
    address = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
    threading.Thread(target=report_activity, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        ThreadingHTTPServer((address.hostname or "127.0.0.1", address.port or 80), Answers).serve_forever()


main()
