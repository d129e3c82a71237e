"""When should this run? Over HTTP: the plan, a submission that follows it, what pages tell of it, hostile input."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from fastgpu import models as m


def later(hours: float) -> datetime:
    return datetime.now(timezone.utc) + timedelta(hours=hours)


async def cheaper_soon(service: Any) -> None:
    """From in three hours on, for two hours, GPUs cost a tenth."""
    wish = {
        "name": "Soon <i>",
        "percent_off": 90,
        "starts_at": later(3).isoformat(),
        "ends_at": later(5).isoformat(),
    }
    assert (await service.call("t-root", "POST", "api/promotions", json=wish)).status_code == 201


async def test_a_plan_is_followed_by_a_job_submitted_for_the_cheapest_start(service: Any) -> None:
    await cheaper_soon(service)
    body = {"gpu_type": "h100-80gb", "duration_seconds": 3600, "by": later(10).isoformat()}
    answer = await service.call("t-alice", "POST", "api/start-plans", json=body)
    assert answer.status_code == 200
    plan = m.StartPlan.model_validate(answer.json())
    assert plan.chosen is not None
    assert (plan.options[0].cost_micros, plan.chosen.cost_micros, plan.chosen.saving_micros) == (
        250_000,
        50_000,
        200_000,
    )
    assert "“Soon <i>”" in plan.chosen.why
    job = m.Job.model_validate(
        await service.submit(start="cheapest", by=body["by"], time_limit_seconds=3600, name="later")
    )
    assert job.explanation is not None
    assert (job.state, job.explanation.code, job.held_micros) == (m.JobState.queued, "deferred", 50_000)
    assert job.eta_start == plan.chosen.starts_at
    for token, path in (("t-alice", ""), ("t-tina", "classes/cs101")):
        page = (await service.call(token, "GET", path)).text
        assert "planned start" in page
        assert f"{job.eta_start:%H:%M} UTC" in page
        assert "Deferred to" not in page
        assert "<i>" not in page


HOSTILE: tuple[tuple[dict[str, Any], int, str], ...] = (
    ({"by": "2020-01-01T00:00:00Z"}, 422, "deadline"),
    ({"by": "9999-12-31T23:59:59-23:59"}, 422, "invalid_request"),
    ({"by": "2090-01-01T00:00:00Z"}, 422, "invalid_request"),
    ({"by": "tomorrow"}, 422, "invalid_request"),
    ({"duration_seconds": 0}, 422, "invalid_request"),
    ({"max_cost_micros": -1}, 422, "invalid_request"),
    ({"gpu_type": "h200"}, 403, "unknown_gpu_type"),
    ({"gpu_count": 1024}, 403, "capacity_never"),
    ({"account": "class:bio7"}, 403, "not_allowed"),
    ({"promo_code": "GUESS"}, 403, "promo_code_wrong"),
)


async def test_what_cannot_be_planned_is_refused_clearly(service: Any) -> None:
    for changes, status, code in HOSTILE:
        body = {"gpu_type": "h100-80gb", **changes}
        answer = await service.call("t-alice", "POST", "api/start-plans", json=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code), (changes, answer.text)


async def test_a_cap_below_every_start_chooses_none_and_says_what_the_cheapest_costs(service: Any) -> None:
    body = {"gpu_type": "h100-80gb", "max_cost_micros": 1}
    plan = m.StartPlan.model_validate((await service.call("t-alice", "POST", "api/start-plans", json=body)).json())
    assert plan.chosen is None
    assert plan.explanation.code == "max_cost"
    refused = await service.call(
        "t-alice", "POST", "api/jobs", json={"kind": "command", "argv": ["true"], "start": "cheapest", **body}
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "max_cost")
