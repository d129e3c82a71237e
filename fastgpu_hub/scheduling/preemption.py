"""Making room: spot requests, which are cheaper, are interrupted when another does not fit otherwise."""

from __future__ import annotations

from fastgpu_hub.scheduling.events import Preempt
from fastgpu_hub.scheduling.inventory import Node, Pool
from fastgpu_hub.scheduling.policies import Want
from fastgpu_hub.scheduling.state import Line, Reservation, State


def reserve(state: State, line: Line, pool: Pool, want: Want, now_ms: int) -> tuple[Reservation, list[Preempt]] | None:
    """Nodes where a request fits once spot requests there are gone, kept for it, and which of them have to go.

    Chosen is where the least work is lost. None when even that makes no room. Who is stopping is not told again.
    """
    known = line.reservation
    asked = [victim for victim, wanted_by in state.preempting.items() if wanted_by == want.id]
    if asked and known is not None and known.want_id == want.id:
        return known, []
    need = min(want.gpu_count, pool.widest)
    options = []
    for number, node in enumerate(pool.nodes.values()):
        if node.usable < need or not need:
            continue
        victims = _victims(state, line, node, need, now_ms)
        if victims is not None:
            lost = sum((now_ms - state.holding[who].since_ms) * state.holding[who].want.gpu_count for who in victims)
            options.append((lost, number, node, victims))
    options.sort(key=lambda each: each[:2])
    nodes = pool.nodes_for(want.gpu_count)
    if len(options) < nodes or not need:
        return None
    chosen = options[:nodes]
    going = {who: None for *_, whom in chosen for who in whom}
    line.reservation = Reservation(
        want.id,
        float(now_ms),
        {node: _left_over(state, node, whom, need) for _, _, node, whom in chosen},
        made_room=True,
    )
    orders = []
    for who in going:
        if who not in state.preempting:
            state.preempting[who] = want.id
            orders.append(Preempt(who, want.id))
    return line.reservation, orders


def _victims(state: State, line: Line, node: Node, need: int, now_ms: int) -> list[str] | None:
    """The spot requests of a node that have to go, the youngest first; None when that would not be enough."""
    free = len(node.free)
    chosen = []
    spot = sorted((who for who in node.held if who in line.spot), key=lambda who: -state.holding[who].since_ms)
    for who in spot:
        if free >= need:
            break
        chosen.append(who)
        free += node.held[who]
    return chosen if free >= need else None


def _left_over(state: State, node: Node, victims: list[str], need: int) -> int:
    return max(0, len(node.free) + sum(node.held[who] for who in victims) - need)
