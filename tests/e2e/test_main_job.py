"""The main job as a newcomer does it: pick a GPU, open the notebook, send a cell off, read the receipt."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import expect

from fastgpu.errors import QuotaError

pytestmark = pytest.mark.browser


def test_a_student_picks_a_gpu_sends_a_cell_off_and_the_receipt_adds_up(hub, sign_in, picture, client_of):
    page = sign_in("alice", "/hub/spawn")
    form = page.locator("#spawn_form")
    for text in ("No GPU", "simulated", "0.40 credits/h per GPU", "Getting started: 20 % off", "GPU-hours per week"):
        expect(form.get_by_text(text).first).to_be_visible()
    page.check("input[name=gpu_type][value='h100-80gb']")
    picture(page, "spawn-page", full_page=True)
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/lab**")

    page.goto(f"{hub.url}/user/alice/lab/tree/first-job.ipynb")
    page.locator(".jp-Notebook").wait_for()
    status_bar = page.locator("#jp-main-statusbar")
    expect(status_bar).to_contain_text("H100 (simulated)")
    expect(status_bar).to_contain_text("0.40 credits/h")
    run_all_cells(page)
    output = page.locator(".jp-Notebook")
    expect(output).to_contain_text("receipt total == ledger total", timeout=90_000)
    expect(output).to_contain_text("accuracy 0.9")
    picture(page, "notebook-receipt")
    picture(status_bar, "status-bar")

    job = client_of("alice").status().jobs[0]
    receipt = client_of("alice").receipt(job.id)
    assert job.state.value == "succeeded"
    assert receipt.total_micros == receipt.ledger_micros == sum(line.amount_micros for line in receipt.lines) > 0

    page.goto(f"{hub.url}/services/fastgpu/")
    expect(page.get_by_text(job.id).first).to_be_visible()
    picture(page, "my-gpus", full_page=True)
    page.goto(f"{hub.url}/hub/home")
    page.locator("#stop").click()
    expect(page.locator("#stop")).to_be_hidden()
    page.wait_for_function("document.querySelector('#start').textContent.includes('Start')")
    leases = [lease for lease in client_of("alice").leases() if lease.job_id is None]
    assert leases == []
    assert client_of("alice").status().accounts[0].held_micros == 0


def run_all_cells(page) -> None:
    """Once the kernel is there: before, JupyterLab only asks for one."""
    expect(page.locator("#jp-main-statusbar")).to_contain_text("Idle", timeout=60_000)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


TWO_JOBS = """
%load_ext fastgpu_magics
%%fastgpu submit --gpu h100-80gb --time 10m --name long-training
import time
for epoch in range(600):
    print("epoch", epoch, flush=True)
    time.sleep(1)
%%fastgpu submit --gpu h100-80gb --time 5m --name quick-check
print("6 x 7 =", 6 * 7)
quick = _
quick.wait()
%fastgpu jobs --all
"""


def test_a_notebook_shows_a_running_and_a_finished_job(hub, sign_in, picture, client_of, stop_server):
    home = hub.state_dir / "home" / "bob"
    home.mkdir(parents=True, exist_ok=True)
    cells = re.split(r"\n(?=%|quick = )", TWO_JOBS.strip())
    (home / "two-jobs.ipynb").write_text(json.dumps(notebook_of(cells)))
    page = sign_in("bob", "/hub/spawn")
    page.get_by_role("button", name="Start").click()  # without a GPU of its own
    page.wait_for_url("**/lab**")
    page.goto(f"{hub.url}/user/bob/lab/tree/two-jobs.ipynb")
    page.locator(".jp-Notebook").wait_for()
    run_all_cells(page)
    table = page.locator(".jp-OutputArea").last
    expect(table).to_contain_text("succeeded", timeout=60_000)
    expect(table).to_contain_text("running")
    expect(page.locator("#jp-main-statusbar")).not_to_contain_text("H100")
    table.scroll_into_view_if_needed()
    picture(page, "notebook-job")
    running = next(job for job in client_of("bob").jobs(state="active") if job.name == "long-training")
    page.goto(f"{hub.url}/services/fastgpu/")
    expect(page.get_by_text("long-training").first).to_be_visible()
    picture(page, "my-jobs", full_page=True)
    assert running.cancel().wait(30).state.value == "cancelled"
    stop_server("bob")


def notebook_of(cells: list[str]) -> dict[str, object]:
    kinds = {"metadata": {}, "execution_count": None, "outputs": [], "cell_type": "code"}
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    return {
        "cells": [{**kinds, "id": f"cell-{number}", "source": source} for number, source in enumerate(cells)],
        "metadata": {"kernelspec": kernel},
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def test_the_pages_of_teacher_and_administrator(sign_in, picture):
    page = sign_in("teacher", "/services/fastgpu/classes/cs101")
    for text in ("alice", "bob", "class cs101: 4 GPUs at once"):
        expect(page.get_by_text(text).first).to_be_visible()
    picture(page, "class-page", full_page=True)
    page = sign_in("admin", "/services/fastgpu/admin")
    for text in ("h100-80gb", "simulated"):
        expect(page.get_by_text(text).first).to_be_visible()
    picture(page, "admin-page", full_page=True)
    page = sign_in("bob", "/services/fastgpu/admin")
    expect(page.locator("body")).not_to_contain_text("Inventory")


def test_an_exhausted_quota_is_refused_with_its_numbers_and_when_it_frees_up(hub, sign_in, picture, client_of):
    quota = client_of("admin").set_quota("person", "gpu_seconds", 700, name="bob", window="day")
    job = client_of("bob").submit(["sleep", "600"], "h100-80gb", 1, "11m", name="nearly all")
    page = sign_in("bob", "/hub/spawn")
    expect(page.locator("input[name=gpu_type][value='h100-80gb']")).to_be_disabled()
    form = page.locator("#spawn_form")
    for text in ("bob: 0.19 GPU-hours per day", "0.18 GPU-hours reserved", "resets on"):
        expect(form).to_contain_text(text)
    picture(page, "refusal", full_page=True)
    with pytest.raises(QuotaError, match=r"0\.18 GPU-hours reserved") as refused:
        client_of("bob").submit(["true"], "h100-80gb", 1, "5m")
    assert refused.value.explanation is not None
    assert refused.value.explanation.frees_at is not None
    job.cancel().wait(30)
    assert client_of("bob").submit(["true"], "h100-80gb", 1, "5m").wait(30).state.value == "succeeded"
    client_of("admin").remove_quota(quota.quota_id)
