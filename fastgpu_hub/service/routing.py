"""What a route is: where, for whom, what goes in, what comes out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from fastgpu_hub.service.wire import check_instant, invalid

Who = Literal["anyone", "user", "user or spawner", "spawner", "teacher or admin", "admin", "metrics"]

SCOPES: dict[Who, str] = {
    "anyone": "",
    "user": "custom:fastgpu:use",
    "user or spawner": "custom:fastgpu:use or custom:fastgpu:spawn",
    "spawner": "custom:fastgpu:spawn",
    "teacher or admin": "custom:fastgpu:use with custom:fastgpu:teach!group=CLASS or custom:fastgpu:admin",
    "admin": "custom:fastgpu:use with custom:fastgpu:admin",
    "metrics": "custom:fastgpu:metrics, or custom:fastgpu:use with custom:fastgpu:admin",
}

JSON, TEXT, BYTES, HTML, CSV, EVENTS, NOTHING = (
    "application/json",
    "text/plain; charset=utf-8",
    "application/octet-stream",
    "text/html; charset=utf-8",
    "text/csv; charset=utf-8",
    "text/event-stream",
    "",
)
MIB = 1024 * 1024
JSON_LIMIT_BYTES = MIB
BLOB_LIMIT_BYTES = 256 * MIB
FORM_LIMIT_BYTES = 64 * 1024
LONGEST_POLL_SECONDS = 30


@dataclass(frozen=True, slots=True)
class Query:
    """One query parameter: its kind, bounds and default."""

    name: str
    help: str
    kind: Literal["text", "integer", "instant"] = "text"
    default: Any = None
    choices: tuple[str, ...] = ()
    minimum: int = 0
    maximum: int = 2**53
    pattern: str = r"^[^\x00-\x1f\x7f]{1,255}$"

    def parse(self, text: str) -> str | int | datetime:
        """Value of the written text. Raises Refusal naming parameter, value and what is wanted."""
        shown = text.encode("ascii", "backslashreplace").decode()[:60]
        if self.choices and text not in self.choices:
            raise invalid(f"{self.name} cannot be '{shown}'.", f"It is one of {', '.join(self.choices)}.")
        if self.kind == "integer":
            if not re.fullmatch(r"[0-9]{1,17}", text) or not self.minimum <= int(text) <= self.maximum:
                wanted = f"Send a whole number from {self.minimum} to {self.maximum}."
                raise invalid(f"{self.name} cannot be '{shown}'.", wanted)
            return int(text)
        if self.kind == "instant":
            return self._instant(text, shown)
        if not re.fullmatch(self.pattern, text):
            raise invalid(f"{self.name} cannot be '{shown}'.", self.help)
        return text

    def _instant(self, text: str, shown: str) -> datetime:
        # An unescaped "+" of a zone offset reaches us as a space.
        text = text.replace(" ", "+")
        try:
            value = datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
        except ValueError:
            value = None
        if value is None or value.tzinfo is None:
            wanted = "Write an instant with its zone, for example 2030-01-31T12:00:00Z."
            raise invalid(f"{self.name} cannot be '{shown}'.", wanted)
        check_instant(self.name, value)
        return value


@dataclass(frozen=True, slots=True)
class Route:
    """One operation: where, for whom, what goes in and what comes out.

    ``path`` is relative to the service's root; ``{name}`` matches one segment, ``{path}`` the rest. ``many`` means that
    the answer is a list. ``effect`` routes take an ``Idempotency-Key``. ``other_media`` are those a query may choose.
    """

    name: str
    method: str
    path: str
    who: Who
    summary: str
    body: type[BaseModel] | None = None
    answer: type[BaseModel] | None = None
    many: bool = False
    media: str = JSON
    other_media: tuple[str, ...] = ()
    status: int = 200
    query: tuple[Query, ...] = ()
    effect: bool = False
    limit_bytes: int = JSON_LIMIT_BYTES

    @property
    def is_page(self) -> bool:
        """True for what a browser shows, False for the API."""
        return not (self.path.startswith("api/") or self.path in ("health", "metrics"))

    @property
    def regex(self) -> str:
        """Pattern of the path with named groups."""
        pieces = re.split(r"(\{\w+\})", self.path)
        return "".join(_group(piece) if piece.startswith("{") else re.escape(piece) for piece in pieces)


_ARGUMENTS = {
    "id": r"[A-Za-z0-9_\-]{1,64}",
    "number": r"[0-9]{1,18}",
    "sha256": r"[0-9a-f]{64}",
    "path": r".+",
}


def _group(piece: str) -> str:
    name = piece.strip("{}")
    return f"(?P<{name}>{_ARGUMENTS.get(name, '[^/]+')})"


ACCOUNT = Query("account", "Write class:NAME or person:NAME.", pattern=r"^(class|person):[^\x00-\x1f\x7f]{1,200}$")
PROMO_CODE = Query("promo_code", "Write letters, digits and hyphens, at most 64.", pattern=r"^[A-Za-z0-9\-]{1,64}$")
