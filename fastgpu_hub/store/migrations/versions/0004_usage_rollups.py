"""Usage added up by month; ids of transfers come from the writer; narrower indexes on transfers."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_SUMMED = ["gpu_type", "amount_micros", "gpu_ms", "kind"]
_NUMBERS = ("month_ms", "promotion_id")
_CHARGES = "kind = 'charge'"


def upgrade() -> None:
    _tables()
    for name in ("granted", "charged_account", "charged_owner", "charged_time"):
        op.drop_index(f"ix_transfers_{name}", table_name="transfers")
    _index("credits", ["kind", "debit", "credit"], "kind <> 'charge'")
    _index("account", ["debit", "from_ms", "owner", *_SUMMED], _CHARGES)
    _index("owner", ["owner", "from_ms", "debit", *_SUMMED], _CHARGES)
    _index("from_ms", ["from_ms", *_SUMMED], _CHARGES)
    _index("refunds", ["credit", "from_ms", "owner", *_SUMMED], "kind = 'refund'")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE transfers ALTER COLUMN id DROP DEFAULT")
        op.execute("DROP SEQUENCE transfers_id_seq")


def _index(name: str, columns: list[str], condition: str) -> None:
    where: dict[str, Any] = {f"{dialect}_where": sa.text(condition) for dialect in ("sqlite", "postgresql")}
    op.create_index(f"ix_transfers_{name}", "transfers", columns, **where)


def _tables() -> None:
    keys = {
        "usage": ("owner", "month_ms", "account", "gpu_type"),
        "usage_accounts": ("account", "month_ms", "gpu_type"),
        "usage_people": ("month_ms", "owner"),
        "usage_promotions": ("promotion_id", "owner"),
    }
    for table, names in keys.items():
        op.create_table(
            table,
            *(sa.Column(key, sa.BigInteger() if key in _NUMBERS else sa.String(), nullable=False) for key in names),
            *(
                sa.Column(name, sa.BigInteger(), nullable=False)
                for name in ("amount_micros", "gpu_ms", "saved_micros", "lines")
            ),
            sa.PrimaryKeyConstraint(*names, name=op.f(f"pk_{table}")),
            sqlite_with_rowid=False,
        )
    op.create_index("ix_usage_account", "usage", ["account", "month_ms"])
    op.create_table(
        "usage_mark",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("time_zone", sa.String(), nullable=False),
        sa.Column("until_id", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_usage_mark_one_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_usage_mark")),
    )
