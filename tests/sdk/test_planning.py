"""When a job is to run: what a person writes becomes what is sent, in the service's time zone, asked for once."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest

from fastgpu import start_views
from fastgpu.aio import AsyncGPUClient
from fastgpu.client import GPUClient
from fastgpu.deadlines import Timing, timing_of
from fastgpu.errors import InvalidRequest
from fastgpu.models import StartPlan
from fastgpu.view import Bar, Lens
from tests.sdk.fake_answers import NOW, START_PLAN
from tests.sdk.fake_service import URL, FakeService

LENS = Lens(NOW, timezone.utc)
LATER = datetime(2030, 1, 31, 17, 0, tzinfo=timezone.utc)


def test_a_job_says_when_it_starts_and_by_when_it_ends(client: GPUClient, service: FakeService) -> None:
    for number, (options, sent) in enumerate(
        [
            ({}, ("now", None, None)),
            ({"start": "cheapest"}, ("cheapest", None, None)),
            ({"start": "cheapest", "by": "2030-01-31 18:00"}, ("cheapest", None, "2030-01-31T18:00:00+01:00")),
            ({"start": "2030-01-31 18:00", "by": LATER}, ("now", "2030-01-31T18:00:00+01:00", "2030-01-31T17:00:00Z")),
        ]
    ):
        client.submit(["true"], "h100-80gb", **options)  # type: ignore[arg-type]
        body = service.submissions[number]
        assert (body["start"], body["start_at"], body["by"]) == sent
    assert len(service.sent("GET", "api/me")) == 1


async def test_the_async_client_says_the_same(service: FakeService) -> None:
    async with AsyncGPUClient(URL, "secret-token", transport=service.transport) as client:
        await client.submit(["true"], "h100-80gb", start="cheapest", by="2030-01-31 18:00")
        plan = await client.when("h100-80gb", 2, "2h", by=LATER, max_cost="2.50")
    assert service.submissions[0]["by"] == "2030-01-31T18:00:00+01:00"
    sent = json.loads(service.sent("POST", "api/start-plans")[0].content)
    assert (sent["gpu_count"], sent["duration_seconds"], sent["max_cost_micros"]) == (2, 7200, 2_500_000)
    assert plan.chosen is not None
    assert plan.chosen.saving_micros == 640_000


@pytest.mark.parametrize("wrong", ["yesterday 8:00", "2020-01-31 18:00", datetime(2030, 1, 31, 18, 0)])
def test_a_wrong_deadline_is_refused_before_anything_is_sent(
    client: GPUClient, service: FakeService, wrong: str | datetime
) -> None:
    for ask in (
        lambda: client.submit(["true"], "h100-80gb", by=wrong),
        lambda: client.submit(["true"], "h100-80gb", start=wrong),
        lambda: client.when("h100-80gb", by=wrong),
    ):
        with pytest.raises(InvalidRequest):
            ask()
    assert [call.url.path for call in service.calls if not call.url.path.endswith("api/me")] == []


def test_now_is_not_a_deadline() -> None:
    assert timing_of("now", LATER, NOW, timezone.utc) == Timing("now", None, LATER)
    with pytest.raises(InvalidRequest, match="cannot read 'now'"):
        timing_of("cheapest", "now", NOW, timezone.utc)


def test_a_plan_shows_the_cost_of_each_start_as_a_bar_in_the_services_time_zone() -> None:
    view = start_views.start_plan(StartPlan.model_validate(START_PLAN), LENS)
    rows = view.tables[0].rows
    assert rows[0][0] == "today 18:20 CET (now)"
    assert rows[1][0] == "→ today 20:00 CET"
    assert [bar.fraction for row in rows if isinstance(bar := row[2], Bar)] == [1.0, 0.6, 0.5]
    assert rows[2][5] == "Over the limit of the day. Changes tomorrow 18:00 CET."
    assert dict(view.facts)["ends by"] == "Sat 22 Nov 2025, 14:00 CET"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "Cheapest: today 20:00 CET, 40 % less, 0.96 credits (“Night"),
        ({"options": [{**START_PLAN["options"][0], "chosen": True}]}, "Cheapest: now."),
        ({"options": START_PLAN["options"][:1]}, "No start that ends by Sat 22 Nov 2025, 14:00 CET"),
    ],
)
def test_the_best_start_is_said_in_a_line(changes: dict[str, object], says: str) -> None:
    assert start_views.cheapest(StartPlan.model_validate({**START_PLAN, **changes}), LENS).startswith(says)
