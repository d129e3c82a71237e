"""The books under watch while the service runs: what is new is checked each round, what is old a slice at a time."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone

from fastgpu_hub.broker.accounts import Accounts
from fastgpu_hub.broker.books import UNREADABLE, chain_fault, faults_of, rollup_faults
from fastgpu_hub.broker.ports import chain
from fastgpu_hub.broker.ports.chain import Followed, Head
from fastgpu_hub.broker.ports.records import Hold, Posting
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.verify import Fault, Terms

NEW_ENTRIES = 5_000
NEW_PARTS = 4  # so many at most: in one piece they would take much memory
OLD_ENTRIES = 2_000
WORKLOADS = 100
ACCOUNTS = 500
LINKS = 2_000
# Sums are compared with the whole ledger, in the database: about once an hour, and not while everybody comes back.
ROUNDS_PER_SUM = 240
_SINCE = "problems_since"


@dataclass(frozen=True, slots=True)
class Problem:
    """A fault, with the instant at which anything at its place was first seen to be wrong."""

    since_ms: int
    fault: Fault


@dataclass(frozen=True, slots=True)
class Checked:
    """The latest check: when (None: not yet), and up to which entry the audit's chain holds, or where it is broken."""

    at: datetime | None
    audit_id: int
    audit_broken_at: int | None


@dataclass(slots=True)
class _Replay:
    """Accounts as far as the ledger was read."""

    accounts: Accounts
    last_id: int = 0
    faults: list[Fault] = field(default_factory=list)

    def follow(self, postings: Sequence[Posting]) -> None:
        self.faults += self.accounts.add(postings)
        self.last_id = postings[-1].id if postings else self.last_id


class ChainWatch:
    """The audit's chain, followed as it grows and from its beginning again and again.

    What was followed once is remembered here: even a chain that somebody computed anew from end to end is found out.
    """

    def __init__(self) -> None:
        self.state = Followed(chain.START)
        self._head = self._again = chain.START

    def check(self, uow: UnitOfWork) -> list[Fault]:
        """Where the chain is broken, if it is."""
        self.state = self._look(uow)
        return [] if self.state.broken_at is None else [chain_fault(self.state)]

    def _look(self, uow: UnitOfWork) -> Followed:
        there = uow.audit_links(self._head.id - 1, 1) if self._head.id else []
        if self._head.id and (not there or Head(there[0].id, there[0].sha256) != self._head):
            # Where it was changed is found from the beginning; if nowhere, then all of it was computed anew.
            self._again, found = _follow_all(uow)
            sentence = f"the audit is not the one that was followed up to entry {self._head.id} before"
            return found if found.broken_at is not None else Followed(found.head, self._head.id, sentence)
        new = uow.audit_links(self._head.id, LINKS)
        followed = chain.follow(new, self._head)
        self._head = followed.head
        old = uow.audit_links(self._again.id, LINKS)
        again = chain.follow(old, self._again)
        self._again = again.head if len(old) == LINKS or again.broken_at is not None else chain.START
        if again.broken_at is not None or followed.broken_at is not None:
            return again if again.broken_at is not None else followed
        return chain.ends_at(self._head, uow.audit_head()) if len(new) < LINKS else followed


def _follow_all(uow: UnitOfWork) -> tuple[Head, Followed]:
    followed = Followed(chain.START)
    while followed.broken_at is None and (links := uow.audit_links(followed.head.id, LINKS)):
        followed = chain.follow(links, followed.head)
    return followed.head, followed


class LedgerWatch:
    """The ledger, replayed as it grows, and from its beginning again and again: the same work each round at any age."""

    def __init__(self) -> None:
        self._live: _Replay | None = None
        self._sweep: _Replay | None = None
        self._terms: tuple[str, Terms] | None = None
        self._after = {"workload": "", "account": ""}
        self._workloads: dict[str, list[Fault]] = {}
        self._accounts: dict[str, list[Fault]] = {}

    def check(self, uow: UnitOfWork) -> list[Fault]:
        """What is known not to fit, after this round's entries."""
        holds = uow.open_holds()
        live, workloads, accounts, caught_up = self._replay(uow)
        self._look_at_workloads(uow, holds, workloads)
        if caught_up:
            self._look_at_accounts(live.accounts, holds, accounts | {hold.account for hold in holds})
        kept = [*self._accounts.values(), *self._workloads.values()]
        return [*live.faults, *(fault for faults in kept for fault in faults)]

    def _replay(self, uow: UnitOfWork) -> tuple[_Replay, set[str], set[str], bool]:
        """Follow what is new and some of what is old; which workloads and accounts the new is about, and whether
        everything was followed."""
        live = self._live or _Replay(Accounts(uow.grants()))
        sweep = self._sweep or _Replay(Accounts(uow.grants()))
        workloads: set[str] = set()
        accounts: set[str] = set()
        caught_up = False
        for _ in range(NEW_PARTS):
            new = uow.postings(live.last_id, NEW_ENTRIES)
            if self._live is not None and any(posting.grant_id is not None for posting in new):
                grants = uow.grants()
                live.accounts.know(grants)
                sweep.accounts.know(grants)
            live.follow(new)
            workloads |= {posting.workload_id for posting in new if posting.workload_id}
            accounts = accounts.union(*((posting.debit, posting.credit) for posting in new))
            if caught_up := len(new) < NEW_ENTRIES:
                break
        old = uow.postings(sweep.last_id, OLD_ENTRIES)
        sweep.follow(old)
        swept = len(old) < OLD_ENTRIES and sweep.last_id >= live.last_id
        self._live, self._sweep = (sweep, None) if swept else (live, sweep)
        return self._live, workloads, accounts, caught_up

    def _look_at_workloads(self, uow: UnitOfWork, holds: Sequence[Hold], touched: set[str]) -> None:
        old = uow.workloads_after(self._after["workload"], WORKLOADS)
        self._after["workload"] = old[-1].id if len(old) == WORKLOADS else ""
        again = [*self._workloads, *sorted(touched)][: 2 * WORKLOADS]
        some = {workload.id: workload for workload in (*old, *uow.workloads_of(again))}
        version = uow.rules_version()
        if self._terms is None or self._terms[0] != version:
            self._terms = version, Terms(uow.prices(), uow.promotion_versions())
        _replace(self._workloads, faults_of(uow, list(some.values()), holds, self._terms[1]))

    def _look_at_accounts(self, accounts: Accounts, holds: Sequence[Hold], touched: set[str]) -> None:
        known = accounts.names()
        begin = bisect_right(known, self._after["account"])
        old = known[begin : begin + ACCOUNTS]
        self._after["account"] = old[-1] if len(old) == ACCOUNTS else ""
        some = {*old, *(touched & set(known)), *self._accounts}
        found: dict[str, list[Fault]] = {name: [] for name in some}
        for name, fault in accounts.close(holds, some):
            found[name].append(fault)
        _replace(self._accounts, found)


def _replace(kept: dict[str, list[Fault]], found: Mapping[str, list[Fault]]) -> None:
    for name, faults in found.items():
        kept.pop(name, None)
        if faults:
            kept[name] = faults


class Watch:
    """Everything that is checked while the service runs, and what of it does not fit, with since when."""

    def __init__(self) -> None:
        self.chain = ChainWatch()
        self.ledger = LedgerWatch()
        self.problems: list[Problem] = []
        self.checked_ms: int | None = None
        self._since: dict[str, int] | None = None
        self._rounds = 0
        self._off: list[Fault] = []
        self._one_at_a_time = threading.Lock()

    def check(self, uow: UnitOfWork) -> list[Fault]:
        """A round over the books: what is known not to fit."""
        with self._one_at_a_time:
            if self._since is None:
                kept = uow.setting(_SINCE)
                self._since = dict(kept) if isinstance(kept, dict) else {}
            self._rounds += 1
            if self._rounds % ROUNDS_PER_SUM == 0:
                self._off = rollup_faults(uow)
            return [*self.chain.check(uow), *self._ledger(uow), *self._off]

    def _ledger(self, uow: UnitOfWork) -> list[Fault]:
        try:
            return self.ledger.check(uow)
        except UNREADABLE as error:
            return [Fault("ledger", f"a record cannot be read, what follows it is not checked: {error}")]

    def seen(self, faults: Iterable[Fault], at_ms: int) -> tuple[list[Problem], bool]:
        """Take a whole round's faults; returns those that were not known, and whether to ``remember``."""
        before, known = self._since or {}, {str(problem.fault) for problem in self.problems}
        unique = {str(fault): fault for fault in faults}.values()
        self.problems = [Problem(before.get(fault.where, at_ms), fault) for fault in unique]
        self._since = {problem.fault.where: problem.since_ms for problem in self.problems}
        self.checked_ms = at_ms
        return [problem for problem in self.problems if str(problem.fault) not in known], self._since != before

    def remember(self, uow: UnitOfWork) -> None:
        """Write down since when: a restart does not make old problems new."""
        uow.set_setting(_SINCE, self._since or {})

    def checked(self) -> Checked:
        """The latest check."""
        at = None if self.checked_ms is None else datetime.fromtimestamp(self.checked_ms / 1000, timezone.utc)
        return Checked(at, self.chain.state.head.id, self.chain.state.broken_at)

    def gauges(self) -> dict[str, float]:
        """Figures for the metrics page; the chain counts as intact until it is known to be broken."""
        return {
            "consistency_problems": len(self.problems),
            "consistency_checked_timestamp_seconds": (self.checked_ms or 0) / 1000,
            "audit_chain_intact": int(self.chain.state.broken_at is None),
            "audit_chain_entries": self.chain.state.head.id,
        }
