"""Limits: what is used, reserved and left of each, and whether a wish fits.

Amounts are in the metric's own unit: GPUs, GPU-seconds, micro-units of money. GPU time is summed in milliseconds and
rounded to seconds once, so that what is admitted never exceeds a limit, not even by a part of a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastgpu_hub.pricing import windows
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.money import format_money
from fastgpu_hub.pricing.promotions import Customer

if TYPE_CHECKING:
    from fastgpu_hub.pricing.metering import Line

CONCURRENT_GPUS = "concurrent_gpus"
GPU_SECONDS = "gpu_seconds"
SPEND_MICROS = "spend_micros"

_CODES = {
    CONCURRENT_GPUS: "quota_concurrent_gpus",
    GPU_SECONDS: "quota_gpu_hours",
    SPEND_MICROS: "quota_spend",
}
_SCOPES = ("site", "class", "member", "person")
_METRICS = (CONCURRENT_GPUS, GPU_SECONDS, SPEND_MICROS)
_WINDOWS = ("day", "week", "month", "always")


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit on one metric.

    ``scope``: ``site`` (everyone together), ``class`` (all that is charged to the class ``name``), ``member`` (each
    person's part of that), ``person`` (``name``, whoever pays). ``metric``: ``concurrent_gpus`` (GPUs),
    ``gpu_seconds``, ``spend_micros``. ``window``: ``day``, ``week`` (from Monday), ``month`` (calendar, in
    ``time_zone``) or ``always``. Raises ValueError for any other word, a negative limit, an unknown time zone, or a
    scope without the name it needs.
    """

    id: int
    scope: str
    name: str
    metric: str
    limit: int
    window: str = "always"
    gpu_type: str | None = None
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        if self.scope not in _SCOPES or self.metric not in _METRICS or self.window not in _WINDOWS:
            raise ValueError(f"no such limit: scope {self.scope!r}, metric {self.metric!r}, window {self.window!r}")
        if self.limit < 0:
            raise ValueError("a limit must not be negative")
        if self.scope != "site" and not self.name:
            raise ValueError(f"a limit of scope {self.scope} needs the name of the class or person")
        windows.zone(self.time_zone)


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
    """How a limit stands for its subject, in the metric's unit. ``resets_ms`` is None when it never resets."""

    quota: Quota
    used: int
    reserved: int
    resets_ms: int | None = None

    @property
    def left(self) -> int:
        """What may still be asked for; 0 when a limit was lowered below what is already taken."""
        return max(0, self.quota.limit - self.used - self.reserved)


def applicable(quotas: Iterable[Quota], customer: Customer, gpu_type: str | None = None) -> list[Quota]:
    """The limits a request must fit: the site's, the person's, and the class's and member's if the class pays.

    Without a ``gpu_type`` limits on every type are included.
    """
    return [
        quota
        for quota in quotas
        if (gpu_type is None or quota.gpu_type in (None, gpu_type))
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


def state_of(quota: Quota, charged: Totals, held: Totals, resets_ms: int | None = None) -> QuotaState:
    """The state of a limit on GPU time or money from what is charged and held in its current window.

    Used GPU time is rounded down and the sum of used and reserved up, to whole seconds. Raises ValueError for a limit
    on concurrent GPUs, which is not a sum over time.
    """
    if quota.metric == SPEND_MICROS:
        return QuotaState(quota, charged.amount_micros, held.amount_micros, resets_ms)
    if quota.metric == GPU_SECONDS:
        used = charged.gpu_ms // 1000
        return QuotaState(quota, used, _seconds_up(charged.gpu_ms + held.gpu_ms) - used, resets_ms)
    raise ValueError("concurrent GPUs are counted, not summed over time")


def wanted_per_window(quota: Quota, lines: Iterable[Line]) -> dict[tuple[int | None, int | None], int]:
    """How much of the metric the lines want in each of the limit's windows, by the window each line starts in.

    Windows are ``(from_ms, until_ms)``, ``(None, None)`` for ``always`` and for concurrent GPUs. GPU time is rounded
    up to whole seconds, once per window.
    """
    if quota.metric == CONCURRENT_GPUS:
        return {(None, None): max((line.gpu_count for line in lines), default=0)}
    wanted: dict[tuple[int | None, int | None], int] = {}
    for line in lines:
        window = windows.calendar_window(quota.window, quota.time_zone, line.from_ms)
        gpu_ms = line.quantity if line.unit == "gpu_hour" else 0
        amount = line.amount_micros if quota.metric == SPEND_MICROS else gpu_ms
        wanted[window] = wanted.get(window, 0) + amount
    if quota.metric == GPU_SECONDS:
        return {window: _seconds_up(gpu_ms) for window, gpu_ms in wanted.items()}
    return wanted


def check(state: QuotaState, wanted: int, *, currency: str = "") -> Refused | None:
    """Why ``wanted`` (in the metric's unit) does not fit the limit; None when it does.

    What is more than the whole limit is not freed by a reset, so then no instant is named.
    """
    if wanted <= state.left:
        return None
    quota = state.quota
    used, reserved, left = (_amount(quota, value, currency) for value in (state.used, state.reserved, state.left))
    frees_ms = state.resets_ms if wanted <= quota.limit else None
    resets = "" if state.resets_ms is None else f" It resets on {windows.when(state.resets_ms, quota.time_zone)}."
    return Refused(
        _CODES[quota.metric],
        f"This needs {_amount(quota, wanted, currency, up=True)}, but the limit “{label(quota, currency)}” "
        f"has only {left} left ({used} used, {reserved} reserved).{resets}",
        {
            "quota_id": quota.id,
            "limit": quota.limit,
            "used": state.used,
            "reserved": state.reserved,
            "left": state.left,
            "wanted": wanted,
        },
        frees_ms,
        _instead(state, left, frees_ms, fits_alone=wanted <= quota.limit),
    )


def _instead(state: QuotaState, left: str, frees_ms: int | None, *, fits_alone: bool) -> str:
    smallest_shown = 36 if state.quota.metric == GPU_SECONDS else 1  # a hundredth of a GPU-hour
    choices = [f"ask for at most {left}"] if state.left >= smallest_shown else []
    if frees_ms is not None:
        choices.append(f"wait until {windows.when(frees_ms, state.quota.time_zone)}")
    elif fits_alone and state.quota.metric == CONCURRENT_GPUS:
        choices.append("wait until running work gives GPUs back")
    else:
        choices.append("have the limit raised")
    text = ", or ".join(choices)
    return f"{text[0].upper()}{text[1:]}."


def label(quota: Quota, currency: str = "") -> str:
    """A limit for people: ``class cs101: 40 GPU-hours per week``."""
    who = {
        "site": "everyone together",
        "class": f"class {quota.name}",
        "member": f"each member of class {quota.name}",
        "person": quota.name,
    }[quota.scope]
    of_type = f" of {quota.gpu_type}" if quota.gpu_type else ""
    if quota.metric == CONCURRENT_GPUS:
        return f"{who}: {_gpus(quota.limit)}{of_type} at once"
    amount = _amount(quota, quota.limit, currency).replace(".00 GPU-hours", " GPU-hours")
    if quota.metric == SPEND_MICROS and quota.gpu_type:
        of_type = f" on {quota.gpu_type}"
    period = " in total" if quota.window == "always" else f" per {quota.window}"
    return f"{who}: {amount}{of_type}{period}"


def _amount(quota: Quota, value: int, currency: str, *, up: bool = False) -> str:
    if quota.metric == CONCURRENT_GPUS:
        return _gpus(value)
    if quota.metric == SPEND_MICROS:
        return format_money(value, currency)
    hundredths = -(-value // 36) if up else value // 36
    whole, rest = divmod(hundredths, 100)
    return f"{whole}.{rest:02d} GPU-hours"


def _gpus(count: int) -> str:
    return f"{count} GPU" if count == 1 else f"{count} GPUs"


def _seconds_up(ms: int) -> int:
    return -(-ms // 1000)
