"""Jinja2 environment of the pages: everything is escaped; money, instants and limits are written in one way. Pure."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from fastgpu.formatting import (
    decimals_of,
    format_amount,
    format_bytes,
    format_date_time,
    format_duration,
    format_fraction,
    format_money,
)
from fastgpu.models import WeeklyWindow
from fastgpu.run_views import at_step, figure, percent
from fastgpu.words import gpu_hours, price_words, quota_words, step_words
from fastgpu_hub.service.pages import words
from fastgpu_hub.service.pages.audit import action_words, change_words, subject_words
from fastgpu_hub.service.pages.promotion_forms import DAYS


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
        countdown=countdown,
        limit_text=lambda value, metric: quota_words(metric, value, currency),
        bar_text=lambda quota: words.bar_words(quota, currency),
        unit=lambda metric: words.unit_words(metric, currency),
        plain_amount=words.plain_amount,
        gpu_hours=gpu_hours,
        story=lambda step: step_words(step, currency, lambda moment: format_date_time(moment, zone)),
        saving=lambda promotion: words.saving_words(promotion, currency),
        audience=words.audience_words,
        left_of=lambda promotion: words.left_words(promotion, currency),
        ask_link=words.ask_link,
        ending=words.ending_words,
        wish=lambda ask: words.ask_words(ask, currency),
        audit_action=action_words,
        audit_subject=subject_words,
        audit_change=lambda line: change_words(line, currency),
        window=window_text,
        rate=lambda value: price_words(value, currency),
        memory=format_bytes,
        duration=format_duration,
        fraction=format_fraction,
        figure=figure,
        percent=percent,
        at_step=at_step,
        as_choices=lambda names: [(name, name) for name in names],
    )
    env.tests.update(takeable=words.can_be_taken)
    env.globals.update(
        prefix=prefix,
        hub_home=hub_home,
        currency=currency,
        time_zone=time_zone,
        days=DAYS,
        news_words=words.NEWS,
        bar=words.bar,
        decimals_of=decimals_of,
    )
    return env


def when(moment: datetime | None, zone: ZoneInfo, *, seconds: bool = False) -> Markup | str:
    """An absolute instant with its zone: ``Fri 21 Nov 2025, 18:00 UTC``; a dash for none."""
    if moment is None:
        return "—"
    shown = format_date_time(moment, zone, seconds=seconds)
    return Markup('<time datetime="{}">{}</time>').format(moment.isoformat(), shown)


def countdown(moment: datetime, now: datetime) -> Markup:
    """How long until an instant; a script may let it tick, the instant itself stands beside it."""
    text = words.countdown_words(moment, now)
    return Markup('<span class="countdown" data-until="{}">{}</span>').format(moment.isoformat(), text)


def window_text(windows: tuple[WeeklyWindow, ...]) -> str:
    """Weekly hours in words; empty for always."""
    return "; ".join(
        f"{_days(sorted(window.days))} {_clock(window.from_minute)}–{_clock(window.to_minute)}" for window in windows
    )


def _days(days: list[int]) -> str:
    in_a_row = len(days) > 2 and days == list(range(days[0], days[-1] + 1))
    return f"{DAYS[days[0]]}–{DAYS[days[-1]]}" if in_a_row else ", ".join(DAYS[day] for day in days)


def _clock(minute: int) -> str:
    return f"{minute // 60:02d}:{minute % 60:02d}"
