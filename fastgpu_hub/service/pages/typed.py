"""What was typed into the one form of a page that was sent, so that it comes back with the refusal beside its field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import unquote

from fastgpu.models import Explanation


@dataclass(frozen=True, slots=True)
class FormState:
    """One form of a page as it is to be shown: its fields' values, and what is wrong with which."""

    id: str
    action: str
    values: Mapping[str, str]
    typed: bool = False
    problem: Explanation | None = None

    @property
    def refused(self) -> bool:
        """True when this form was sent and did not take effect."""
        return self.problem is not None

    def value(self, name: str) -> str:
        """Text of a field: what was typed, else its default."""
        return self.values.get(name, "")

    def wrong(self, name: str) -> str:
        """What is wrong with a field; empty when nothing is known to be."""
        return self.problem.message if self.problem is not None and self._field == name else ""

    @property
    def wrong_elsewhere(self) -> str:
        """What is wrong with the form as a whole."""
        return self.problem.message if self.problem is not None and not self._field else ""

    @property
    def _field(self) -> str:
        named = self.problem.numbers.get("field", "") if self.problem is not None else ""
        return named if isinstance(named, str) and named in self.values else ""


@dataclass(slots=True)
class Typed:
    """The form that was sent, by its address; ``problem`` is why it was refused, None when the page is its answer."""

    action: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    problem: Explanation | None = None
    _ids: count[int] = field(default_factory=lambda: count(1))

    def of(self, action: str, defaults: Mapping[str, str] | None = None, preview: str = "") -> FormState:
        """The form with this address (or that of its preview): as typed if it is the one that was sent."""
        form_id = f"f{next(self._ids)}"
        if self.action and unquote(self.action) in (unquote(action), unquote(preview)):
            return FormState(form_id, action, self.values, True, self.problem)
        return FormState(form_id, action, defaults or {})
