"""A FastGPU service in memory: answers the API for one person, with jobs that advance one state per look."""

from __future__ import annotations

import itertools
import json
from typing import Any

import httpx

from tests.sdk.fake_answers import (
    ACCOUNT,
    ASK,
    CODE,
    GPU_USE,
    GRANT,
    LEASE,
    LINE,
    METRIC,
    NOTICE,
    OFFERS,
    PROMOTION,
    QUOTA,
    RATE,
    RECEIPT,
    RUN_USE,
    START_PLAN,
    at,
)

URL = "http://hub.test/services/fastgpu"
PATH = "/services/fastgpu/"


class FakeService:
    """Answers as the service would. ``calls`` records every request, ``failures`` are answered (or raised) first."""

    user = "alice"

    def __init__(self) -> None:
        self.calls: list[httpx.Request] = []
        self.failures: list[httpx.Response | Exception] = []
        self.blobs: dict[str, bytes] = {}
        self.jobs: dict[str, dict[str, Any]] = {}
        self.arrays: dict[str, dict[str, list[str]]] = {}
        self.submissions: list[dict[str, Any]] = []
        self.logs: dict[str, bytes] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.kept: dict[str, dict[str, bytes]] = {}
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
        if path.startswith("api/arrays"):
            return self._arrays(request, path)
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
            if array := request.url.params.get("array"):
                wanted = [job for job in wanted if job.get("array_id") == array]
            if request.url.params.get("of_arrays") == "one":
                wanted = list({job.get("array_id") or job["id"]: job for job in reversed(wanted)}.values())
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
            offset = int(request.url.params["offset"])
            waits = "wait_seconds" in request.url.params and offset >= len(self.logs[job["id"]])
            if waits and job["state"] in self.path_of_states[:-1]:
                self._advance(job)
            log = self.logs[job["id"]]
            data = log[offset : offset + int(request.url.params["limit_bytes"])]
            headers = {"X-Log-Size": str(len(log)), "X-Job-State": job["state"]}
            return httpx.Response(200, content=data, headers=headers)
        if parts[3] == "metrics":
            return httpx.Response(200, json=[METRIC])
        if parts[3] == "run":
            return httpx.Response(200, json={"job": job, "metrics": [METRIC], "use": RUN_USE})
        if parts[3] == "artifacts":
            return self._artifacts(request, job, "/".join(parts[4:]))
        files = self.files[job["id"]]
        if len(parts) == 4:
            return httpx.Response(200, json=[{"path": name, "size_bytes": len(data)} for name, data in files.items()])
        name = httpx.URL(f"http://x/{'/'.join(parts[4:])}").path[1:]
        return httpx.Response(200, content=files[name]) if name in files else self._missing("There is no such file.")

    def _artifacts(self, request: httpx.Request, job: dict[str, Any], quoted: str) -> httpx.Response:
        kept, name = self.kept.setdefault(job["id"], {}), httpx.URL(f"http://x/{quoted}").path[1:]
        if request.method == "POST":
            job["artifacts"] = "keeping"
            return httpx.Response(200, json=job)
        if request.method == "DELETE":
            for each in [each for each in kept if name in ("", each)]:
                del kept[each]
            return httpx.Response(204)
        if name:
            return httpx.Response(200, content=kept[name]) if name in kept else self._missing("There is no such file.")
        rows = [{"job_id": job["id"], "path": path, "size_bytes": len(kept[path]), "kept_at": at(0)} for path in kept]
        return httpx.Response(200, json=rows)

    def _submit(self, body: dict[str, Any]) -> httpx.Response:
        self.submissions.append(body)
        job_id = f"job-{len(self.jobs) + 1}"
        fields = ("name", "kind", "gpu_type", "gpu_count", "time_limit_seconds")
        job = self.add_job(job_id, **{name: body[name] for name in fields})
        return httpx.Response(201, json=job)

    def add_array(self, array_id: str = "a-1", **sweep: list[str]) -> dict[str, Any]:
        """An array whose jobs advance like any other."""
        combinations = [dict(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]
        for index, parameters in enumerate(combinations):
            self.add_job(f"j-{array_id[2:]}-{index}", array_id=array_id, array_index=index, parameters=parameters)
        self.arrays[array_id] = sweep
        return self.array(array_id)

    def array(self, array_id: str) -> dict[str, Any]:
        jobs = [job for job in self.jobs.values() if job.get("array_id") == array_id and not job.get("next_attempt")]
        jobs.sort(key=lambda job: job["array_index"])
        shown = ("id", "parameters", "state", "attempt", "exit_code", "cost_micros", "held_micros")
        of_job = ("name", "owner", "account", "gpu_type", "gpu_count", "submitted_at", "currency", "simulated")
        states = [job["state"] for job in jobs]
        return {
            **{name: jobs[0][name] for name in of_job},
            "id": array_id,
            "parameters": self.arrays[array_id],
            "max_running": 2,
            "size": len(jobs),
            "counts": {state: states.count(state) for state in dict.fromkeys(states)},
            "cost_micros": sum(job["cost_micros"] for job in jobs),
            "jobs": [{"index": j["array_index"], **{n: j[n] for n in shown if n in j}} for j in jobs],
        }

    def _arrays(self, request: httpx.Request, path: str) -> httpx.Response:
        parts = path.split("/")
        if len(parts) == 2:
            body = json.loads(request.content)
            self.submissions.append(body)
            return httpx.Response(201, json=self.add_array(f"a-{len(self.arrays) + 1}", **body["sweep"]))
        if parts[2] not in self.arrays:
            return self._missing("There is no such array.")
        if parts[-1] == "cancel":
            for job in self.jobs.values():
                if job.get("array_id") == parts[2]:
                    job["state"] = "cancelled"
        return httpx.Response(200, json=self.array(parts[2]))

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
            ("GET", "api/artifacts"): [
                {
                    "job_id": job_id,
                    "job_name": self.jobs[job_id]["name"],
                    "files": len(kept),
                    "size_bytes": sum(map(len, kept.values())),
                    "kept_at": at(0),
                }
                for job_id, kept in self.kept.items()
            ],
            ("GET", "api/me"): {
                "name": self.user,
                "classes": ["cs101"],
                "currency": "credits",
                "time_zone": "Europe/Berlin",
            },
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
            ("POST", "api/start-plans"): {
                **START_PLAN,
                "gpu_type": body.get("gpu_type"),
                "by": body.get("by") or at(1200),
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
