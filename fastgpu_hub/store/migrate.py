"""Bring a database's schema to the one this code knows. Needs no alembic.ini."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from fastgpu_hub.store.errors import NewerDatabase


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration over an open connection; without one it can only look at the scripts."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def is_current(connection: Connection) -> bool:
    """Whether the schema is the newest this code knows. Raises NewerDatabase when it comes from later code."""
    scripts = ScriptDirectory.from_config(alembic_config())
    heads = MigrationContext.configure(connection).get_current_heads()
    known = {script.revision for script in scripts.walk_revisions()}
    unknown = sorted(set(heads) - known)
    if unknown:
        raise NewerDatabase(
            f"the database was written by a later version of FastGPU (schema {', '.join(unknown)}, this version knows "
            f"up to {scripts.get_current_head()}); install that version again, or restore an older copy of the database"
        )
    return set(heads) == set(scripts.get_heads())


def upgrade(connection: Connection) -> None:
    """Run all missing migrations in the connection's open transaction: all of them take effect, or none."""
    command.upgrade(alembic_config(connection), "head")
