"""The one table of routes: what is served, documented and tested all comes from here.

A row names its operation; ``endpoints`` (API) and ``pages`` (HTML) hold a function of the same name.
"""

from __future__ import annotations

from dataclasses import replace

from fastgpu import models as m
from fastgpu_hub.service.receipts import FORMATS
from fastgpu_hub.service.routing import (
    ACCOUNT,
    BLOB_LIMIT_BYTES,
    BYTES,
    CSV,
    EVENTS,
    FORM_LIMIT_BYTES,
    HTML,
    LONGEST_POLL_SECONDS,
    MIB,
    NOTHING,
    PROMO_CODE,
    TEXT,
    Query,
    Route,
    Who,
)
from fastgpu_hub.service.rule_routes import RULES


class Health(m.Answer):
    """The service answers requests."""

    ok: bool


_LIMIT = Query("limit", "Most rows to return.", "integer", 100, minimum=1, maximum=1000)
_WAIT = Query(
    "wait_seconds",
    "Answer once the state differs from `state`, or after this many seconds.",
    "integer",
    0,
    maximum=LONGEST_POLL_SECONDS,
)
_JOB_STATE = Query("state", "The state known so far.", choices=tuple(state.value for state in m.JobState))
_LEASE_STATE = Query("state", "The state known so far.", choices=tuple(state.value for state in m.LeaseState))
_OFFSET = Query("offset", "First byte to return.", "integer", 0)
_LOG_WAIT = Query(
    "wait_seconds",
    "Answer once there is a byte at `offset` or the job has ended, or after this many seconds.",
    "integer",
    0,
    maximum=LONGEST_POLL_SECONDS,
)
_LOG_LIMIT = Query("limit_bytes", "Most bytes to return.", "integer", MIB, minimum=1, maximum=4 * MIB)

API: tuple[Route, ...] = (
    Route("me", "GET", "api/me", "user", "Who the caller is", answer=m.Me),
    Route("status", "GET", "api/status", "user", "Everything at a glance", answer=m.Status),
    Route(
        "options",
        "GET",
        "api/users/{owner}/options",
        "user or spawner",
        "What a person may choose from; `me` is the caller, others only for the spawner",
        answer=m.Options,
        query=(ACCOUNT, PROMO_CODE),
    ),
    Route("quote", "POST", "api/quotes", "user", "What a request would cost", body=m.QuoteRequest, answer=m.Quote),
    Route(
        "start_plan",
        "POST",
        "api/start-plans",
        "user",
        "When a request costs least: starts up to a deadline, and the one to choose",
        body=m.StartPlanRequest,
        answer=m.StartPlan,
    ),
    # jobs
    Route("submit_job", "POST", "api/jobs", "user", "Submit a job", m.JobSubmit, m.Job, status=201, effect=True),
    Route(
        "jobs",
        "GET",
        "api/jobs",
        "user",
        "Jobs, newest first; other people's only for teachers and administrators",
        answer=m.Job,
        many=True,
        query=(
            Query("state", "Only jobs that have not ended, or all.", default="all", choices=("active", "all")),
            _LIMIT,
            Query("owner", "Whose jobs."),
            ACCOUNT,
            Query("array", "Only the jobs of this array.", pattern=r"^[A-Za-z0-9_\-]{1,64}$"),
            Query("of_arrays", "Of each array every job, or only the newest.", default="all", choices=("all", "one")),
        ),
    ),
    Route("job", "GET", "api/jobs/{id}", "user", "One job; may wait", answer=m.Job, query=(_WAIT, _JOB_STATE)),
    Route("cancel_job", "POST", "api/jobs/{id}/cancel", "user", "Stop a job", answer=m.Job, effect=True),
    Route(
        *("submit_array", "POST", "api/arrays", "user", "Submit a job for each combination of a sweep: all or none"),
        m.JobSubmit,
        m.JobArray,
        status=201,
        effect=True,
    ),
    Route("array", "GET", "api/arrays/{id}", "user", "An array with all its jobs", answer=m.JobArray),
    Route(
        *("cancel_array", "POST", "api/arrays/{id}/cancel", "user", "Stop all jobs of an array"),
        answer=m.JobArray,
        effect=True,
    ),
    Route(
        "job_log",
        "GET",
        "api/jobs/{id}/log",
        "user",
        "Output so far; headers X-Log-Size and X-Job-State",
        media=TEXT,
        query=(_OFFSET, _LOG_LIMIT, _LOG_WAIT),
    ),
    Route("job_metrics", "GET", "api/jobs/{id}/metrics", "user", "Figures it reports", answer=m.Metric, many=True),
    Route("job_run", "GET", "api/jobs/{id}/run", "user", "A job with its use, figures and attempts", answer=m.Run),
    Route("job_files", "GET", "api/jobs/{id}/files", "user", "Files the job left", answer=m.JobFile, many=True),
    Route("job_file", "GET", "api/jobs/{id}/files/{path}", "user", "Bytes of one file", media=BYTES),
    Route(
        *("kept_files", "GET", "api/artifacts", "user", "The caller's kept files by job, the largest first"),
        answer=m.KeptFiles,
        many=True,
        query=(_LIMIT,),
    ),
    Route("artifacts", "GET", "api/jobs/{id}/artifacts", "user", "What is kept of a job", answer=m.Artifact, many=True),
    Route("artifact", "GET", "api/jobs/{id}/artifacts/{path}", "user", "Bytes of a kept file", media=BYTES),
    Route(
        *("keep_artifacts", "POST", "api/jobs/{id}/artifacts", "user", "Keep a job's outputs after its end (again)"),
        body=m.ArtifactsKeep,
        answer=m.Job,
        effect=True,
    ),
    Route(
        *("delete_artifacts", "DELETE", "api/jobs/{id}/artifacts", "user", "Delete all that is kept of a job"),
        media=NOTHING,
        status=204,
    ),
    Route(
        *("delete_artifact", "DELETE", "api/jobs/{id}/artifacts/{path}", "user", "Delete a kept file"),
        media=NOTHING,
        status=204,
    ),
    Route(
        "put_blob",
        "PUT",
        "api/blobs/{sha256}",
        "user",
        "Put input bytes under their hash",
        media=NOTHING,
        status=204,
        limit_bytes=BLOB_LIMIT_BYTES,
    ),
    Route("has_blob", "HEAD", "api/blobs/{sha256}", "user", "204 if these bytes are there", media=NOTHING, status=204),
    # leases
    Route("leases", "GET", "api/leases", "user", "The caller's live leases", answer=m.Lease, many=True),
    Route(
        "lease",
        "GET",
        "api/leases/{id}",
        "user or spawner",
        "One lease; may wait, and wakes too when its queue place or explanation changes",
        answer=m.Lease,
        query=(_WAIT, _LEASE_STATE),
    ),
    Route(
        "request_lease",
        "POST",
        "api/users/{owner}/leases",
        "spawner",
        "Ask for a server's GPUs on its owner's behalf",
        m.LeaseRequest,
        m.Lease,
        status=201,
        effect=True,
    ),
    Route(
        "lease_started",
        "POST",
        "api/leases/{id}/started",
        "spawner",
        "Evidence that the server runs",
        m.LeaseStarted,
        m.Lease,
        effect=True,
    ),
    Route("release_lease", "POST", "api/leases/{id}/release", "spawner", "Give GPUs back", answer=m.Lease, effect=True),
    Route(
        "receipt",
        "GET",
        "api/leases/{id}/receipt",
        "user",
        "All lines of a lease or job, as data or as a document",
        answer=m.Receipt,
        other_media=tuple(FORMATS.values()),
        query=(Query("format", "How to write it.", default="json", choices=("json", *FORMATS)),),
    ),
    Route("why", "GET", "api/leases/{id}/why", "user", "Why a lease or job is where it is", answer=m.Why),
    Route(
        "costs",
        "GET",
        "api/costs",
        "user",
        "Settled cost, grouped",
        answer=m.CostReport,
        query=(
            Query("since", "Only lines from this instant on.", "instant"),
            Query("by", "What to group by.", default="job", choices=("job", "gpu", "day", "person")),
        ),
    ),
    # news
    Route(
        "notices",
        "GET",
        "api/notices",
        "user",
        "News for the caller, oldest first; the latest `limit` after one",
        answer=m.Notice,
        many=True,
        query=(Query("after", "Only notices after this id.", "integer", 0), _LIMIT),
    ),
    Route(
        "events",
        "GET",
        "api/events",
        "user",
        "The caller's notices as they come, as server-sent events named `notice`",
        media=EVENTS,
        query=(Query("after", "Begin after this id; a Last-Event-ID header wins.", "integer"),),
    ),
    # rules
    *RULES,
    Route("class_report", "GET", "api/classes/{name}", "teacher or admin", "A class", answer=m.ClassReport),
    Route("inventory", "GET", "api/inventory", "admin", "Every GPU and its holder", answer=m.InventoryGpu, many=True),
    Route(
        "audit",
        "GET",
        "api/audit",
        "admin",
        "Who changed what, newest first",
        answer=m.AuditLine,
        many=True,
        query=(
            _LIMIT,
            Query("before", "Only entries before this id.", "integer", minimum=1),
            Query("actor", "Who did it."),
            Query("subject", "Text in the name of what it was done to."),
        ),
    ),
    Route("problems", "GET", "api/problems", "admin", "What does not fit together", answer=m.Problem, many=True),
    # about the service
    Route("openapi", "GET", "api/openapi.json", "user", "This document"),
    Route("health", "GET", "health", "anyone", "The service answers", answer=Health),
    Route("metrics", "GET", "metrics", "metrics", "Figures for Prometheus", media="text/plain; version=0.0.4"),
)


def _page(name: str, path: str, who: Who, summary: str) -> Route:
    return Route(name, "GET", path, who, summary, media=HTML, limit_bytes=FORM_LIMIT_BYTES)


def _form(name: str, path: str, who: Who, summary: str) -> Route:
    return Route(name, "POST", path, who, summary, media=HTML, status=303, limit_bytes=FORM_LIMIT_BYTES)


def _static(name: str, path: str, media: str, summary: str) -> Route:
    return Route(name, "GET", path, "anyone", summary, media=f"{media}; charset=utf-8")


TEACHERS: Who = "teacher or admin"

PAGES: tuple[Route, ...] = (
    _page("home_page", "", "user", "My GPUs"),
    _page("job_page", "jobs/{id}", "user", "What came of a job"),
    Route("whole_log", "GET", "jobs/{id}/log.txt", "user", "All that a job has printed", media=TEXT),
    _form("cancel_own_job", "jobs/{id}/cancel", "user", "Stop one of my jobs"),
    _form("redeem_promotion", "redemptions", "user", "Take a place in a promotion"),
    _page("asks_page", "asks", "user", "Ask for more"),
    _form("ask_for_more", "asks", "user", "Ask for more of a limit or of credit"),
    _form("withdraw_own_ask", "asks/{number}/withdraw", "user", "Take one's own request back"),
    _form("answer_ask", "asks/{number}", TEACHERS, "Answer a request for more"),
    _page("receipt_page", "receipts/{id}", "user", "A receipt"),
    _form("refund_lease", "receipts/{id}/refund", "admin", "Refund what was charged"),
    Route("find_class", "GET", "classes", TEACHERS, "Go to a class by name", media=HTML, status=303),
    _page("class_page", "classes/{name}", TEACHERS, "A class"),
    _form("set_class_quota", "classes/{name}/quotas", TEACHERS, "Limit a class or its members"),
    _form("remove_class_quota", "classes/{name}/quotas/{number}/remove", TEACHERS, "Remove a limit"),
    _form("give_member_credit", "classes/{name}/grants", TEACHERS, "Give of a class's credit to a member"),
    _form("answer_class_ask", "classes/{name}/asks/{number}", TEACHERS, "Answer a member's request"),
    _form("stop_class_job", "classes/{name}/jobs/{id}/cancel", TEACHERS, "Stop a member's job"),
    _page("promotion_form_page", "promotions/new", TEACHERS, "A new promotion"),
    replace(_form("preview_promotion", "promotions/preview", TEACHERS, "What last week would have cost"), status=200),
    _form("start_promotion", "promotions", TEACHERS, "Set up a promotion or a draft of one"),
    _page("promotion_page", "promotions/{number}", TEACHERS, "A promotion, its codes and versions"),
    _form("change_promotion", "promotions/{number}", TEACHERS, "Make a new version of a promotion"),
    _form("publish_draft", "promotions/{number}/publish", TEACHERS, "Publish a draft"),
    _form("stop_promotion", "promotions/{number}/end", TEACHERS, "End a promotion"),
    _form("restore_version", "promotions/{number}/restore", TEACHERS, "Restore an earlier version"),
    _form("make_promotion_codes", "promotions/{number}/codes", TEACHERS, "Make codes"),
    Route("promotion_codes_file", "GET", "promotions/{number}/codes.csv", TEACHERS, "All codes", media=CSV),
    _page("admin_page", "admin", "admin", "Prices, GPUs, promotions, credit, limits, requests, audit"),
    _form("set_list_price", "admin/prices", "admin", "Set a price"),
    _page("account_page", "admin/account", "admin", "An account's credit"),
    _form("give_credit", "admin/grants", "admin", "Give credit"),
    _form("set_any_quota", "admin/quotas", "admin", "Set a limit"),
    _form("remove_any_quota", "admin/quotas/{number}/remove", "admin", "Remove a limit"),
    _page("audit_page", "admin/audit", "admin", "Who changed what"),
    _static("stylesheet", "static/fastgpu.css", "text/css", "Looks"),
    _static("script", "static/fastgpu.js", "text/javascript", "Lets countdowns tick"),
    Route("oauth_callback", "GET", "oauth_callback", "anyone", "End of signing in", media=HTML, status=302),
)

ROUTES: tuple[Route, ...] = (*API, *PAGES)
