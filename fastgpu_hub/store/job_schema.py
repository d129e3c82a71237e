"""The tables about jobs beside their workloads: what waits for what, what was kept, what a run told of itself."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, ForeignKey, Index, String, Table, Text

from fastgpu_hub.store.columns import id_column, metadata, where

dependencies = Table(
    "dependencies",
    metadata,
    Column("workload_id", String, ForeignKey("workloads.id"), primary_key=True),
    Column("needs_id", String, ForeignKey("workloads.id"), primary_key=True),
    Index("ix_dependencies_needs_id", "needs_id"),
)

artifacts = Table(
    "artifacts",
    metadata,
    id_column(),
    Column("workload_id", String, ForeignKey("workloads.id"), nullable=False),
    Column("owner", String, nullable=False),
    Column("path", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("url", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("deleted_ms", BigInteger),
    Index("ix_artifacts_workload_id", "workload_id", "id"),
    Index("ix_artifacts_owner", "owner", "deleted_ms"),
    Index("ix_artifacts_created_ms", "created_ms", **where("deleted_ms IS NULL")),
    Index("ix_artifacts_left", "id", **where("deleted_ms IS NOT NULL AND url <> ''")),
    sqlite_autoincrement=True,
)

# Beside the workloads, whose rows are read all the time: this is looked at only when somebody asks for one run.
run_records = Table(
    "run_records",
    metadata,
    Column("workload_id", String, ForeignKey("workloads.id"), primary_key=True),
    Column("metrics", Text, nullable=False),
    Column("gpu_use", Text),
    Column("progress", Float),
)
