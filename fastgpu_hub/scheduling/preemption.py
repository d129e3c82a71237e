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
    going = {who for who in line.spot if who in state.preempting}
    options = []
    for number, node in enumerate(pool.nodes.values()):
        if node.usable < need or not need:
            continue
        victims = _victims(state, line, node, need, now_ms)
        if victims is not None:
            lost = sum(_lost(state, who, now_ms) for who in victims if who not in going)
            options.append((lost, number, node, victims))
    kept = state.seats_left(want.gpu_type) if want.kind == "job" else 0
    options.sort(key=lambda each: each[:2])
    nodes = pool.nodes_for(want.gpu_count)
    if len(options) < nodes or not need:
        return None
    chosen = options[:nodes]
    victims = list(dict.fromkeys(who for *_, whom in chosen for who in whom))
    free = pool.free + sum(state.holding[who].want.gpu_count for who in {*victims, *going})
    for who in sorted(line.spot, key=lambda who: -state.holding[who].since_ms):
        if free - want.gpu_count >= kept:
            break
        if who not in victims and who not in going:
            victims.append(who)
            free += state.holding[who].want.gpu_count
    if free - want.gpu_count < kept:
        return None
    line.reservation = Reservation(
        want.id,
        float(now_ms),
        {node: _left_over(state, node, whom, need) for _, _, node, whom in chosen},
        made_room=True,
    )
    orders = [Preempt(who, want.id) for who in victims if who not in state.preempting]
    state.preempting |= dict.fromkeys(victims, want.id)
    return line.reservation, orders


def _lost(state: State, who: str, now_ms: int) -> int:
    running = state.holding[who]
    return (now_ms - running.since_ms) * running.want.gpu_count


def _victims(state: State, line: Line, node: Node, need: int, now_ms: int) -> list[str] | None:
    """The spot requests of a node that have to go; None when that would not be enough.

    First those that have to go anyway, then the youngest.
    """
    free = len(node.free)
    chosen = []
    spot = sorted(
        (who for who in node.held if who in line.spot),
        key=lambda who: (who not in state.preempting, -state.holding[who].since_ms),
    )
    for who in spot:
        if free >= need:
            break
        chosen.append(who)
        free += node.held[who]
    return chosen if free >= need else None


def _left_over(state: State, node: Node, victims: list[str], need: int) -> int:
    return max(0, len(node.free) + sum(node.held[who] for who in victims) - need)
