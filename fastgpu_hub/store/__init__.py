"""The store: SQLAlchemy tables, one group-committing writer, alembic migrations; SQLite and PostgreSQL."""

from fastgpu_hub.store.errors import AnotherWriter, NewerDatabase, StoreError
from fastgpu_hub.store.sql_store import SqlStore, open_store

__all__ = ["AnotherWriter", "NewerDatabase", "SqlStore", "StoreError", "open_store"]
