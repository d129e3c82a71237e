"""Limits: what is used, reserved and left of each, what comes back when, and whether a wish fits.

Amounts are in the metric's own unit: GPUs, GPU-seconds, micro-units of money. GPU time is summed in milliseconds and
rounded to seconds once, so that what is admitted never exceeds a limit, not even by a part of a second.

A rolling window counts the last ``rolling_ms`` at every instant. What it gives back while a request runs is not counted
on: a request fits when it fits beside everything that counts at its beginning. So what was admitted stays within the
limit at every instant, whatever is admitted later.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

from fastgpu_hub.pricing import calendars, quota_words, rolling, windows
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.money import MAX_MICROS
from fastgpu_hub.pricing.promotions import Customer
from fastgpu_hub.pricing.quota_words import ARTIFACT_BYTES as ARTIFACT_BYTES
from fastgpu_hub.pricing.quota_words import CONCURRENT_GPUS as CONCURRENT_GPUS
from fastgpu_hub.pricing.quota_words import CREDIT_SHARE as CREDIT_SHARE
from fastgpu_hub.pricing.quota_words import GPU_SECONDS as GPU_SECONDS
from fastgpu_hub.pricing.quota_words import SPEND_MICROS as SPEND_MICROS
from fastgpu_hub.pricing.quota_words import label as label

if TYPE_CHECKING:
    from fastgpu_hub.pricing.metering import Line

MAX_LIMIT = MAX_MICROS
MAX_ROLLING_MS = 366 * windows.MS_PER_DAY

_CODES = {
    CONCURRENT_GPUS: "quota_concurrent_gpus",
    GPU_SECONDS: "quota_gpu_hours",
    SPEND_MICROS: "quota_spend",
    CREDIT_SHARE: "quota_credit_share",
    ARTIFACT_BYTES: "quota_artifact_bytes",
}
_SCOPES = ("site", "class", "member", "person")
_CALENDAR = ("day", "week", "month")
_WINDOWS = (*_CALENDAR, "term", "rolling", "always")


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit on one metric.

    ``scope``: ``site`` (everyone together), ``class`` (all that is charged to the class ``name``), ``member`` (each
    person's part of that), ``person`` (``name``, whoever pays). ``metric``: ``concurrent_gpus`` (GPUs),
    ``gpu_seconds``, ``spend_micros``, ``artifact_bytes`` (of kept files), or ``credit_share_percent``: a member's holds
    are at most so many percent of what is left of the class's credit and they hold themselves. ``window``: ``day``,
    ``week`` (from Monday), ``month`` (calendar, in ``time_zone``), ``term`` (counts what starts in ``[starts_ms,
    ends_ms)``, does not apply outside),
    ``rolling`` (the last ``rolling_ms``, at most 366 days) or ``always``. A ``soft`` limit warns and refuses nothing.

    Raises ValueError for any other word, a limit that is no whole number from 0 to 10**15, a share outside 1-100, an
    unknown time zone, a scope without the name it needs, and instants or a length that the window lacks or has no use
    for. GPUs at once and shares are not summed over time, so they have no rolling window.
    """

    id: int
    scope: str
    name: str
    metric: str
    limit: int
    window: str = "always"
    gpu_type: str | None = None
    time_zone: str = "UTC"
    soft: bool = False
    starts_ms: int | None = None
    ends_ms: int | None = None
    rolling_ms: int | None = None

    def __post_init__(self) -> None:
        if self.scope not in _SCOPES or self.metric not in _CODES or self.window not in _WINDOWS:
            raise ValueError(f"no such limit: scope {self.scope!r}, metric {self.metric!r}, window {self.window!r}")
        _whole("a limit", self.limit, 0, MAX_LIMIT)
        if self.scope != "site" and not self.name:
            raise ValueError(f"a limit of scope {self.scope} needs the name of the class or person")
        windows.zone(self.time_zone)
        if self.metric == CREDIT_SHARE:
            _check_share(self)
        if self.metric == ARTIFACT_BYTES and (self.gpu_type is not None or self.window not in ("always", "term")):
            raise ValueError("a limit on kept files is for no GPU type, and not per window: they stay until they go")
        _check_window(self)


def _whole(what: str, value: object, least: int, most: int) -> None:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(f"{what} is a whole number from {least} to {most}, not {str(value)[:40]}")


def _check_share(quota: Quota) -> None:
    if quota.scope != "member" or quota.gpu_type is not None or quota.window not in ("always", "term"):
        raise ValueError(
            "a limit on the share of a class's credit is for its members and all GPU types, not per window"
        )
    _whole("the limit of a share of credit, in percent,", quota.limit, 1, 100)


def _check_window(quota: Quota) -> None:
    if quota.window == "term":
        _whole("the beginning of a limit's term", quota.starts_ms, 0, windows.LATEST_MS)
        _whole("the end of a limit's term", quota.ends_ms, (quota.starts_ms or 0) + 1, windows.LATEST_MS)
    elif quota.starts_ms is not None or quota.ends_ms is not None:
        raise ValueError(f"a limit with the window {quota.window!r} has no beginning or end; a term has")
    if quota.window == "rolling":
        _whole("the length of a limit's rolling window, in milliseconds,", quota.rolling_ms, 1, MAX_ROLLING_MS)
        if quota.metric not in (GPU_SECONDS, SPEND_MICROS):
            raise ValueError(f"a limit on {quota.metric} is not summed over time, so its window cannot be rolling")
    elif quota.rolling_ms is not None:
        raise ValueError(f"a limit with the window {quota.window!r} has no length; a rolling one has")


@dataclass(frozen=True, slots=True)
class Extra:
    """More of a limit, granted on request: ``amount`` in the metric's unit, in ``[from_ms, until_ms)``.

    An empty ``owner`` means everyone whom the limit limits, ``until_ms`` None for good. Raises ValueError for an amount
    outside 1 to 10**15 and instants that are reversed or outside the years 1970 to 8999.
    """

    id: int
    quota_id: int
    owner: str
    amount: int
    from_ms: int
    until_ms: int | None = None

    def __post_init__(self) -> None:
        _whole("what is granted beyond a limit", self.amount, 1, MAX_LIMIT)
        _whole("the beginning of more of a limit", self.from_ms, 0, windows.LATEST_MS)
        if self.until_ms is not None:
            _whole("the end of more of a limit", self.until_ms, self.from_ms + 1, windows.LATEST_MS)


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose charges and holds to add up: every field that is set must match."""

    account: str | None = None
    owner: str | None = None
    gpu_type: str | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """Money and GPU time of charges or of open hold lines."""

    amount_micros: int = 0
    gpu_ms: int = 0


@dataclass(frozen=True, slots=True)
class QuotaState:
    """How a limit stands for its subject, in the metric's unit (a share of credit: in micro-units).

    ``resets_ms`` is when its window ends, None when it does not. ``comes_back`` are at most five steps
    ``(at_ms, amount)``, ascending: so much of ``used`` has come back by then. ``credit_micros`` is what a share is a
    share of: what is left of the class's credit and what the member holds.
    """

    quota: Quota
    used: int
    reserved: int
    resets_ms: int | None = None
    comes_back: tuple[tuple[int, int], ...] = ()
    credit_micros: int = 0

    @property
    def limit(self) -> int:
        """The limit in the unit of ``used``: of a share, its part of the credit, rounded down."""
        if self.quota.metric == CREDIT_SHARE:
            return max(0, self.credit_micros) * self.quota.limit // 100
        return self.quota.limit

    @property
    def left(self) -> int:
        """What may still be asked for; 0 when a limit was lowered below what is already taken."""
        return max(0, self.limit - self.used - self.reserved)


def applicable(quotas: Iterable[Quota], customer: Customer, gpu_type: str | None = None) -> list[Quota]:
    """The limits a request must fit: the site's, the person's, and the class's and member's if the class pays.

    Without a ``gpu_type`` limits on every type are included, and those on kept files, which no request for GPUs meets.
    """
    return [
        quota
        for quota in quotas
        if (gpu_type is None or (quota.gpu_type in (None, gpu_type) and quota.metric != ARTIFACT_BYTES))
        and (
            quota.scope == "site"
            or (quota.scope == "person" and quota.name == customer.owner)
            or (quota.scope in ("class", "member") and customer.account == f"class:{quota.name}")
        )
    ]


def scope_of(quota: Quota, customer: Customer) -> Scope:
    """Whose charges and holds count against the limit when this customer asks."""
    if quota.scope == "class":
        return Scope(account=f"class:{quota.name}", gpu_type=quota.gpu_type)
    if quota.scope == "member":
        return Scope(account=f"class:{quota.name}", owner=customer.owner, gpu_type=quota.gpu_type)
    if quota.scope == "person":
        return Scope(owner=quota.name, gpu_type=quota.gpu_type)
    return Scope(gpu_type=quota.gpu_type)


def limit_key(quota: Quota, customer: Customer) -> str:
    """Names what the limit counts for this customer: requests with the same key share its amount."""
    return f"quota:{quota.id}:{customer.owner}" if quota.scope == "member" else f"quota:{quota.id}"


def raised(quota: Quota, extras: Iterable[Extra], customer: Customer, at_ms: int) -> Quota:
    """The limit with what this customer was granted beyond it at ``at_ms``; a share never above 100 percent."""
    more = sum(
        extra.amount
        for extra in extras
        if extra.quota_id == quota.id
        and extra.owner in ("", customer.owner)
        and extra.from_ms <= at_ms
        and (extra.until_ms is None or at_ms < extra.until_ms)
    )
    most = 100 if quota.metric == CREDIT_SHARE else MAX_LIMIT
    return replace(quota, limit=min(most, quota.limit + more)) if more else quota


def window_at(quota: Quota, at_ms: int) -> tuple[int | None, int | None] | None:
    """The window ``[from, until)`` that counts at ``at_ms``; None when the limit's term does not apply then.

    ``always`` has neither beginning nor end, a rolling window has no end.
    """
    if quota.window == "rolling":
        return at_ms - (quota.rolling_ms or 0), None
    if quota.window == "term":
        return (quota.starts_ms, quota.ends_ms) if (quota.starts_ms or 0) <= at_ms < (quota.ends_ms or 0) else None
    return windows.calendar_window(quota.window, quota.time_zone, at_ms)


def window_edges(quota: Quota, from_ms: int, until_ms: int) -> list[int]:
    """Instants strictly inside ``(from_ms, until_ms)`` at which another window begins to count, ascending."""
    if quota.window == "term":
        return [at_ms for at_ms in (quota.starts_ms, quota.ends_ms) if at_ms is not None and from_ms < at_ms < until_ms]
    if quota.window == "rolling":
        return []
    return calendars.calendar_edges(quota.window, quota.time_zone, from_ms, until_ms)


def state_of(quota: Quota, charged: Totals, held: Totals, resets_ms: int | None = None) -> QuotaState:
    """The state of a limit on GPU time or money from what is charged and held in its current window.

    Used GPU time is rounded down and the sum of used and reserved up, to whole seconds. Raises ValueError for GPUs at
    once and shares of credit, which are not sums over time.
    """
    if quota.metric == SPEND_MICROS:
        used, reserved = charged.amount_micros, held.amount_micros
    elif quota.metric == GPU_SECONDS:
        used = charged.gpu_ms // 1000
        reserved = _seconds_up(charged.gpu_ms + held.gpu_ms) - used
    else:
        raise ValueError(f"{quota.metric} is counted, not summed over time")
    comes_back = ((resets_ms, used),) if used and resets_ms is not None and quota.window in _CALENDAR else ()
    return QuotaState(quota, used, reserved, resets_ms, comes_back)


def rolling_state(quota: Quota, charged: Iterable[Line], held: Totals, now_ms: int) -> QuotaState:
    """The state of a limit with a rolling window, from the charged lines that end within it and all that is held.

    Raises ValueError when the window is not rolling.
    """
    if quota.rolling_ms is None:
        raise ValueError(f"the window {quota.window!r} is not a rolling one")
    uses = ((line.from_ms, line.until_ms, _counted(quota, line)) for line in charged)
    used, steps = rolling.rolling_use(uses, quota.rolling_ms, now_ms)
    if quota.metric == SPEND_MICROS:
        return QuotaState(quota, used, held.amount_micros, None, steps)
    sums = [0, *(gpu_ms // 1000 for gpu_ms in accumulate(gpu_ms for _, gpu_ms in steps))]
    seconds = [(at_ms, after - before) for (at_ms, _), (before, after) in zip(steps, pairwise(sums), strict=True)]
    state = state_of(quota, Totals(gpu_ms=used), held)
    return replace(state, comes_back=tuple(step for step in seconds if step[1]))


def share_state(quota: Quota, left_micros: int, held_micros: int) -> QuotaState:
    """The state of a share of credit, from what is left of the class's credit and what the member holds of it."""
    return QuotaState(quota, 0, held_micros, credit_micros=left_micros + held_micros)


def wanted_per_window(quota: Quota, lines: Iterable[Line]) -> dict[tuple[int | None, int | None], int]:
    """How much of the metric the lines want in each of the limit's windows, by the window each line starts in.

    Windows are as :func:`window_at` has them. What starts outside a term wants nothing. A rolling window is the one at
    the first line's beginning, and every line counts in it. GPU time is rounded up to whole seconds, once per window.
    """
    wanted: dict[tuple[int | None, int | None], int] = {}
    lines = list(lines)
    first_ms = min((line.from_ms for line in lines), default=0)
    for line in lines:
        window = window_at(quota, first_ms if quota.window == "rolling" else line.from_ms)
        if window is None:
            continue
        if quota.metric == CONCURRENT_GPUS:
            wanted[window] = max(wanted.get(window, 0), line.gpu_count)
        else:
            wanted[window] = wanted.get(window, 0) + _counted(quota, line)
    if quota.metric == GPU_SECONDS:
        return {window: _seconds_up(gpu_ms) for window, gpu_ms in wanted.items()}
    return wanted


def _counted(quota: Quota, line: Line) -> int:
    """What a line adds to the limit's sum: GPU-milliseconds or micro-units."""
    if quota.metric == GPU_SECONDS:
        return line.quantity if line.unit == "gpu_hour" else 0
    return line.amount_micros


def check(state: QuotaState, wanted: int, *, currency: str = "", frees_ms: int | None = None) -> Refused | None:
    """Why ``wanted`` (in the metric's unit) does not fit the limit; None when it does.

    Of a soft limit the answer is a warning, and the caller goes on. ``frees_ms`` is when a rolling window has given
    back enough, for callers that work it out (:func:`rolling.frees_when`); without, it is the step of ``comes_back`` by
    which it has. What is more than the whole limit is not freed by waiting, so then no instant is named.
    """
    if wanted <= state.left:
        return None
    quota = state.quota
    if frees_ms is None:
        frees_ms = _enough_back_ms(state, wanted)
    if wanted > state.limit:
        frees_ms = None
    numbers: dict[str, int | str] = {
        "quota_id": quota.id,
        "limit": state.limit,
        "used": state.used,
        "reserved": state.reserved,
        "left": state.left,
        "wanted": wanted,
    }
    if quota.metric == CREDIT_SHARE:
        numbers |= {"percent": quota.limit, "credit_micros": state.credit_micros}
    return Refused(
        _CODES[quota.metric],
        quota_words.over(state, wanted, currency),
        numbers,
        frees_ms,
        quota_words.instead(state, wanted, frees_ms, currency),
    )


def _enough_back_ms(state: QuotaState, wanted: int) -> int | None:
    if state.quota.window != "rolling":
        return state.resets_ms
    missing = wanted + state.used + state.reserved - state.limit
    sums = accumulate(amount for _, amount in state.comes_back)
    return next((at_ms for (at_ms, _), back in zip(state.comes_back, sums, strict=True) if back >= missing), None)


def _seconds_up(ms: int) -> int:
    return -(-ms // 1000)
