"""Why a request waits."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.scheduling.parts import Pause, in_parts, no_pause
from fastgpu_hub.scheduling.policies import Want
from fastgpu_hub.scheduling.serving import exceeded, seats_kept
from fastgpu_hub.scheduling.state import Reservation, State

Limit = tuple[str, int, int]  # of the first limit that is reached: its key, GPUs held, limit


@dataclass(frozen=True, slots=True)
class Facts:
    """What is the same for all that wait for a GPU type."""

    policy: str
    usable: int
    free: int
    seats: int
    kept: Reservation | None
    interrupted: int


@dataclass(frozen=True, slots=True)
class Waits:
    """A request that waits: its place, how many of those before it could start, and what of its own is in its way."""

    want: Want
    place: int
    ahead: int
    facts: Facts
    declined: Explained | None
    over: Limit | None
    possible: bool
    seats_short: bool


class Reasons(Mapping[str, Explained]):
    """Why each request waits, by id; put into words when it is asked for, for there may be very many."""

    def __init__(self, waits: Mapping[str, Waits]) -> None:
        self._waits = waits

    def __getitem__(self, want_id: str) -> Explained:
        return reason(self._waits[want_id])

    def __iter__(self) -> Iterator[str]:
        return iter(self._waits)

    def __len__(self) -> int:
        return len(self._waits)


def waits(state: State, gpu_type: str, ordered: Sequence[Want], pause: Pause = no_pause) -> dict[str, Waits]:
    """What is to be told of each of the waiting requests of a type, given in order."""
    pool = state.inventory.pools.get(gpu_type)
    facts = _facts(state, gpu_type)
    found: dict[str, Waits] = {}
    alike: dict[Hashable, tuple[Limit | None, bool, bool]] = {}
    ahead = 0
    for place, want in enumerate(in_parts(ordered, pause), 1):
        key = want.limits, want.gpu_count, want.kind
        known = alike.get(key)
        if known is None:
            possible = pool is not None and state.could_ever(pool, want)
            seats_short = pool is not None and seats_kept(state, pool, want)
            known = alike[key] = exceeded(state, want), possible, seats_short
        over, possible, seats_short = known
        declined = state.declined.get(want.id)
        found[want.id] = Waits(want, place, ahead, facts, declined, over, possible, seats_short)
        if declined is None and over is None and possible:
            ahead += 1
    return found


def _facts(state: State, gpu_type: str) -> Facts:
    line = state.lines.get(gpu_type)
    kept = line.reservation if line is not None else None
    interrupted = sum(1 for wanted_by in state.preempting.values() if kept and wanted_by == kept.want_id)
    return Facts(state.policy.name, *state.inventory.count(gpu_type), state.seats.get(gpu_type, 0), kept, interrupted)


def reason(waits: Waits) -> Explained:
    """Why one waits: money or quota, a limit, GPUs that are not there, seats, its turn, or capacity."""
    if waits.declined is not None:
        return waits.declined
    if waits.over is not None:
        return _limited(waits.want, *waits.over)
    want, facts = waits.want, waits.facts
    numbers: dict[str, int | str] = {
        "place": waits.place,
        "ahead": waits.ahead,
        "free": facts.free,
        "usable": facts.usable,
        "wanted": want.gpu_count,
        "gpu_type": want.gpu_type,
        "policy": facts.policy,
    }
    what = f"{want.gpu_count} x {want.gpu_type}"
    if waits.seats_short:
        never = "" if waits.possible else " So it cannot start."
        return Explained(
            "seats",
            f"Waiting for {what}: {facts.free} of {facts.usable} free, and {facts.seats} are kept for notebook "
            f"servers.{never}",
            numbers | {"seats": facts.seats},
            instead="" if waits.possible else "Ask for fewer GPUs.",
        )
    if not waits.possible:
        return Explained(
            "capacity",
            f"Waiting for {what}: with the {facts.usable} that can be used now it cannot start, though all were free.",
            numbers,
            instead="Ask for fewer GPUs, or wait until more can be used.",
        )
    if waits.ahead:
        return Explained(
            "turn",
            f"Waiting for its turn: place {waits.place} in the queue for {want.gpu_type}, {waits.ahead} "
            f"{'request is' if waits.ahead == 1 else 'requests are'} ahead.",
            numbers,
        )
    if facts.kept is not None and facts.kept.want_id == want.id:
        return _kept_for(want, facts.kept, facts.interrupted)
    return Explained("capacity", f"Waiting for {what}: {facts.free} of {facts.usable} free. Next in line.", numbers)


def _limited(want: Want, key: str, held: int, limit: int) -> Explained:
    if want.gpu_count > limit:
        instead = f"Ask for at most {limit}." if limit else "Have the limit raised; until then nothing can start."
    else:
        instead = "It has its turn when enough of them have ended; stop some to have it sooner."
    return Explained(
        "quota_concurrent_gpus",
        f"Waiting for a quota: {held} of {limit} GPUs that may run at once are in use, this one asks for "
        f"{want.gpu_count}.",
        {"held": held, "limit": limit, "wanted": want.gpu_count, "quota": key},
        instead=instead,
    )


def _kept_for(want: Want, kept: Reservation, interrupted: int) -> Explained:
    if interrupted:
        return Explained(
            "preempting",
            f"Making room for {want.gpu_count} x {want.gpu_type}: {interrupted} spot "
            f"{'job is' if interrupted == 1 else 'jobs are'} being interrupted.",
            {"interrupted": interrupted, "gpu_type": want.gpu_type, "wanted": want.gpu_count},
        )
    return Explained(
        "reserved",
        f"Next in line: {want.gpu_count} x {want.gpu_type} are being kept for it as they come free.",
        {"wanted": want.gpu_count, "gpu_type": want.gpu_type},
        frees_at_ms=round(kept.from_ms),
    )
