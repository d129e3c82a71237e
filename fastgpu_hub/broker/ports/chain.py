"""The audit's chain: each entry carries the SHA-256 of itself and of the entry before, so none changes unseen. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass

from fastgpu_hub.broker.ports.records import AuditLink

HEAD = "audit_head"


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain ends: id and SHA-256 of its last entry."""

    id: int = 0
    sha256: str = "0" * 64


START = Head()


def sha256_of(previous: str, link: AuditLink) -> str:
    """The SHA-256, in hex, of an entry that follows the one with the hash ``previous``.

    What is hashed is a JSON array in ASCII without spaces: previous hash, id, instant in ms, actor, action, subject,
    before and after as the text they are stored as, or null. Texts are quoted, so no two entries read alike.
    """
    fields = [previous, link.id, link.at_ms, link.actor, link.action, link.subject, link.before, link.after]
    return hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode("ascii")).hexdigest()


@dataclass(frozen=True, slots=True)
class Followed:
    """How far a chain holds: ``head`` is its last sound entry, ``broken_at`` the first that does not fit, if any."""

    head: Head
    broken_at: int | None = None
    sentence: str = ""


def follow(links: Iterable[AuditLink], after: Head = START) -> Followed:
    """Follow a chain from a known place, in order of ids, as far as it holds."""
    head = after
    for link in links:
        if not _fits(head, link):
            since = f"after entry {head.id}" if head.id else "from the very beginning"
            return Followed(
                head,
                link.id,
                f"entry {link.id} of the audit does not fit what came before it: {since} an entry was changed, "
                f"removed, added or moved",
            )
        head = Head(link.id, link.sha256)
    return Followed(head)


def _fits(head: Head, link: AuditLink) -> bool:
    try:
        return link.id > head.id and sha256_of(head.sha256, link) == link.sha256
    except (TypeError, ValueError):  # what no entry can be: SQLite keeps anything in any column
        return False


def ends_at(last: Head, kept: Head | None) -> Followed:
    """Compare a chain followed to its end with the head that is kept apart from it."""
    if kept is None:
        return Followed(last, last.id, f"the note of the audit's last entry is gone; the chain ends at {last.id}")
    if kept.id > last.id:
        missing = f"{last.id + 1} to {kept.id}" if kept.id > last.id + 1 else str(kept.id)
        return Followed(last, last.id + 1, f"the audit's last entries are gone ({missing}): it ends at {last.id}")
    if kept.id < last.id:
        return Followed(last, kept.id + 1, f"the audit goes on to entry {last.id} after its last, which is {kept.id}")
    if kept.sha256 != last.sha256:
        return Followed(last, last.id, f"entry {last.id} of the audit is not the one that was noted as its last")
    return Followed(last)
