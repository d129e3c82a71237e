"""The part of the unit of work that proves: the audit and its chain, and the records to replay, a slice at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from sqlalchemy import func, insert, select

from fastgpu_hub.broker.ports import chain
from fastgpu_hub.broker.ports.records import AuditEntry, AuditLink, Booked, Posting, Workload, WorkloadEvent
from fastgpu_hub.store import rollups, rows
from fastgpu_hub.store import tables as t
from fastgpu_hub.store.rule_tables import RuleTables

_POSTING = tuple(t.transfers.c[name] for name in Posting._fields)


class EvidenceTables(RuleTables):
    """Reads and writes of evidence over one connection."""

    # ------------------------------------------------------------ audit

    def add_audit(self, entry: AuditEntry) -> None:
        """Append who changed what, chained to the entry before; id and hash of the last are kept a second time.

        Chained to what was noted, never to what the table happens to end with: a table that was cut short or added to
        behind our back stays found out.
        """
        head = self.audit_head() or chain.START
        newest = self._connection.execute(select(func.max(t.audit.c.id))).scalar_one() or 0
        link = rows.audit_link(entry, max(head.id, newest) + 1, head.sha256)
        self._connection.execute(insert(t.audit), asdict(link))
        self.set_setting(chain.HEAD, {"id": link.id, "sha256": link.sha256})

    def audit(
        self, limit: int = 100, *, before_id: int | None = None, actor: str = "", subject: str = ""
    ) -> list[AuditEntry]:
        """The latest entries, newest first: those before an id, of one actor, whose subject contains a text."""
        c = t.audit.c
        statement = select(t.audit).order_by(c.id.desc()).limit(limit)
        if before_id is not None:
            statement = statement.where(c.id < before_id)
        if actor:
            statement = statement.where(c.actor == actor)
        if subject:
            statement = statement.where(c.subject.icontains(subject, autoescape=True))
        return [rows.audit_of(row) for row in self._all(statement)]

    def audit_links(self, after_id: int = 0, limit: int | None = None) -> list[AuditLink]:
        """Entries as they are stored, in order of ids: at most ``limit`` after ``after_id``."""
        c = t.audit.c
        statement = select(t.audit).where(c.id > after_id).order_by(c.id).limit(limit)
        return [AuditLink(**row) for row in self._all(statement)]

    def audit_head(self) -> chain.Head | None:
        """Where the chain ends by the note kept apart from it; None when there is none that can be read."""
        try:
            noted = self.setting(chain.HEAD)
        except ValueError:
            return None
        match noted:
            case {"id": int(number), "sha256": str(sha256)}:
                return chain.Head(number, sha256)
        return None

    # ------------------------------------------------------------ replay

    def workloads_after(self, after_id: str, limit: int) -> list[Workload]:
        """Workloads in order of their ids, as the database sorts them: at most ``limit`` after ``after_id``."""
        c = t.workloads.c
        statement = select(t.workloads).where(c.id > after_id).order_by(c.id).limit(limit)
        return [rows.workload_of(row) for row in self._all(statement)]

    def workloads_of(self, workload_ids: Sequence[str]) -> list[Workload]:
        """The workloads of these ids, as far as there are any."""
        found = self._all(select(t.workloads).where(t.workloads.c.id.in_(workload_ids)))
        return [rows.workload_of(row) for row in found]

    def events_of(self, workload_ids: Sequence[str]) -> list[WorkloadEvent]:
        """All evidence about these workloads, in the order it was written."""
        c = t.workload_events.c
        statement = select(t.workload_events).where(c.workload_id.in_(workload_ids)).order_by(c.id)
        return [rows.event_of(row) for row in self._all(statement)]

    def booked(self, workload_ids: Sequence[str]) -> list[Booked]:
        """All ledger entries about these workloads, in the order they were written."""
        c = t.transfers.c
        statement = select(t.transfers).where(c.workload_id.in_(workload_ids)).order_by(c.id)
        return [Booked(rows.transfer_of(row), row["gpu_ms"], row["saved_micros"]) for row in self._all(statement)]

    def postings(self, after_id: int = 0, limit: int | None = None) -> list[Posting]:
        """What of each ledger entry moves money, in the order they were written: at most ``limit`` after an id."""
        c = t.transfers.c
        statement = select(*_POSTING).where(c.id > after_id).order_by(c.id).limit(limit)
        return [Posting._make(row) for row in self._connection.execute(statement)]

    def orphans(self, limit: int) -> list[int]:
        """Ids of charges and refunds whose workload there is not. The database refuses them, but not from everybody."""
        c = t.transfers.c
        known = select(t.workloads.c.id).where(t.workloads.c.id == c.workload_id).exists()
        lost = select(c.id).where(c.kind.in_(("charge", "refund")), ~known).order_by(c.id).limit(limit)
        return list(self._connection.execute(lost).scalars())

    def rollup_faults(self, limit: int) -> list[str]:
        """Where the rollups are not what the ledger adds up to, one sentence each; reads all of it."""
        return rollups.faults(self._connection, limit)

    def extent(self) -> tuple[int, int, int]:
        """How much there is to check: workloads, the last ledger entry's id, the last audit entry's id."""
        of = self._connection.execute(
            select(
                select(func.count()).select_from(t.workloads).scalar_subquery(),
                select(func.max(t.transfers.c.id)).scalar_subquery(),
                select(func.max(t.audit.c.id)).scalar_subquery(),
            )
        ).one()
        return of[0] or 0, of[1] or 0, of[2] or 0
