"""What each page shows and what each form does: one function per row of ``routes.PAGES``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from fastgpu.models import JobState
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.idempotency import IdempotencyClaim
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.service.pages import forms
from fastgpu_hub.service.wire import Refusal

if TYPE_CHECKING:
    from fastgpu_hub.broker.broker import Broker

T = TypeVar("T")
JOBS_SHOWN = 25
COST_DAYS = 14
AUDIT_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Visit:
    """One checked page request."""

    broker: Broker
    actor: Actor
    time_zone: str
    path: dict[str, str] = field(default_factory=dict)
    form: dict[str, str] = field(default_factory=dict)
    key: IdempotencyClaim | None = None

    @property
    def name(self) -> str:
        return self.path["name"]


@dataclass(frozen=True, slots=True)
class Page:
    """A template and what it shows."""

    template: str
    context: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """A form took effect: go to ``path`` and show the notice ``done``."""

    path: str
    done: str


# What a notice says; the address carries the key only, so nobody can put words on the page.
NOTICES = {
    "job-stopping": "The job is being stopped. It is charged until it has ended.",
    "quota-set": "The limit is in force.",
    "quota-removed": "The limit is removed.",
    "promotion-started": "The promotion is set up.",
    "promotion-ended": "The promotion has ended. What was granted under it keeps its price.",
    "price-set": "The price is set. What runs keeps the price it was granted with.",
    "credit-given": "The credit is given.",
}


def must(found: T | Refused) -> T:
    """The value; raises Refusal when it is a refusal."""
    if isinstance(found, Refused):
        raise Refusal(found)
    return found


async def home_page(visit: Visit) -> Page:
    """My GPUs: what runs, waits, is left and was spent."""
    broker, actor = visit.broker, visit.actor
    status = must(await broker.status(actor))
    since = (status.now - timedelta(days=COST_DAYS)).replace(hour=0, minute=0, second=0, microsecond=0)
    return Page(
        "home.html",
        {
            "status": status,
            "jobs": must(await broker.jobs(actor, False, JOBS_SHOWN, actor.name, None)),
            "costs": must(await broker.costs(actor, since, "day")),
            "use": {reading.gpu.uuid: reading for reading in status.gpus},
        },
    )


async def cancel_own_job(visit: Visit) -> Done:
    must(await visit.broker.cancel_job(visit.actor, visit.path["id"], key=visit.key))
    return Done("", "job-stopping")


async def receipt_page(visit: Visit) -> Page:
    """All lines of one lease and their sum."""
    receipt = must(await visit.broker.receipt(visit.actor, visit.path["id"]))
    why = must(await visit.broker.why(visit.actor, visit.path["id"]))
    return Page("receipt.html", {"receipt": receipt, "why": why})


async def find_class(visit: Visit) -> Done:
    return Done(f"classes/{quote(visit.form.get('name', ''), safe='')}", "")


async def class_page(visit: Visit) -> Page:
    """A class for its teachers: credit, members, limits, promotions, jobs."""
    report = must(await visit.broker.class_report(visit.actor, visit.name))
    jobs = must(await visit.broker.jobs(visit.actor, True, 200, None, f"class:{visit.name}"))
    in_jobs: Counter[str] = Counter()
    for job in jobs:
        if job.state is not JobState.queued:
            in_jobs[job.owner] += job.gpu_count
    members = sorted(report.members, key=lambda member: -member.gpus)
    return Page("class.html", {"report": report, "members": members, "jobs": jobs, "in_jobs": in_jobs})


def _class(visit: Visit, done: str) -> Done:
    return Done(f"classes/{quote(visit.name, safe='')}", done)


async def set_class_quota(visit: Visit) -> Done:
    wanted = forms.quota(visit.form, visit.time_zone, klass=visit.name)
    must(await visit.broker.add_quota(visit.actor, wanted, key=visit.key))
    return _class(visit, "quota-set")


async def remove_class_quota(visit: Visit) -> Done:
    must(await visit.broker.remove_quota(visit.actor, int(visit.path["number"])))
    return _class(visit, "quota-removed")


async def start_promotion(visit: Visit) -> Done:
    wanted = forms.promotion(visit.form, visit.time_zone, visit.name)
    must(await visit.broker.add_promotion(visit.actor, wanted, key=visit.key))
    return _class(visit, "promotion-started")


async def stop_promotion(visit: Visit) -> Done:
    must(await visit.broker.end_promotion(visit.actor, int(visit.path["number"]), key=visit.key))
    return _class(visit, "promotion-ended")


async def stop_class_job(visit: Visit) -> Done:
    must(await visit.broker.cancel_job(visit.actor, visit.path["id"], key=visit.key))
    return _class(visit, "job-stopping")


async def admin_page(visit: Visit) -> Page:
    """Price book, GPUs and holders, limits, audit."""
    broker, actor = visit.broker, visit.actor
    return Page(
        "admin.html",
        {
            "prices": must(await broker.prices(actor)),
            "inventory": must(await broker.inventory(actor)),
            "quotas": must(await broker.quotas(actor)),
            "audit": must(await broker.audit(actor, AUDIT_SHOWN)),
        },
    )


async def set_list_price(visit: Visit) -> Done:
    must(await visit.broker.set_price(visit.actor, forms.price(visit.form), key=visit.key))
    return Done("admin", "price-set")


async def give_credit(visit: Visit) -> Done:
    must(await visit.broker.grant(visit.actor, forms.grant(visit.form), key=visit.key))
    return Done("admin", "credit-given")


async def set_any_quota(visit: Visit) -> Done:
    must(await visit.broker.add_quota(visit.actor, forms.quota(visit.form, visit.time_zone), key=visit.key))
    return Done("admin", "quota-set")


async def remove_any_quota(visit: Visit) -> Done:
    must(await visit.broker.remove_quota(visit.actor, int(visit.path["number"])))
    return Done("admin", "quota-removed")


STYLESHEET = (files("fastgpu_hub.service") / "static" / "fastgpu.css").read_bytes()


async def stylesheet(_visit: Visit) -> bytes:
    """The one static file."""
    return STYLESHEET


View = Callable[[Visit], Awaitable[Page | Done | bytes]]

VIEWS: dict[str, View] = {
    view.__name__: view
    for view in (
        *(
            home_page,
            cancel_own_job,
            receipt_page,
            find_class,
            class_page,
            set_class_quota,
            remove_class_quota,
            start_promotion,
        ),
        *(stop_promotion, stop_class_job, admin_page, set_list_price, give_credit, set_any_quota, remove_any_quota),
        stylesheet,
    )
}

# A refused form comes back on the page it is on.
PAGE_OF_FORM: dict[str, View] = {
    "cancel_own_job": home_page,
    **dict.fromkeys(
        ("set_class_quota", "remove_class_quota", "start_promotion", "stop_promotion", "stop_class_job"), class_page
    ),
    **dict.fromkeys(("set_list_price", "give_credit", "set_any_quota", "remove_any_quota"), admin_page),
}
