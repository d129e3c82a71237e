"""What the service in memory answers: one person's GPUs, jobs, rules and receipts at one moment."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

NOW = datetime(2025, 11, 21, 17, 0, tzinfo=timezone.utc)


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
START_PLAN = {
    "gpu_type": "h100-80gb",
    "gpu_count": 1,
    "account": "class:cs101",
    "duration_seconds": 7200,
    "by": at(20 * 60),
    "options": [
        {"starts_at": at(20), "ends_at": at(140), "cost_micros": 1_600_000, "now": True},
        {
            "starts_at": at(120),
            "ends_at": at(240),
            "cost_micros": 960_000,
            "saving_micros": 640_000,
            "why": "“Night <i>owl</i>”, 20:00–06:00 Europe/Berlin (0.48 credits per GPU-hour)",
            "chosen": True,
        },
        {
            "starts_at": at(900),
            "ends_at": at(1020),
            "cost_micros": 800_000,
            "saving_micros": 800_000,
            "why": "the list price of 0.40 credits per GPU-hour",
            "allowed": False,
            "why_not": {"code": "quota_spend", "message": "Over the limit of the day.", "frees_at": at(1440)},
        },
    ],
    "explanation": {"code": "start_later", "message": "Start at Fri 2025-11-21 20:00 Europe/Berlin: 40 % less."},
    "wait_seconds": 1200,
    "currency": "credits",
    "time_zone": "Europe/Berlin",
    "simulated": True,
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


METRIC = {
    "name": "accuracy <b>",
    "count": 3,
    "last": {"step": 2, "value": 0.97, "at": at(0)},
    "best": {"step": 1, "value": 0.98, "at": at(-1)},
    "points": [{"step": 0, "value": 0.5}, {"step": 1, "value": 0.98}, {"step": 2, "value": 0.97}],
}
RUN_USE = {
    "mean_percent": 63.4,
    "peak_percent": 99.0,
    "memory_peak_bytes": 18 * 2**30,
    "memory_total_bytes": 80 * 2**30,
    "every_seconds": 5,
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
