"""Forms to wire models: the same models the API takes, read from a browser's text fields. Pure.

What cannot be read is refused with the name of its field, so that the page can say so beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from pydantic import BaseModel

from fastgpu import models as m
from fastgpu.formatting import parse_bytes
from fastgpu_hub.pricing.money import parse_money
from fastgpu_hub.service.wire import Refusal, invalid, parse_model

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")
Form = Mapping[str, str]


def _read(form: Form, name: str, label: str, reader: Callable[[str], T]) -> T:
    text = form.get(name, "").strip()
    if not text:
        raise invalid(f"{_capital(label)} is empty.", f"Fill in {label}.", field=name)
    try:
        return reader(text)
    except (ValueError, OverflowError) as error:
        raise invalid(f"{_capital(label)} cannot be {text[:40]!a}: {error}.", field=name) from None


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def given(form: Form, name: str) -> bool:
    """Whether a field is filled in."""
    return bool(form.get(name, "").strip())


def money(form: Form, name: str, label: str) -> int:
    """Micro-units of an amount written in whole units."""
    return _read(form, name, label, parse_money)


def gpu_seconds(form: Form, name: str, label: str) -> int:
    """GPU-seconds of GPU-hours, which may have decimals."""
    return money(form, name, label) * 3600 // 1_000_000


def size(form: Form, name: str, label: str) -> int:
    """Bytes of a size in GiB, or with its unit."""
    return _read(form, name, label, lambda text: parse_bytes(text, "GiB"))


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


def moment_if_given(form: Form, name: str, label: str, zone: ZoneInfo) -> datetime | None:
    """As ``moment``; None for an empty field."""
    return moment(form, name, label, zone) if given(form, name) else None


def checked(model: type[M], data: dict[str, Any], labels: Mapping[str, tuple[str, str]]) -> M:
    """The model of these values. ``labels`` names, by the model's field, the form's field and what people call it."""
    try:
        return parse_model(model, data)
    except Refusal as refusal:
        refused = refusal.refused
        path = str(refused.numbers.get("field", ""))
        name, label = labels.get(path.split(".")[0], ("", ""))
        if not name:
            raise
        message = _capital(label) + refused.message.removeprefix(path)
        raise Refusal(replace(refused, message=message, numbers={**refused.numbers, "field": name})) from None


# ---------------------------------------------------------------- prices and credit

PRICE_PARTS = (
    ("per_gpu_hour", "the price per GPU-hour"),
    ("per_task_hour", "the price per task-hour"),
    ("per_start", "the price per start"),
)
_GRANT = {
    "account": ("account", "the account"),
    "amount_micros": ("amount", "the amount"),
    "note": ("note", "the note"),
    "priority": ("priority", "the priority"),
    "expires_at": ("expires_at", "the expiry"),
    "rollover_percent": ("rollover_percent", "what rolls over"),
}


def price(form: Form, time_zone: str) -> m.PriceSet:
    """The set-price form. Empty parts are 0; without a beginning it is valid from now on."""
    parts = {f"{part}_micros": money(form, part, label) if given(form, part) else 0 for part, label in PRICE_PARTS}
    begins = moment_if_given(form, "valid_from", "the beginning", ZoneInfo(time_zone))
    labels = {
        "gpu_type": ("gpu_type", "the GPU type"),
        **{f"{part}_micros": (part, text) for part, text in PRICE_PARTS},
    }
    data = {"gpu_type": form.get("gpu_type", "").strip(), "valid_from": begins, **parts}
    return checked(m.PriceSet, data, labels)


def grant(form: Form, time_zone: str, klass: str | None = None) -> m.GrantSet:
    """The form for credit: of the site to any account, or with ``klass`` of that class to one of its members."""
    data: dict[str, Any] = {
        "account": form.get("account", "").strip(),
        "amount_micros": money(form, "amount", "the amount"),
        "note": form.get("note", "").strip(),
        "expires_at": moment_if_given(form, "expires_at", "the expiry", ZoneInfo(time_zone)),
    }
    if klass is not None:
        member = form.get("member", "").strip()
        data |= {"account": f"person:{member}", "from_account": f"class:{klass}"}
    for name, label in (("priority", "the priority"), ("rollover_percent", "what rolls over")):
        if given(form, name):
            data[name] = whole(form, name, label)
    return checked(m.GrantSet, data, {**_GRANT, **({"account": ("member", "the member")} if klass else {})})


def refund(form: Form) -> m.RefundSet:
    """The refund form: the reason, and the ticked lines; none ticked means all."""
    ticked = (name.removeprefix("charge_") for name in form if name.startswith("charge_"))
    charge_ids = tuple(int(number) for number in ticked if number.isascii() and number.isdigit() and len(number) < 18)
    data = {"reason": form.get("reason", "").strip(), "charge_ids": charge_ids}
    return checked(m.RefundSet, data, {"reason": ("reason", "the reason")})


# ---------------------------------------------------------------- limits and requests for more


def amount(form: Form, name: str, label: str, metric: str) -> int:
    """An amount in the unit of what a limit counts: GPUs, GPU-hours, money, percent, GiB."""
    reader = {"gpu_seconds": gpu_seconds, "spend_micros": money, "artifact_bytes": size}.get(metric, whole)
    return reader(form, name, label)


_QUOTA = {
    "name": ("name", "the class or person"),
    "limit": ("limit", "the limit"),
    "gpu_type": ("gpu_type", "the GPU type"),
    "window": ("window", "the period"),
    "scope": ("scope", "whom it is for"),
    "rolling_seconds": ("rolling", "the length"),
    "starts_at": ("starts_at", "the term's beginning"),
    "ends_at": ("ends_at", "the term's end"),
}


def quota(form: Form, time_zone: str, klass: str | None = None) -> m.QuotaSet:
    """The limit form. With ``klass`` it is about this class or each of its members, whatever the form says."""
    metric, window, scope = (form.get(name, "") for name in ("metric", "window", "scope"))
    if metric not in {known.value for known in m.QuotaMetric}:
        wanted = "Choose GPUs at once, GPU-hours, money, a share of the credit or kept files."
        raise invalid(f"The limit counts {metric[:40]!a}.", wanted, field="metric")
    if klass is not None and scope not in ("class", "member"):
        raise invalid(f"The limit is for {scope[:40]!a}.", "Choose the class or each member.", field="scope")
    zone = ZoneInfo(time_zone)
    data: dict[str, Any] = {
        "scope": scope,
        "name": klass if klass is not None else form.get("name", "").strip(),
        "metric": metric,
        "limit": amount(form, "limit", "the limit", metric),
        "window": window or "always",
        "gpu_type": form.get("gpu_type", "").strip() or None,
        "time_zone": time_zone,
        "soft": form.get("soft") == "on",
    }
    if window == "term":
        data["starts_at"] = moment(form, "starts_at", "the term's beginning", zone)
        data["ends_at"] = moment(form, "ends_at", "the term's end", zone)
    if window == "rolling":
        data["rolling_seconds"] = _read(form, "rolling", "the length", m.parse_duration)
    return checked(m.QuotaSet, data, _QUOTA)


_ASK = {"amount": ("amount", "the amount"), "reason": ("reason", "the reason"), "account": ("about", "the account")}


def ask(form: Form, metrics: Mapping[int, str]) -> m.AskSet:
    """The form that asks for more; ``metrics`` says what each limit of the person counts."""
    kind, _, subject = form.get("about", "").partition(":")
    data: dict[str, Any] = {"reason": form.get("reason", "").strip()}
    number = int(subject) if subject.isascii() and subject.isdigit() and len(subject) < 18 else 0
    if kind == "account":
        data |= {"account": subject, "amount": money(form, "amount", "the amount")}
    elif kind == "limit" and number:  # one that they do not fall under is for the broker to refuse
        metric = metrics.get(number, "concurrent_gpus")
        data |= {"quota_id": number, "amount": amount(form, "amount", "the amount", metric)}
    else:
        raise invalid("What you ask for more of is not chosen.", "Choose a limit or an account.", field="about")
    return checked(m.AskSet, data, _ASK)


def decision(form: Form, metric: str, time_zone: str) -> m.AskDecision:
    """The answer to a request. Declined, only what is said about it counts."""
    data: dict[str, Any] = {"answer": form.get("answer", "").strip()}
    if form.get("decision") == "approve":
        if given(form, "amount"):
            data["amount"] = amount(form, "amount", "the amount", metric)
        data["until"] = moment_if_given(form, "until", "the end", ZoneInfo(time_zone))
    return checked(m.AskDecision, data, {"amount": ("amount", "the amount"), "answer": ("answer", "the answer")})


_REDEEM = {"code": ("code", "the code"), "account": ("account", "the account")}


def redeem(form: Form) -> m.Redeem:
    """The redeem form: a code as typed, or the number of a promotion that needs none."""
    account = form.get("account", "").strip() or None
    if given(form, "promotion_id"):
        number = whole(form, "promotion_id", "the promotion")
        return checked(m.Redeem, {"promotion_id": number, "account": account}, _REDEEM)
    code = _read(form, "code", "the code", str)
    return checked(m.Redeem, {"code": code, "account": account}, _REDEEM)
