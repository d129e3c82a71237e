"""All books checked, from the first entry to the last, a slice at a time: memory does not grow with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from fastgpu_hub.broker.accounts import Accounts
from fastgpu_hub.broker.ports import chain
from fastgpu_hub.broker.ports.chain import Followed, Head
from fastgpu_hub.broker.ports.records import Hold, Workload, WorkloadEvent
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.verify import Fault, Terms, by_workload, workload_faults

WORKLOADS_AT_ONCE = 200
ENTRIES_AT_ONCE = 5_000
MOST_FAULTS = 100
# What reading a row raises that holds what no record can: SQLite keeps anything in any column.
UNREADABLE = (ArithmeticError, LookupError, TypeError, ValueError)

# What is being read, how much of it is done, and how much there is.
Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class Report:
    """What was checked, and what does not fit: the first of it, and how much in all."""

    checked: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    found: int = 0

    def add(self, faults: Iterable[Fault]) -> None:
        """Count them; keep them while there are few."""
        for fault in faults:
            self.found += 1
            if len(self.faults) < MOST_FAULTS:
                self.faults.append(fault)


@dataclass(slots=True)
class AuditReport(Report):
    """The chain's own: ``followed`` says how far it holds."""

    followed: Followed = field(default_factory=lambda: Followed(chain.START))


def check_audit(uow: UnitOfWork, progress: Progress, expected: Sequence[Head] = ()) -> AuditReport:
    """Follow the audit's chain from its beginning to the note of its end; ``expected`` were noted elsewhere before."""
    report = AuditReport()
    wanted = {head.id: head.sha256 for head in expected}
    _, _, last = uow.extent()
    followed = Followed(chain.START)
    while links := uow.audit_links(followed.head.id, ENTRIES_AT_ONCE):
        for link in links:
            sha256 = wanted.pop(link.id, link.sha256)
            if sha256 != link.sha256:
                report.add([Fault(f"audit entry {link.id}", f"it was {sha256} once, it is {link.sha256} now")])
        followed = chain.follow(links, followed.head)
        report.checked["audit_entries"] = report.checked.get("audit_entries", 0) + len(links)
        progress("audit", followed.head.id, last)
        if followed.broken_at is not None:
            break
    if followed.broken_at is None:
        followed = chain.ends_at(followed.head, uow.audit_head())
        report.add(Fault(f"audit entry {number}", "it was there once, it is gone") for number in sorted(wanted))
    if followed.broken_at is not None:
        report.add([chain_fault(followed)])
    report.followed = followed
    return report


def chain_fault(broken: Followed) -> Fault:
    """A broken chain as a fault."""
    return Fault(f"audit entry {broken.broken_at}", broken.sentence)


def check_ledger(uow: UnitOfWork, progress: Progress) -> Report:
    """Replay every workload's evidence and every account, and compare both with the ledger. See ``verify``."""
    report = Report({"workloads": 0, "ledger_entries": 0})
    for what, step in {"workloads": _workloads, "accounts": _accounts, "sums": _sums}.items():
        try:
            step(uow, report, progress)
        except UNREADABLE as error:
            report.add([Fault(what, f"a record cannot be read, what follows it was not checked: {error}")])
    return report


def _workloads(uow: UnitOfWork, report: Report, progress: Progress) -> None:
    holds, (workloads, _, _) = uow.open_holds(), uow.extent()
    terms = Terms(uow.prices(), uow.promotion_versions())
    after = ""
    while found := uow.workloads_after(after, WORKLOADS_AT_ONCE):
        report.add(fault for faults in faults_of(uow, found, holds, terms).values() for fault in faults)
        after = found[-1].id
        report.checked["workloads"] += len(found)
        progress("workloads", report.checked["workloads"], workloads)
    report.add(Fault(f"ledger entry {number}", "its workload does not exist") for number in uow.orphans(MOST_FAULTS))


def _accounts(uow: UnitOfWork, report: Report, progress: Progress) -> None:
    holds, (_, entries, _) = uow.open_holds(), uow.extent()
    accounts, last = Accounts(uow.grants()), 0
    while postings := uow.postings(last, ENTRIES_AT_ONCE):
        report.add(accounts.add(postings))
        last = postings[-1].id
        report.checked["ledger_entries"] += len(postings)
        progress("accounts", last, entries)
    report.add(fault for _, fault in accounts.close(holds))


def _sums(uow: UnitOfWork, report: Report, progress: Progress) -> None:
    progress("sums", 0, 1)
    report.add(rollup_faults(uow))
    progress("sums", 1, 1)


def rollup_faults(uow: UnitOfWork) -> list[Fault]:
    """Where sums that are kept are not what the ledger adds up to."""
    return [Fault("sums", sentence) for sentence in uow.rollup_faults(MOST_FAULTS)]


def faults_of(
    uow: UnitOfWork, workloads: Sequence[Workload], holds: Iterable[Hold], terms: Terms
) -> dict[str, list[Fault]]:
    """What does not fit about each of these workloads, by its id."""
    ids = [workload.id for workload in workloads]
    booked = by_workload(uow.booked(ids))
    events: dict[str, list[WorkloadEvent]] = {}
    for event in uow.events_of(ids):
        events.setdefault(event.workload_id, []).append(event)
    held = {hold.workload_id: hold for hold in holds}
    return {
        workload.id: workload_faults(
            workload, events.get(workload.id, ()), booked.get(workload.id, ()), held.get(workload.id), terms
        )
        for workload in workloads
    }
