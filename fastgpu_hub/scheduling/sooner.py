"""What would start a waiting request sooner: asked for that way, it would start at once.

By what GPUs are kept for others as the queue was last looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.scheduling.inventory import Pool
from fastgpu_hub.scheduling.placement import place
from fastgpu_hub.scheduling.policies import Want
from fastgpu_hub.scheduling.serving import exceeded, seats_kept
from fastgpu_hub.scheduling.state import State

Limits = tuple[tuple[str, int], ...]
MINUTE_MS = 60_000


def sooner(
    state: State, want: Want, now_ms: int, limits_by_type: Mapping[str, Limits] = MappingProxyType({})
) -> tuple[Explained, ...]:
    """Other counts, types and lengths with which a waiting request would start now if it were asked for that way, and
    which of what runs has to end if it waits for a limit.

    ``limits_by_type`` has the other GPU types that it could be asked for with, and the limits that hold there.
    """
    look = _Look(state, want, now_ms)
    found = [*look.fewer(), *look.other_types(limits_by_type), *look.shorter()]
    if (over := exceeded(state, want)) is not None:
        found += look.ends(*over)
    return tuple(found)


class _Look:
    def __init__(self, state: State, want: Want, now_ms: int) -> None:
        self.state, self.want, self.now_ms = state, want, now_ms

    def fewer(self) -> list[Explained]:
        """The most GPUs with which it would start now."""
        want = self.want
        if self._overtaken(want.gpu_type):
            return []
        for count in range(want.gpu_count - 1, 0, -1):
            if self._starts(replace(want, gpu_count=count)):
                return [
                    Explained(
                        "fewer_gpus",
                        f"With {count} instead of {want.gpu_count} GPUs it would start now.",
                        {"gpu_count": count, "gpu_type": want.gpu_type},
                        frees_at_ms=self.now_ms,
                    )
                ]
        return []

    def other_types(self, limits_by_type: Mapping[str, Limits]) -> list[Explained]:
        """GPU types of which it would have as many now."""
        want, found = self.want, []
        for gpu_type, pool in self.state.inventory.pools.items():
            if gpu_type == want.gpu_type or self._overtaken(gpu_type):
                continue
            limits = limits_by_type.get(gpu_type)
            if limits is not None and self._starts(replace(want, gpu_type=gpu_type, limits=limits)):
                found.append(
                    Explained(
                        "other_gpu_type",
                        f"With {want.gpu_count} x {gpu_type} it would start now: {pool.free} of {pool.usable} free.",
                        {"gpu_type": gpu_type, "free": pool.free, "usable": pool.usable},
                        frees_at_ms=self.now_ms,
                    )
                )
        return found

    def shorter(self) -> list[Explained]:
        """The time limit with which it would be over before GPUs that are kept for another are needed."""
        want, state, now_ms = self.want, self.state, self.now_ms
        line = state.lines.get(want.gpu_type)
        kept = line.reservation if line is not None else None
        if kept is None or kept.want_id == want.id or self._overtaken(want.gpu_type):
            return []
        minutes = int(max(0.0, min(kept.from_ms - now_ms, 1e12)) // MINUTE_MS)
        lasts_ms = minutes * MINUTE_MS
        if not minutes or (want.duration_ms is not None and lasts_ms >= want.duration_ms):
            return []
        if not self._starts(replace(want, duration_ms=lasts_ms)):
            return []
        return [
            Explained(
                "shorter",
                f"With a time limit of at most {minutes} min it would start now: it would be over before GPUs that are "
                "kept for another are needed.",
                {"minutes": minutes},
                frees_at_ms=now_ms,
            )
        ]

    def ends(self, key: str, held: int, limit: int) -> list[Explained]:
        """What has to end for the limit to have room."""
        want, room = self.want, limit - held
        ends = sorted(
            (self.state.ends_ms(running, self.now_ms), running.want.id, running.want.gpu_count)
            for running in self.state.holding.values()
            if any(name == key for name, _ in running.want.limits)
        )
        for before, (at_ms, who, count) in enumerate(ends):
            room += count
            if room >= want.gpu_count:
                others = f" and {before} that probably end{'s' if before == 1 else ''} before it" if before else ""
                return [
                    Explained(
                        "ends",
                        f"The limit has room for it when {who}{others} {'have' if before else 'has'} ended.",
                        {"id": who, "limit": limit, "held": held, "before": before},
                        frees_at_ms=round(at_ms),
                    )
                ]
        return []

    def _overtaken(self, gpu_type: str) -> bool:
        """Whether others who wait would come first, were it asked for anew.

        That is so where nobody goes ahead, where it is itself what others are held back for, and where somebody's
        patience has ended since the queue was looked at.
        """
        line = self.state.lines.get(gpu_type)
        if line is None:
            return False
        kept = line.reservation
        if kept is None and (self.now_ms >= line.review_ms or (line.overdue and line.overdue[0][0] < self.now_ms)):
            return True
        if self.state.policy.backfill == "easy" and (kept is None or kept.want_id != self.want.id):
            return False
        pool = self.state.inventory.pools.get(gpu_type)
        return pool is not None and any(
            lot.wants[-1].id != self.want.id or len(lot.wants) > 1
            for lot in line.lots.values()
            if exceeded(self.state, lot.wants[0]) is None and self.state.could_ever(pool, lot.wants[0])
        )

    def _starts(self, want: Want) -> bool:
        """Whether a request that is asked for now starts now, those waiting being as they are."""
        state = self.state
        pool = state.inventory.pools.get(want.gpu_type)
        if pool is None or exceeded(state, want) is not None:
            return False
        if want.kind == "server" and want.gpu_count <= state.seats_left(want.gpu_type):
            return place(pool, want.gpu_count) is not None
        if seats_kept(state, pool, want):
            return False
        return self._fits_beside(pool, want)

    def _fits_beside(self, pool: Pool, want: Want) -> bool:
        line = self.state.lines.get(want.gpu_type)
        kept = line.reservation if line is not None else None
        ends_ms = float("inf") if want.duration_ms is None else self.now_ms + want.duration_ms
        if kept is None or kept.want_id == self.want.id or (ends_ms <= kept.from_ms and not kept.made_room):
            return place(pool, want.gpu_count) is not None
        if want.kind == "job" and pool.free - want.gpu_count < kept.leave:
            return False
        wide = want.gpu_count > pool.widest
        avoid = {node for node, spare in kept.spare.items() if wide or spare < want.gpu_count}
        return place(pool, want.gpu_count, avoid=avoid) is not None
