"""Accounts replayed from the ledger's entries, in the order they were written: no account ever spends what it lacks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fastgpu_hub.broker.ports.records import Hold, Posting
from fastgpu_hub.broker.verify import Fault
from fastgpu_hub.pricing import credits
from fastgpu_hub.pricing.credits import Grant, Spent
from fastgpu_hub.pricing.ledger import GRANTS, REVENUE

_SITE = (GRANTS, REVENUE)


def _may_be(kind: str, debit: str, credit: str) -> bool:
    if kind == "charge":
        return credit == REVENUE and debit not in _SITE
    if kind == "refund":
        return debit == REVENUE and credit not in _SITE
    if kind == "expire":
        return credit == GRANTS and debit not in _SITE
    return kind == "grant" and debit != REVENUE and credit not in _SITE and debit != credit


@dataclass(slots=True)
class _Account:
    """One account as far as the ledger was read; ``taken`` is spent and given, by the edges of its grants.

    ``split`` is false once the grants have other edges than these; ``short`` once it was below zero.
    """

    edges: list[int] = field(default_factory=list)
    taken: list[int] = field(default_factory=lambda: [0])
    balance: int = 0
    granted: int = 0
    short: bool = False
    split: bool = True

    def take(self, at_ms: int, amount_micros: int) -> None:
        self.taken[bisect_right(self.edges, at_ms)] += amount_micros


class Accounts:
    """A replay. Feed it every posting once, in order, then ask what does not fit. Memory grows with accounts only."""

    def __init__(self, grants: Sequence[Grant]) -> None:
        self._accounts: dict[str, _Account] = {}
        self._booked: set[int] = set()
        self._expired: dict[int, int] = {}
        self.know(grants)

    def know(self, grants: Sequence[Grant]) -> None:
        """All grants there are by now. What was followed before cannot be told apart by edges that are new since."""
        self._grants = {grant.id: grant for grant in grants}
        self._of: dict[str, list[Grant]] = {}
        for grant in grants:
            self._of.setdefault(grant.account, []).append(grant)
        for name, account in self._accounts.items():
            account.split = account.split and account.edges == credits.edges(self._of.get(name, []))

    def names(self) -> list[str]:
        """Every account that was seen or given something, sorted."""
        return sorted(self._accounts.keys() | self._of.keys())

    def _account(self, name: str) -> _Account:
        found = self._accounts.get(name)
        if found is None:
            edges = credits.edges(self._of.get(name, []))
            found = self._accounts[name] = _Account(edges, [0] * (len(edges) + 1))
        return found

    def add(self, postings: Iterable[Posting]) -> Iterator[Fault]:
        """Follow some more entries."""
        for posting in postings:
            number, kind, debit, credit, amount, at_ms, from_ms, _, _ = posting
            if amount < 0 or not _may_be(kind, debit, credit):
                yield Fault(f"ledger entry {number}", f"a {kind} of {amount} from {debit} to {credit} cannot be")
                continue
            if debit not in _SITE:
                payer = self._account(debit)
                payer.balance -= amount
                if payer.balance < 0 and not payer.short:
                    payer.short = True
                    yield Fault(
                        f"account {debit}", f"with ledger entry {number} it is {-payer.balance} micro-units below 0"
                    )
                if kind == "charge":
                    payer.take(at_ms if from_ms is None else from_ms, amount)
                elif kind == "grant":
                    payer.take(at_ms, amount)
            if credit not in _SITE:
                receiver = self._account(credit)
                receiver.balance += amount
                receiver.granted += amount
            if kind != "charge":
                yield from self._of_grant(posting)

    def _of_grant(self, posting: Posting) -> Iterator[Fault]:
        where = f"ledger entry {posting.id}"
        if posting.grant_id is None:  # from before grants had records of their own; close() compares the sums
            return
        grant = self._grants.get(posting.grant_id)
        if grant is None:
            yield Fault(where, f"it names grant {posting.grant_id}, which does not exist")
        elif posting.kind == "expire":
            if posting.debit != grant.account or not 0 <= posting.amount_micros <= grant.amount_micros:
                yield Fault(where, f"{posting.amount_micros} of grant {grant.id} to {grant.account} cannot expire")
            elif grant.expires_ms is None or posting.at_ms < grant.expires_ms:
                yield Fault(where, f"grant {grant.id} had not expired at {posting.at_ms} (ms)")
            elif grant.id in self._expired:
                yield Fault(where, f"grant {grant.id} expired before")
            self._expired[grant.id] = posting.amount_micros
        elif (posting.credit, posting.amount_micros) != (grant.account, grant.amount_micros):
            yield Fault(
                where,
                f"it gives {posting.amount_micros} to {posting.credit}, but grant {grant.id} is of "
                f"{grant.amount_micros} to {grant.account}",
            )
        elif grant.id in self._booked:
            yield Fault(where, f"grant {grant.id} was booked before")
        else:
            self._booked.add(grant.id)

    def close(self, holds: Iterable[Hold], names: Iterable[str] | None = None) -> Iterator[tuple[str, Fault]]:
        """With every entry followed and what is held: what of expired + spent + given + held + left = granted fails.

        For these accounts, or for all; each fault comes with its account.
        """
        held: dict[str, list[int]] = {}
        for hold in holds:
            account = self._account(hold.account)
            of = held.setdefault(hold.account, [0] * len(account.taken))
            for line in hold.lines:
                of[bisect_right(account.edges, line.from_ms)] += line.amount_micros
        for name in self.names() if names is None else sorted(names):
            for sentence in self._closing(name, held):
                yield name, Fault(f"account {name}", sentence)

    def _closing(self, name: str, held: Mapping[str, Sequence[int]]) -> Iterator[str]:
        account, grants = self._account(name), self._of.get(name, [])
        recorded = sum(grant.amount_micros for grant in grants)
        if recorded != account.granted:
            yield f"its grants add up to {recorded} micro-units, the ledger gave it {account.granted}"
            return
        on_hold = held.get(name, [0] * len(account.taken))
        if sum(on_hold) > account.balance:
            yield f"{sum(on_hold)} micro-units are held for it, it has only {account.balance}"
            return
        if not account.split:
            return
        begins = [None, *account.edges]
        both = zip(begins, account.taken, on_hold, strict=True)
        burned = credits.burn(grants, [Spent(begin, taken + more) for begin, taken, more in both])
        if burned.short_micros:
            yield f"{burned.short_micros} micro-units are spent or held that no grant valid at that time could pay"
            return
        for grant in grants:
            booked = self._expired.get(grant.id)
            if booked is not None and booked != burned.left[grant.id]:
                yield f"{booked} micro-units of grant {grant.id} expired, {burned.left[grant.id]} were left of it"
