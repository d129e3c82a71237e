"""Forms to wire models: the same models the API takes, read from a browser's text fields. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from fastgpu import models as m
from fastgpu_hub.pricing.money import parse_money
from fastgpu_hub.service.wire import invalid, parse_model

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
Form = Mapping[str, str]


def _read(form: Form, name: str, label: str, reader: Callable[[str], T]) -> T:
    text = form.get(name, "").strip()
    if not text:
        raise invalid(f"{label} is empty.", f"Fill in {label}.")
    try:
        return reader(text)
    except (ValueError, OverflowError) as error:
        raise invalid(f"{label} cannot be {text[:40]!a}: {error}.") from None


def money(form: Form, name: str, label: str) -> int:
    """Micro-units of an amount written in whole units."""
    return _read(form, name, label, parse_money)


def whole(form: Form, name: str, label: str) -> int:
    """A whole number, not negative."""

    def reader(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 16):
            raise ValueError("write a whole number")
        return int(text)

    return _read(form, name, label, reader)


def moment(form: Form, name: str, label: str, zone: ZoneInfo) -> datetime:
    """A local date and time of a ``datetime-local`` field, as an instant."""

    def reader(text: str) -> datetime:
        try:
            local = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError("write a date and a time, for example 2030-01-31T12:00") from None
        return local.replace(tzinfo=zone).astimezone(timezone.utc)

    return _read(form, name, label, reader)


def price(form: Form) -> m.PriceSet:
    """The set-price form. Empty parts are 0."""
    parts = {
        f"{part}_micros": money(form, part, label) if form.get(part, "").strip() else 0
        for part, label in (
            ("per_gpu_hour", "the price per GPU-hour"),
            ("per_task_hour", "the price per task-hour"),
            ("per_start", "the price per start"),
        )
    }
    return parse_model(m.PriceSet, {"gpu_type": form.get("gpu_type", "").strip(), **parts})


def grant(form: Form) -> m.GrantSet:
    """The grant form."""
    data = {
        "account": form.get("account", "").strip(),
        "amount_micros": money(form, "amount", "the amount"),
        "note": form.get("note", "").strip(),
    }
    return parse_model(m.GrantSet, data)


def quota(form: Form, time_zone: str, klass: str | None = None) -> m.QuotaSet:
    """The limit form. With ``klass`` it is about this class or each of its members, whatever the form says."""
    metric = form.get("metric", "")
    limits: dict[str, Callable[[], int]] = {
        "concurrent_gpus": lambda: whole(form, "limit", "the limit"),
        "gpu_seconds": lambda: money(form, "limit", "the limit") * 3600 // 1_000_000,
        "spend_micros": lambda: money(form, "limit", "the limit"),
    }
    if metric not in limits:
        raise invalid(f"The limit counts {metric[:40]!a}.", "Choose GPUs at once, GPU-hours or money.")
    scope = form.get("scope", "")
    if klass is not None and scope not in ("class", "member"):
        raise invalid(f"The limit is for {scope[:40]!a}.", "Choose the class or each member.")
    data = {
        "scope": scope,
        "name": klass if klass is not None else form.get("name", "").strip(),
        "metric": metric,
        "limit": limits[metric](),
        "window": form.get("window", "always"),
        "gpu_type": form.get("gpu_type", "").strip() or None,
        "time_zone": time_zone,
    }
    return parse_model(m.QuotaSet, data)


def promotion(form: Form, time_zone: str, klass: str) -> m.PromotionSet:
    """The promotion form of a class page: its audience is that class, its times are local."""
    zone = ZoneInfo(time_zone)
    data: dict[str, Any] = {
        "name": form.get("name", "").strip(),
        "gpu_types": tuple(form.get("gpu_types", "").replace(",", " ").split()),
        "audience": (f"class:{klass}",),
        "code": form.get("code", "").strip() or None,
        "starts_at": moment(form, "starts_at", "the start", zone),
        "ends_at": moment(form, "ends_at", "the end", zone),
        "time_zone": time_zone,
    }
    if form.get("fixed_per_gpu_hour", "").strip():
        data["fixed_per_gpu_hour_micros"] = money(form, "fixed_per_gpu_hour", "the fixed price")
    if form.get("percent_off", "").strip():
        data["percent_off"] = whole(form, "percent_off", "the percentage off")
    return parse_model(m.PromotionSet, data)
