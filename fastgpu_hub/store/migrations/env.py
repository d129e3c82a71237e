"""Runs migrations on the connection it is handed, in that connection's transaction."""

from alembic import context

from fastgpu_hub.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=True,
    render_as_batch=True,  # SQLite alters a table by building it anew
    transactional_ddl=True,  # also on SQLite, whose transaction was opened with an explicit BEGIN
)
with context.begin_transaction():
    context.run_migrations()
