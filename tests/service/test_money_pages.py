"""Money, limits and promotions on the pages: what people see, what they do there, and that it takes effect."""

from __future__ import annotations

import csv
import html
import io
import re
from typing import Any

import pytest

pytestmark = pytest.mark.slow

PREFIX = "/services/fastgpu/"
TIMES = {"starts_at": "2025-01-01T00:00", "ends_at": "2090-01-01T00:00"}
LAB = {"name": "Lab <hour>", "kind": "percent", "percent_off": "20", "for_class:cs101": "on", **TIMES}


async def page_of(service: Any, token: str, path: str = "") -> str:
    answer = await service.call(token, "GET", path)
    assert answer.status_code == 200, answer.text
    return html.unescape(" ".join(answer.text.split()))


async def send(service: Any, token: str, path: str, **form: str) -> str:
    """Send a form that takes effect; the page it leads to."""
    done = await service.call(token, "POST", path, data=form or {"x": "1"}, follow_redirects=False)
    assert done.status_code == 303, done.text
    return await page_of(service, token, done.headers["Location"].removeprefix(PREFIX))


async def settled_job(service: Any, name: str = "short", token: str = "t-alice") -> str:
    job = await service.running(token, name=name)
    service.engine.finish(job["id"])
    await service.call(token, "GET", f"api/jobs/{job['id']}?wait_seconds=5&state=running")
    return str(job["id"])


# ---------------------------------------------------------------- a student


async def test_a_student_sees_every_promotion_with_its_saving_its_end_and_why_it_is_not_for_them(service: Any) -> None:
    base = {"starts_at": "2025-01-01T00:00:00Z", "ends_at": "2090-01-01T00:00:00Z"}
    for more in (
        {"name": "First hours", "free_gpu_seconds": 7200, "audience": ["new"]},
        {"name": "Elsewhere", "percent_off": 10, "audience": ["class:bio7"]},
        {"name": "Welcome", "credit_micros": 2_000_000, "max_redemptions": 3},
    ):
        answer = await service.call("t-root", "POST", "api/promotions", json={**base, **more})
        assert answer.status_code == 201
    page = await page_of(service, "t-alice")
    assert "the first 2.00 GPU-h of each person free" in page
    assert "2.00 GPU-h of yours left" in page
    assert (
        'Sun 1 Jan 2090, 00:00 UTC</time> (<span class="countdown" data-until="2090-01-01T00:00:00+00:00">in ' in page
    )
    assert "3 of 3 places left" in page
    assert "“Elsewhere” is for " in page
    taken = await send(
        service, "t-alice", "redemptions", promotion_id=re.search(r'promotion_id" value="(\d+)"', page)[1]
    )
    assert "The promotion's credit is on your account." in taken
    assert "2 of 3 places left" in taken
    assert "2.00 credits</strong> left of 2.00 credits" in taken


async def test_a_wrong_code_comes_back_in_its_field_with_the_reason_beside_it(service: Any) -> None:
    refused = await service.call("t-alice", "POST", "redemptions", data={"code": "NOPE-<1>"})
    assert refused.status_code == 422
    assert 'value="NOPE-&lt;1&gt;"' in refused.text
    unknown = await service.call("t-alice", "POST", "redemptions", data={"code": "NOPE"})
    assert unknown.status_code == 403
    assert "The code NOPE is not valid for you." in unknown.text
    assert unknown.text.index('id="refused"') < unknown.text.index('value="NOPE"')


async def test_a_limit_tells_what_is_used_reserved_left_and_a_soft_one_that_it_only_warns(service: Any) -> None:
    form = {
        "scope": "member",
        "metric": "gpu_seconds",
        "limit": "40",
        "window": "rolling",
        "rolling": "7d",
        "soft": "on",
    }
    assert "The limit is in force." in await send(service, "t-tina", "classes/cs101/quotas", **form)
    await service.running(time_limit_seconds=3600)
    page = await page_of(service, "t-alice")
    limit = page[page.index("40 GPU-hours in any 7 days") :]
    assert limit.index("warns only") < limit.index("</th>")
    assert 'aria-label="0.00 GPU-h used and 1.00 GPU-h reserved of 40.00 GPU-h"' in limit
    assert "39.00 GPU-h" in limit
    assert re.search(r"asks\?limit=\d+#new", limit)


async def test_more_is_asked_for_answered_and_told_about(service: Any) -> None:
    limit = (await service.call("t-alice", "GET", "api/quotas")).json()[0]["quota_id"]
    form = await page_of(service, "t-alice", f"asks?limit={limit}")
    assert f'<option value="limit:{limit}" selected>' in form
    sent = {"about": f"limit:{limit}", "amount": "1", "reason": "a <b>sweep</b>"}
    assert "Your request is on its way." in await send(service, "t-alice", "asks", **sent)
    again = await service.call("t-alice", "POST", "asks", data=sent)
    assert (again.status_code, "You asked for this already" in again.text) == (409, True)
    assert "Withdraw" in await page_of(service, "t-alice")
    seen = (await service.call("t-tina", "GET", "classes/cs101")).text
    assert "a &lt;b&gt;sweep&lt;/b&gt;" in seen
    path = re.search(r"classes/cs101/asks/\d+", seen)[0]
    wrong = await service.call("t-tina", "POST", path, data={"decision": "approve", "amount": "many", "answer": "ok"})
    assert wrong.status_code == 422
    assert 'name="amount" value="many"' in wrong.text
    assert 'name="answer" value="ok"' in wrong.text
    done = await send(service, "t-tina", path, decision="approve", amount="2", answer="Until Friday.")
    assert "It is given, and they are told." in done
    page = await page_of(service, "t-alice")
    assert "You were given 2 GPUs more" in page
    assert "Until Friday." in page
    assert "with 2 GPUs more that was granted" in page


async def test_a_request_can_be_withdrawn_and_declined(service: Any) -> None:
    for answer in ("withdrawn", "declined"):
        await send(service, "t-alice", "asks", about="account:person:alice", amount="3.5", reason="project")
        number = (await service.call("t-alice", "GET", "api/asks?state=open")).json()[0]["id"]
        if answer == "withdrawn":
            await send(service, "t-alice", f"asks/{number}/withdraw")
        else:
            said = await send(service, "t-tina", f"asks/{number}", decision="decline", amount="3.5", answer="Not now.")
            assert "The request is declined, and they are told." in said
        assert f">{answer}</span>" in await page_of(service, "t-alice", "asks")
    assert "tina declined your request for 3.50 credits more" in await page_of(service, "t-alice")


async def test_a_server_whose_credit_ends_says_when_and_offers_to_ask_for_more(service: Any) -> None:
    grant = {"account": "person:alice", "amount_micros": 50_000}
    assert (await service.call("t-root", "POST", "api/grants", json=grant)).status_code == 201
    wish = {"gpu_type": "h100-80gb", "account": "person:alice"}
    lease = (await service.call("t-spawner", "POST", "api/users/alice/leases", json=wish)).json()
    await service.call("t-spawner", "GET", f"api/leases/{lease['id']}?wait_seconds=5&state=queued")
    await service.call("t-spawner", "POST", f"api/leases/{lease['id']}/started", json={})
    await service.broker.runtime.time.edge(lease["id"])
    page = await page_of(service, "t-alice")
    assert re.search(
        r"<strong>Ends <time [^>]+>\w+ \d+ \w+ \d+, \d\d:\d\d UTC</time></strong> \(<span class=\"countdown\"", page
    )
    assert "): the credit of person:alice is used up.</p>" in page
    assert "asks?account=person:alice#new" in page


# ---------------------------------------------------------------- receipts and refunds


async def test_a_refund_asks_for_a_reason_strikes_the_lines_through_and_gives_the_money_back(service: Any) -> None:
    price = {"gpu_type": "h100-80gb", "per_start_micros": 2_000_000}
    assert (await service.call("t-root", "POST", "api/prices", json=price)).status_code == 201
    job = await settled_job(service)
    assert "Refund …" not in await page_of(service, "t-alice", f"receipts/{job}")
    assert "Refund …" in await page_of(service, "t-root", f"receipts/{job}")
    refused = await service.call("t-root", "POST", f"receipts/{job}/refund", data={"reason": " "})
    assert (refused.status_code, "The reason cannot be" in refused.text) == (422, True)
    charges = (await service.call("t-root", "GET", f"api/leases/{job}/receipt")).json()["lines"]
    first = next(line for line in charges if line["amount_micros"])
    page = await send(
        service, "t-root", f"receipts/{job}/refund", reason="<fan>", **{f"charge_{first['charge_id']}": "on"}
    )
    assert "It is refunded" in page
    assert "<small>refunded</small>" in page
    assert "Refunded, not in the total" in page
    assert "It adds up: receipt total" in page
    after = (await service.call("t-root", "GET", f"api/leases/{job}/receipt")).json()
    assert after["refunded_micros"] == first["amount_micros"]
    admin = await page_of(service, "t-root", "admin")
    assert f"refund of {job}" in admin[admin.index('id="refunds"') :]
    for kind in ("csv", "json", "text", "html"):
        assert f"receipt?format={kind}" in page


# ---------------------------------------------------------------- a teacher


async def test_a_draft_is_previewed_published_ended_and_restored(service: Any) -> None:
    await settled_job(service)
    preview = await service.call("t-tina", "POST", "promotions/preview", data=LAB)
    assert preview.status_code == 200
    assert "What last week would have cost" in preview.text
    assert 'value="Lab &lt;hour&gt;"' in preview.text, "the form is kept"
    assert (await service.call("t-tina", "GET", "api/promotions")).json()[-1]["name"] != "Lab <hour>"
    saved = await send(service, "t-tina", "promotions", **LAB, draft="yes")
    assert "The draft is saved." in saved
    number = re.search(r"promotions/(\d+)/publish", saved)[1]
    assert "Lab <hour>" not in await page_of(service, "t-alice")
    again = await service.call("t-tina", "POST", "promotions/preview", data={**LAB, "number": number})
    assert "Edit the draft" in again.text
    assert "The promotion is published." in await send(service, "t-tina", f"promotions/{number}/publish")
    assert "Lab <hour>" in await page_of(service, "t-alice")
    edited = await send(service, "t-tina", f"promotions/{number}", **{**LAB, "percent_off": "30"})
    assert "30 % off" in edited
    assert "Undo: restore an earlier one" in edited
    assert "The promotion has ended." in await send(service, "t-tina", f"promotions/{number}/end")
    assert "Lab <hour>" not in await page_of(service, "t-alice")
    assert "Ended (1)" in await page_of(service, "t-tina", "classes/cs101")
    copy = await page_of(service, "t-tina", f"promotions/new?copy={number}")
    assert 'name="name" value="Lab <hour>"' in copy
    assert 'name="percent_off" value="30"' in copy
    restored = await send(service, "t-tina", f"promotions/{number}/restore", version="2")
    assert "The earlier version counts again" in restored
    mine = (await service.call("t-alice", "GET", "api/promotions")).json()
    now = next(p for p in mine if p["id"] == int(number))
    assert (now["version"], now["percent_off"], now["state"]) == (5, 20, "live")
    gone = await service.call("t-tina", "POST", f"promotions/{number}/restore", data={"version": "4"})
    assert gone.status_code == 422, "its end has passed"
    draft = await service.call("t-tina", "POST", f"promotions/{number}/restore", data={"version": "1"})
    assert draft.status_code == 409
    audit = await page_of(service, "t-root", "admin/audit?subject=" + number)
    assert "restored the promotion" in audit


async def test_codes_are_made_and_downloaded(service: Any) -> None:
    page = await send(service, "t-tina", "promotions", **LAB, needs_code="on")
    assert "It needs a code." in page
    path = re.search(r"promotions/\d+/codes", page)[0]
    wrong = await service.call("t-tina", "POST", path, data={"count": "0", "max_uses": "1"})
    assert (wrong.status_code, "The number of codes cannot be 0" in wrong.text) == (422, True)
    made = await send(service, "t-tina", path, count="30", max_uses="2")
    assert "30 codes, 0 used" in made
    sheet = await service.call("t-tina", "GET", f"{path}.csv")
    assert sheet.headers["Content-Disposition"].startswith("attachment")
    rows = list(csv.DictReader(io.StringIO(sheet.text)))
    assert {row["max_uses"] for row in rows} == {"2"}
    assert len({row["code"] for row in rows}) == 30
    assert "You have a place in the promotion." in await send(service, "t-alice", "redemptions", code=rows[3]["code"])
    assert (await service.call("t-theo", "GET", f"{path}.csv")).status_code == 404


async def test_a_teacher_gives_a_member_of_the_class_credit_and_nobody_else(service: Any) -> None:
    done = await send(service, "t-tina", "classes/cs101/grants", member="alice", amount="7.5", note="<prize>")
    assert "out of the class's own" in done
    assert "7.50 credits given to members" in done
    assert "7.50 credits</strong> left of 7.50 credits" in await page_of(service, "t-alice")
    refused = await service.call("t-tina", "POST", "classes/cs101/grants", data={"member": "carol", "amount": "1"})
    assert refused.status_code == 404
    dear = await service.call("t-tina", "POST", "classes/cs101/grants", data={"member": "bob", "amount": "1000"})
    assert (dear.status_code, 'name="amount" value="1000"' in dear.text) == (403, True)
    assert "has only 92.50 credits left" in dear.text


async def test_the_class_page_foresees_when_the_credit_runs_out_and_what_expires(service: Any) -> None:
    assert "there is no telling how long it lasts" in await page_of(service, "t-tina", "classes/cs101")
    price = {"gpu_type": "h100-80gb", "per_start_micros": 28_000_000}
    await service.call("t-root", "POST", "api/prices", json=price)
    extra = {"account": "class:cs101", "amount_micros": 5_000_000, "expires_at": "2089-01-01T00:00:00Z"}
    await service.call("t-root", "POST", "api/grants", json=extra)
    await settled_job(service)  # half price: 14 credits in this week, 91 left, so 6.5 weeks
    page = await page_of(service, "t-tina", "classes/cs101")
    assert "14.00 credits were charged in the last 7 days" in page
    assert "<strong>until about <time" in page
    assert "5.00 credits</strong> of what is left expires" not in page, "the expiring grant burns first"


# ---------------------------------------------------------------- an administrator


async def test_a_price_can_be_scheduled_and_the_page_says_what_running_leases_will_do(service: Any) -> None:
    form = {"gpu_type": "h100-80gb", "per_gpu_hour": "0.75", "valid_from": "2080-01-01T00:00"}
    page = await send(service, "t-root", "admin/prices", **form)
    assert "to come" in page
    assert "Mon 1 Jan 2080, 00:00 UTC" in page
    assert "follow a new list price from its moment on" in page
    assert "keep the promotions they were granted with" in page
    past = await service.call("t-root", "POST", "admin/prices", data={**form, "valid_from": "2020-01-01T00:00"})
    assert (past.status_code, 'value="2020-01-01T00:00"' in past.text) == (422, True)


async def test_the_audit_is_read_page_by_page_and_by_person_and_subject(service: Any) -> None:
    for number in range(55):
        grant = {"account": "person:carol", "amount_micros": 1 + number}
        assert (await service.call("t-root", "POST", "api/grants", json=grant)).status_code == 201
    await service.call(
        "t-tina", "POST", "classes/cs101/quotas", data={"scope": "member", "metric": "spend_micros", "limit": "9"}
    )
    first = await page_of(service, "t-root", "admin/audit?subject=CAROL")
    assert first.count("gave credit to") == 50
    older = html.unescape(re.search(r'href="/services/fastgpu/(admin/audit\?[^"]+before=\d+)">Older', first)[1])
    assert (await page_of(service, "t-root", older)).count("gave credit to") == 6  # five, and the seed's
    by_tina = await page_of(service, "t-root", "admin/audit?actor=tina")
    assert by_tina.count("set the limit") == 1
    assert "gave credit" not in by_tina
    assert "No entry fits." in await page_of(service, "t-root", "admin/audit?actor=%25&subject=_%25")
    api = await service.call("t-root", "GET", "api/audit?actor=tina&subject=cs101&limit=5")
    assert [row["action"] for row in api.json() if row["action"] != "roles"] == ["set_quota"]


async def test_an_account_is_shown_grant_by_grant(service: Any) -> None:
    page = await page_of(service, "t-root", "admin/account?account=class:cs101")
    assert "100.00 credits" in page
    assert "Nothing was ever given to it." in await page_of(service, "t-root", "admin/account?account=dave")
