"""What a person chose on the spawn page, read strictly. Pure: form fields or ``user_options`` in, a choice out.

The same :func:`parse_options` reads the submitted form and, again, whatever the API posted as ``user_options``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fastgpu.models import MAX_SECONDS, LeaseRequest, parse_duration

MAX_GPU_COUNT = 1024

_GPU_TYPE = re.compile(r"[a-z0-9][a-z0-9.\-]{0,62}")
_ACCOUNT = re.compile(r"(class|person):[^\x00-\x1f\x7f]{1,200}")
_PROMO_CODE = re.compile(r"[A-Za-z0-9\-]{1,64}")
_FIELDS = ("gpu_type", "gpu_count", "account", "promo_code", "time_limit", "time_limit_seconds")
_ALIASES = {"gpu": "gpu_type", "count": "gpu_count", "promo": "promo_code"}


class OptionError(ValueError):
    """A spawn option that cannot be read; the text says which, what was given and what to write instead."""


@dataclass(frozen=True, slots=True)
class ServerChoice:
    """A server as asked for. ``gpu_type`` "" means no GPU; ``None`` elsewhere means "the service decides"."""

    gpu_type: str = ""
    gpu_count: int = 1
    account: str | None = None
    promo_code: str | None = None
    time_limit_seconds: int | None = None

    @property
    def wants_gpu(self) -> bool:
        """True when this server needs a lease."""
        return bool(self.gpu_type)

    def user_options(self) -> dict[str, Any]:
        """The choice as the hub keeps it for the next start; :func:`parse_options` reads it back unchanged."""
        if not self.wants_gpu:
            return {"gpu_type": ""}
        chosen: dict[str, Any] = {"gpu_type": self.gpu_type, "gpu_count": self.gpu_count}
        for name in ("account", "promo_code", "time_limit_seconds"):
            if (value := getattr(self, name)) is not None:
                chosen[name] = value
        return chosen

    def lease_request(self, server_name: str) -> LeaseRequest:
        """The wish as the service reads it."""
        return LeaseRequest(
            server_name=server_name,
            gpu_type=self.gpu_type,
            gpu_count=self.gpu_count,
            account=self.account,
            promo_code=self.promo_code,
            time_limit_seconds=self.time_limit_seconds,
        )


def parse_options(raw: Mapping[str, Any] | None) -> ServerChoice:
    """Read form fields (lists of strings) or ``user_options`` (plain JSON) into a choice.

    Nothing at all, or an empty ``gpu_type``, is a server without a GPU; the other fields are then not looked at, since
    a form always sends them. Raises :class:`OptionError` for a field that is unknown, given twice or unreadable.
    """
    if raw is not None and not isinstance(raw, Mapping):
        raise OptionError(f"the server's options are a {type(raw).__name__}; send an object, for example {{}}")
    values = {str(name): _single(str(name), value) for name, value in (raw or {}).items()}
    if unknown := sorted(set(values) - set(_FIELDS)):
        raise OptionError(f"unknown option {_shown(unknown[0])}; use {', '.join(_FIELDS)}")
    gpu_type = _gpu_type(values.get("gpu_type"))
    if not gpu_type:
        return ServerChoice()
    return ServerChoice(
        gpu_type=gpu_type,
        gpu_count=_gpu_count(values.get("gpu_count")),
        account=_matched("account", values.get("account"), _ACCOUNT, "an account such as class:cs101 or person:alice"),
        promo_code=_matched("promo_code", values.get("promo_code"), _PROMO_CODE, "letters, digits and dashes only"),
        time_limit_seconds=_time_limit(values.get("time_limit"), values.get("time_limit_seconds")),
    )


def shown_values(raw: Mapping[str, Any] | None) -> dict[str, str]:
    """The text each form field shows again: what was typed, linked to (``?opt-gpu=``) or chosen last time.

    Never raises; what cannot be a field's text is left out. Short names of links (``gpu``, ``count``, ``promo``) count.
    """
    shown: dict[str, str] = {}
    for given, value in (raw or {}).items() if isinstance(raw, Mapping) else ():
        name = _ALIASES.get(str(given), str(given))
        one = value[0] if isinstance(value, list) and len(value) == 1 else value
        if name in _FIELDS and isinstance(one, str | int) and not isinstance(one, bool):
            shown[name] = str(one)[:200]
    if seconds := shown.pop("time_limit_seconds", ""):
        shown.setdefault("time_limit", _duration_text(seconds))
    return shown


def _duration_text(seconds: str) -> str:
    whole = int(seconds) if seconds.isascii() and seconds.isdigit() else 0
    for unit, size in (("h", 3600), ("m", 60)):
        if whole and whole % size == 0:
            return f"{whole // size}{unit}"
    return f"{whole}s" if whole else ""


def _single(name: str, value: Any) -> Any:
    if not isinstance(value, list):
        return value
    if len(value) > 1:
        raise OptionError(f"{_shown(name)} is given {len(value)} times; give it once")
    return value[0] if value else None


def _gpu_type(value: Any) -> str:
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or not _GPU_TYPE.fullmatch(value):
        raise OptionError(f"gpu_type {_shown(value)} is not the name of a GPU type; choose one from the spawn page")
    return value


def _gpu_count(value: Any) -> int:
    if value is None or value == "":
        return 1
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 6:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_GPU_COUNT:
        raise OptionError(f"gpu_count {_shown(value)} is not possible; write a whole number from 1 to {MAX_GPU_COUNT}")
    return value


def _matched(name: str, value: Any, pattern: re.Pattern[str], instead: str) -> str | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str) or not pattern.fullmatch(value.strip()):
        raise OptionError(f"{name} {_shown(value)} cannot be right; write {instead}, or leave it empty")
    return value.strip()


def _time_limit(text: Any, seconds: Any) -> int | None:
    if seconds is not None and seconds != "":
        if isinstance(seconds, bool) or not isinstance(seconds, int) or not 1 <= seconds <= MAX_SECONDS:
            raise OptionError(
                f"time_limit_seconds {_shown(seconds)} is not possible; write whole seconds from 1 to {MAX_SECONDS}"
            )
        return seconds
    if text is None or (isinstance(text, str) and not text.strip()):
        return None
    if isinstance(text, bool) or not isinstance(text, str | int):
        raise OptionError(f"time_limit {_shown(text)} is not a duration; write for example 45m, 2h or 1h30m")
    try:
        return parse_duration(text)
    except ValueError as error:
        raise OptionError(f"time_limit: {error}") from None


def _shown(value: Any) -> str:
    """A hostile value, made short and printable."""
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
