"""The migrations and the tables agree, and a migration takes effect as a whole or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, inspect

from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.store import migrate, open_store
from fastgpu_hub.store.tables import metadata


def test_the_migrated_schema_is_the_one_the_tables_describe(database_url: str) -> None:
    asyncio.run(open_store(database_url).close())
    engine = create_engine(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": metadata}
        )
        assert compare_metadata(context, metadata) == []
        assert (
            context.get_current_revision() == ScriptDirectory.from_config(migrate.alembic_config()).get_current_head()
        )
    engine.dispose()


def _rules(connection: Connection) -> dict[str, Any]:
    """What autogenerate does not look at: CHECK constraints, key columns and names, index conditions."""
    look = inspect(connection)
    result: dict[str, Any] = {}
    for table in metadata.tables:
        checks = sorted((check["name"] or "", check["sqltext"]) for check in look.get_check_constraints(table))
        indexes = sorted(
            (index["name"] or "", index["column_names"], {k: str(v) for k, v in index["dialect_options"].items()})
            for index in look.get_indexes(table)
        )
        keys = [(key["name"], key["constrained_columns"], key["options"]) for key in look.get_foreign_keys(table)]
        result[table] = (checks, indexes, keys, look.get_pk_constraint(table))
    return result


def test_constraints_and_indexes_are_the_same_by_migration_and_by_tables(database_url: str) -> None:
    asyncio.run(open_store(database_url).close())
    engine = create_engine(database_url)
    with engine.begin() as connection:
        migrated = _rules(connection)
        for table in reversed(metadata.sorted_tables):
            connection.exec_driver_sql(f"DROP TABLE {table.name}")
        metadata.create_all(connection)
        assert _rules(connection) == migrated
    engine.dispose()
    assert sum(len(checks) for checks, *_ in migrated.values()) >= 25


def test_a_migration_that_is_killed_leaves_nothing_and_can_be_run_again(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = command.upgrade

    def dies_at_the_end(config: Any, revision: str) -> None:
        def stop(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
            if "TRIGGER" in statement:
                raise KeyboardInterrupt

        connection = config.attributes["connection"]
        event.listen(connection, "before_cursor_execute", stop)
        try:
            real(config, revision)
        finally:
            event.remove(connection, "before_cursor_execute", stop)

    monkeypatch.setattr(command, "upgrade", dies_at_the_end)
    with pytest.raises(KeyboardInterrupt):
        open_store(database_url)
    engine = create_engine(database_url)
    assert inspect(engine).get_table_names() == []
    engine.dispose()
    monkeypatch.undo()
    asyncio.run(open_store(database_url).close())


def test_what_was_written_is_there_after_opening_again(database_url: str, workload: Workload) -> None:
    store = open_store(database_url)
    asyncio.run(store.write(lambda uow: uow.add_workload(workload)))
    asyncio.run(store.close())
    store = open_store(database_url)
    assert asyncio.run(store.read(lambda uow: uow.workload("w1"))) == workload
    asyncio.run(store.close())


def test_every_field_of_a_record_has_its_column() -> None:
    from dataclasses import fields

    from fastgpu_hub.broker.ports.records import Hold, IdempotencyKey
    from fastgpu_hub.pricing.metering import Line
    from fastgpu_hub.pricing.promotions import Promotion

    kept = {"workloads": Workload, "idempotency_keys": IdempotencyKey, "promotions": Promotion}
    for table, record in kept.items():
        assert {field.name for field in fields(record)} == set(metadata.tables[table].c.keys())
    assert {field.name for field in fields(Hold)} - {"lines"} == set(metadata.tables["holds"].c.keys())
    for table in ("hold_lines", "transfers"):
        assert {field.name for field in fields(Line)} <= set(metadata.tables[table].c.keys())
