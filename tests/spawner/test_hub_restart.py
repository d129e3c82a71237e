"""What the next hub makes of a server whose hub died: a whole one goes on, a half one is ended, nothing forgotten."""

from __future__ import annotations

import asyncio

from fastgpu.errors import Unavailable
from fastgpu_hub.spawner import leasing


async def test_a_restarted_hub_resumes_the_lease(make_spawner, service, settle):
    first = make_spawner()
    await first.start()
    second = make_spawner()
    second.load_state(first.get_state())
    second.exit_status = None
    assert await second.poll() is None
    assert service.released() == []
    await second.stop()
    assert service.released() == ["lease-1"]


async def test_what_a_hub_was_starting_when_it_died_is_ended_by_the_next_one(make_spawner, service, settle):
    first = make_spawner()
    take, states = service.lease_started, []

    async def look(*arguments, **named):
        states.append(first.get_state())
        return await take(*arguments, **named)

    service.lease_started = look
    await first.start()
    second = make_spawner()
    second.load_state(states[0])
    second.exit_status = None
    assert await second.poll() is not None
    assert second.events == ["stopped"]
    await settle()
    assert service.released() == ["lease-1"]
    assert "fastgpu_in_between" not in second.get_state()


async def test_what_a_hub_was_stopping_when_it_died_is_ended_by_the_next_one(make_spawner, service, settle):
    first = make_spawner()
    await first.start()
    first.stoppable = False
    stopping = asyncio.ensure_future(first.stop())
    await asyncio.sleep(0)
    state = first.get_state()
    await stopping
    second = make_spawner()
    second.load_state(state)
    second.exit_status, second.stoppable = None, False
    assert await second.poll() is None, "it does not die at once, and is asked for again"
    second.stoppable = True
    assert await second.poll() is not None
    await settle()
    assert service.released() == ["lease-1"]


async def test_a_start_the_hub_could_not_report_before_it_died_is_reported_by_the_next_one(
    make_spawner, service, settle, monkeypatch
):
    monkeypatch.setattr(leasing, "RETRY_SECONDS", (0.2,))
    service.started_answers = [Unavailable("restarting")] * 3
    first = make_spawner()
    await first.start()
    state = first.get_state()
    second = make_spawner()
    second.load_state(state)
    await settle()
    assert service.names().count("started") == 5
    assert "fastgpu_unreported" not in second.get_state()
