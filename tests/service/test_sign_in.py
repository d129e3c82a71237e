from __future__ import annotations

import re
from typing import Any

import pytest

from fastgpu_hub.service.auth import TOKEN_CACHE_SECONDS, FastGPUAuth, actor_of, own_scopes

JSON = {"Content-Type": "application/json"}


async def visit(service: Any, cookies: Any, token: str, path: str = "") -> tuple[Any, dict[str, str], str]:
    """Open a page as a browser does: the answer, the cookies after it, the page's XSRF value."""
    jar = cookies(token)
    page = await service.call(None, "GET", path, headers={"Cookie": cookie_header(jar)})
    found = re.search(r"_xsrf=([^;]+);", page.headers.get("Set-Cookie", ""))
    if found:
        jar["_xsrf"] = found.group(1)
    service.client.cookies.clear()
    return page, jar, jar.get("_xsrf", "")


def cookie_header(jar: dict[str, str]) -> str:
    return "; ".join(f"{name}={value}" for name, value in jar.items())


async def test_a_browser_without_a_session_is_sent_to_the_hub_with_state_and_pkce(service: Any) -> None:
    answer = await service.call(None, "GET", "receipts/j-1", follow_redirects=False)
    assert answer.status_code == 302
    place = answer.headers["Location"]
    assert "/api/oauth2/authorize?" in place
    assert "client_id=service-fastgpu" in place
    assert "state=" in place
    assert "code_challenge=" in place


async def test_a_cookie_alone_changes_nothing_through_the_api(service: Any, cookies: Any) -> None:
    _, jar, xsrf = await visit(service, cookies, "t-alice")
    body = '{"gpu_type": "h100-80gb"}'
    base = {**JSON, "Cookie": cookie_header(jar)}
    refused = await service.call(None, "POST", "api/quotes", content=body, headers=base)
    assert refused.status_code == 403
    assert "_xsrf" in refused.text
    wrong = await service.call(None, "POST", "api/quotes", content=body, headers={**base, "X-XSRFToken": "2|x|y|z"})
    assert wrong.status_code == 403
    right = {**base, "X-XSRFToken": xsrf}
    assert (await service.call(None, "POST", "api/quotes", content=body, headers=right)).status_code == 200
    host = service.url.split("/")[2]
    same = {**right, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}
    assert (await service.call(None, "POST", "api/quotes", content=body, headers=same)).status_code == 200
    for foreign in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = await service.call(None, "POST", "api/quotes", content=body, headers={**right, **foreign})
        assert answer.status_code == 403


async def test_a_script_of_another_page_cannot_read_with_the_cookie_only(service: Any, cookies: Any) -> None:
    _, jar, xsrf = await visit(service, cookies, "t-alice")
    fetch = {"Cookie": cookie_header(jar), "Sec-Fetch-Mode": "cors", "Sec-Fetch-Site": "same-origin"}
    assert (await service.call(None, "GET", "api/me", headers=fetch)).status_code == 403
    assert (await service.call(None, "GET", "api/me", headers={**fetch, "X-XSRFToken": xsrf})).status_code == 200


async def test_a_form_needs_the_xsrf_value_of_its_own_visitor(service: Any, cookies: Any) -> None:
    _, tina, xsrf = await visit(service, cookies, "t-tina", "classes/cs101")
    _, _, other = await visit(service, cookies, "t-theo", "classes/bio7")
    form = {"scope": "member", "metric": "concurrent_gpus", "limit": "7", "window": "always"}
    path, headers = "classes/cs101/quotas", {"Cookie": cookie_header(tina)}
    for fields in (form, {**form, "_xsrf": other}, {**form, "_xsrf": "x"}):
        refused = await service.call(None, "POST", path, data=fields, headers=headers, follow_redirects=False)
        assert refused.status_code == 403
    done = await service.call(None, "POST", path, data={**form, "_xsrf": xsrf}, headers=headers, follow_redirects=False)
    assert (done.status_code, done.headers["Location"]) == (303, "/services/fastgpu/classes/cs101?done=quota-set")


async def test_a_header_token_is_never_replaced_by_a_cookie(service: Any, cookies: Any) -> None:
    headers = {"Cookie": cookie_header(cookies("t-root"))}
    assert (await service.call("t-revoked", "GET", "api/me", headers=headers)).status_code == 401
    assert (await service.call("t-alice", "GET", "api/me", headers=headers)).json()["name"] == "alice"


async def test_bearer_and_token_are_both_understood_and_nothing_else(service: Any) -> None:
    for value, status in (
        ("token t-alice", 200),
        ("Bearer t-alice", 200),
        ("bearer  t-alice", 200),
        ("Basic t-alice", 401),
        ("token", 401),
        ("token a b", 401),
        ("token " + "x" * 5000, 401),
    ):
        answer = await service.call(None, "GET", "api/me", headers={"Authorization": value})
        assert answer.status_code == status, value


def test_a_revoked_token_is_forgotten_within_thirty_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTERHUB_CLIENT_ID", "service-fastgpu")
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "x")
    auth = FastGPUAuth()
    assert auth.cache_max_age == auth.cache.max_age == TOKEN_CACHE_SECONDS <= 30


def test_scopes_count_only_for_whom_they_name() -> None:
    given = {
        "custom:fastgpu:use!user=alice",
        "custom:fastgpu:admin!user=bob",
        "custom:fastgpu:spawn!group=cs101",
        "custom:fastgpu:teach",
        "custom:fastgpu:teach!group=cs101",
        "custom:other:admin",
    }
    assert own_scopes(given, "alice") == {"use", "teach", "teach!group=cs101"}
    assert "use" in own_scopes({"custom:fastgpu:use!server=alice/lab"}, "alice")
    assert own_scopes({"custom:fastgpu:use!server=alice2/lab"}, "alice") == set()


def test_teach_and_admin_count_only_together_with_use() -> None:
    model = {
        "kind": "user",
        "name": "x",
        "groups": [],
        "scopes": ["custom:fastgpu:admin", "custom:fastgpu:teach!group=a"],
    }
    actor, use = actor_of(model)
    assert (actor.admin, actor.teaches, use) == (False, (), False)
    actor, use = actor_of({**model, "scopes": [*model["scopes"], "custom:fastgpu:use"]})
    assert (actor.admin, actor.teaches, use) == (True, ("a",), True)


def test_a_service_is_never_taken_for_the_person_of_its_name() -> None:
    actor, _ = actor_of({"kind": "service", "name": "alice", "scopes": ["custom:fastgpu:use"], "groups": ["cs101"]})
    assert (actor.name, actor.kind, actor.classes) == ("service:alice", "service", ())
