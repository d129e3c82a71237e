"""Who calls, and what that allows. Built by the service from the token; never from a request's body."""

from __future__ import annotations

from dataclasses import dataclass

from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.pricing.explain import Refused


@dataclass(frozen=True, slots=True)
class Actor:
    """The caller. ``classes`` are those they are a member of, ``teaches`` those they run.

    ``spawner`` may request leases on behalf of any owner; ``metrics`` may read the metrics; ``admin`` may do anything
    but spend another person's credit in their name.
    """

    name: str
    classes: tuple[str, ...] = ()
    teaches: tuple[str, ...] = ()
    admin: bool = False
    spawner: bool = False
    metrics: bool = False
    kind: str = "user"

    @property
    def accounts(self) -> tuple[str, ...]:
        """Accounts the caller may charge, the default first: their classes', then their own."""
        return accounts_of(self.name, self.classes)

    def manages(self, account: str) -> bool:
        """True when the caller runs this account: its class's teacher, or an administrator."""
        return self.admin or (account.startswith("class:") and account[len("class:") :] in self.teaches)

    def sees(self, workload: Workload) -> bool:
        """True for the owner, the spawner, an administrator, and the teacher of the class that pays."""
        if self.spawner and workload.kind == "server":
            return True
        return (self.kind == "user" and workload.owner == self.name) or self.manages(workload.account)


def accounts_of(name: str, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Accounts a person may charge: ``class:…`` for each class in alphabetical order, then ``person:…``."""
    return (*(f"class:{klass}" for klass in sorted(classes)), f"person:{name}")


def can_be_stored(text: str) -> bool:
    """False for text that no database takes, and that therefore names nothing (NUL, lone surrogates)."""
    return "\0" not in text and not any(0xD800 <= ord(c) <= 0xDFFF for c in text)


def not_found(what: str, subject_id: str) -> Refused:
    """The one answer for what does not exist and for what belongs to somebody else."""
    shown = subject_id if len(subject_id) <= 200 else f"{subject_id[:199]}…"
    return Refused("not_found", f"There is no {what} {shown!r} that you may see.")


def not_allowed(sentence: str, instead: str = "") -> Refused:
    """The caller is known but may not do this."""
    return Refused("not_allowed", sentence, instead=instead)
