"""When credit will have run out if it is spent as lately. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from fastgpu.models import Grant

WEEK = timedelta(days=7)
FARTHEST = timedelta(days=730)


def runs_out_at(grants: Iterable[Grant], week_micros: int, now: datetime) -> datetime | None:
    """When nothing is left of the grants at a week's spending, some of it expiring meanwhile; None: not within 2 years.

    Grants burn by priority, then expiry, then age, as in the ledger.
    """
    if week_micros <= 0:
        return None
    waiting = sorted(
        (grant for grant in grants if grant.left_micros > 0 and (grant.expires_at is None or grant.expires_at > now)),
        key=lambda grant: (grant.priority, grant.expires_at is None, grant.expires_at or now, grant.granted_at),
    )
    left = {grant.id: grant.left_micros for grant in waiting}
    at = now
    while at < now + FARTHEST:
        valid = [g for g in waiting if left[g.id] > 0 and (g.expires_at is None or g.expires_at > at)]
        if not valid:
            return at
        first = valid[0]
        empty_at = at + _time_for(left[first.id], week_micros)
        if first.expires_at is not None and first.expires_at < empty_at:
            at, left[first.id] = first.expires_at, 0
        else:
            at, left[first.id] = empty_at, 0
    return None


def _time_for(micros: int, week_micros: int) -> timedelta:
    weeks, rest = divmod(micros, week_micros)
    return min(weeks, 10_000) * WEEK + WEEK * rest // week_micros
