"""Requests that wait for a limit stand behind its gate, so that they cost nothing while others are served.

One is let out when the limit has room, and another when that one was started or passed over or stands worse now: as if
all of them stood in the queue, for they are let out in the order in which they are to be served.
"""

from __future__ import annotations

from fastgpu_hub.scheduling.state import Gate, Line, Lot, State


def shut(state: State, line: Line, lot: Lot, key: str, limit: int, now_ms: int) -> None:
    """Put a lot, whose first request waits for a limit, behind the gate of that limit."""
    gates = state.blocked.setdefault(key, {})
    which = line.gpu_type, lot.lane, limit
    gate = gates.get(which)
    if gate is None:
        gate = gates[which] = Gate(key, which, line)
    before, lot.gate = lot.gate, gate
    if before is not None:
        before.out.pop(lot, None)
    state.push(line, lot, state.score(lot.wants[0], lot.batch, now_ms))
    if before is not None and before is not gate:
        state.let_out(before, now_ms)
        tear_down(state, before)


def opened(state: State, key: str, now_ms: int) -> list[Line]:
    """A limit may have room: where nobody is out already, one is let out; returns the lines of those."""
    lines = []
    for gate in list(state.blocked.get(key, {}).values()):
        if not gate.out:
            state.let_out(gate, now_ms)
            lines.append(gate.line)
    return lines


def retired(state: State, lot: Lot, now_ms: int) -> None:
    """A lot waits no more: if it was the one that is out, the next one is let out."""
    gate, lot.gate = lot.gate, None
    if gate is not None:
        gate.out.pop(lot, None)
        if not gate.out:
            state.let_out(gate, now_ms)
        tear_down(state, gate)


def pull_down(state: State, now_ms: int) -> None:
    """All limits are others now: everybody back into the queue."""
    state.blocked.clear()
    for line in state.lines.values():
        for lot in line.lots.values():
            if lot.gate is not None:
                lot.gate = None
                state.push(line, lot, state.score(lot.wants[0], lot.batch, now_ms))


def tear_down(state: State, gate: Gate) -> None:
    """Forget a gate behind which nobody is any more."""
    gates = state.blocked.get(gate.key, {})
    if not gate.out and not any(entry[3].entry == entry[2] for entry in gate.heap) and gates.get(gate.which) is gate:
        del gates[gate.which]
        if not gates:
            del state.blocked[gate.key]
