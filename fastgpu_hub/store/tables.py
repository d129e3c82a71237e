"""The schema. Instants are UTC milliseconds, money is micro-units, both BIGINT; small structures are JSON in TEXT.

``transfers``, ``workload_events`` and ``audit`` are append-only: triggers, made by the migrations, refuse UPDATE and
DELETE. ``hold_lines`` has rows for open holds only, so that what is held is one sum over a small table.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
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
    *_not_negative("gpu_count", "time_limit_ms", "max_cost_micros"),
    CheckConstraint("state IN ('queued', 'granted', 'running', 'stopping', 'ended')", name="state"),
    Index("ix_workloads_state", "state", "requested_ms"),
    Index("ix_workloads_owner", "owner", "requested_ms"),
    Index("ix_workloads_account", "account", "requested_ms"),
    Index("ix_workloads_fingerprint", "fingerprint", "requested_ms"),
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
    Column("gpu_ms", BigInteger, nullable=False),
    *_not_negative("gpu_count", "rate_micros", "list_rate_micros", "amount_micros", "gpu_ms"),
    CheckConstraint("from_ms <= until_ms", name="interval"),
    Index("ix_hold_lines_account", "account", "from_ms"),
    Index("ix_hold_lines_owner", "owner", "from_ms"),
)

# A charge's line is in its own columns; its amount is the transfer's. The indexes hold all that a sum reads, so that
# adding up a class's week touches no row of the table.
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
    Column("gpu_ms", BigInteger, nullable=False),
    Column("note", String, nullable=False),
    Column("made_by", String, nullable=False),
    *_not_negative("amount_micros", "gpu_count", "rate_micros", "list_rate_micros", "gpu_ms"),
    CheckConstraint("debit <> credit", name="two_accounts"),
    CheckConstraint("from_ms <= until_ms", name="interval"),
    Index("ix_transfers_workload_id", "workload_id"),
    Index("ix_transfers_granted", "kind", "credit", "amount_micros"),
    Index("ix_transfers_charged_account", "kind", "debit", "from_ms", "owner", "gpu_type", "amount_micros", "gpu_ms"),
    Index("ix_transfers_charged_owner", "kind", "owner", "from_ms", "debit", "gpu_type", "amount_micros", "gpu_ms"),
    Index("ix_transfers_charged_time", "kind", "from_ms", "gpu_type", "amount_micros", "gpu_ms"),
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

promotions = Table(
    "promotions",
    metadata,
    _id(),
    Column("name", String, nullable=False),
    Column("starts_ms", BigInteger, nullable=False),
    Column("ends_ms", BigInteger, nullable=False),
    Column("percent_off", Integer),
    Column("fixed_per_gpu_hour_micros", BigInteger),
    Column("gpu_types", Text, nullable=False),
    Column("audience", Text, nullable=False),
    Column("code", String),
    Column("weekly", Text, nullable=False),
    Column("time_zone", String, nullable=False),
    Column("created_by", String, nullable=False),
    *_not_negative("fixed_per_gpu_hour_micros"),
    CheckConstraint("percent_off BETWEEN 0 AND 100", name="percent_off"),
    CheckConstraint("(percent_off IS NULL) <> (fixed_per_gpu_hour_micros IS NULL)", name="one_kind"),
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
    *_not_negative("maximum"),
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
    sqlite_autoincrement=True,
)

settings = Table(
    "settings",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", Text, nullable=False),
)
