from __future__ import annotations

import html
import re
from typing import Any


async def test_an_empty_home_says_what_to_do_next(service: Any) -> None:
    page = (await service.call("t-carol", "GET", "")).text
    assert "Nothing runs yet" in page
    assert "%%fastgpu submit" in page
    assert 'href="/hub/home"' in page


async def test_home_shows_what_runs_what_it_costs_and_what_is_left(service: Any) -> None:
    await service.running(name="training")
    page = (await service.call("t-alice", "GET", "")).text
    for words in ("1 × h100-80gb", "simulated", "training", "class:cs101", "credits per hour", "Launch", "Reserved"):
        assert words in page
    assert "Fri 1 Jan 2090" in html.unescape(page) or "2090" in page
    assert "UTC" in page


async def test_names_are_shown_as_text_never_as_markup(service: Any) -> None:
    job = await service.running(name="<script>alert(1)</script>\"'><img src=x>")
    for token, path in (("t-alice", ""), ("t-alice", f"receipts/{job['id']}"), ("t-tina", "classes/cs101")):
        page = (await service.call(token, "GET", path)).text
        assert "&lt;script&gt;" in page
        assert "<script>" not in page
        assert "<img" not in page
        assert "<b>week" not in page


async def test_a_receipt_shows_each_line_with_its_rule_and_that_it_adds_up(service: Any) -> None:
    job = await service.running(name="short")
    service.engine.finish(job["id"])
    await service.call("t-alice", "GET", f"api/jobs/{job['id']}?wait_seconds=5&state=running")
    page = (await service.call("t-alice", "GET", f"receipts/{job['id']}")).text
    assert "It adds up: receipt total" in page
    assert "price 1" in page
    assert "Launch &lt;b&gt;week" in page
    assert "Total" in page


async def test_a_teacher_sets_a_limit_and_is_told_so(service: Any) -> None:
    form = {"scope": "member", "metric": "gpu_seconds", "limit": "40", "window": "week"}
    done = await service.call("t-tina", "POST", "classes/cs101/quotas", data=form, follow_redirects=False)
    assert done.status_code == 303
    page = (await service.call("t-tina", "GET", done.headers["Location"].removeprefix("/services/fastgpu/"))).text
    assert "The limit is in force." in page
    assert "40 GPU-hours per week" in page
    uses = (await service.call("t-bob", "GET", "api/quotas")).json()
    assert 144_000 in [row["limit"] for row in uses]


async def test_a_refused_form_comes_back_with_the_reason_and_what_was_typed(service: Any) -> None:
    times = {"starts_at": "2030-01-01T00:00", "ends_at": "2030-02-01T00:00"}
    form = {"name": "Too <much>", "kind": "percent", "percent_off": "300", "for_class:cs101": "on", **times}
    page = await service.call("t-tina", "POST", "promotions", data=form)
    assert page.status_code == 422
    assert "The percentage off cannot be 300: it should be less than or equal to 100." in page.text
    assert 'value="Too &lt;much&gt;"' in page.text
    beside = page.text[page.text.index('name="percent_off" value="300"') :]
    assert beside.index('aria-invalid="true"') < beside.index(">")
    assert beside.index("The percentage off cannot be 300") < beside.index("<input")
    empty = await service.call("t-root", "POST", "admin/grants", data={"account": "class:cs101", "amount": "1e5"})
    assert empty.status_code == 422
    assert "The amount cannot be" in empty.text


async def test_a_double_click_gives_credit_once(service: Any) -> None:
    form = {"account": "class:cs101", "amount": "7", "key": "k" * 20}
    for _ in range(2):
        done = await service.call("t-root", "POST", "admin/grants", data=form, follow_redirects=False)
        assert done.status_code == 303
    accounts = (await service.call("t-alice", "GET", "api/status")).json()["accounts"]
    assert {row["id"]: row["granted_micros"] for row in accounts}["class:cs101"] == 107_000_000


async def test_a_teacher_stops_a_members_job_and_the_audit_tells(service: Any) -> None:
    job = await service.running()
    page = (await service.call("t-tina", "GET", "classes/cs101")).text
    assert f"classes/cs101/jobs/{job['id']}/cancel" in page
    done = await service.call(
        "t-tina", "POST", f"classes/cs101/jobs/{job['id']}/cancel", data={"x": "1"}, follow_redirects=True
    )
    assert done.status_code == 200
    assert "being stopped" in done.text
    audit = (await service.call("t-root", "GET", "admin")).text
    assert "tina" in audit
    assert job["id"] in audit
    assert "stopped" in audit


async def test_an_administrator_sees_prices_devices_holders_and_sets_them(service: Any) -> None:
    await service.running()
    form = {"gpu_type": "a100-40gb", "per_gpu_hour": "0.25", "per_task_hour": "", "per_start": "0.01"}
    done = await service.call("t-root", "POST", "admin/prices", data=form, follow_redirects=True)
    assert (done.status_code, "The price is set." in done.text) == (200, True)
    page = (await service.call("t-root", "GET", "admin")).text
    assert "0.25 credits/h per GPU + 0.01 credits per start" in page
    assert page.count("simulated") >= 4
    assert "alice" in page
    assert "set the price of" in page
    assert "set_price" not in page


async def test_the_class_page_says_first_who_holds_what(service: Any) -> None:
    await service.running(name="training")
    page = (await service.call("t-tina", "GET", "classes/cs101")).text
    places = [page.index(f'<h2 id="{name}">') for name in ("members", "asks", "credit", "jobs", "limits", "promotions")]
    assert places == sorted(places)
    assert "<strong>1 GPU</strong> held by 1 of" in page
    assert page.index('<th scope="row">alice</th>') < page.index('<th scope="row">bob</th>'), "holders first"


async def test_a_click_that_cannot_be_undone_asks_once_more_without_javascript(service: Any) -> None:
    await service.running(name="training")
    page = (await service.call("t-alice", "GET", "")).text
    asked = page[page.index('<details class="sure">') : page.index("</details>")]
    assert 'aria-label="Stop training …"' in asked
    assert "Yes, stop" in asked


async def test_the_history_of_a_receipt_is_told_in_words(service: Any) -> None:
    job = await service.running(name="short")
    page = (await service.call("t-alice", "GET", f"receipts/{job['id']}")).text
    assert "Asked for 1 × h100-80gb, charged to class:cs101" in page
    assert "Started; from here on it is charged" in page
    assert "held_micros" not in page


async def test_a_notice_is_one_of_ours_whatever_the_address_says(service: Any) -> None:
    page = (await service.call("t-alice", "GET", "?done=You+won+a+prize")).text
    assert "prize" not in page


async def test_pages_need_no_script_and_every_field_has_a_label(service: Any) -> None:
    await service.running()
    for token, path in (
        *(("t-alice", ""), ("t-alice", "asks"), ("t-tina", "classes/cs101"), ("t-tina", "promotions/new?class=cs101")),
        *(("t-root", "admin"), ("t-root", "admin/audit"), ("t-root", "classes/cs101"), ("t-root", "promotions/1")),
    ):
        page = (await service.call(token, "GET", path)).text
        assert re.findall(r"<script\b[^>]*>", page) == ['<script src="/services/fastgpu/static/fastgpu.js" defer>']
        assert not re.search(r"\son\w+=", page)
        assert " style=" not in page
        assert page.count("<h1>") == 1
        assert '<html lang="en">' in page
        for field in re.findall(r"<(?:input|select)\b[^>]*>", page):
            if 'type="hidden"' in field:
                continue
            before = page[: page.index(field)]
            assert before.rindex("<label") > before.rfind("</label>"), field
        assert len(set(re.findall(r' id="([^"]+)"', page))) == len(re.findall(r' id="([^"]+)"', page))


async def test_an_error_page_says_what_to_do_and_names_its_request(service: Any) -> None:
    page = await service.call("t-alice", "GET", "classes/cs101")
    assert page.status_code == 403
    assert page.headers["X-Request-Id"] in page.text
    assert "This did not work" in page.text
    missing = await service.call("t-alice", "GET", "receipts/j-000000000000")
    assert missing.status_code == 404


async def test_an_administrator_finds_a_class_by_its_name(service: Any) -> None:
    found = await service.call("t-root", "GET", "classes?name=cs101", follow_redirects=True)
    assert "<h1>Class cs101</h1>" in found.text
    odd = await service.call("t-root", "GET", "classes?name=//evil.example/%0d%0aX", follow_redirects=False)
    assert odd.headers["Location"].startswith("/services/fastgpu/classes/%2F%2Fevil")
