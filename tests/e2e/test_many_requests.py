"""Promise 1 through the real API, engine and database: two hundred at once, never more than ten GPUs."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

from fastgpu import models


def test_two_hundred_concurrent_requests_on_a_ten_gpu_quota_never_hold_more_than_ten(client_of):
    admin, bob = client_of("admin"), client_of("bob")
    admin.grant("person:bob", "50")
    admin.set_quota("person", "concurrent_gpus", 10, name="bob")
    seen: list[int] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            seen.append(sum(1 for row in admin.inventory() if row.state == "leased"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with ThreadPoolExecutor(50) as pool:
            jobs = list(
                pool.map(
                    lambda number: bob.submit(
                        ["sleep", "0.3"], "h100-80gb", 1, "1m", name=f"job {number}", account="person:bob"
                    ),
                    range(200),
                )
            )
        deadline = time.monotonic() + 120
        while any(not models.JobState(job.state).final for job in bob.jobs(state="active")):
            assert time.monotonic() < deadline
            time.sleep(0.2)
    finally:
        ended.set()
        watcher.join()
    assert max(seen) == 10
    assert {job.refresh().state.value for job in jobs} == {"succeeded"}
    account = next(account for account in bob.status().accounts if account.id == "person:bob")
    assert account.held_micros == 0
    assert account.spent_micros == sum(bob.receipt(job.id).total_micros for job in jobs)
    assert all(row.state == "free" for row in admin.inventory())
