"""A class for its teachers: members, credit, limits, promotions, jobs, requests."""

from __future__ import annotations

from collections import Counter

from fastgpu.models import JobState
from fastgpu_hub.service.pages import forms
from fastgpu_hub.service.pages.mine import answered
from fastgpu_hub.service.pages.outlook import runs_out_at
from fastgpu_hub.service.pages.visit import Done, Page, Visit, must, segment

JOBS_SHOWN = 200


async def find_class(visit: Visit) -> Done:
    """To a class by its name."""
    return Done(f"classes/{segment(visit.form.get('name', ''))}", "")


async def class_page(visit: Visit) -> Page:
    """A class for its teachers: credit, members, limits, promotions, jobs."""
    broker, actor, name = visit.broker, visit.actor, visit.name
    report = must(await broker.class_report(actor, name))
    jobs = must(await broker.jobs(actor, True, JOBS_SHOWN, None, f"class:{name}"))
    in_jobs: Counter[str] = Counter()
    for job in jobs:
        if job.state is not JobState.queued:
            in_jobs[job.owner] += job.gpu_count
    managed = must(await broker.managed_promotions(actor))
    return Page(
        "class.html",
        {
            "report": report,
            "members": sorted(report.members, key=lambda member: -member.gpus),
            "jobs": jobs,
            "in_jobs": in_jobs,
            "runs_out": runs_out_at(report.grants, report.week_micros, visit.now),
            "ended": [p for p in managed if p.state == "ended" and f"class:{name}" in p.audience],
        },
    )


def _class(visit: Visit, done: str) -> Done:
    return Done(f"classes/{segment(visit.name)}", done)


async def set_class_quota(visit: Visit) -> Done:
    """Limit the class or each of its members."""
    wanted = forms.quota(visit.form, visit.time_zone, klass=visit.name)
    must(await visit.broker.add_quota(visit.actor, wanted, key=visit.key))
    return _class(visit, "quota-set")


async def remove_class_quota(visit: Visit) -> Done:
    """Lift a limit of the class."""
    must(await visit.broker.remove_quota(visit.actor, visit.number))
    return _class(visit, "quota-removed")


async def give_member_credit(visit: Visit) -> Done:
    """Give of the class's credit to a member."""
    wanted = forms.grant(visit.form, visit.time_zone, klass=visit.name)
    must(await visit.broker.grant(visit.actor, wanted, key=visit.key))
    return _class(visit, "member-credit-given")


async def answer_class_ask(visit: Visit) -> Done:
    """Answer a member's request."""
    return _class(visit, await answered(visit))


async def stop_class_job(visit: Visit) -> Done:
    """Stop a member's job."""
    must(await visit.broker.cancel_job(visit.actor, visit.path["id"], key=visit.key))
    return _class(visit, "job-stopping")
