"""Jinja2 environment of the pages: everything is escaped; money, instants and limits are written in one way. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fastgpu.models import QuotaMetric, QuotaUse, WeeklyWindow
from fastgpu_hub.pricing.money import format_money

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def environment(*, currency: str, time_zone: str, prefix: str, hub_home: str) -> Environment:
    """Environment whose filters know the site's currency and time zone."""
    zone = ZoneInfo(time_zone)
    env = Environment(
        loader=PackageLoader("fastgpu_hub.service", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters.update(
        money=lambda micros: format_money(micros, currency),
        amount=format_money,
        when=lambda moment: when(moment, zone),
        exactly=lambda moment: when(moment, zone, "%H:%M:%S"),
        limit_text=lambda value, metric: limit_text(value, metric, currency),
        gpu_hours=gpu_hours,
        window=window_text,
        span=span,
        rate=lambda value: rate_text(value, currency),
        memory=lambda value: "—" if value is None else f"{value / 2**30:.0f} GiB",
    )
    env.globals.update(prefix=prefix, hub_home=hub_home, currency=currency, time_zone=time_zone, share=share)
    return env


def when(moment: datetime | None, zone: ZoneInfo, clock: str = "%H:%M") -> Markup | str:
    """An absolute instant with its zone: ``Fri 21 Nov 2025, 18:00 UTC``; a dash for none."""
    if moment is None:
        return "—"
    local = moment.astimezone(zone)
    shown = f"{DAYS[local.weekday()]} {local.day} {local:%b %Y}, {local.strftime(clock)} {local:%Z}"
    return Markup('<time datetime="{}">{}</time>').format(moment.isoformat(), shown)


def span(start: datetime, end: datetime) -> str:
    """Length of an interval: ``2 h 05 min``, ``3 min 07 s``, ``4.250 s``."""
    seconds, rest = divmod((end - start) // timedelta(milliseconds=1), 1000)
    if seconds < 60:
        return f"{seconds}.{rest:03d} s"
    minutes = seconds // 60
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {seconds % 60:02d} s"


def gpu_hours(seconds: int) -> str:
    """GPU-seconds as GPU-hours with two decimals."""
    hundredths = seconds * 100 // 3600
    return f"{hundredths // 100}.{hundredths % 100:02d} GPU-h"


def limit_text(value: int, metric: QuotaMetric, currency: str) -> str:
    """A quota's number in its unit."""
    if metric is QuotaMetric.concurrent_gpus:
        return f"{value} GPU{'' if value == 1 else 's'}"
    return gpu_hours(value) if metric is QuotaMetric.gpu_seconds else format_money(value, currency)


def window_text(windows: tuple[WeeklyWindow, ...]) -> str:
    """Weekly hours in words; empty for always."""
    return "; ".join(
        f"{', '.join(DAYS[day] for day in sorted(window.days))} {_clock(window.from_minute)}–{_clock(window.to_minute)}"
        for window in windows
    )


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def rate_text(rate: Any, currency: str) -> str:
    """A price in words, from its three parts."""
    parts = [
        (rate.per_gpu_hour_micros, "per GPU-hour"),
        (rate.per_task_hour_micros, "per task-hour"),
        (rate.per_start_micros, "per start"),
    ]
    named = [f"{format_money(micros, currency)} {unit}" for micros, unit in parts if micros]
    return " + ".join(named) or "free"


def share(quota: QuotaUse) -> dict[str, int]:
    """Bounds of a meter: what is taken, where it becomes tight, the limit (at least 1, as meters want)."""
    limit = max(quota.limit, 1)
    return {"taken": min(quota.used + quota.reserved, limit), "high": limit * 8 // 10, "limit": limit}
