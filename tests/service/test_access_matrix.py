"""Who may do what: every route, for every kind of caller, declared cell by cell.

The columns, in this order (see ``WHO``): nobody, a token the hub does not know (any more), a token without our scope,
the student who owns the thing, another student of the class, a student of another class, the class's teacher, another
class's teacher, an administrator, the spawner, the metrics reader. A cell is the HTTP status.
"""

from __future__ import annotations

import asyncio
import hashlib
from functools import reduce
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from fastgpu_hub.service.routes import EVENTS, ROUTES
from fastgpu_hub.service.routing import Route

WHO = {
    "nobody": None,
    "revoked": "t-revoked",
    "narrow": "t-narrow",
    "owner": "t-alice",
    "classmate": "t-bob",
    "stranger": "t-carol",
    "teacher": "t-tina",
    "other teacher": "t-theo",
    "admin": "t-root",
    "spawner": "t-spawner",
    "metrics": "t-metrics",
}

# One character per cell:
MEANING = {
    "+": "allowed", "u": 401, "f": 403, "n": 404, "c": 409,
    ">": 302,  # to the hub's sign-in page
}  # fmt: skip

# A row that begins with "nobody" as "u" refuses strangers with 401, pages send them to sign in (">") unless they post.
MATRIX: dict[str, str] = {
    # nobody, revoked, narrow; owner, classmate, stranger, teacher, other teacher, admin, spawner, metrics
    "me":              "uuf ++++++ff",
    "status":          "uuf ++++++ff",
    "options":         "uuf +nnnnn+f",
    "quote":           "uuf ++++++ff",
    "start_plan":      "uuf ++++++ff",
    "submit_job":      "uuf ++++++ff",
    "jobs":            "uuf ++++++ff",
    "job":             "uuf +nn+n+ff",
    "cancel_job":      "uuf +nn+n+ff",
    "submit_array":    "uuf ++++++ff",
    "array":           "uuf +nn+n+ff",
    "cancel_array":    "uuf +nn+n+ff",
    "job_log":         "uuf +nn+n+ff",
    "job_metrics":     "uuf +nn+n+ff",
    "job_run":         "uuf +nn+n+ff",
    "job_files":       "uuf +nn+n+ff",
    "job_file":        "uuf +nn+n+ff",
    "kept_files":      "uuf ++++++ff",
    "artifacts":       "uuf +nn+n+ff",
    "artifact":        "uuf +nn+n+ff",
    "keep_artifacts":  "uuf +nnfn+ff",
    "delete_artifacts": "uuf +nnfn+ff",
    "delete_artifact": "uuf +nnfn+ff",
    "put_blob":        "uuf ++++++ff",
    "has_blob":        "uuf ++++++ff",
    "leases":          "uuf ++++++ff",
    "lease":           "uuf +nn+n++f",
    "request_lease":   "uuf ffffff+f",
    "lease_started":   "uuf ffffff+f",
    "release_lease":   "uuf ffffff+f",
    "receipt":         "uuf +nn+n+ff",
    "why":             "uuf +nn+n+ff",
    "costs":           "uuf ++++++ff",
    "notices":         "uuf ++++++ff",
    "events":          "uuf ++++++ff",
    "promotions":      "uuf ++++++ff",
    "add_promotion":   "uuf fff+f+ff",
    "edit_promotion":  "uuf fff+n+ff",
    "publish_promotion": "uuf fff+n+ff",
    "end_promotion":   "uuf fff+n+ff",
    "promotion_codes": "uuf fff+n+ff",
    "make_codes":      "uuf fff+n+ff",
    "preview":         "uuf fff+f+ff",
    "redeem":          "uuf ++ffffff",
    "quotas":          "uuf ++++++ff",
    "add_quota":       "uuf fff+f+ff",
    "remove_quota":    "uuf fff+n+ff",
    "prices":          "uuf ++++++ff",
    "set_price":       "uuf fffff+ff",
    "grants":          "uuf +nnnn+ff",
    "grant":           "uuf fff+f+ff",
    "refund":          "uuf fffff+ff",
    "asks":            "uuf ++++++ff",
    "ask":             "uuf ++nnnnff",
    "approve_ask":     "uuf fff+n+ff",
    "decline_ask":     "uuf fff+n+ff",
    "withdraw_ask":    "uuf +nnnnnff",
    "class_report":    "uuf fff+n+ff",
    "inventory":       "uuf fffff+ff",
    "audit":           "uuf fffff+ff",
    "problems":        "uuf fffff+ff",
    "openapi":         "uuf ++++++ff",
    "health":          "+++ ++++++++",
    "metrics":         "uuf fffff+f+",
    # pages: these callers come with a token, as a script would; cookies and XSRF are tested in test_sign_in.py
    "home_page":          ">>f ++++++ff",
    "job_page":           ">>f +nn+n+ff",
    "whole_log":          ">>f +nn+n+ff",
    "cancel_own_job":     "uuf +nn+n+ff",
    "redeem_promotion":   "uuf ++ffffff",
    "asks_page":          ">>f ++++++ff",
    "ask_for_more":       "uuf ++nnnnff",
    "withdraw_own_ask":   "uuf +nnnnnff",
    "answer_ask":         "uuf fff+n+ff",
    "receipt_page":       ">>f +nn+n+ff",
    "refund_lease":       "uuf fffff+ff",
    "find_class":         ">>f fff+++ff",
    "class_page":         ">>f fff+n+ff",
    "set_class_quota":    "uuf fff+n+ff",
    "remove_class_quota": "uuf fff+n+ff",
    "give_member_credit": "uuf fff+n+ff",
    "answer_class_ask":   "uuf fff+n+ff",
    "stop_class_job":     "uuf fff+n+ff",
    "promotion_form_page": ">>f fff+++ff",
    "preview_promotion":  "uuf fff+f+ff",
    "start_promotion":    "uuf fff+f+ff",
    "promotion_page":     ">>f fff+n+ff",
    "change_promotion":   "uuf fff+n+ff",
    "publish_draft":      "uuf fff+n+ff",
    "stop_promotion":     "uuf fff+n+ff",
    "restore_version":    "uuf fff+n+ff",
    "make_promotion_codes": "uuf fff+n+ff",
    "promotion_codes_file": ">>f fff+n+ff",
    "admin_page":         ">>f fffff+ff",
    "set_list_price":     "uuf fffff+ff",
    "account_page":       ">>f fffff+ff",
    "give_credit":        "uuf fffff+ff",
    "set_any_quota":      "uuf fffff+ff",
    "remove_any_quota":   "uuf fffff+ff",
    "audit_page":         ">>f fffff+ff",
    "stylesheet":         "+++ ++++++++",
    "script":             "+++ ++++++++",
    "oauth_callback":     "nnn nnnnnnnn",  # no code, no state: never lets anybody in; the status is checked on its own
}  # fmt: skip

BLOB = b"matrix"
BLOB_NAME = hashlib.sha256(BLOB).hexdigest()
QUOTA = {"scope": "member", "name": "cs101", "metric": "gpu_seconds", "limit": 36000, "window": "day"}
PROMOTION = {
    "name": "lab", "percent_off": 10, "audience": ["class:cs101"],
    "starts_at": "2025-01-01T00:00:00Z", "ends_at": "2090-01-01T00:00:00Z",
}  # fmt: skip

BODIES: dict[str, Any] = {
    "quote": {"gpu_type": "h100-80gb"},
    "start_plan": {"gpu_type": "h100-80gb"},
    "submit_job": {"kind": "command", "argv": ["true"], "gpu_type": "h100-80gb", "time_limit_seconds": 60},
    "cancel_job": {},
    "keep_artifacts": {},
    "submit_array": {
        "kind": "command",
        "argv": ["true"],
        "gpu_type": "h100-80gb",
        "time_limit_seconds": 60,
        "sweep": {"lr": ["1", "2"]},
    },
    "cancel_array": {},
    "request_lease": {"gpu_type": "h100-80gb"},
    "lease_started": {},
    "release_lease": {},
    "add_promotion": PROMOTION,
    "edit_promotion": PROMOTION,
    "publish_promotion": {},
    "end_promotion": {},
    "make_codes": {"count": 2},
    "preview": {"promotion": PROMOTION, "since": "2025-01-01T00:00:00Z", "until": "2025-02-01T00:00:00Z"},
    "redeem": {"code": "MATRIX"},
    "add_quota": QUOTA,
    "set_price": {"gpu_type": "h100-80gb", "per_gpu_hour_micros": 600_000},
    "grant": {"account": "person:alice", "amount_micros": 1_000_000, "from_account": "class:cs101"},
    "refund": {"reason": "the node failed"},
    "approve_ask": {},
    "decline_ask": {},
    "withdraw_ask": {},
}
PROMOTION_FORM = {
    "name": "lab", "kind": "percent", "percent_off": "10", "for_class:cs101": "on",
    "starts_at": "2025-01-01T00:00", "ends_at": "2090-01-01T00:00",
}  # fmt: skip
FORMS: dict[str, dict[str, str]] = {
    "cancel_own_job": {},
    "redeem_promotion": {"code": "MATRIX"},
    "withdraw_own_ask": {},
    "answer_ask": {"decision": "approve"},
    "answer_class_ask": {"decision": "decline", "answer": "no"},
    "refund_lease": {"reason": "the node failed"},
    "give_member_credit": {"member": "alice", "amount": "1"},
    "preview_promotion": PROMOTION_FORM,
    "change_promotion": PROMOTION_FORM,
    "publish_draft": {},
    "restore_version": {"version": "1"},
    "make_promotion_codes": {"count": "2", "max_uses": "1"},
    "set_class_quota": {"scope": "member", "metric": "concurrent_gpus", "limit": "3", "window": "always"},
    "remove_class_quota": {},
    "start_promotion": PROMOTION_FORM,
    "stop_promotion": {},
    "stop_class_job": {},
    "set_list_price": {"gpu_type": "h100-80gb", "per_gpu_hour": "0.6"},
    "give_credit": {"account": "class:cs101", "amount": "1"},
    "set_any_quota": {"scope": "person", "name": "alice", "metric": "concurrent_gpus", "limit": "3", "window": "day"},
    "remove_any_quota": {},
}  # fmt: skip
SERVER_ROWS = {"lease", "lease_started", "release_lease"}


def cells(row: str) -> list[str]:
    return list(MATRIX[row].replace(" ", ""))


def test_every_route_has_a_declared_row_and_every_row_a_route() -> None:
    assert {route.name for route in ROUTES} == set(MATRIX)
    assert all(len(cells(name)) == len(WHO) and set(cells(name)) <= set(MEANING) for name in MATRIX)


class World:
    """What the cells are tried on: alice's jobs, server and request, a quota and promotions of her class."""

    def __init__(self, service: Any) -> None:
        self.service = service

    async def build(self) -> None:
        service = self.service
        for account in ("class:bio7", "person:tina", "person:theo", "person:root"):
            credit = {"account": account, "amount_micros": 1_000_000}
            assert (await service.call("t-root", "POST", "api/grants", json=credit)).status_code == 201
        self.over = (await service.running("t-alice", gpu_count=1, time_limit_seconds=600, outputs=["*"]))["id"]
        service.engine.put_file(self.over, "out.txt", b"42")
        service.engine.finish(self.over)
        ended = await service.call("t-alice", "GET", f"api/jobs/{self.over}?wait_seconds=5&state=running")
        assert ended.json()["state"] == "succeeded"
        while (await service.call("t-alice", "GET", f"api/jobs/{self.over}")).json()["artifacts"] != "kept":
            await asyncio.sleep(0.01)
        self.job = (await service.running("t-alice", gpu_count=1, time_limit_seconds=600))["id"]
        service.engine.put_file(self.job, "out.txt", b"42")
        lease = await service.call("t-spawner", "POST", "api/users/alice/leases", json={"gpu_type": "h100-80gb"})
        self.lease = lease.json()["id"]
        seen = await service.call("t-spawner", "GET", f"api/leases/{self.lease}?wait_seconds=5&state=queued")
        assert seen.json()["state"] == "granted"
        array = await service.call("t-alice", "POST", "api/arrays", json=BODIES["submit_array"])
        assert array.status_code == 201, array.text
        self.array = array.json()["id"]
        quotas = (await service.call("t-alice", "GET", "api/quotas")).json()
        self.quota = next(row["quota_id"] for row in quotas if row["scope"] == "member")
        self.promotion = (await service.call("t-alice", "GET", "api/promotions")).json()[0]["id"]
        edited = await service.call("t-tina", "POST", f"api/promotions/{self.promotion}", json=PROMOTION)
        assert edited.status_code == 200
        self.coded = await self.made("promotions", "t-tina", {**PROMOTION, "code": "MATRIX"})
        self.draft = await self.made("promotions", "t-tina", {**PROMOTION, "draft": True})
        self.request = await self.made(
            "asks", "t-alice", {"account": "person:alice", "amount": 1_000_000, "reason": "thesis"}
        )
        await service.call("t-alice", "PUT", f"api/blobs/{BLOB_NAME}", content=BLOB)

    async def made(self, what: str, token: str, body: dict[str, Any]) -> int:
        answer = await self.service.call(token, "POST", f"api/{what}", json=body)
        assert answer.status_code == 201, answer.text
        number: int = answer.json()["id"]
        return number

    def path(self, route: Route) -> str:
        number = self.promotion if "promotion" in route.name else self.quota
        number = {
            "publish_promotion": self.draft,
            "promotion_codes": self.coded,
            "make_codes": self.coded,
            "approve_ask": self.request,
            "decline_ask": self.request,
            "withdraw_ask": self.request,
            "publish_draft": self.draft,
            "restore_version": self.promotion,
            "make_promotion_codes": self.coded,
            "promotion_codes_file": self.coded,
            "withdraw_own_ask": self.request,
            "answer_ask": self.request,
            "answer_class_ask": self.request,
        }.get(route.name, number)
        ended = route.name in ("refund", "refund_lease") or "artifact" in route.name
        subject = self.over if ended else self.lease if route.name in SERVER_ROWS else self.job
        if route.name in ("array", "cancel_array"):
            subject = self.array
        path = route.path.format(
            owner="alice", id=subject, path="out.txt", sha256=BLOB_NAME, name="cs101", number=number
        )
        return f"{path}?account=person:alice" if route.name in ("grants", "account_page") else path

    async def ask(self, route: Route, token: str | None) -> Any:
        sent: dict[str, Any] = {}
        if route.name == "ask":
            sent["json"] = {"quota_id": self.quota, "amount": 1, "reason": "thesis"}
        elif route.name == "ask_for_more":
            sent["data"] = {"about": f"limit:{self.quota}", "amount": "1", "reason": "thesis"}
        elif route.name in BODIES:
            sent["json"] = BODIES[route.name]
        elif route.name in FORMS:
            # httpx sends no form for an empty one.
            sent["data"] = FORMS[route.name] or {"none": "1"}
        elif route.method == "PUT":
            sent["content"] = BLOB
        if route.media == EVENTS:  # endless where it is allowed: the status is all there is to see
            headers = {} if token is None else {"Authorization": f"token {token}"}
            async with self.service.client.stream("GET", self.service.url + route.path, headers=headers) as answer:
                if answer.status_code != route.status:
                    await answer.aread()
                return answer
        return await self.service.call(token, route.method, self.path(route), follow_redirects=False, **sent)


def rows_of(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Everything the database holds, but for what time alone changes."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            names = [row[0] for row in connection.execute(text("SELECT name FROM sqlite_master WHERE type='table'"))]
            found = {}
            for name in names:
                if name.startswith("usage"):  # sums that follow the ledger by themselves, a little later
                    continue
                rows = [tuple(row) for row in connection.exec_driver_sql(f"SELECT * FROM {name}")]
                found[name] = [row for row in rows if not str(row[0]).startswith("heartbeat_ms")]
            return found
    finally:
        engine.dispose()


QUESTIONS = ("quote", "start_plan", "preview", "preview_promotion")  # posted, but changing nothing
TRIED = [route for route in ROUTES if route.name != "oauth_callback"]
LOOKING = [route for route in TRIED if route.method in ("GET", "HEAD", "PUT") or route.name in QUESTIONS]
ACTING = [route for route in TRIED if route not in LOOKING]


async def wrong_cells(world: World, route: Route, allowed: bool) -> list[str]:
    """The cells of a row, refused or allowed ones, that are not as declared."""
    wrong = []
    for (who, token), cell in zip(WHO.items(), cells(route.name), strict=True):
        if (cell == "+") is not allowed:
            continue
        answer = await world.ask(route, token)
        wanted = {route.status} if allowed else {MEANING[cell]}
        if allowed and route in ACTING:
            wanted |= {404, 409}  # whoever came before did it already; the first one is checked below
        if answer.status_code not in wanted:
            wrong.append(
                f"{who}: {route.method} {route.path}: {answer.status_code} is not {wanted}: {answer.text[:200]}"
            )
    return wrong


async def test_each_refusal_is_as_declared_and_changes_nothing(service: Any, tmp_path: Any) -> None:
    world = World(service)
    await world.build()
    wrong = []
    for route in TRIED:
        before = rows_of(f"sqlite:///{tmp_path}/fastgpu.sqlite")
        wrong += await wrong_cells(world, route, allowed=False)
        assert rows_of(f"sqlite:///{tmp_path}/fastgpu.sqlite") == before, f"a refusal of {route.name} left a trace"
    assert not wrong, "\n".join(wrong)


async def test_who_may_look_can(service: Any) -> None:
    world = World(service)
    await world.build()
    wrong = [cell for route in LOOKING for cell in await wrong_cells(world, route, allowed=True)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("route", ACTING, ids=[route.name for route in ACTING])
async def test_who_may_act_can(service: Any, route: Route) -> None:
    world = World(service)
    await world.build()
    first = next(token for (_, token), cell in zip(WHO.items(), cells(route.name), strict=True) if cell == "+")
    answer = await world.ask(route, first)
    assert answer.status_code == route.status, answer.text
    wrong = await wrong_cells(world, route, allowed=True)
    assert not wrong, "\n".join(wrong)


async def test_a_foreign_id_looks_exactly_like_a_missing_one(service: Any) -> None:
    world = World(service)
    await world.build()
    for row in (
        "array",
        "cancel_array",
        "job",
        "cancel_job",
        "job_log",
        "job_metrics",
        "job_run",
        "job_files",
        "artifacts",
        "artifact",
        "keep_artifacts",
        "delete_artifact",
        "lease",
        "receipt",
        "why",
    ):
        route = next(route for route in ROUTES if route.name == row)
        foreign = await world.ask(route, "t-carol")
        kind = next(kind for kind in "jas" if f"{kind}-" in world.path(route))
        missing_id = f"{kind}-000000000000"
        known = (world.job, world.lease, world.array)
        path = reduce(lambda text, each: text.replace(each, missing_id), known, world.path(route))
        sent = {"json": {}} if route.method == "POST" else {}
        missing = await service.call("t-carol", route.method, path, **sent)
        assert foreign.status_code == missing.status_code == 404
        told = [answer.json()["error"] for answer in (foreign, missing)]
        assert told[0]["code"] == told[1]["code"]
        blank = reduce(lambda text, each: text.replace(each, "X"), known, told[0]["message"])
        assert blank == told[1]["message"].replace(missing_id, "X")


async def test_the_oauth_callback_lets_nobody_in_without_a_code_and_its_state(service: Any) -> None:
    for query in ("", "?code=x", "?code=x&state=y", "?error=no"):
        for token in (None, "t-root"):
            answer = await service.call(token, "GET", f"oauth_callback{query}", follow_redirects=False)
            # Who is signed in already is sent home without a new sign-in.
            assert answer.status_code == 403 or (token and answer.headers["Location"] == "/services/fastgpu/")
            assert "service-fastgpu=" not in answer.headers.get("Set-Cookie", "")


async def test_identity_never_comes_from_the_body(service: Any) -> None:
    for field, value in (("owner", "bob"), ("rate_micros", 0), ("admin", True), ("classes", ["bio7"])):
        body = {**BODIES["submit_job"], field: value}
        assert (await service.call("t-alice", "POST", "api/jobs", json=body)).status_code == 422
    foreign = await service.call("t-alice", "POST", "api/jobs", json={**BODIES["submit_job"], "account": "class:bio7"})
    assert foreign.status_code == 403
