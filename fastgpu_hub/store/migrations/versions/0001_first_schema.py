"""The first schema: workloads, holds, ledger, rules, idempotency keys, audit, settings."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_APPEND_ONLY = ("transfers", "workload_events", "audit")


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", _ID, nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("before", sa.Text()),
        sa.Column("after", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("route", sa.String(), nullable=False),
        sa.Column("body_sha256", sa.String(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("actor", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_created_ms", "idempotency_keys", ["created_ms"])
    op.create_table(
        "prices",
        sa.Column("id", _ID, nullable=False),
        sa.Column("gpu_type", sa.String(), nullable=False),
        sa.Column("per_gpu_hour_micros", sa.BigInteger(), nullable=False),
        sa.Column("per_task_hour_micros", sa.BigInteger(), nullable=False),
        sa.Column("per_start_micros", sa.BigInteger(), nullable=False),
        sa.Column("valid_from_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.CheckConstraint("per_gpu_hour_micros >= 0", name=op.f("ck_prices_per_gpu_hour_micros_not_negative")),
        sa.CheckConstraint("per_start_micros >= 0", name=op.f("ck_prices_per_start_micros_not_negative")),
        sa.CheckConstraint("per_task_hour_micros >= 0", name=op.f("ck_prices_per_task_hour_micros_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_prices")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "promotions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("starts_ms", sa.BigInteger(), nullable=False),
        sa.Column("ends_ms", sa.BigInteger(), nullable=False),
        sa.Column("percent_off", sa.Integer()),
        sa.Column("fixed_per_gpu_hour_micros", sa.BigInteger()),
        sa.Column("gpu_types", sa.Text(), nullable=False),
        sa.Column("audience", sa.Text(), nullable=False),
        sa.Column("code", sa.String()),
        sa.Column("weekly", sa.Text(), nullable=False),
        sa.Column("time_zone", sa.String(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.CheckConstraint(
            "(percent_off IS NULL) <> (fixed_per_gpu_hour_micros IS NULL)", name=op.f("ck_promotions_one_kind")
        ),
        sa.CheckConstraint(
            "fixed_per_gpu_hour_micros >= 0", name=op.f("ck_promotions_fixed_per_gpu_hour_micros_not_negative")
        ),
        sa.CheckConstraint("percent_off BETWEEN 0 AND 100", name=op.f("ck_promotions_percent_off")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotions")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "quotas",
        sa.Column("id", _ID, nullable=False),
        sa.Column("scope", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("metric", sa.String(), nullable=False),
        sa.Column("maximum", sa.BigInteger(), nullable=False),
        sa.Column("period", sa.String(), nullable=False),
        sa.Column("gpu_type", sa.String()),
        sa.Column("time_zone", sa.String(), nullable=False),
        sa.CheckConstraint("maximum >= 0", name=op.f("ck_quotas_maximum_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quotas")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "settings",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_settings")),
    )
    op.create_table(
        "workloads",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("classes", sa.Text(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("gpu_type", sa.String(), nullable=False),
        sa.Column("gpu_count", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("requested_ms", sa.BigInteger(), nullable=False),
        sa.Column("server_name", sa.String()),
        sa.Column("time_limit_ms", sa.BigInteger()),
        sa.Column("promo_code", sa.String()),
        sa.Column("max_cost_micros", sa.BigInteger()),
        sa.Column("spec", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.String()),
        sa.Column("granted_ms", sa.BigInteger()),
        sa.Column("billed_from_ms", sa.BigInteger()),
        sa.Column("charged_until_ms", sa.BigInteger()),
        sa.Column("ended_ms", sa.BigInteger()),
        sa.Column("outcome", sa.String()),
        sa.Column("exit_code", sa.Integer()),
        sa.Column("gpu_uuids", sa.Text(), nullable=False),
        sa.Column("node", sa.String(), nullable=False),
        sa.Column("pid", sa.BigInteger()),
        sa.Column("simulated", sa.Boolean(), nullable=False),
        sa.Column("explanation", sa.Text()),
        sa.Column("stop_reason", sa.Text()),
        sa.CheckConstraint(
            "state IN ('queued', 'granted', 'running', 'stopping', 'ended')", name=op.f("ck_workloads_state")
        ),
        sa.CheckConstraint("gpu_count >= 0", name=op.f("ck_workloads_gpu_count_not_negative")),
        sa.CheckConstraint("max_cost_micros >= 0", name=op.f("ck_workloads_max_cost_micros_not_negative")),
        sa.CheckConstraint("time_limit_ms >= 0", name=op.f("ck_workloads_time_limit_ms_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workloads")),
    )
    op.create_index("ix_workloads_account", "workloads", ["account", "requested_ms"])
    op.create_index("ix_workloads_fingerprint", "workloads", ["fingerprint", "requested_ms"])
    op.create_index("ix_workloads_owner", "workloads", ["owner", "requested_ms"])
    op.create_index("ix_workloads_state", "workloads", ["state", "requested_ms"])
    op.create_table(
        "holds",
        sa.Column("id", _ID, nullable=False),
        sa.Column("workload_id", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("gpu_type", sa.String(), nullable=False),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("resolved_ms", sa.BigInteger()),
        sa.CheckConstraint("state IN ('open', 'settled', 'voided')", name=op.f("ck_holds_state")),
        sa.ForeignKeyConstraint(["workload_id"], ["workloads.id"], name=op.f("fk_holds_workload_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_holds")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_holds_open_workload_id", "holds", ["workload_id"], unique=True, **_where("state = 'open'"))
    op.create_table(
        "transfers",
        sa.Column("id", _ID, nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("debit", sa.String(), nullable=False),
        sa.Column("credit", sa.String(), nullable=False),
        sa.Column("amount_micros", sa.BigInteger(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("workload_id", sa.String()),
        sa.Column("owner", sa.String()),
        sa.Column("gpu_type", sa.String()),
        sa.Column("unit", sa.String()),
        sa.Column("from_ms", sa.BigInteger()),
        sa.Column("until_ms", sa.BigInteger()),
        sa.Column("gpu_count", sa.Integer()),
        sa.Column("rate_micros", sa.BigInteger()),
        sa.Column("list_rate_micros", sa.BigInteger()),
        sa.Column("price_id", sa.BigInteger()),
        sa.Column("promotion_id", sa.BigInteger()),
        sa.Column("gpu_ms", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.CheckConstraint("amount_micros >= 0", name=op.f("ck_transfers_amount_micros_not_negative")),
        sa.CheckConstraint("debit <> credit", name=op.f("ck_transfers_two_accounts")),
        sa.CheckConstraint("from_ms <= until_ms", name=op.f("ck_transfers_interval")),
        sa.CheckConstraint("gpu_count >= 0", name=op.f("ck_transfers_gpu_count_not_negative")),
        sa.CheckConstraint("gpu_ms >= 0", name=op.f("ck_transfers_gpu_ms_not_negative")),
        sa.CheckConstraint("list_rate_micros >= 0", name=op.f("ck_transfers_list_rate_micros_not_negative")),
        sa.CheckConstraint("rate_micros >= 0", name=op.f("ck_transfers_rate_micros_not_negative")),
        sa.ForeignKeyConstraint(["workload_id"], ["workloads.id"], name=op.f("fk_transfers_workload_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_transfers")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_transfers_charged_account",
        "transfers",
        ["kind", "debit", "from_ms", "owner", "gpu_type", "amount_micros", "gpu_ms"],
    )
    op.create_index(
        "ix_transfers_charged_owner",
        "transfers",
        ["kind", "owner", "from_ms", "debit", "gpu_type", "amount_micros", "gpu_ms"],
    )
    op.create_index(
        "ix_transfers_charged_time", "transfers", ["kind", "from_ms", "gpu_type", "amount_micros", "gpu_ms"]
    )
    op.create_index("ix_transfers_granted", "transfers", ["kind", "credit", "amount_micros"])
    op.create_index("ix_transfers_workload_id", "transfers", ["workload_id"])
    op.create_table(
        "workload_events",
        sa.Column("id", _ID, nullable=False),
        sa.Column("workload_id", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["workload_id"], ["workloads.id"], name=op.f("fk_workload_events_workload_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workload_events")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_workload_events_workload_id", "workload_events", ["workload_id", "id"])
    op.create_table(
        "hold_lines",
        sa.Column("hold_id", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("gpu_type", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("from_ms", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger(), nullable=False),
        sa.Column("gpu_count", sa.Integer(), nullable=False),
        sa.Column("rate_micros", sa.BigInteger(), nullable=False),
        sa.Column("list_rate_micros", sa.BigInteger(), nullable=False),
        sa.Column("amount_micros", sa.BigInteger(), nullable=False),
        sa.Column("price_id", sa.BigInteger(), nullable=False),
        sa.Column("promotion_id", sa.BigInteger()),
        sa.Column("gpu_ms", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("amount_micros >= 0", name=op.f("ck_hold_lines_amount_micros_not_negative")),
        sa.CheckConstraint("from_ms <= until_ms", name=op.f("ck_hold_lines_interval")),
        sa.CheckConstraint("gpu_count >= 0", name=op.f("ck_hold_lines_gpu_count_not_negative")),
        sa.CheckConstraint("gpu_ms >= 0", name=op.f("ck_hold_lines_gpu_ms_not_negative")),
        sa.CheckConstraint("list_rate_micros >= 0", name=op.f("ck_hold_lines_list_rate_micros_not_negative")),
        sa.CheckConstraint("rate_micros >= 0", name=op.f("ck_hold_lines_rate_micros_not_negative")),
        sa.ForeignKeyConstraint(["hold_id"], ["holds.id"], name=op.f("fk_hold_lines_hold_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("hold_id", "position", name=op.f("pk_hold_lines")),
    )
    op.create_index("ix_hold_lines_account", "hold_lines", ["account", "from_ms"])
    op.create_index("ix_hold_lines_owner", "hold_lines", ["owner", "from_ms"])

    _refuse_changes()


def _refuse_changes() -> None:
    """Triggers that keep the append-only tables so, whoever asks."""
    if op.get_bind().dialect.name == "sqlite":
        for table in _APPEND_ONLY:
            for change in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_refuse_{change.lower()} BEFORE {change} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
        return
    op.execute(
        "CREATE FUNCTION fastgpu_refuse_change() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'integrity_constraint_violation'; "
        "END $$"
    )
    for table in _APPEND_ONLY:
        op.execute(
            f"CREATE TRIGGER {table}_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION fastgpu_refuse_change()"
        )
