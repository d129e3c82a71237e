"""The scheduler: ``handle(state, event) -> state, instructions``. State changes nowhere else.

Each GPU type has a line of its own. Requests that nothing distinguishes form lots; of each lot only the first is in a
heap, and there is a heap per GPU count: so one decision looks at a few heaps, however many wait, and at the buckets of
free devices, however many GPUs there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from fastgpu_hub.scheduling import gates
from fastgpu_hub.scheduling.changes import hold, join, leave, line_of, lot_limits, release, restand_all
from fastgpu_hub.scheduling.events import (
    Arrived,
    Declined,
    Discovered,
    Event,
    Fenced,
    Foretold,
    Gone,
    Grant,
    Instruction,
    LimitsChanged,
    Preempt,
    Progressed,
    Reconsider,
    Remembered,
    Resumed,
    Unfenced,
    Vanished,
    Weighed,
)
from fastgpu_hub.scheduling.serving import at_once, exceeded, serve, serve_all
from fastgpu_hub.scheduling.state import State

__all__ = [
    "Arrived",
    "Declined",
    "Discovered",
    "Event",
    "Fenced",
    "Foretold",
    "Gone",
    "Grant",
    "Instruction",
    "LimitsChanged",
    "Preempt",
    "Progressed",
    "Reconsider",
    "Remembered",
    "Resumed",
    "State",
    "Unfenced",
    "Vanished",
    "Weighed",
    "exceeded",
    "handle",
]


def handle(state: State, event: Event) -> tuple[State, tuple[Instruction, ...]]:
    """Apply one event and say what follows from it.

    Requests are served per GPU type in the order of the policy's score; one that waits for a limit or for money is
    passed over. Raises ValueError on events that contradict the state (a device given twice, a request that arrives
    twice).
    """
    if type(event) is not Foretold:  # of which nobody is told anything
        state.version += 1
    return state, tuple(_HANDLERS[type(event)](state, event))


def _discovered(state: State, event: Discovered) -> list[Instruction]:
    state.inventory.discover(event.devices)
    for line in state.lines.values():
        line.reservation = None
    return serve_all(state, state.lines.values(), event.at_ms)


def _vanished(state: State, event: Vanished) -> list[Instruction]:
    state.inventory.add_vanished(event.device)
    return []


def _fenced(state: State, event: Fenced) -> list[Instruction]:
    state.inventory.fence(event.uuid, event.reason)
    device = state.inventory.devices.get(event.uuid)
    line = state.lines.get(device.gpu_type) if device else None
    if line is None:
        return []
    line.reservation = None
    return serve(state, line, event.at_ms)  # nobody waits behind one that can never start now


def _unfenced(state: State, event: Unfenced) -> list[Instruction]:
    state.inventory.unfence(event.uuid)
    device = state.inventory.devices.get(event.uuid)
    line = state.lines.get(device.gpu_type) if device else None
    return serve(state, line, event.at_ms) if line else []


def _arrived(state: State, event: Arrived) -> list[Instruction]:
    want, now_ms = event.want, event.at_ms
    want_id = want.id
    if want_id in state.lot_of or want_id in state.holding or want_id in state.set_aside:
        raise ValueError(f"{want.id} is already known")
    batch = state.predictor.batch_of(want, now_ms)
    if want.expected_ms is None:
        state.told[want.id] = state.predictor.told(batch, now_ms)
    state.arrivals += 1
    line = line_of(state, want.gpu_type)
    if not line.size and (grant := at_once(state, line, want, batch, now_ms)) is not None:
        return [grant]
    join(state, line, want, batch, state.arrivals, now_ms)
    return serve(state, line, now_ms)


def _resumed(state: State, event: Resumed) -> list[Instruction]:
    want = event.want
    state.inventory.take(event.uuids, want.id)
    if want.id in state.holding:
        return []
    left = leave(state, want.id)
    state.declined.pop(want.id, None)
    batch = state.predictor.batch_of(want, event.since_ms)
    line = line_of(state, want.gpu_type)
    line.reservation = None
    state.arrivals += 1
    hold(state, want, batch, state.arrivals, event.since_ms, state.likely_ms(want, batch, event.since_ms))
    return serve(state, line, event.at_ms) if left else []


def _progressed(state: State, event: Progressed) -> list[Instruction]:
    running = state.holding.get(event.id)
    if running is not None and 0.0 < event.fraction <= 1.0:
        ran_ms = event.at_ms - running.since_ms
        running.ends_ms = event.at_ms + ran_ms * (1.0 - event.fraction) / event.fraction
    return []


def _gone(state: State, event: Gone) -> list[Instruction]:
    want_id, now_ms = event.id, event.at_ms
    running = state.holding.get(want_id)
    if running is None:
        for table in (state.declined, state.told, state.foretold):
            table.pop(want_id, None)
        left = leave(state, want_id)
        line = state.lines.get(left[0].gpu_type) if left else None
        return serve(state, line, now_ms) if line else []
    ran_ms = max(0, now_ms - running.since_ms)
    if event.ran:
        state.predictor.ended(running.batch, want_id, ran_ms, running.told)
    else:
        running.batch.running.pop(want_id, None)
    return serve_all(state, release(state, running, ran_ms, now_ms), now_ms)


def _declined(state: State, event: Declined) -> list[Instruction]:
    running = state.holding.get(event.id)
    if running is None:
        return []
    running.batch.running.pop(event.id, None)
    lines = release(state, running, 0.0, event.at_ms)
    state.set_aside[event.id] = running.want, running.batch, running.number
    state.declined[event.id] = event.reason
    if running.told is not None:
        state.told[event.id] = running.told
    return serve_all(state, lines, event.at_ms)


def _reconsider(state: State, event: Reconsider) -> list[Instruction]:
    state.declined.clear()
    lines = {}
    for want, batch, number in list(state.set_aside.values()):
        del state.set_aside[want.id]
        line = lines[want.gpu_type] = state.lines[want.gpu_type]
        join(state, line, want, batch, number, event.at_ms)
    return serve_all(state, lines.values(), event.at_ms)


def _limits_changed(state: State, event: LimitsChanged) -> list[Instruction]:
    for want_id, limits in event.limits.items():
        running = state.holding.get(want_id)
        if running is not None:
            running.want = replace(running.want, limits=limits)
        elif want_id in state.set_aside:
            want, batch, number = state.set_aside[want_id]
            state.set_aside[want_id] = replace(want, limits=limits), batch, number
        elif want_id in state.lot_of and lot_limits(state.lot_of[want_id]) != limits:
            left = leave(state, want_id)
            if left is not None:
                want, batch, number = left
                line = state.lines[want.gpu_type]
                join(state, line, replace(want, limits=limits), batch, number, event.at_ms)
    state.held_per_key.clear()
    for running in state.holding.values():
        for key, _ in running.want.limits:
            state.held_per_key[key] += running.want.gpu_count
    gates.pull_down(state, event.at_ms)
    return serve_all(state, state.lines.values(), event.at_ms)


def _weighed(state: State, event: Weighed) -> list[Instruction]:
    state.weights = dict(event.weights)
    for line in state.lines.values():
        restand_all(state, line, event.at_ms)
    return []


def _remembered(state: State, event: Remembered) -> list[Instruction]:
    for want, requested_ms, ran_ms in event.runs:
        state.predictor.remember(want, requested_ms, ran_ms)
    return []


def _foretold(state: State, event: Foretold) -> list[Instruction]:
    if event.id in state.lot_of:
        state.foretold.setdefault(event.id, (event.at_ms, event.wait_ms))
    return []


_HANDLERS: dict[type, Callable[[State, Any], list[Instruction]]] = {
    Discovered: _discovered,
    Fenced: _fenced,
    Foretold: _foretold,
    Unfenced: _unfenced,
    Vanished: _vanished,
    Arrived: _arrived,
    Resumed: _resumed,
    Progressed: _progressed,
    Remembered: _remembered,
    Gone: _gone,
    Declined: _declined,
    Reconsider: _reconsider,
    LimitsChanged: _limits_changed,
    Weighed: _weighed,
}
