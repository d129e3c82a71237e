"""The scheduler: ``handle(state, event) -> state, instructions``. State changes nowhere else."""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.scheduling.inventory import Device, Inventory
from fastgpu_hub.scheduling.placement import place
from fastgpu_hub.scheduling.policies import Want, fifo


# ---------------------------------------------------------------- events
@dataclass(frozen=True, slots=True)
class Discovered:
    """The devices there are now (all of them)."""

    devices: tuple[Device, ...]


@dataclass(frozen=True, slots=True)
class Fenced:
    """A device must not be given out: lost, or its last holder is not known gone."""

    uuid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Unfenced:
    """A fenced device is well again."""

    uuid: str


@dataclass(frozen=True, slots=True)
class Arrived:
    """A request joins the queue."""

    want: Want


@dataclass(frozen=True, slots=True)
class Resumed:
    """A request that already holds devices (known from before a restart)."""

    want: Want
    uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gone:
    """A request is over: cancelled while waiting, or its last process is known gone. Its devices are free."""

    id: str


@dataclass(frozen=True, slots=True)
class Declined:
    """A grant could not be carried out (money, quota). The request waits, skipped, until reconsidered."""

    id: str
    reason: Explained


@dataclass(frozen=True, slots=True)
class Reconsider:
    """Something outside changed (credit, quota window, price): try the declined ones again."""


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """New concurrent-GPU limits of requests, by request id; those of requests not named stay."""

    limits: dict[str, tuple[tuple[str, int], ...]]


Event = Discovered | Fenced | Unfenced | Arrived | Resumed | Gone | Declined | Reconsider | LimitsChanged


@dataclass(frozen=True, slots=True)
class Grant:
    """Instruction: give these devices to this request. The devices are taken already."""

    id: str
    uuids: tuple[str, ...]


# ---------------------------------------------------------------- state
@dataclass(slots=True)
class State:
    """Inventory, queue (in policy order), requests that hold devices, GPUs held per limit key, declined requests."""

    inventory: Inventory = field(default_factory=Inventory)
    queue: list[Want] = field(default_factory=list)
    holding: dict[str, Want] = field(default_factory=dict)
    held_per_key: Counter[str] = field(default_factory=Counter)
    declined: dict[str, Explained] = field(default_factory=dict)

    def waiting(self, want_id: str) -> Want | None:
        """The waiting request of this id, or None."""
        return next((want for want in self.queue if want.id == want_id), None)


def handle(state: State, event: Event) -> tuple[State, tuple[Grant, ...]]:
    """Apply one event and say what follows from it.

    Requests are served in policy order per GPU type. One that waits for capacity holds back those behind it of the same
    type (nobody overtakes, nobody starves); one that waits for a limit or for money is passed over.
    Raises ValueError on events that contradict the state (a device given twice, a request that arrives twice).
    """
    match event:
        case Discovered(devices):
            state.inventory.discover(devices)
        case Fenced(uuid, reason):
            if uuid in state.inventory.devices:
                state.inventory.fenced[uuid] = reason
            return state, ()
        case Unfenced(uuid):
            state.inventory.fenced.pop(uuid, None)
        case Arrived(want):
            if want.id in state.holding or state.waiting(want.id):
                raise ValueError(f"{want.id} is already known")
            bisect.insort(state.queue, want, key=fifo)
        case Resumed(want, uuids):
            state.inventory.take(uuids, want.id)
            _hold(state, want)
        case Gone(want_id):
            _forget(state, want_id)
        case Declined(want_id, reason):
            returned = _release(state, want_id)
            if returned is not None:
                bisect.insort(state.queue, returned, key=fifo)
                state.declined[want_id] = reason
        case Reconsider():
            state.declined.clear()
        case LimitsChanged(limits):
            _apply_limits(state, limits)
    return state, _dispatch(state)


def _hold(state: State, want: Want) -> None:
    state.holding[want.id] = want
    for key, _ in want.limits:
        state.held_per_key[key] += want.gpu_count


def _release(state: State, want_id: str) -> Want | None:
    want = state.holding.pop(want_id, None)
    if want is not None:
        state.inventory.give_back(want_id)
        for key, _ in want.limits:
            state.held_per_key[key] -= want.gpu_count
            if not state.held_per_key[key]:
                del state.held_per_key[key]
    return want


def _forget(state: State, want_id: str) -> None:
    if _release(state, want_id) is None:
        state.queue = [want for want in state.queue if want.id != want_id]
    state.declined.pop(want_id, None)


def _apply_limits(state: State, limits: dict[str, tuple[tuple[str, int], ...]]) -> None:
    def renewed(want: Want) -> Want:
        return replace(want, limits=limits.get(want.id, want.limits))

    state.queue = [renewed(want) for want in state.queue]
    state.holding = {want_id: renewed(want) for want_id, want in state.holding.items()}
    state.held_per_key = Counter()
    for want in state.holding.values():
        for key, _ in want.limits:
            state.held_per_key[key] += want.gpu_count


def exceeded(state: State, want: Want) -> tuple[str, int, int] | None:
    """The first limit that would be exceeded by granting now, as (key, held, limit); None when all have room."""
    for key, limit in want.limits:
        held = state.held_per_key[key]
        if held + want.gpu_count > limit:
            return key, held, limit
    return None


def _dispatch(state: State) -> tuple[Grant, ...]:
    grants: list[Grant] = []
    blocked_types: set[str] = set()
    left: list[Want] = []
    for want in state.queue:
        if want.gpu_type not in blocked_types and want.id not in state.declined and exceeded(state, want) is None:
            uuids = place(state.inventory.free(want.gpu_type), want.gpu_count)
            if uuids is not None:
                state.inventory.take(uuids, want.id)
                _hold(state, want)
                grants.append(Grant(want.id, uuids))
                continue
            blocked_types.add(want.gpu_type)
        left.append(want)
    state.queue = left
    return tuple(grants)


def snapshot(state: State) -> State:
    """A copy that later events do not change, for readers on other threads."""
    devices = state.inventory
    return State(
        Inventory(dict(devices.devices), dict(devices.holder), dict(devices.fenced)),
        list(state.queue),
        dict(state.holding),
        Counter(state.held_per_key),
        dict(state.declined),
    )


def queue_places(state: State) -> dict[str, int]:
    """Place of each waiting request among those of its GPU type, from 1."""
    places: dict[str, int] = {}
    seen: Counter[str] = Counter()
    for want in state.queue:
        seen[want.gpu_type] += 1
        places[want.id] = seen[want.gpu_type]
    return places


def passed_over(state: State, want: Want) -> bool:
    """True when a waiting request waits for money or a limit, so that those behind it are served first."""
    return want.id in state.declined or exceeded(state, want) is not None


def why_waiting(state: State, want_ids: Collection[str]) -> dict[str, Explained]:
    """Why requests wait: money or quota (as declined), a limit, their turn, or capacity; those that wait, by id.

    One pass over the queue, however many are asked about.
    """
    asked = set(want_ids)
    place: Counter[str] = Counter()
    ahead: Counter[str] = Counter()
    counts: dict[str, tuple[int, int]] = {}
    reasons: dict[str, Explained] = {}
    for want in state.queue:
        kind = want.gpu_type
        place[kind] += 1
        limited = state.declined.get(want.id) or _limited(state, want)
        if want.id in asked:
            if kind not in counts:
                counts[kind] = state.inventory.count(kind)
            reasons[want.id] = limited or _in_line(want, place[kind], ahead[kind], *counts[kind])
        if limited is None:
            ahead[kind] += 1
    return reasons


def _limited(state: State, want: Want) -> Explained | None:
    over = exceeded(state, want)
    if over is None:
        return None
    key, held, limit = over
    if want.gpu_count > limit:
        instead = f"Ask for at most {limit}." if limit else "Have the limit raised; until then nothing can start."
    else:
        instead = "It starts by itself when one of them ends; stop one to start it sooner."
    return Explained(
        "quota_concurrent_gpus",
        f"Waiting for a quota: {held} of {limit} GPUs that may run at once are in use, this one asks for "
        f"{want.gpu_count}.",
        {"held": held, "limit": limit, "wanted": want.gpu_count, "quota": key},
        instead=instead,
    )


def _in_line(want: Want, place: int, ahead: int, usable: int, free: int) -> Explained:
    numbers: dict[str, int | str] = {
        "place": place,
        "ahead": ahead,
        "free": free,
        "usable": usable,
        "wanted": want.gpu_count,
        "gpu_type": want.gpu_type,
    }
    if ahead:
        return Explained(
            "turn",
            f"Waiting for its turn: place {place} in the queue for {want.gpu_type}, {ahead} "
            f"{'request is' if ahead == 1 else 'requests are'} ahead.",
            numbers,
        )
    return Explained(
        "capacity",
        f"Waiting for {want.gpu_count} x {want.gpu_type}: {free} of {usable} free. Next in line.",
        numbers,
    )
