"""The promotion form, in both directions: a browser's text fields to the wire model and back. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from fastgpu import models as m
from fastgpu.formatting import format_money
from fastgpu_hub.service.pages.forms import Form, checked, given, gpu_seconds, moment, money, whole
from fastgpu_hub.service.wire import invalid

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
MOST_WINDOWS = 7
# By kind: the wire's field, the form's field, what people call it, how it is read.
KINDS: dict[str, tuple[str, str, str, Any]] = {
    "percent": ("percent_off", "percent_off", "the percentage off", whole),
    "fixed": ("fixed_per_gpu_hour_micros", "fixed_per_gpu_hour", "the fixed price", money),
    "free": ("free_gpu_seconds", "free_gpu_hours", "the free GPU-hours", gpu_seconds),
    "credit": ("credit_micros", "credit", "the credit", money),
}
_LABELS = {
    "name": ("name", "the name"),
    "gpu_types": ("gpu_types", "the GPU types"),
    "audience": ("audience", "the audience"),
    "code": ("code", "the code"),
    "credit_days": ("credit_days", "the days the credit is valid"),
    "max_redemptions": ("max_redemptions", "the number of places"),
    "max_per_person": ("max_per_person", "the places for each person"),
    "budget_micros": ("budget", "the budget"),
    **{wire: (name, label) for wire, name, label, _ in KINDS.values()},
}


def promotion(form: Form, time_zone: str) -> m.PromotionSet:
    """The promotion of the form; its times are local, where it names no other zone to those of the site.

    Without ``kind`` every amount that is filled in counts.
    """
    time_zone = form.get("time_zone", "").strip() or time_zone
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise invalid(f"There is no time zone {time_zone[:40]!a}.", "Write one like Europe/Berlin.") from None
    data: dict[str, Any] = {
        "name": form.get("name", "").strip(),
        "gpu_types": tuple(form.get("gpu_types", "").replace(",", " ").split()),
        "audience": _audience(form),
        "code": form.get("code", "").strip() or None,
        "needs_code": form.get("needs_code") == "on",
        "starts_at": moment(form, "starts_at", "the start", zone),
        "ends_at": moment(form, "ends_at", "the end", zone),
        "weekly": tuple(_windows(form)),
        "time_zone": time_zone,
        "stacks": form.get("stacks") == "on",
        "draft": form.get("draft") == "yes",
    }
    kind = form.get("kind", "")
    for known, (wire, name, label, reader) in KINDS.items():
        if known == kind or (kind not in KINDS and given(form, name)):
            data[wire] = reader(form, name, label)
    if kind in ("", "credit") and given(form, "credit_days"):
        data["credit_days"] = whole(form, "credit_days", "the days the credit is valid")
    if given(form, "max_redemptions"):
        data["max_redemptions"] = whole(form, "max_redemptions", "the number of places")
    if given(form, "max_per_person"):
        data["max_per_person"] = whole(form, "max_per_person", "the places for each person")
    if given(form, "budget"):
        data["budget_micros"] = money(form, "budget", "the budget")
    return checked(m.PromotionSet, data, _LABELS)


def _audience(form: Form) -> tuple[str, ...]:
    """Accounts and ``new``, as an administrator writes them or a teacher ticks their classes."""
    typed = [entry.strip() for entry in form.get("audience", "").split(",") if entry.strip()]
    ticked = sorted(name.removeprefix("for_") for name in form if name.startswith("for_class:"))
    return tuple(dict.fromkeys((*typed, *ticked)))


def _windows(form: Form) -> Iterable[dict[str, Any]]:
    """The weekly hours; a row without a day is not used."""
    for row in range(MOST_WINDOWS):
        days = tuple(day for day in range(7) if form.get(f"hours_{row}_{day}") == "on")
        times = (f"hours_{row}_from", f"hours_{row}_to")
        if days:
            begins, ends = (_minute(form, name) for name in times)
            yield {"days": days, "from_minute": begins, "to_minute": ends}
        elif any(given(form, name) for name in times):
            raise invalid("These weekly hours have no day.", "Tick at least one day, or empty them.", field=times[0])


def _minute(form: Form, name: str) -> int:
    hour, _, minute = form.get(name, "").strip().partition(":")
    if not (hour.isascii() and hour.isdigit() and minute[:2].isascii() and minute[:2].isdigit()):
        raise invalid("These weekly hours are not complete.", "Write both times, for example 18:00.", field=name)
    total = int(hour[:4]) * 60 + int(minute[:2])
    if total > 24 * 60 or int(minute[:2]) > 59:
        raise invalid(f"There is no {hour[:4]}:{minute[:2]} on a day.", "Write a time up to 24:00.", field=name)
    return total


def fields(promotion: m.Promotion) -> dict[str, str]:
    """What the form shows for a promotion that there is; the inverse of ``promotion``, but for its codes."""
    kind = kind_of(promotion)
    amounts = {
        "percent": str(promotion.percent_off or ""),
        "fixed": _amount(promotion.fixed_per_gpu_hour_micros),
        "free": _hours_of(promotion.free_gpu_seconds),
        "credit": _amount(promotion.credit_micros),
    }
    shown = {
        "kind": kind,
        KINDS[kind][1]: amounts[kind],
        "name": promotion.name,
        "credit_days": str(promotion.credit_days or ""),
        "gpu_types": " ".join(promotion.gpu_types),
        "audience": ", ".join(promotion.audience),
        "needs_code": "on" if promotion.needs_code else "",
        "time_zone": promotion.time_zone,
        "starts_at": local(promotion.starts_at, promotion.time_zone),
        "ends_at": local(promotion.ends_at, promotion.time_zone),
        "stacks": "on" if promotion.stacks else "",
        "max_redemptions": str(promotion.max_redemptions or ""),
        "max_per_person": "" if promotion.max_per_person == 1 else str(promotion.max_per_person),
        "budget": _amount(promotion.budget_micros),
        **{f"for_{entry}": "on" for entry in promotion.audience},
    }
    return {**shown, **_hours(promotion.weekly)}


def _hours(weekly: Sequence[m.WeeklyWindow]) -> dict[str, str]:
    shown: dict[str, str] = {}
    for row, window in enumerate(weekly[:MOST_WINDOWS]):
        shown |= {f"hours_{row}_{day}": "on" for day in window.days}
        shown[f"hours_{row}_from"] = f"{window.from_minute // 60:02d}:{window.from_minute % 60:02d}"
        shown[f"hours_{row}_to"] = f"{window.to_minute // 60 % 24:02d}:{window.to_minute % 60:02d}"
    return shown


def kind_of(promotion: m.Promotion) -> str:
    """Which of the four kinds a promotion is."""
    return next(kind for kind, (wire, *_) in KINDS.items() if getattr(promotion, wire) is not None)


def local(moment: datetime, time_zone: str) -> str:
    """An instant as a ``datetime-local`` field takes it."""
    return f"{moment.astimezone(ZoneInfo(time_zone)):%Y-%m-%dT%H:%M}"


def _amount(micros: int | None) -> str:
    return "" if micros is None else format_money(micros)


def _hours_of(gpu_seconds: int | None) -> str:
    """GPU-hours that are read as exactly these seconds again, which rounds down."""
    return "" if gpu_seconds is None else format_money(-(-gpu_seconds * 1_000_000 // 3600))
