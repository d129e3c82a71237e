"""The main job as a newcomer does it: pick a GPU, open the notebook, send a cell off, read the receipt."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

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
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    output = page.locator(".jp-Notebook")
    expect(output).to_contain_text("receipt total == ledger total", timeout=90_000)
    expect(output).to_contain_text("accuracy 0.9")
    picture(page, "notebook-job")

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


def test_a_running_job_shows_its_progress_and_a_finished_one_its_cost(hub, sign_in, picture, client_of):
    client = client_of("bob")
    running = client.submit(["sleep", "60"], "h100-80gb", 1, "10m", name="long training")
    finished = client.submit(["true"], "h100-80gb", 1, "1m", name="quick check").wait(30)
    page = sign_in("bob", "/services/fastgpu/")
    expect(page.get_by_text("long training").first).to_be_visible()
    expect(page.locator("body")).to_contain_text("running")
    expect(page.get_by_text(finished.id).first).to_be_visible()
    picture(page, "jobs", full_page=True)
    assert running.cancel().wait(30).state.value == "cancelled"


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
    client_of("admin").set_quota("person", "gpu_seconds", 600, name="bob", window="day")
    job = client_of("bob").submit(["true"], "h100-80gb", 1, "1m").wait(30)
    assert job.state.value == "succeeded"
    client_of("admin").set_quota("person", "gpu_seconds", 0, name="bob", window="day")
    page = sign_in("bob", "/hub/spawn")
    row = page.locator("label, .form-check, li, div").filter(has=page.locator("input[value='h100-80gb']")).last
    expect(page.locator("input[name=gpu_type][value='h100-80gb']")).to_be_disabled()
    expect(page.locator("#spawn_form")).to_contain_text("bob: 0 GPU-hours per day")
    assert row is not None
    picture(page, "refusal", full_page=True)
