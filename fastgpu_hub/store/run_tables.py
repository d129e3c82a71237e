"""The part of the unit of work that knows what is kept of a run beside its charges."""

from __future__ import annotations

from sqlalchemy import insert, select, update

from fastgpu_hub.broker.ports.records import RunRecord
from fastgpu_hub.store import rows
from fastgpu_hub.store import tables as t
from fastgpu_hub.store.job_tables import JobTables


class RunTables(JobTables):
    """Reads and writes of runs over one connection."""

    def save_run_record(self, record: RunRecord) -> None:
        """Insert or replace."""
        row = rows.run_record_row(record)
        if not self._changed(
            update(t.run_records).where(t.run_records.c.workload_id == record.workload_id).values(row)
        ):
            self._connection.execute(insert(t.run_records), row)

    def run_record(self, workload_id: str) -> RunRecord | None:
        """What is kept of a run."""
        row = self._first(select(t.run_records).where(t.run_records.c.workload_id == workload_id))
        return None if row is None else rows.run_record_of(row)
