"""The schema. Instants are UTC milliseconds, money is micro-units, both BIGINT; small structures are JSON in TEXT.

``transfers``, ``workload_events``, ``promotions``, ``redemptions``, ``grants`` and ``audit`` are append-only: triggers,
made by the migrations, refuse UPDATE and DELETE. ``hold_lines`` has rows for open holds only, so that what is held is
one sum over a small table.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

# SQLite counts ids by itself only for INTEGER, which has 64 bits there.
_Id = BigInteger().with_variant(Integer, "sqlite")


def _id() -> Column[int]:
    return Column("id", _Id, primary_key=True, autoincrement=True)


def _not_negative(*columns: str) -> list[CheckConstraint]:
    return [CheckConstraint(f"{column} >= 0", name=f"{column}_not_negative") for column in columns]


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


# With the kind, though it is the same in all of a partial index: SQLite looks for it there.
_SUMMED = ("gpu_type", "amount_micros", "gpu_ms", "kind")

workloads = Table(
    "workloads",
    metadata,
    Column("id", String, primary_key=True),
    Column("kind", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("account", String, nullable=False),
    Column("classes", Text, nullable=False),
    Column("name", String, nullable=False),
    Column("gpu_type", String, nullable=False),
    Column("gpu_count", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("requested_ms", BigInteger, nullable=False),
    Column("server_name", String),
    Column("time_limit_ms", BigInteger),
    Column("promo_code", String),
    Column("max_cost_micros", BigInteger),
    Column("spec", Text, nullable=False),
    Column("fingerprint", String),
    Column("granted_ms", BigInteger),
    Column("billed_from_ms", BigInteger),
    Column("charged_until_ms", BigInteger),
    Column("ended_ms", BigInteger),
    Column("outcome", String),
    Column("exit_code", Integer),
    Column("gpu_uuids", Text, nullable=False),
    Column("node", String, nullable=False),
    Column("pid", BigInteger),
    Column("simulated", Boolean, nullable=False),
    Column("explanation", Text),
    Column("stop_reason", Text),
    Column("ending", Text),
    Column("announced_minutes", Integer),
    Column("array_id", String),
    Column("array_index", Integer),
    Column("retry_of", String),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("not_before_ms", BigInteger),
    Column("quoted_micros", BigInteger),
    Column("spot", Boolean, nullable=False, server_default=false()),
    Column("files_removed_ms", BigInteger),
    Column("artifacts", String),
    Column("artifacts_note", Text),
    *_not_negative("gpu_count", "time_limit_ms", "max_cost_micros"),
    CheckConstraint("state IN ('queued', 'granted', 'running', 'stopping', 'ended')", name="state"),
    Index("ix_workloads_state", "state", "requested_ms"),
    Index("ix_workloads_owner", "owner", "requested_ms"),
    Index("ix_workloads_account", "account", "requested_ms"),
    Index("ix_workloads_fingerprint", "fingerprint", "requested_ms"),
    Index("ix_workloads_array", "array_id", "array_index"),
    Index("ix_workloads_retry", "retry_of", "attempt"),
    Index("ix_workloads_keeping", "id", **_where("artifacts = 'keeping'")),
)

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
    _id(),
    Column("workload_id", String, ForeignKey("workloads.id"), nullable=False),
    Column("owner", String, nullable=False),
    Column("path", Text, nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("url", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("deleted_ms", BigInteger),
    Index("ix_artifacts_workload_id", "workload_id", "id"),
    Index("ix_artifacts_owner", "owner", "deleted_ms"),
    Index("ix_artifacts_created_ms", "created_ms", **_where("deleted_ms IS NULL")),
    Index("ix_artifacts_left", "id", **_where("deleted_ms IS NOT NULL AND url <> ''")),
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

workload_events = Table(
    "workload_events",
    metadata,
    _id(),
    Column("workload_id", String, ForeignKey("workloads.id"), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("detail", Text, nullable=False),
    Index("ix_workload_events_workload_id", "workload_id", "id"),
    sqlite_autoincrement=True,
)

holds = Table(
    "holds",
    metadata,
    _id(),
    Column("workload_id", String, ForeignKey("workloads.id"), nullable=False),
    Column("owner", String, nullable=False),
    Column("account", String, nullable=False),
    Column("gpu_type", String, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
    Column("state", String, nullable=False),
    Column("resolved_ms", BigInteger),
    CheckConstraint("state IN ('open', 'settled', 'voided')", name="state"),
    Index("ix_holds_open_workload_id", "workload_id", unique=True, **_where("state = 'open'")),
    sqlite_autoincrement=True,
)

hold_lines = Table(
    "hold_lines",
    metadata,
    Column("hold_id", BigInteger, ForeignKey("holds.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("owner", String, nullable=False),
    Column("account", String, nullable=False),
    Column("gpu_type", String, nullable=False),
    Column("unit", String, nullable=False),
    Column("from_ms", BigInteger, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
    Column("gpu_count", Integer, nullable=False),
    Column("rate_micros", BigInteger, nullable=False),
    Column("list_rate_micros", BigInteger, nullable=False),
    Column("amount_micros", BigInteger, nullable=False),
    Column("price_id", BigInteger, nullable=False),
    Column("promotion_id", BigInteger),
    Column("stacked_promotion_id", BigInteger),
    Column("gpu_ms", BigInteger, nullable=False),
    Column("saved_micros", BigInteger, nullable=False, server_default=text("0")),
    *_not_negative("gpu_count", "rate_micros", "list_rate_micros", "amount_micros", "gpu_ms"),
    CheckConstraint("from_ms <= until_ms", name="interval"),
    Index("ix_hold_lines_account", "account", "from_ms"),
    Index("ix_hold_lines_owner", "owner", "from_ms"),
)

# A charge's line is in its own columns; its amount is the transfer's. The single writer gives the ids. The partial
# indexes hold all that a sum over part of a month reads, so that it touches no row of the table; whole months are in
# the rollups.
transfers = Table(
    "transfers",
    metadata,
    _id(),
    Column("kind", String, nullable=False),
    Column("debit", String, nullable=False),
    Column("credit", String, nullable=False),
    Column("amount_micros", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("workload_id", String, ForeignKey("workloads.id")),
    Column("owner", String),
    Column("gpu_type", String),
    Column("unit", String),
    Column("from_ms", BigInteger),
    Column("until_ms", BigInteger),
    Column("gpu_count", Integer),
    Column("rate_micros", BigInteger),
    Column("list_rate_micros", BigInteger),
    Column("price_id", BigInteger),
    Column("promotion_id", BigInteger),
    Column("stacked_promotion_id", BigInteger),
    Column("gpu_ms", BigInteger, nullable=False),
    Column("saved_micros", BigInteger, nullable=False, server_default=text("0")),
    Column("reverses", BigInteger),
    Column("grant_id", BigInteger),
    Column("note", String, nullable=False),
    Column("made_by", String, nullable=False),
    *_not_negative("amount_micros", "gpu_count", "rate_micros", "list_rate_micros", "gpu_ms"),
    CheckConstraint("debit <> credit", name="two_accounts"),
    CheckConstraint("from_ms <= until_ms", name="interval"),
    Index("ix_transfers_workload_id", "workload_id"),
    Index("ix_transfers_credits", "kind", "debit", "credit", **_where("kind <> 'charge'")),
    Index("ix_transfers_account", "debit", "from_ms", "owner", *_SUMMED, **_where("kind = 'charge'")),
    Index("ix_transfers_owner", "owner", "from_ms", "debit", *_SUMMED, **_where("kind = 'charge'")),
    Index("ix_transfers_from_ms", "from_ms", *_SUMMED, **_where("kind = 'charge'")),
    Index("ix_transfers_refunds", "credit", "from_ms", "owner", *_SUMMED, **_where("kind = 'refund'")),
    Index("ix_transfers_reverses", "reverses", unique=True, **_where("reverses IS NOT NULL")),
    sqlite_autoincrement=True,
)

prices = Table(
    "prices",
    metadata,
    _id(),
    Column("gpu_type", String, nullable=False),
    Column("per_gpu_hour_micros", BigInteger, nullable=False),
    Column("per_task_hour_micros", BigInteger, nullable=False),
    Column("per_start_micros", BigInteger, nullable=False),
    Column("valid_from_ms", BigInteger, nullable=False),
    Column("created_by", String, nullable=False),
    *_not_negative("per_gpu_hour_micros", "per_task_hour_micros", "per_start_micros"),
    sqlite_autoincrement=True,
)

# A promotion is never changed: an edit is a new row of the same family (NULL in the first, which names the family).
promotions = Table(
    "promotions",
    metadata,
    _id(),
    Column("family", BigInteger),
    Column("version", Integer, nullable=False),
    Column("name", String, nullable=False),
    Column("starts_ms", BigInteger, nullable=False),
    Column("ends_ms", BigInteger, nullable=False),
    Column("percent_off", Integer),
    Column("fixed_per_gpu_hour_micros", BigInteger),
    Column("free_gpu_ms", BigInteger),
    Column("credit_micros", BigInteger),
    Column("credit_days", Integer),
    Column("gpu_types", Text, nullable=False),
    Column("audience", Text, nullable=False),
    Column("needs_code", Boolean, nullable=False),
    Column("weekly", Text, nullable=False),
    Column("time_zone", String, nullable=False),
    Column("published", Boolean, nullable=False),
    Column("stacks", Boolean, nullable=False),
    Column("max_redemptions", Integer),
    Column("max_per_person", Integer, nullable=False),
    Column("budget_micros", BigInteger),
    Column("created_by", String, nullable=False),
    *_not_negative("fixed_per_gpu_hour_micros", "free_gpu_ms", "credit_micros", "max_redemptions", "budget_micros"),
    CheckConstraint("percent_off BETWEEN 0 AND 100", name="percent_off"),
    Index("ix_promotions_family", "family", "version", unique=True, **_where("family IS NOT NULL")),
    sqlite_autoincrement=True,
)

promotion_codes = Table(
    "promotion_codes",
    metadata,
    Column("code", String, primary_key=True),
    Column("family", BigInteger, ForeignKey("promotions.id"), nullable=False),
    Column("max_uses", Integer),
    Column("created_ms", BigInteger, nullable=False),
    Column("created_by", String, nullable=False),
    *_not_negative("max_uses"),
    Index("ix_promotion_codes_family", "family"),
)

redemptions = Table(
    "redemptions",
    metadata,
    _id(),
    Column("family", BigInteger, ForeignKey("promotions.id"), nullable=False),
    Column("owner", String, nullable=False),
    Column("account", String, nullable=False),
    Column("code", String, ForeignKey("promotion_codes.code")),
    Column("at_ms", BigInteger, nullable=False),
    Index("ix_redemptions_family", "family", "owner"),
    Index("ix_redemptions_code", "code"),
    sqlite_autoincrement=True,
)

quotas = Table(
    "quotas",
    metadata,
    _id(),
    Column("scope", String, nullable=False),
    Column("name", String, nullable=False),
    Column("metric", String, nullable=False),
    Column("maximum", BigInteger, nullable=False),
    Column("period", String, nullable=False),
    Column("gpu_type", String),
    Column("time_zone", String, nullable=False),
    Column("soft", Boolean, nullable=False, server_default=false()),
    Column("starts_ms", BigInteger),
    Column("ends_ms", BigInteger),
    Column("rolling_ms", BigInteger),
    *_not_negative("maximum"),
    sqlite_autoincrement=True,
)

quota_extras = Table(
    "quota_extras",
    metadata,
    _id(),
    Column("quota_id", BigInteger, nullable=False),
    Column("owner", String, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("from_ms", BigInteger, nullable=False),
    Column("until_ms", BigInteger),
    *_not_negative("amount"),
    sqlite_autoincrement=True,
)

grants = Table(
    "grants",
    metadata,
    _id(),
    Column("account", String, nullable=False),
    Column("amount_micros", BigInteger, nullable=False),
    Column("granted_ms", BigInteger, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("expires_ms", BigInteger),
    Column("rollover_percent", Integer, nullable=False),
    Column("source", String, nullable=False),
    Column("note", String, nullable=False),
    Column("made_by", String, nullable=False),
    *_not_negative("amount_micros"),
    CheckConstraint("rollover_percent BETWEEN 0 AND 100", name="rollover_percent"),
    Index("ix_grants_account", "account"),
    Index("ix_grants_expires_ms", "expires_ms", **_where("expires_ms IS NOT NULL")),
    sqlite_autoincrement=True,
)

asks = Table(
    "asks",
    metadata,
    _id(),
    Column("owner", String, nullable=False),
    Column("account", String, nullable=False),
    Column("quota_id", BigInteger),
    Column("amount", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("state", String, nullable=False),
    Column("asked_ms", BigInteger, nullable=False),
    Column("decided_ms", BigInteger),
    Column("decided_by", String, nullable=False),
    Column("answer", Text, nullable=False),
    *_not_negative("amount"),
    CheckConstraint("state IN ('open', 'approved', 'declined', 'withdrawn')", name="state"),
    Index("ix_asks_owner", "owner"),
    Index("ix_asks_state", "state"),
    sqlite_autoincrement=True,
)

notices = Table(
    "notices",
    metadata,
    _id(),
    Column("owner", String, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("explanation", Text, nullable=False),
    Column("workload_id", String),
    Column("ends_ms", BigInteger),
    Index("ix_notices_owner", "owner", "id"),
    sqlite_autoincrement=True,
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("actor", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("route", String, nullable=False),
    Column("body_sha256", String, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("status", Integer, nullable=False),
    Column("answer", Text, nullable=False),
    Index("ix_idempotency_keys_created_ms", "created_ms"),
)

audit = Table(
    "audit",
    metadata,
    _id(),
    Column("at_ms", BigInteger, nullable=False),
    Column("actor", String, nullable=False),
    Column("action", String, nullable=False),
    Column("subject", String, nullable=False),
    Column("before", Text),
    Column("after", Text),
    Column("sha256", String, nullable=False),
    sqlite_autoincrement=True,
)

settings = Table(
    "settings",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", Text, nullable=False),
)
