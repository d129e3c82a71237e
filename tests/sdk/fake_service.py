"""A FastGPU service in memory: answers the API for one person, with jobs that advance one state per look."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import httpx

NOW = datetime(2025, 11, 21, 17, 0, tzinfo=timezone.utc)
URL = "http://hub.test/services/fastgpu"
PATH = "/services/fastgpu/"


def at(minutes: float) -> str:
    return (NOW + timedelta(minutes=minutes)).isoformat()


RATE = {"per_gpu_hour_micros": 420_000}
OFFERS = [
    {
        "gpu_type": name,
        "label": name,
        "memory_bytes": 80 * 2**30,
        "total": 4,
        "free": 3,
        "rate": RATE,
        "list_rate": RATE,
        "wait_seconds": 0,
        "simulated": True,
    }
    for name in ("h100-80gb", "h100-80gb.1g.10gb", "a100-40gb")
]
ACCOUNT = {"id": "class:cs101", "granted_micros": 100_000_000, "spent_micros": 1_000_000, "left_micros": 99_000_000}
QUOTA = {
    "quota_id": 1,
    "label": "class cs101: 40 GPU-hours per week",
    "scope": "member",
    "metric": "gpu_seconds",
    "window": "week",
    "limit": 144_000,
    "used": 36_000,
    "reserved": 7200,
    "left": 100_800,
    "resets_at": at(3 * 24 * 60),
}
PROMOTION = {
    "id": 7,
    "name": "Night <script>owl</script>",
    "percent_off": 50,
    "starts_at": at(-600),
    "ends_at": at(6000),
    "active": True,
    "changes_at": at(90),
}
GRANT = {
    "id": 3,
    "account": "class:cs101",
    "amount_micros": 5_000_000,
    "left_micros": 1_250_000,
    "priority": 10,
    "granted_at": at(-600),
    "expires_at": at(6000),
    "note": "summer school",
    "by": "root",
}
ASK = {
    "id": 9,
    "owner": "alice",
    "account": "class:cs101",
    "quota_id": 1,
    "metric": "gpu_seconds",
    "label": "class cs101: 40 GPU-hours per week",
    "amount": 36_000,
    "reason": "the final project",
    "state": "open",
    "asked_at": at(-5),
    "currency": "credits",
}
CODE = {"code": "K7QF-9M2X-4TRW", "max_uses": 1, "uses": 0, "created_at": at(0)}
LINE = {
    "unit": "gpu_hour",
    "starts_at": at(0),
    "ends_at": at(60),
    "gpu_count": 1,
    "quantity": 3600,
    "rate_micros": 420_000,
    "list_rate_micros": 840_000,
    "amount_micros": 420_000,
    "price_id": 3,
    "promotion_id": 7,
    "promotion_name": "Night owl",
}
LEASE = {
    "id": "job-1",
    "owner": "alice",
    "job_id": "job-1",
    "account": "class:cs101",
    "gpu_type": "h100-80gb",
    "gpu_count": 1,
    "state": "running",
    "requested_at": at(-10),
    "rate_per_hour_micros": 420_000,
    "cost_micros": 70_000,
    "funded_until": at(50),
    "currency": "credits",
    "simulated": True,
}
NOTICE = {
    "id": 4,
    "at": at(-1),
    "kind": "ending",
    "explanation": {"code": "credit", "message": "“train” will be stopped in 10 minutes.", "instead": "Ask for more."},
    "workload_id": "job-1",
    "ends_at": at(9),
}
GPU_USE = {
    "gpu": {"uuid": "GPU-1", "index": 0, "name": "H100", "gpu_type": "h100-80gb", "simulated": True},
    "sampled_at": at(0),
    "utilisation_percent": 63,
    "memory_used_bytes": 18 * 2**30,
    "memory_total_bytes": 80 * 2**30,
}


RECEIPT = {
    "lease_id": "job-1",
    "workload_id": "job-1",
    "name": "train.py",
    "owner": "alice",
    "account": "class:cs101",
    "gpu_type": "h100-80gb",
    "lines": [LINE],
    "total_micros": 420_000,
    "ledger_micros": 420_000,
    "saved_micros": 420_000,
    "currency": "credits",
    "settled": True,
}


class FakeService:
    """Answers as the service would. ``calls`` records every request, ``failures`` are answered (or raised) first."""

    user = "alice"

    def __init__(self) -> None:
        self.calls: list[httpx.Request] = []
        self.failures: list[httpx.Response | Exception] = []
        self.blobs: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.submissions: list[dict[str, Any]] = []
        self.logs: dict[str, bytes] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.path_of_states = ["queued", "starting", "running", "succeeded"]

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self.answer)

    def sent(self, method: str, path: str) -> list[httpx.Request]:
        return [c for c in self.calls if c.method == method and c.url.path == f"{PATH}{path}"]

    def refuse(self, status: int, code: str, message: str, **more: Any) -> None:
        """Answer the next call with a refusal."""
        error = {"code": code, "message": message, **more}
        body = {"error": error, "request_id": "r-42"}
        self.failures.append(httpx.Response(status, json=body))

    def add_job(self, job_id: str = "job-1", **fields: Any) -> dict[str, Any]:
        self.jobs[job_id] = {
            "id": job_id,
            "name": "train.py",
            "kind": "script",
            "owner": self.user,
            "account": "class:cs101",
            "gpu_type": "h100-80gb",
            "gpu_count": 1,
            "time_limit_seconds": 7200,
            "state": "queued",
            "submitted_at": at(-10),
            "eta_end": at(50),
            "cost_micros": 70_000,
            "held_micros": 770_000,
            "rate_per_hour_micros": 420_000,
            "currency": "credits",
            "lease_id": job_id,
            "simulated": True,
            **fields,
        }
        self.logs.setdefault(job_id, b"")
        self.files.setdefault(job_id, {})
        return self.jobs[job_id]

    def status(self) -> dict[str, Any]:
        return {
            "user": self.user,
            "currency": "credits",
            "now": at(0),
            "leases": [LEASE],
            "gpus": [GPU_USE],
            "jobs": list(self.jobs.values()),
            "quotas": [QUOTA],
            "accounts": [ACCOUNT],
            "promotions": [PROMOTION],
        }

    # ---------------------------------------------------------------- answering

    def answer(self, request: httpx.Request) -> httpx.Response:
        self.calls.append(request)
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return failure
        path = request.url.raw_path.decode().partition("?")[0].removeprefix(PATH)
        if path.startswith("api/blobs/"):
            return self._blob(request, path.rpartition("/")[2])
        if path.startswith("api/jobs"):
            return self._jobs(request, path)
        return self._rest(request, path)

    def _missing(self, what: str = "There is no such job.") -> httpx.Response:
        return httpx.Response(404, json={"error": {"code": "not_found", "message": what}, "request_id": "r-9"})

    def _blob(self, request: httpx.Request, digest: str) -> httpx.Response:
        if request.method == "PUT":
            self.blobs[digest] = request.read()
            return httpx.Response(204)
        return httpx.Response(204 if digest in self.blobs else 404)

    def _jobs(self, request: httpx.Request, path: str) -> httpx.Response:
        parts = path.split("/")
        if len(parts) == 2:
            if request.method == "POST":
                return self._submit(json.loads(request.content))
            wanted = list(reversed(self.jobs.values()))
            if request.url.params["state"] == "active":
                wanted = [job for job in wanted if job["state"] in ("queued", "starting", "running", "stopping")]
            return httpx.Response(200, json=wanted)
        job = self.jobs.get(parts[2])
        if job is None:
            return self._missing()
        if len(parts) == 3:
            if "state" in request.url.params:
                self._advance(job)
            return httpx.Response(200, json=job)
        if parts[3] == "cancel":
            job["state"] = "cancelled"
            return httpx.Response(200, json=job)
        if parts[3] == "log":
            log, offset = self.logs[job["id"]], int(request.url.params["offset"])
            data = log[offset : offset + int(request.url.params["limit_bytes"])]
            headers = {"X-Log-Size": str(len(log)), "X-Job-State": job["state"]}
            return httpx.Response(200, content=data, headers=headers)
        files = self.files[job["id"]]
        if len(parts) == 4:
            return httpx.Response(200, json=[{"path": name, "size_bytes": len(data)} for name, data in files.items()])
        name = httpx.URL(f"http://x/{'/'.join(parts[4:])}").path[1:]
        return httpx.Response(200, content=files[name]) if name in files else self._missing("There is no such file.")

    def _submit(self, body: dict[str, Any]) -> httpx.Response:
        self.submissions.append(body)
        job_id = f"job-{len(self.jobs) + 1}"
        fields = ("name", "kind", "gpu_type", "gpu_count", "time_limit_seconds")
        job = self.add_job(job_id, **{name: body[name] for name in fields})
        return httpx.Response(201, json=job)

    def _advance(self, job: dict[str, Any]) -> None:
        if job["state"] in self.path_of_states[:-1]:
            job["state"] = self.path_of_states[self.path_of_states.index(job["state"]) + 1]
            self.logs[job["id"]] += f"now {job['state']}\n".encode()
            job["log_bytes"] = len(self.logs[job["id"]])
        if job["state"] in ("failed", "succeeded"):
            job["exit_code"] = 0 if job["state"] == "succeeded" else 1

    def _rest(self, request: httpx.Request, path: str) -> httpx.Response:
        body = json.loads(request.content) if request.content else {}
        answers: dict[tuple[str, str], Any] = {
            ("GET", "api/me"): {"name": self.user, "classes": ["cs101"], "currency": "credits"},
            ("GET", "api/status"): self.status(),
            ("GET", "api/users/me/options"): {
                "user": self.user,
                "currency": "credits",
                "offers": OFFERS,
                "accounts": [ACCOUNT],
            },
            ("GET", "api/promotions"): [PROMOTION],
            ("GET", "api/quotas"): [QUOTA],
            ("GET", "api/notices"): [NOTICE],
            ("GET", "api/grants"): [GRANT],
            ("GET", "api/asks"): [ASK],
            ("GET", "api/problems"): [{"since": at(0), "sentence": "A hold belongs to nobody."}],
            ("GET", "api/promotions/7/codes"): [CODE],
            ("POST", "api/promotions/7/codes"): [CODE],
            ("POST", "api/promotions/7"): {**PROMOTION, "version": 2},
            ("POST", "api/promotions/7/publish"): PROMOTION,
            ("POST", "api/redemptions"): {"promotion": PROMOTION, "granted_micros": 250_000, "account": "person:alice"},
            ("POST", "api/asks"): ASK,
            ("POST", "api/asks/9/approve"): {**ASK, "state": "approved"},
            ("POST", "api/asks/9/decline"): {**ASK, "state": "declined"},
            ("POST", "api/asks/9/withdraw"): {**ASK, "state": "withdrawn"},
            ("POST", "api/previews"): {
                "since": at(-600),
                "until": at(0),
                "charged_micros": 10,
                "would_be_micros": 4,
                "saved_micros": 6,
                "currency": "credits",
            },
            ("GET", "api/leases"): [LEASE],
            ("GET", "api/prices"): [{"id": 3, "gpu_type": "h100-80gb", "rate": RATE, "valid_from": at(0)}],
            ("GET", "api/inventory"): [{"gpu": GPU_USE["gpu"], "state": "leased", "lease_id": "job-1"}],
            ("GET", "api/audit"): [{"at": at(0), "actor": "root", "action": "price", "subject": "h100-80gb"}],
            ("GET", "api/classes/cs101"): {"name": "cs101", "account": ACCOUNT, "currency": "credits"},
            ("GET", "api/costs"): {
                "by": request.url.params.get("by", "job"),
                "rows": [{"key": "job-1", "amount_micros": 420_000, "gpu_seconds": 3600}],
                "settled_micros": 420_000,
                "running_micros": 0,
                "currency": "credits",
            },
            ("GET", "api/leases/job-1"): LEASE,
            ("POST", "api/leases/job-1/refund"): RECEIPT,
            ("GET", "api/leases/job-1/receipt"): RECEIPT,
            ("GET", "api/leases/job-1/why"): {
                "id": "job-1",
                "state": "queued",
                "explanation": {"code": "capacity", "message": "All 4 GPUs are in use.", "frees_at": at(30)},
                "history": [{"at": at(-10), "kind": "queued", "detail": {"place": 2}}],
            },
            ("POST", "api/quotes"): {
                "gpu_type": body.get("gpu_type"),
                "gpu_count": body.get("gpu_count"),
                "account": "class:cs101",
                "starts_at": at(0),
                "duration_seconds": body.get("duration_seconds"),
                "lines": [LINE],
                "min_micros": 0,
                "likely_micros": 420_000,
                "max_micros": 420_000,
                "list_micros": 840_000,
                "currency": "credits",
                "quotas": [QUOTA],
                "simulated": True,
            },
            ("POST", "api/prices"): {"id": 4, "gpu_type": body.get("gpu_type"), "rate": RATE, "valid_from": at(0)},
            ("POST", "api/quotas"): QUOTA,
            ("POST", "api/promotions"): PROMOTION,
            ("POST", "api/promotions/7/end"): PROMOTION,
            ("POST", "api/grants"): ACCOUNT,
            ("POST", "api/users/alice/leases"): LEASE,
            ("POST", "api/leases/job-1/started"): LEASE,
            ("POST", "api/leases/job-1/release"): {**LEASE, "state": "released"},
        }
        if path == "api/leases/job-1/receipt" and (written := request.url.params.get("format")):
            return httpx.Response(200, text=f"as {written}\n")
        if request.method == "DELETE" and path == "api/quotas/1":
            return httpx.Response(204)
        found = answers.get((request.method, path))
        if found is None:
            return self._missing("There is no such thing.")
        return httpx.Response(201 if request.method == "POST" else 200, json=found)
