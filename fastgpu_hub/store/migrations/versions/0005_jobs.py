"""Array jobs, retries, deferred and spot jobs, what a job waits for, and the files that jobs leave."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("array_id", sa.String()),
        sa.Column("array_index", sa.Integer()),
        sa.Column("retry_of", sa.String()),
        sa.Column("attempt", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("not_before_ms", sa.BigInteger()),
        sa.Column("quoted_micros", sa.BigInteger()),
        sa.Column("spot_percent_off", sa.Integer()),
        sa.Column("interruptions", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("files_removed_ms", sa.BigInteger()),
        sa.Column("artifacts", sa.String()),
        sa.Column("artifacts_note", sa.Text()),
    ):
        op.add_column("workloads", column)
    op.create_index("ix_workloads_array", "workloads", ["array_id", "array_index"])
    op.create_index("ix_workloads_retry", "workloads", ["retry_of", "attempt"])
    _create_partial_index("ix_workloads_keeping", "workloads", "id", "artifacts = 'keeping'")
    op.create_table(
        "dependencies",
        sa.Column("workload_id", sa.String(), nullable=False),
        sa.Column("needs_id", sa.String(), nullable=False),
        *(
            sa.ForeignKeyConstraint([name], ["workloads.id"], name=op.f(f"fk_dependencies_{name}"))
            for name in ("workload_id", "needs_id")
        ),
        sa.PrimaryKeyConstraint("workload_id", "needs_id", name=op.f("pk_dependencies")),
    )
    op.create_index("ix_dependencies_needs_id", "dependencies", ["needs_id"])
    op.create_table(
        "artifacts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("workload_id", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("path", sa.Text(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("deleted_ms", sa.BigInteger()),
        sa.ForeignKeyConstraint(["workload_id"], ["workloads.id"], name=op.f("fk_artifacts_workload_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_artifacts")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "run_records",
        sa.Column("workload_id", sa.String(), nullable=False),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("gpu_use", sa.Text()),
        sa.Column("progress", sa.Float()),
        sa.ForeignKeyConstraint(["workload_id"], ["workloads.id"], name=op.f("fk_run_records_workload_id")),
        sa.PrimaryKeyConstraint("workload_id", name=op.f("pk_run_records")),
    )
    op.create_index("ix_artifacts_workload_id", "artifacts", ["workload_id", "id"])
    op.create_index("ix_artifacts_owner", "artifacts", ["owner", "deleted_ms"])
    _create_partial_index("ix_artifacts_created_ms", "artifacts", "created_ms", "deleted_ms IS NULL")
    _create_partial_index("ix_artifacts_left", "artifacts", "id", "deleted_ms IS NOT NULL AND url <> ''")


def _create_partial_index(name: str, table: str, column: str, condition: str) -> None:
    op.create_index(name, table, [column], sqlite_where=sa.text(condition), postgresql_where=sa.text(condition))
