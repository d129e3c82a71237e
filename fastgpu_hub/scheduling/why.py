"""Why a request waits, and what would start it sooner."""

from __future__ import annotations

from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.scheduling.placement import fits
from fastgpu_hub.scheduling.policies import Want
from fastgpu_hub.scheduling.serving import exceeded, seats_kept
from fastgpu_hub.scheduling.state import State


def reasons(state: State, gpu_type: str, ordered: list[Want]) -> dict[str, Explained]:
    """Why each of the waiting requests of a type waits, given in order: money or quota, a limit, turn, capacity."""
    found: dict[str, Explained] = {}
    ahead = 0
    usable, free = state.inventory.count(gpu_type)
    for place, want in enumerate(ordered, 1):
        limited = state.declined.get(want.id) or _limited(state, want)
        found[want.id] = limited or _in_line(state, want, place, ahead, usable, free)
        if limited is None:
            ahead += 1
    return found


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


def _in_line(state: State, want: Want, place: int, ahead: int, usable: int, free: int) -> Explained:
    numbers: dict[str, int | str] = {
        "place": place,
        "ahead": ahead,
        "free": free,
        "usable": usable,
        "wanted": want.gpu_count,
        "gpu_type": want.gpu_type,
        "policy": state.policy.name,
    }
    pool = state.inventory.pools.get(want.gpu_type)
    if pool is not None and seats_kept(state, pool, want):
        seats = numbers["seats"] = state.seats[want.gpu_type]
        return Explained(
            "seats",
            f"Waiting for {want.gpu_count} x {want.gpu_type}: {free} of {usable} free, and {seats} are kept for "
            "notebook servers.",
            numbers,
        )
    if ahead:
        return Explained(
            "turn",
            f"Waiting for its turn: place {place} in the queue for {want.gpu_type}, {ahead} "
            f"{'request is' if ahead == 1 else 'requests are'} ahead.",
            numbers,
        )
    kept = _kept_for(state, want)
    if kept is not None:
        return kept
    return Explained(
        "capacity",
        f"Waiting for {want.gpu_count} x {want.gpu_type}: {free} of {usable} free. Next in line.",
        numbers,
    )


def _kept_for(state: State, want: Want) -> Explained | None:
    line = state.lines.get(want.gpu_type)
    kept = line.reservation if line is not None else None
    if kept is None or kept.want_id != want.id:
        return None
    going = sum(1 for wanted_by in state.preempting.values() if wanted_by == want.id)
    if going:
        return Explained(
            "preempting",
            f"Making room for {want.gpu_count} x {want.gpu_type}: {going} spot "
            f"{'job is' if going == 1 else 'jobs are'} being interrupted.",
            {"interrupted": going, "gpu_type": want.gpu_type, "wanted": want.gpu_count},
        )
    return Explained(
        "reserved",
        f"Next in line: {want.gpu_count} x {want.gpu_type} are being kept for it as they come free.",
        {"wanted": want.gpu_count, "gpu_type": want.gpu_type},
        frees_at_ms=round(kept.from_ms),
    )


def sooner(state: State, want: Want, now_ms: int) -> tuple[Explained, ...]:
    """What would start a waiting request sooner, each with its numbers: other counts, types, lengths; its own jobs.

    ``frees_at_ms`` is when it would start that way, as far as can be said.
    """
    over = exceeded(state, want)
    if over is not None:
        return _within_limit(state, want, *over, now_ms)
    pool = state.inventory.pools.get(want.gpu_type)
    found: list[Explained] = []
    if pool is not None and want.gpu_count > 1:
        fewer = next((count for count in range(want.gpu_count - 1, 0, -1) if fits(pool, count)), 0)
        if fewer:
            found.append(
                Explained(
                    "fewer_gpus",
                    f"With {fewer} instead of {want.gpu_count} GPUs it would fit now.",
                    {"gpu_count": fewer, "gpu_type": want.gpu_type},
                    frees_at_ms=now_ms,
                )
            )
    for gpu_type, other in state.inventory.pools.items():
        if gpu_type != want.gpu_type and fits(other, want.gpu_count):
            found.append(
                Explained(
                    "other_gpu_type",
                    f"{want.gpu_count} x {gpu_type} would fit now: {other.free} of {other.usable} are free.",
                    {"gpu_type": gpu_type, "free": other.free, "usable": other.usable},
                    frees_at_ms=now_ms,
                )
            )
    line = state.lines.get(want.gpu_type)
    kept = line.reservation if line is not None else None
    if kept is not None and kept.want_id != want.id and pool is not None and fits(pool, want.gpu_count):
        gap_minutes = int(max(0.0, kept.from_ms - now_ms) // 60_000)
        if gap_minutes:
            found.append(
                Explained(
                    "shorter",
                    f"With a time limit of at most {gap_minutes} min it would fit in before GPUs that are kept for "
                    "another are needed.",
                    {"minutes": gap_minutes},
                    frees_at_ms=now_ms,
                )
            )
    return tuple(found)


def _within_limit(state: State, want: Want, key: str, held: int, limit: int, now_ms: int) -> tuple[Explained, ...]:
    found = []
    room = limit - held
    if 0 < room < want.gpu_count:
        found.append(
            Explained(
                "fewer_gpus",
                f"With {room} instead of {want.gpu_count} GPUs it would be within the limit now.",
                {"gpu_count": room, "limit": limit, "held": held},
                frees_at_ms=now_ms,
            )
        )
    ends = sorted(
        (state.ends_ms(running, now_ms), running.want.id, running.want.gpu_count)
        for running in state.holding.values()
        if any(name == key for name, _ in running.want.limits)
    )
    for at_ms, who, count in ends:
        room += count
        if room >= want.gpu_count:
            found.append(
                Explained(
                    "ends",
                    f"The limit has room for it when {who} ends.",
                    {"id": who, "limit": limit, "held": held},
                    frees_at_ms=round(at_ms),
                )
            )
            break
    return tuple(found)
