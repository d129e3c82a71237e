"""Promotions in versions with codes, caps and budgets; grants that expire; more kinds of limits; refunds; notices."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_APPEND_ONLY = ("promotions", "redemptions", "grants")


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def upgrade() -> None:
    op.add_column("workloads", sa.Column("ending", sa.Text()))
    op.add_column("workloads", sa.Column("announced_minutes", sa.Integer()))
    for table in ("transfers", "hold_lines"):
        op.add_column(table, sa.Column("stacked_promotion_id", sa.BigInteger()))
        # What was saved before stays 0: no promotion had a budget that it would count against.
        op.add_column(table, sa.Column("saved_micros", sa.BigInteger(), nullable=False, server_default=sa.text("0")))
    op.add_column("transfers", sa.Column("reverses", sa.BigInteger()))
    op.add_column("transfers", sa.Column("grant_id", sa.BigInteger()))
    op.create_index("ix_transfers_reverses", "transfers", ["reverses"], unique=True, **_where("reverses IS NOT NULL"))
    op.add_column("quotas", sa.Column("soft", sa.Boolean(), nullable=False, server_default=sa.false()))
    for name in ("starts_ms", "ends_ms", "rolling_ms"):
        op.add_column("quotas", sa.Column(name, sa.BigInteger()))
    _promotions()
    _new_tables()
    op.execute(
        "INSERT INTO promotion_codes (code, family, max_uses, created_ms, created_by) "
        "SELECT upper(code), max(id), NULL, max(starts_ms), max(created_by) FROM promotions "
        "WHERE code IS NOT NULL GROUP BY upper(code)"
    )
    with op.batch_alter_table("promotions", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.drop_column("code")
    op.execute(
        "INSERT INTO grants (account, amount_micros, granted_ms, priority, expires_ms, rollover_percent, source, note, "
        "made_by) SELECT credit, amount_micros, at_ms, 100, NULL, 0, '', note, made_by FROM transfers "
        "WHERE kind = 'grant' ORDER BY id"
    )
    _refuse_changes()


def _promotions() -> None:
    """Existing promotions become published first versions, each a family of its own."""
    with op.batch_alter_table("promotions", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.drop_constraint(op.f("ck_promotions_one_kind"), type_="check")
        for name in ("family", "free_gpu_ms", "credit_micros", "budget_micros"):
            batch.add_column(sa.Column(name, sa.BigInteger()))
        for name in ("version", "credit_days", "max_redemptions", "max_per_person"):
            batch.add_column(sa.Column(name, sa.Integer()))
        for name in ("needs_code", "published", "stacks"):
            batch.add_column(sa.Column(name, sa.Boolean()))
    op.execute(
        "UPDATE promotions SET version = 1, max_per_person = 1, needs_code = (code IS NOT NULL), published = true, "
        "stacks = false"
    )
    with op.batch_alter_table("promotions", table_kwargs={"sqlite_autoincrement": True}) as batch:
        for name in ("version", "max_per_person"):
            batch.alter_column(name, existing_type=sa.Integer(), nullable=False)
        for name in ("needs_code", "published", "stacks"):
            batch.alter_column(name, existing_type=sa.Boolean(), nullable=False)
        for name in ("free_gpu_ms", "credit_micros", "max_redemptions", "budget_micros"):
            batch.create_check_constraint(op.f(f"ck_promotions_{name}_not_negative"), f"{name} >= 0")
    op.create_index(
        "ix_promotions_family", "promotions", ["family", "version"], unique=True, **_where("family IS NOT NULL")
    )


def _new_tables() -> None:
    op.create_table(
        "promotion_codes",
        sa.Column("code", sa.String(), nullable=False),
        sa.Column("family", sa.BigInteger(), nullable=False),
        sa.Column("max_uses", sa.Integer()),
        sa.Column("created_ms", sa.BigInteger(), nullable=False),
        sa.Column("created_by", sa.String(), nullable=False),
        sa.CheckConstraint("max_uses >= 0", name=op.f("ck_promotion_codes_max_uses_not_negative")),
        sa.ForeignKeyConstraint(["family"], ["promotions.id"], name=op.f("fk_promotion_codes_family")),
        sa.PrimaryKeyConstraint("code", name=op.f("pk_promotion_codes")),
    )
    op.create_index("ix_promotion_codes_family", "promotion_codes", ["family"])
    op.create_table(
        "redemptions",
        sa.Column("id", _ID, nullable=False),
        sa.Column("family", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("code", sa.String()),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["family"], ["promotions.id"], name=op.f("fk_redemptions_family")),
        sa.ForeignKeyConstraint(["code"], ["promotion_codes.code"], name=op.f("fk_redemptions_code")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_redemptions")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_redemptions_family", "redemptions", ["family", "owner"])
    op.create_index("ix_redemptions_code", "redemptions", ["code"])
    op.create_table(
        "quota_extras",
        sa.Column("id", _ID, nullable=False),
        sa.Column("quota_id", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("from_ms", sa.BigInteger(), nullable=False),
        sa.Column("until_ms", sa.BigInteger()),
        sa.CheckConstraint("amount >= 0", name=op.f("ck_quota_extras_amount_not_negative")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_quota_extras")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "grants",
        sa.Column("id", _ID, nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("amount_micros", sa.BigInteger(), nullable=False),
        sa.Column("granted_ms", sa.BigInteger(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("expires_ms", sa.BigInteger()),
        sa.Column("rollover_percent", sa.Integer(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("note", sa.String(), nullable=False),
        sa.Column("made_by", sa.String(), nullable=False),
        sa.CheckConstraint("amount_micros >= 0", name=op.f("ck_grants_amount_micros_not_negative")),
        sa.CheckConstraint("rollover_percent BETWEEN 0 AND 100", name=op.f("ck_grants_rollover_percent")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grants")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_grants_account", "grants", ["account"])
    op.create_index("ix_grants_expires_ms", "grants", ["expires_ms"], **_where("expires_ms IS NOT NULL"))
    op.create_table(
        "asks",
        sa.Column("id", _ID, nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("account", sa.String(), nullable=False),
        sa.Column("quota_id", sa.BigInteger()),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("asked_ms", sa.BigInteger(), nullable=False),
        sa.Column("decided_ms", sa.BigInteger()),
        sa.Column("decided_by", sa.String(), nullable=False),
        sa.Column("answer", sa.Text(), nullable=False),
        sa.CheckConstraint("amount >= 0", name=op.f("ck_asks_amount_not_negative")),
        sa.CheckConstraint("state IN ('open', 'approved', 'declined', 'withdrawn')", name=op.f("ck_asks_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_asks")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_asks_owner", "asks", ["owner"])
    op.create_index("ix_asks_state", "asks", ["state"])
    op.create_table(
        "notices",
        sa.Column("id", _ID, nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("explanation", sa.Text(), nullable=False),
        sa.Column("workload_id", sa.String()),
        sa.Column("ends_ms", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_notices_owner", "notices", ["owner", "id"])


def _refuse_changes() -> None:
    """Triggers that keep these tables append-only, whoever asks."""
    for table in _APPEND_ONLY:
        if op.get_bind().dialect.name == "sqlite":
            for change in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_refuse_{change.lower()} BEFORE {change} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )
        else:
            op.execute(
                f"CREATE TRIGGER {table}_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION fastgpu_refuse_change()"
            )
