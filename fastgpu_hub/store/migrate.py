"""Bring a database's schema to the one this code knows. Needs no alembic.ini."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, inspect, text

from fastgpu_hub.store.errors import NewerDatabase

MIGRATIONS = Path(__file__).with_name("migrations")


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration over an open connection; without one it can only look at the scripts."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def revisions() -> list[str]:
    """The revisions that this code knows, oldest first: scripts are named after theirs, and history has no branches.

    Alembic would tell, too, but runs all scripts for it, each time that a database is opened.
    """
    return sorted(path.name.partition("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def is_current(connection: Connection) -> bool:
    """Whether the schema is the newest this code knows. Raises NewerDatabase when it comes from later code."""
    if not inspect(connection).has_table("alembic_version"):
        return False
    known = revisions()
    found = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
    if unknown := sorted(set(found) - set(known)):
        raise NewerDatabase(
            f"the database was written by a later version of FastGPU (schema {', '.join(unknown)}, this version knows "
            f"up to {known[-1]}); install that version again, or restore an older copy of the database"
        )
    return list(found) == known[-1:]


def upgrade(connection: Connection) -> None:
    """Run all missing migrations in the connection's open transaction: all of them take effect, or none."""
    command.upgrade(alembic_config(connection), "head")
