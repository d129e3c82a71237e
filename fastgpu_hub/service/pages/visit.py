"""What a page or form row is given and gives back, and what a form says once it is done."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.idempotency import IdempotencyClaim
from fastgpu_hub.broker.views import at
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.service.wire import Refusal

if TYPE_CHECKING:
    from fastgpu_hub.broker.broker import Broker

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Visit:
    """One checked page request. ``form`` holds the query of a page, the fields of a form."""

    broker: Broker
    actor: Actor
    time_zone: str
    path: dict[str, str] = field(default_factory=dict)
    form: dict[str, str] = field(default_factory=dict)
    key: IdempotencyClaim | None = None

    @property
    def name(self) -> str:
        return self.path["name"]

    @property
    def number(self) -> int:
        return int(self.path["number"])

    @property
    def now(self) -> datetime:
        return at(self.broker.clock.now_ms())


@dataclass(frozen=True, slots=True)
class Page:
    """A template and what it shows. Shown in answer to a form, it keeps what was typed into that form."""

    template: str
    context: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Done:
    """A form took effect: go to ``path`` and show the notice ``done``."""

    path: str
    done: str


@dataclass(frozen=True, slots=True)
class Download:
    """A file."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Streamed:
    """A file that is sent piece by piece, for it may be large."""

    name: str
    pieces: AsyncIterator[bytes]


@dataclass(frozen=True, slots=True)
class Notice:
    """What was done, and what one may want to do next: words and an address below the service's root or on the page."""

    text: str
    next: str = ""
    where: str = ""


# What a notice says; the address carries the key only, so nobody can put words on the page.
NOTICES = {
    "job-stopping": Notice("The job is being stopped. It is charged until it has ended."),
    "quota-set": Notice("The limit is in force.", "See how it stands", "#limits"),
    "quota-removed": Notice("The limit is removed.", "See which limits are left", "#limits"),
    "promotion-started": Notice("The promotion is set up. Whoever it is for sees it on their page."),
    "promotion-coded": Notice("The promotion is set up. It needs a code.", "Make codes for it", "#codes"),
    "promotion-drafted": Notice(
        "The draft is saved. Nobody else sees it, and it changes no price.", "Preview it again or publish it", "#edit"
    ),
    "promotion-edited": Notice(
        "The new version counts from now on; charges so far keep theirs.", "Undo: restore an earlier one", "#versions"
    ),
    "promotion-published": Notice("The promotion is published. Whoever it is for sees it on their page."),
    "promotion-ended": Notice(
        "The promotion has ended. What was granted under it keeps its price.", "Undo: restore it", "#versions"
    ),
    "promotion-restored": Notice("The earlier version counts again, as a new one.", "See all versions", "#versions"),
    "codes-made": Notice("The codes are made.", "Download all of them", "#codes"),
    "price-set": Notice("The price is set.", "See the price book", "#prices"),
    "credit-given": Notice("The credit is given.", "See what was given lately", "#grants"),
    "member-credit-given": Notice("The credit is given, out of the class's own.", "See what is left", "#credit"),
    "redeemed": Notice(
        "You have a place in the promotion. It applies by itself.", "See your promotions", "#promotions"
    ),
    "redeemed-credit": Notice("The promotion's credit is on your account.", "See what you have", "#credit"),
    "asked": Notice("Your request is on its way. The answer will be among the news on your page.", "My GPUs", "/"),
    "ask-withdrawn": Notice("Your request is withdrawn.", "Ask for something else", "#new"),
    "ask-approved": Notice("It is given, and they are told."),
    "ask-declined": Notice("The request is declined, and they are told."),
    "refunded": Notice(
        "It is refunded: the account has the money back as a grant.", "See all refunds", "/admin#refunds"
    ),
}


def must(found: T | Refused) -> T:
    """The value; raises Refusal when it is a refusal."""
    if isinstance(found, Refused):
        raise Refusal(found)
    return found


def segment(name: str) -> str:
    """A name as one segment of an address."""
    return quote(name, safe="")
