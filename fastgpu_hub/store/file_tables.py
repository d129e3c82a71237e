"""The part of the unit of work that knows which files jobs left, and which of them are to go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import ColumnElement, func, literal_column, or_, select, update

from fastgpu_hub.broker.ports.records import Artifact, Workload
from fastgpu_hub.pricing.quotas import Scope
from fastgpu_hub.store import rows
from fastgpu_hub.store import tables as t
from fastgpu_hub.store.ledger_table import LedgerTable

# Written into the statement, not bound: a database uses a partial index only where it sees the index's condition.
_KEEPING: ColumnElement[str] = literal_column("'keeping'")
_NOWHERE: ColumnElement[str] = literal_column("''")


class FileTables(LedgerTable):
    """Reads and writes of artifacts, and of what is kept of ended jobs, over one connection."""

    def add_artifacts(self, artifacts: Sequence[Artifact]) -> list[Artifact]:
        """Insert (their ids are ignored); returns them with their ids."""
        ids = self._insert_all(t.artifacts, [rows.artifact_row(artifact) for artifact in artifacts])
        return [replace(artifact, id=new) for artifact, new in zip(artifacts, ids, strict=True)]

    def artifacts(self, workload_id: str) -> list[Artifact]:
        """Every file ever kept of a workload, deleted ones too, in the order they were kept."""
        c = t.artifacts.c
        return self._artifacts(c.workload_id == workload_id)

    def artifact_bytes(self, scope: Scope) -> int:
        """Bytes of the kept files of a person, of what an account paid for, or of everybody."""
        c = t.artifacts.c
        statement = select(func.coalesce(func.sum(c.size_bytes), 0)).where(c.deleted_ms.is_(None))
        if scope.owner is not None:
            statement = statement.where(c.owner == scope.owner)
        if scope.account is not None:
            statement = statement.join(t.workloads).where(t.workloads.c.account == scope.account)
        return int(self._connection.execute(statement).scalar_one())

    def delete_artifacts(self, artifact_ids: Sequence[int], now_ms: int) -> None:
        """Mark them deleted, those that are not yet."""
        c = t.artifacts.c
        self._changed(
            update(t.artifacts).where(c.id.in_(artifact_ids), c.deleted_ms.is_(None)).values(deleted_ms=now_ms)
        )

    def artifacts_left(self, limit: int) -> list[Artifact]:
        """Deleted ones whose bytes the artifact store may still hold, oldest first."""
        c = t.artifacts.c
        return self._artifacts(c.deleted_ms.is_not(None), c.url != _NOWHERE, limit=limit)

    def artifacts_gone(self, artifact_ids: Sequence[int]) -> None:
        """Their bytes are gone: they lie nowhere."""
        self._changed(update(t.artifacts).where(t.artifacts.c.id.in_(artifact_ids)).values(url=""))

    def artifacts_before(self, created_ms: int, limit: int) -> list[Artifact]:
        """Those kept before an instant and not deleted yet, oldest first."""
        c = t.artifacts.c
        return self._artifacts(c.deleted_ms.is_(None), c.created_ms < created_ms, limit=limit)

    def _artifacts(self, *conditions: ColumnElement[bool], limit: int | None = None) -> list[Artifact]:
        statement = select(t.artifacts).where(*conditions).order_by(t.artifacts.c.id).limit(limit)
        return [Artifact(**row) for row in self._all(statement)]

    def kept_by_job(self, owner: str, limit: int) -> list[tuple[str, int, int, int]]:
        """A person's kept files by job: its id, how many, their bytes, when the last was kept; the largest first."""
        c = t.artifacts.c
        size = func.sum(c.size_bytes)
        statement = select(c.workload_id, func.count(), size, func.max(c.created_ms))
        statement = statement.where(c.owner == owner, c.deleted_ms.is_(None)).group_by(c.workload_id)
        found = self._connection.execute(statement.order_by(size.desc(), c.workload_id).limit(limit))
        return [(job_id, int(files), int(total), int(at_ms)) for job_id, files, total, at_ms in found]

    def keeping(self, limit: int) -> list[Workload]:
        """Workloads whose outputs are still to be kept, by id."""
        c = t.workloads.c
        statement = select(t.workloads).where(c.artifacts == _KEEPING).order_by(c.id).limit(limit)
        return [rows.workload_of(row) for row in self._all(statement)]

    def jobs_with_files(self, ended_before_ms: int, limit: int) -> list[Workload]:
        """Jobs that ended before an instant, whose folder is still there and holds nothing that is yet to be kept."""
        c = t.workloads.c
        statement = select(t.workloads).where(
            c.state == "ended",
            c.kind == "job",
            c.requested_ms < ended_before_ms,  # no later than the end; bounds the search in the index
            c.ended_ms < ended_before_ms,
            c.files_removed_ms.is_(None),
            or_(c.artifacts.is_(None), c.artifacts != _KEEPING),
        )
        return [rows.workload_of(row) for row in self._all(statement.order_by(c.requested_ms).limit(limit))]

    def files_removed(self, workload_ids: Sequence[str], now_ms: int) -> None:
        """The folders of these jobs are gone."""
        self._changed(update(t.workloads).where(t.workloads.c.id.in_(workload_ids)).values(files_removed_ms=now_ms))
