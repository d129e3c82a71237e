"""A stand-in for the FastGPU service, started by a real hub: writes down what it is asked in ``calls.jsonl``.

GPU type ``full`` stays in the queue, ``broke`` is refused, anything else is granted at once.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from urllib.parse import urlsplit

import tornado.web

FOLDER = Path(os.environ["FASTGPU_STATE_DIR"])
REFUSAL = {
    "code": "quota_spend",
    "message": "class cs101: 10.00 of 10.00 credits are used",
    "instead": "Wait <b>1</b> h",
}
RATE = {"per_gpu_hour_micros": 1_000_000}


def note(**what: object) -> None:
    with (FOLDER / "calls.jsonl").open("a") as file:
        file.write(json.dumps(what) + "\n")


def lease(lease_id: str, state: str) -> dict[str, object]:
    return {
        "id": lease_id,
        "owner": "alice",
        "account": "class:cs101",
        "gpu_type": lease_id,
        "gpu_count": 1,
        "state": state,
        "queue_place": 2 if state == "queued" else None,
        "environment": {} if state == "queued" else {"CUDA_VISIBLE_DEVICES": "GPU-1"},
        "requested_at": "2026-12-01T12:00:00Z",
        "currency": "credits",
    }


class Api(tornado.web.RequestHandler):
    def prepare(self) -> None:
        self.token = self.request.headers.get("Authorization", "").split()[-1:]

    def get(self, path: str) -> None:
        if path.endswith("/options"):
            offers = [
                {"gpu_type": name, "label": f"<i>{name}</i>", "total": 4, "free": 1, "rate": RATE, "list_rate": RATE}
                for name in ("h100-80gb", "broke", "full")
            ]
            self.finish({"user": "alice", "currency": "credits", "offers": offers})
        else:
            self.finish(lease("full", "queued"))

    def post(self, path: str) -> None:
        body = json.loads(self.request.body or b"{}")
        note(path=path, body=body, key=self.request.headers.get("Idempotency-Key"), token=self.token)
        if path.endswith("/leases"):
            if body["gpu_type"] == "broke":
                self.set_status(403)
                self.finish({"error": REFUSAL})
                return
            self.set_status(201)
            self.finish(lease(body["gpu_type"], "queued" if body["gpu_type"] == "full" else "granted"))
        else:
            self.finish(lease(path.split("/")[1], "running" if path.endswith("started") else "released"))


async def main() -> None:
    note(config=json.loads(os.environ["FASTGPU_CONFIG"]), name=os.environ["JUPYTERHUB_SERVICE_NAME"])
    application = tornado.web.Application(
        [(r".*/services/fastgpu/api/(.*)", Api), (r".*", tornado.web.ErrorHandler, {"status_code": 404})]
    )
    application.listen(urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"]).port, "127.0.0.1")
    await asyncio.Event().wait()


asyncio.run(main())
