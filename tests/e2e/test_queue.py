"""A queue as people see it: jobs that run, wait for GPUs, a limit, another job or their price; and refusals."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest
from playwright.sync_api import expect

from fastgpu import models
from fastgpu.errors import FastGPUError

pytestmark = pytest.mark.browser
H100 = "h100-80gb"


def until(look, seconds: float = 20.0):
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.1)
    return found


def test_a_queue_with_waiting_running_deferred_and_refused_jobs_says_why(hub, client_of, sign_in, picture):
    admin, bob = client_of("admin"), client_of("bob")
    admin.grant("person:bob", "50")
    now = datetime.now(timezone.utc)
    night = (now + timedelta(hours=3)).replace(minute=0, second=0, microsecond=0)
    admin.add_promotion("Quiet hours", night, night + timedelta(hours=6), percent_off=50, audience=("person:bob",))
    free = sum(1 for row in admin.inventory() if row.state == "free" and row.gpu.gpu_type == H100)
    mine = {"account": "person:bob"}
    runs = bob.submit(["sleep", "600"], H100, free, "20m", name="long training", **mine)
    waits = bob.submit(["sleep", "60"], H100, 1, "5m", name="evaluation", **mine)
    after = bob.submit(["true"], H100, 1, "5m", name="report", after=[waits.id], **mine)
    deferred = bob.submit(
        ["true"], H100, 1, "30m", name="sweep at night", start="cheapest", by=night + timedelta(hours=8), **mine
    )
    sweep = bob.submit(["true"], H100, 1, "5m", name="sweep", array={"lr": ["1e-3", "1e-4"]}, max_running=1, **mine)
    with pytest.raises(FastGPUError, match="never be placed"):
        bob.submit(["true"], H100, free + 1, "5m", name="too wide", **mine)
    with pytest.raises(FastGPUError, match="more than your limit"):
        bob.submit(["true"], H100, 1, "2h", name="too dear", max_cost="0.01", **mine)
    until(lambda: runs.refresh().state is models.JobState.running)

    why = {job.name: bob.why(job.id) for job in (runs, waits, after, deferred)}
    assert why["long training"].explanation.code == "running"
    assert why["evaluation"].explanation.code in ("turn", "capacity")
    assert why["report"].explanation.code == "dependency"
    assert why["sweep at night"].explanation.code == "deferred"
    assert "other_time" in {option.code for option in why["evaluation"].sooner}
    told = waits.refresh()
    assert told.eta_start_early <= told.eta_start <= told.eta_start_late
    assert deferred.refresh().eta_start == night

    page = sign_in("bob", "/services/fastgpu/")
    for name in ("long training", "evaluation", "report", "sweep at night"):
        expect(page.get_by_text(name).first).to_be_visible()
    picture(page.get_by_role("region", name="Jobs"), "queue")
    page.goto(f"{hub.url}/services/fastgpu/jobs/{waits.id}")
    expect(page.locator("main")).to_contain_text("evaluation")
    picture(page, "waiting-job", full_page=True)
    page.goto(f"{hub.url}/services/fastgpu/jobs/{deferred.id}")
    picture(page, "deferred-job", full_page=True)

    for job in (deferred, waits, runs):
        job.cancel()
    sweep.cancel()
    until(lambda: after.refresh().state.final and runs.refresh().state.final)
    assert after.state is models.JobState.cancelled
    assert "dependency" in after.refresh().explanation.code or "evaluation" in after.refresh().explanation.message
    account = until(
        lambda: next((a for a in bob.status().accounts if a.id == "person:bob" and not a.held_micros), None)
    )
    assert account.spent_micros == bob.receipt(runs.id).total_micros
