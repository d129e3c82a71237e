"""What crosses the border: strict JSON in, models out, every refusal as one structured answer. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fastgpu.models import ErrorAnswer
from fastgpu_hub.broker.views import explanation
from fastgpu_hub.pricing.explain import Explained, Refused

M = TypeVar("M", bound=BaseModel)

EARLIEST_YEAR, LATEST_YEAR = 1970, 2999

_STATUS = {
    "invalid_request": 422,
    "not_signed_in": 401,
    "not_allowed": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "deadline": 422,
    "duplicate": 409,
    "dependency_failed": 409,
    "idempotency_mismatch": 409,
    "removed": 410,
    "too_large": 413,
    "media_type": 415,
    "promo_code_taken": 409,
    "promo_published": 409,
    "promo_redeemed": 409,
    "already_refunded": 409,
    "nothing_to_refund": 409,
    "ask_open": 409,
    "ask_answered": 409,
    "ask_gone": 409,
    "too_many_guesses": 429,
    "too_many_streams": 429,
    "internal": 500,
    "unavailable": 503,
}


class Refusal(Exception):
    """Carries a Refused from the depth of request parsing to the one place that answers it."""

    def __init__(self, refused: Refused) -> None:
        super().__init__(refused.message)
        self.refused = refused


def invalid(message: str, instead: str = "", **numbers: int | str) -> Refusal:
    """The request itself is wrong."""
    return Refusal(Refused("invalid_request", message, numbers=dict(numbers), instead=instead))


def status_of(code: str) -> int:
    """HTTP status of an explanation's code; what no row names is a refusal by policy: 403."""
    return _STATUS.get(code, 403)


def error_answer(explained: Explained, request_id: str) -> ErrorAnswer:
    """Body of a refusal."""
    return ErrorAnswer(error=explanation(explained), request_id=request_id)


def json_bytes(answer: BaseModel | Sequence[BaseModel]) -> bytes:
    """JSON of an answer or of a list of answers."""
    if isinstance(answer, BaseModel):
        return answer.model_dump_json().encode()
    return ("[" + ",".join(item.model_dump_json() for item in answer) + "]").encode()


# ---------------------------------------------------------------- JSON in


def parse_json(body: bytes) -> Any:
    """Data of a JSON body, read strictly.

    Raises Refusal for what Python's parser would let pass: NaN and Infinity (also ``1e999``), duplicate keys, text that
    is not UTF-8, lone surrogates, NUL.
    """
    try:
        data = json.loads(
            body.decode("utf-8"), parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_no_duplicates
        )
    except UnicodeDecodeError as error:
        raise invalid(f"The body is not UTF-8 (byte {error.start}).", "Send JSON encoded as UTF-8.") from None
    except RecursionError:
        raise invalid("The JSON is nested too deeply.", "Send a flat object.") from None
    except json.JSONDecodeError as error:
        raise invalid(
            f"The body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}.", "Send one JSON object."
        ) from None
    except ValueError as error:  # an integer of thousands of digits
        raise invalid(f"The body holds a number that cannot be read: {error}.", "Send ordinary numbers.") from None
    check_text(data)
    return data


def _no_constant(name: str) -> Any:
    raise invalid(f"The body holds {name}, which is not JSON.", "Send a finite number.")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise invalid(f"The number {text[:40]} is out of range.", "Send a finite number.")
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise invalid(f"The key {_short(twice)} appears twice in one object.", "Send each key once.")
    return result


def check_text(data: Any) -> None:
    """Refuse text that cannot be stored or shown; walks without recursion."""
    todo = [data]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo.extend(item.keys())
            todo.extend(item.values())
        elif isinstance(item, list):
            todo.extend(item)
        elif isinstance(item, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in item):
            raise invalid(f"The text {_short(item)} holds NUL or half a character.", "Send plain Unicode text.")


def parse_model(model: type[M], data: Any) -> M:
    """Validate data as ``model``. Raises Refusal naming the field, its value and what is wanted instead."""
    if not isinstance(data, dict):
        raise invalid(f"The body is {_short(data)}, not a JSON object.", f"Send the fields {_fields(model)}.")
    try:
        value = model.model_validate(data)
    except ValidationError as error:
        raise Refusal(_explain(model, error)) from None
    for name in type(value).model_fields:
        if isinstance(field := getattr(value, name), datetime):
            check_instant(name, field)
    return value


def check_instant(name: str, value: datetime) -> None:
    """Refuse dates outside 1970–2999: their UTC instant may not exist."""
    if not EARLIEST_YEAR < value.year < LATEST_YEAR:
        raise invalid(
            f"{name} cannot be {value.isoformat()}: its year is out of range.",
            f"Send an instant between {EARLIEST_YEAR + 1} and {LATEST_YEAR - 1}.",
        )


_HINTS = {
    "gpu_type": "Write a GPU type as the price list names it, for example h100-80gb.",
    "gpu_types": "Write GPU types as the price list names them, for example h100-80gb.",
    "account": "Write class:NAME or person:NAME.",
    "audience": "Write class:NAME or person:NAME.",
    "promo_code": "Write letters, digits and hyphens, at most 64.",
    "code": "Write letters, digits and hyphens, at most 64.",
    "starts_at": "Write an instant with its zone, for example 2030-01-31T12:00:00Z.",
    "ends_at": "Write an instant with its zone, for example 2030-01-31T12:00:00Z.",
    "valid_from": "Write an instant with its zone, for example 2030-01-31T12:00:00Z.",
    "sha256": "Write the 64 hexadecimal digits of the content's SHA-256.",
    "server_name": "Write a lower-case letter, then letters, digits and hyphens, at most 30.",
}


def _explain(model: type[BaseModel], error: ValidationError) -> Refused:
    """One sentence about the first of pydantic's findings."""
    found = error.errors(include_url=False, include_context=False)
    first = found[0]
    path = ".".join(str(part) for part in first["loc"]) or "the body"
    path = path if len(path) <= 80 else path[:80] + "…"
    named = next((part for part in reversed(first["loc"]) if isinstance(part, str)), "")
    what = first["msg"].removeprefix("Value error, ").removeprefix("Input should ").rstrip(".")
    if first["type"] == "missing":
        message, instead = f"{path} is missing.", _HINTS.get(named, f"Add {path}.")
    elif first["type"] == "extra_forbidden":
        message, instead = f"{_ascii(path)} is not a known field.", f"Leave it out; the fields are {_fields(model)}."
    else:
        wanted = f"it should {what}" if "Input should" in first["msg"] else what[:1].lower() + what[1:]
        message = f"{path} cannot be {_short(first['input'])}: {wanted}."
        instead = _HINTS.get(named, "")
    return Refused("invalid_request", message, numbers={"field": path, "errors": len(found)}, instead=instead)


def _fields(model: type[BaseModel]) -> str:
    return ", ".join(model.model_fields) or "none"


def _short(value: Any) -> str:
    """A value as its sender wrote it, in ASCII and at most 60 characters."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:59] + "…"


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()


# ---------------------------------------------------------------- query strings in


def single_values(arguments: dict[str, list[bytes]], known: Iterable[str]) -> dict[str, str]:
    """Text of each query parameter. Raises Refusal for unknown, repeated and undecodable ones.

    A token never belongs into an address, where logs and histories keep it, so ``token`` gets its own sentence.
    """
    allowed = set(known)
    values: dict[str, str] = {}
    for name, given in arguments.items():
        if name == "token":
            raise invalid("A token was sent in the address.", "Send it in the header 'Authorization: token …'.")
        if name not in allowed:
            listed = ", ".join(sorted(allowed)) or "none"
            raise invalid(f"{_short(name)} is not a known query parameter.", f"The parameters are: {listed}.")
        if len(given) > 1:
            raise invalid(f"The query parameter {name} appears {len(given)} times.", "Send it once.")
        try:
            values[name] = given[0].decode("utf-8")
        except UnicodeDecodeError:
            raise invalid(f"The query parameter {name} is not UTF-8.", "Send UTF-8 text.") from None
        check_text(values[name])
    return values
