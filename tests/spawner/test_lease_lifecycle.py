"""A server's lease: asked for, waited for, used, and given back on every way a server can end."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timezone

import pytest

from fastgpu.errors import Conflict, NotFound, QuotaError, Unavailable
from fastgpu.models import Explanation
from fastgpu_hub.spawner import leasing
from fastgpu_hub.spawner.readiness import ServerExited
from fastgpu_hub.spawner.refusal import GpuRefused
from fastgpu_hub.spawner.waiting import within

EXHAUSTED = Explanation(
    code="quota_spend",
    message="class cs101: 9.50 of 10.00 credits are used this week, 1.00 more does not fit",
    numbers={"left_micros": 500_000},
    instead="Ask for half an hour",
)


@pytest.mark.parametrize("options", [{}, {"gpu_type": ""}, {"gpu_type": [""], "gpu_count": ["1"]}])
async def test_a_server_without_gpu_never_needs_the_service(make_spawner, service, options):
    spawner = make_spawner(options)
    await spawner.start()
    assert service.calls == []
    assert spawner.environment_seen["CUDA_VISIBLE_DEVICES"] == ""
    assert "FASTGPU_LEASE_ID" not in spawner.environment_seen
    assert spawner.environment_seen["FASTGPU_URL"] == spawner.fastgpu_server_url
    await spawner.stop()
    assert service.calls == []


async def test_a_granted_lease_reaches_the_server_and_is_billed_only_once_it_answers(make_spawner, service):
    spawner = make_spawner({"gpu_type": "h100-80gb", "gpu_count": 2, "account": "class:cs101"})
    service.lease_started, reported = _after(service.lease_started, spawner.events, "reported")
    await spawner.start()
    assert spawner.environment_seen["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert spawner.environment_seen["FASTGPU_LEASE_ID"] == "lease-1"
    assert spawner.events == ["answered", "reported"]
    assert spawner.get_state()["fastgpu_lease_id"] == "lease-1"
    request = service.calls[0][2]
    assert (request.gpu_type, request.gpu_count, request.account) == ("h100-80gb", 2, "class:cs101")
    assert reported


def _after(method, events, name):
    done = []

    async def wrapped(*args, **kwargs):
        events.append(name)
        done.append(name)
        return await method(*args, **kwargs)

    return wrapped, done


async def test_the_configured_environment_cannot_hand_out_gpus(make_spawner):
    spawner = make_spawner({}, environment={"CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    await spawner.start()
    assert spawner.environment_seen["CUDA_VISIBLE_DEVICES"] == ""


async def test_a_refusal_tells_the_numbers_and_what_to_do_instead(make_spawner, service, make_lease):
    service.answers = [QuotaError("no", explanation=EXHAUSTED)]
    spawner = make_spawner()
    with pytest.raises(GpuRefused) as refusal:
        await spawner.start()
    assert refusal.value.reason == "quota_spend"
    assert refusal.value.status_code == 403
    assert refusal.value.jupyterhub_message == (
        "class cs101: 9.50 of 10.00 credits are used this week, 1.00 more does not fit. Ask for half an hour."
    )
    assert spawner.environment_seen == {}, "nothing was started"


async def test_a_lease_refused_while_it_waits_ends_the_start(make_spawner, service, make_lease, waiting, settle):
    service.answers = [waiting(1), make_lease("refused", explanation=EXHAUSTED)]
    with pytest.raises(GpuRefused, match="does not fit"):
        await make_spawner().start()
    await settle()
    assert service.released() == ["lease-1"]


async def test_hostile_text_in_a_refusal_is_escaped(make_spawner, service):
    service.answers = [QuotaError("no", explanation=Explanation(code="x", message="<script>alert(1)</script>"))]
    with pytest.raises(GpuRefused) as refusal:
        await make_spawner().start()
    assert "<script>" not in refusal.value.message_html
    assert "&lt;script&gt;" in refusal.value.jupyterhub_html_message


async def test_options_posted_by_the_api_are_checked_again(make_spawner, service):
    with pytest.raises(GpuRefused, match="gpu_count 'many' is not possible; write a whole number") as refusal:
        await make_spawner({"gpu_type": "h100-80gb", "gpu_count": "many"}).start()
    assert refusal.value.status_code == 422
    assert service.calls == []


async def test_every_attempt_has_its_own_idempotency_key(make_spawner, service):
    for _ in range(2):
        await make_spawner().start()
    keys = [call[3] for call in service.calls if call[0] == "request"]
    assert len(set(keys)) == 2
    assert all(keys)


async def test_progress_tells_place_and_reason_as_they_change(make_spawner, service, make_lease, waiting):
    noon = datetime(2026, 12, 1, 12, 0, tzinfo=timezone.utc)
    next_in_line = waiting(1, "<b>Bob</b> ends soon.").model_copy(update={"eta_start": noon})
    service.answers = [waiting(3), waiting(3), next_in_line, make_lease()]
    spawner = make_spawner()
    start = asyncio.ensure_future(spawner.start())
    await asyncio.sleep(0)
    events = [event async for event in spawner.progress()]
    await start
    messages = [event["message"] for event in events]
    assert messages == [
        "Asking for 1 × h100-80gb",
        "Place 3 in the queue for 1 × h100-80gb. All 4 GPUs are in use.",
        "Place 1 in the queue for 1 × h100-80gb. <b>Bob</b> ends soon. Will probably start Tue 1 Dec 2026, 12:00 UTC.",
        "Got 1 × h100-80gb. Starting the server.",
        "Spawning server...",
    ]
    assert "&lt;b&gt;Bob&lt;/b&gt;" in events[2]["html_message"]
    assert [event["progress"] for event in events] == sorted(event["progress"] for event in events)


async def test_a_queue_that_takes_too_long_is_left_with_a_clear_message(make_spawner, service, waiting, settle):
    service.answers = [waiting(7)]
    with pytest.raises(GpuRefused, match=r"No 1 × h100-80gb came free within 0 s\. It was at place 7") as refusal:
        await make_spawner(queue_timeout=0).start()
    assert refusal.value.reason == "queue_timeout"
    await settle()
    assert service.released() == ["lease-1"]


async def test_the_queue_ends_before_the_hubs_own_limit(make_spawner, service, waiting, settle):
    service.answers = [waiting(7)]
    with pytest.raises(GpuRefused, match="came free within"):
        await make_spawner(queue_timeout=600, start_timeout=60, start_margin=60).start()


async def test_a_start_cancelled_in_the_queue_leaves_it(make_spawner, service, waiting, settle):
    service.answers = [waiting(2)]
    spawner = make_spawner()
    start = asyncio.ensure_future(spawner.start())
    await asyncio.sleep(0.05)
    assert await spawner.poll() is None, "a pending start counts as running"
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await settle()
    assert service.released() == ["lease-1"]
    assert spawner.lease_id == ""


async def test_a_cancellation_that_comes_with_an_answer_is_not_lost():
    answered = asyncio.get_running_loop().create_future()
    waiting = asyncio.ensure_future(within(5, answered))
    await asyncio.sleep(0)
    answered.set_result("granted")
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_a_request_cut_off_is_withdrawn_with_the_same_key(make_spawner, service, settle):
    service.hang = True
    start = asyncio.ensure_future(make_spawner().start())
    await asyncio.sleep(0.02)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    await settle()
    assert service.names() == ["request", "request", "release"]
    assert service.calls[0][3] == service.calls[1][3]


async def test_a_service_away_is_a_clear_refusal_and_nothing_stays_held(make_spawner, service, make_lease, settle):
    service.answers = [Unavailable("FastGPU does not answer", hint="Try again in a minute."), make_lease()]
    with pytest.raises(GpuRefused, match=r"FastGPU does not answer Try again") as refusal:
        await make_spawner().start()
    assert refusal.value.status_code == 503
    await settle()
    assert service.released() == ["lease-1"]


async def test_a_lost_connection_in_the_queue_keeps_the_place(make_spawner, service, make_lease, waiting):
    service.answers = [waiting(1), Unavailable("gone for a moment"), make_lease()]
    await make_spawner(queue_timeout=30).start()
    assert service.released() == []


async def test_a_server_that_cannot_be_started_gives_its_gpus_back(make_spawner, service, settle):
    spawner = make_spawner()
    spawner.fails = OSError("no such image")
    with pytest.raises(OSError, match="no such image"):
        await spawner.start()
    await settle()
    assert service.released() == ["lease-1"]
    assert "started" not in service.names()


async def test_a_server_that_exits_before_it_answers_gives_its_gpus_back(make_spawner, service, settle):
    spawner = make_spawner()
    spawner.exit_status = 3
    with pytest.raises(ServerExited, match="status 3"):
        await spawner.start()
    await settle()
    assert service.released() == ["lease-1"]


async def test_a_start_that_times_out_is_stopped_and_then_released(make_spawner, service, settle, monkeypatch):
    spawner = make_spawner()
    monkeypatch.setattr("fastgpu_hub.spawner.mixin.wait_ready", lambda *_: asyncio.sleep(60))
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(spawner.start(), timeout=0.1)
    await settle()
    assert spawner.events == ["stopped"]
    assert service.released() == ["lease-1"]


async def test_a_stop_releases_after_the_server_is_gone(make_spawner, service):
    spawner = make_spawner()
    await spawner.start()
    service.release_lease, _ = _after(service.release_lease, spawner.events, "released")
    await spawner.stop()
    assert spawner.events == ["answered", "stopped", "released"]
    assert service.released() == ["lease-1"]


async def test_an_exit_seen_by_the_hub_releases_once(make_spawner, service, settle):
    spawner = make_spawner()
    await spawner.start()
    spawner.exit_status = 137
    assert await spawner.poll() == 137
    await settle()
    assert await spawner.poll() == 137
    await spawner.stop()
    await settle()
    assert service.released() == ["lease-1"]


async def test_a_lost_connection_is_never_taken_for_stopped(make_spawner, service, settle):
    spawner = make_spawner()
    await spawner.start()
    spawner.lost = True
    with pytest.raises(ConnectionError):
        await spawner.poll()
    await settle()
    assert service.released() == []


async def test_gpus_of_a_server_that_will_not_die_are_not_given_on(make_spawner, service, settle):
    spawner = make_spawner()
    await spawner.start()
    spawner.stoppable = False
    await spawner.stop()
    await settle()
    assert service.released() == []
    spawner.stoppable = True
    await spawner.stop()
    assert service.released() == ["lease-1"]


async def test_a_release_the_service_misses_is_repeated_and_survives_the_hub(
    make_spawner, service, settle, monkeypatch
):
    monkeypatch.setattr(leasing, "RETRY_SECONDS", (0.2,))
    service.release_answers = [Unavailable("restarting")] * 3
    spawner = make_spawner(release_timeout=0.05)
    await spawner.start()
    await spawner.stop()
    spawner.clear_state()
    assert spawner.get_state()["fastgpu_unreleased"] == ["lease-1"]
    resumed = make_spawner()
    resumed.load_state(spawner.get_state())
    await settle()
    assert "fastgpu_unreleased" not in spawner.get_state()
    assert "fastgpu_unreleased" not in resumed.get_state()


async def test_a_stop_does_not_wait_for_a_service_that_is_away(make_spawner, service, settle, monkeypatch):
    """As when the hub ends: it has stopped its services before it stops the servers."""
    monkeypatch.setattr(leasing, "RETRY_SECONDS", (0.3,))
    spawner = make_spawner(release_timeout=60)
    await spawner.start()
    service.release_answers = [Unavailable("no connection")]
    began = time.monotonic()
    await spawner.stop()
    assert time.monotonic() - began < 0.25
    assert spawner.events[-1] == "stopped"
    assert spawner.get_state()["fastgpu_unreleased"] == ["lease-1"]
    await settle()
    assert service.released() == ["lease-1", "lease-1"]
    assert "fastgpu_unreleased" not in spawner.get_state()


async def test_a_stop_waits_for_a_service_that_is_there_but_slow(make_spawner, service):
    spawner = make_spawner()
    await spawner.start()
    taken = service.release_lease

    async def slow(lease_id):
        await asyncio.sleep(0.1)
        return await taken(lease_id)

    service.release_lease = slow
    await spawner.stop()
    assert service.released() == ["lease-1"]


async def test_a_lease_the_service_no_longer_knows_needs_no_release(make_spawner, service, settle):
    service.release_answers = [NotFound("no such lease")]
    spawner = make_spawner()
    await spawner.start()
    await spawner.stop()
    await settle()
    assert service.released() == ["lease-1"]
    assert "fastgpu_unreleased" not in spawner.get_state()


async def test_a_start_the_service_does_not_hear_of_is_reported_later(make_spawner, service, settle):
    service.started_answers = [Unavailable("restarting")] * 2
    spawner = make_spawner()
    await spawner.start()
    await settle()
    assert service.names().count("started") == 3
    assert spawner.exit_status is None, "the server runs on"


async def test_a_lease_lost_before_the_server_was_up_stops_it(make_spawner, service, settle):
    service.started_answers = [Conflict("the lease was released by an administrator")]
    spawner = make_spawner()
    with pytest.raises(GpuRefused, match="released by an administrator"):
        await spawner.start()
    await settle()
    assert "stopped" in spawner.events
    assert service.released() == ["lease-1"]
