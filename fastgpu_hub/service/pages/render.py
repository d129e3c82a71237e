"""Jinja2 environment of the pages: everything is escaped; money, instants and limits are written in one way. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fastgpu.formatting import decimals_of, format_amount, format_bytes, format_date_time, format_money
from fastgpu.models import QuotaUse, WeeklyWindow
from fastgpu.words import gpu_hours, price_words, quota_words, step_words
from fastgpu_hub.service.pages.audit import action_words, change_words, subject_words

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
        money=lambda micros: format_amount(micros, currency),
        exact_money=lambda micros, decimals=2: format_money(micros, currency, decimals=decimals),
        when=lambda moment: when(moment, zone),
        exactly=lambda moment: when(moment, zone, seconds=True),
        limit_text=lambda value, metric: quota_words(metric, value, currency),
        gpu_hours=gpu_hours,
        story=lambda step: step_words(step, currency, lambda moment: format_date_time(moment, zone)),
        audit_action=action_words,
        audit_subject=subject_words,
        audit_change=lambda line: change_words(line, currency),
        window=window_text,
        span=span,
        rate=lambda value: price_words(value, currency),
        memory=format_bytes,
    )
    env.globals.update(
        prefix=prefix,
        hub_home=hub_home,
        currency=currency,
        time_zone=time_zone,
        share=share,
        decimals_of=decimals_of,
    )
    return env


def when(moment: datetime | None, zone: ZoneInfo, *, seconds: bool = False) -> Markup | str:
    """An absolute instant with its zone: ``Fri 21 Nov 2025, 18:00 UTC``; a dash for none."""
    if moment is None:
        return "—"
    shown = format_date_time(moment, zone, seconds=seconds)
    return Markup('<time datetime="{}">{}</time>').format(moment.isoformat(), shown)


def span(start: datetime, end: datetime) -> str:
    """Length of an interval: ``2 h 05 min``, ``3 min 07 s``, ``4.250 s``."""
    seconds, rest = divmod((end - start) // timedelta(milliseconds=1), 1000)
    if seconds < 60:
        return f"{seconds}.{rest:03d} s"
    minutes = seconds // 60
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {seconds % 60:02d} s"


def window_text(windows: tuple[WeeklyWindow, ...]) -> str:
    """Weekly hours in words; empty for always."""
    return "; ".join(
        f"{', '.join(DAYS[day] for day in sorted(window.days))} {_clock(window.from_minute)}–{_clock(window.to_minute)}"
        for window in windows
    )


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"


def share(quota: QuotaUse) -> dict[str, int]:
    """Bounds of a meter: what is taken, where it becomes tight, the limit (at least 1, as meters want)."""
    limit = max(quota.limit, 1)
    return {"taken": min(quota.used + quota.reserved, limit), "high": limit * 8 // 10, "limit": limit}
