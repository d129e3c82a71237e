"""The audit entries form a chain: each has the SHA-256 of itself and of the one before; the last is kept apart too."""

import hashlib
import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_AT_ONCE = 1_000
_FIELDS = ("id", "at_ms", "actor", "action", "subject", "before", "after")


def upgrade() -> None:
    _allow_changes()
    op.add_column("audit", sa.Column("sha256", sa.String()))
    last, sha256 = _chain()
    with op.batch_alter_table("audit", table_kwargs={"sqlite_autoincrement": True}) as batch:
        batch.alter_column("sha256", existing_type=sa.String(), nullable=False)
    head = json.dumps({"id": last, "sha256": sha256}, sort_keys=True, separators=(",", ":"))
    settings = sa.table("settings", sa.column("name"), sa.column("value"))
    op.execute(sa.insert(settings).values(name="audit_head", value=head))
    _refuse_changes()


def _chain() -> tuple[int, str]:
    """Give every entry there is its place in the chain; returns id and SHA-256 of the last."""
    audit = sa.table("audit", *(sa.column(name) for name in (*_FIELDS, "sha256")))
    statement = sa.update(audit).where(audit.c.id == sa.bindparam("of_id")).values(sha256=sa.bindparam("new_sha256"))
    last, sha256 = 0, "0" * 64
    while True:
        some = sa.select(*(audit.c[name] for name in _FIELDS)).where(audit.c.id > last).order_by(audit.c.id)
        found = op.get_bind().execute(some.limit(_AT_ONCE)).all()
        if not found:
            return last, sha256
        changes: list[dict[str, Any]] = []
        for row in found:
            last = row[0]
            canonical = json.dumps([sha256, *row], separators=(",", ":"))
            sha256 = hashlib.sha256(canonical.encode("ascii")).hexdigest()
            changes.append({"of_id": last, "new_sha256": sha256})
        op.get_bind().execute(statement, changes)


def _allow_changes() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for change in ("update", "delete"):
            op.execute(f"DROP TRIGGER audit_refuse_{change}")
    else:
        op.execute("DROP TRIGGER audit_refuse_change ON audit")


def _refuse_changes() -> None:
    """The triggers that keep the table append-only, whoever asks."""
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_refuse_{change.lower()} BEFORE {change} ON audit "
                "BEGIN SELECT RAISE(ABORT, 'audit is append-only'); END"
            )
    else:
        op.execute(
            "CREATE TRIGGER audit_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
            "FOR EACH STATEMENT EXECUTE FUNCTION fastgpu_refuse_change()"
        )
