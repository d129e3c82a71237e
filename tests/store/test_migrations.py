"""The migrations and the tables agree, and a migration takes effect as a whole or not at all."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, event, inspect, text

from fastgpu_hub.broker.ports.records import PromotionCode, Workload
from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.ledger import charge_transfers, check_balanced
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.promotions import Promotion
from fastgpu_hub.pricing.quotas import Scope, Totals
from fastgpu_hub.pricing.windows import WeeklyWindow
from fastgpu_hub.store import migrate, open_store
from fastgpu_hub.store.databases import database_of
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


def test_each_script_is_named_after_its_revision_and_follows_the_one_before() -> None:
    scripts = list(ScriptDirectory.from_config(migrate.alembic_config()).walk_revisions())[::-1]
    assert [script.revision for script in scripts] == migrate.revisions()
    assert [script.down_revision for script in scripts] == [None, *migrate.revisions()[:-1]]


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


# ---------------------------------------------------------------- from the first release, with data

HOUR = 3_600_000
_LINE = (
    "INSERT INTO transfers (kind, debit, credit, amount_micros, at_ms, workload_id, owner, gpu_type, unit, from_ms, "
    "until_ms, gpu_count, rate_micros, list_rate_micros, price_id, promotion_id, gpu_ms, note, made_by) VALUES "
    "('charge', 'class:cs101', 'site:revenue', :amount, 9, 'w1', 'alice', 'h100-80gb', 'gpu_hour', :begin, :end, 1, "
    "500000, 500000, 1, :promotion, 3600000, '', '')"
)
_PROMOTION = (
    "INSERT INTO promotions (name, starts_ms, ends_ms, percent_off, fixed_per_gpu_hour_micros, gpu_types, audience, "
    "code, weekly, time_zone, created_by) VALUES (:name, 1, 5, :percent, :fixed, '[\"h100-80gb\"]', '[]', :code, "
    "'[[[0,4],60,120]]', 'UTC', 'root')"
)


def _first_release(connection: Connection) -> None:
    """The schema of the first release, with rules, grants and charges."""
    with connection.begin():
        command.upgrade(migrate.alembic_config(connection), "0001")
        for name, percent, fixed, code in (
            ("Night", 40, None, "Owl"),
            ("Fixed", None, 7, None),
            ("Day", 5, None, "OWL"),
        ):
            values = {"name": name, "percent": percent, "fixed": fixed, "code": code}
            connection.execute(text(_PROMOTION), values)
        connection.execute(
            text(
                "INSERT INTO workloads (id, kind, owner, account, classes, name, gpu_type, gpu_count, state, "
                "requested_ms, promo_code, spec, gpu_uuids, node, simulated) VALUES ('w1', 'job', 'alice', "
                "'class:cs101', '[]', 'train', 'h100-80gb', 1, 'ended', 1, 'OWL', '{}', '[]', 'n1', :simulated)"
            ),
            {"simulated": False},
        )
        for account, amount in (("class:cs101", 10**15), ("person:bob", 5), ("class:cs101", 7)):
            grant = {"account": account, "amount": amount}
            connection.execute(
                text(
                    "INSERT INTO transfers (kind, debit, credit, amount_micros, at_ms, gpu_ms, note, made_by) "
                    "VALUES ('grant', 'site:grants', :account, :amount, 3, 0, 'autumn', 'root')"
                ),
                grant,
            )
        for n in range(40):
            line = {"amount": n * 1_000_003, "begin": n * 20 * HOUR, "end": n * 20 * HOUR + HOUR}
            connection.execute(text(_LINE), {**line, "promotion": 1 if n % 2 else None})
        connection.execute(
            text(
                "INSERT INTO quotas (scope, name, metric, maximum, period, time_zone) "
                "VALUES ('class', 'cs101', 'gpu_seconds', 144000, 'week', 'Europe/Berlin')"
            )
        )


def _books(connection: Connection) -> list[tuple[Any, ...]]:
    """Everything of the first release's ledger that money depends on."""
    sums = "SELECT kind, debit, credit, count(*), sum(amount_micros), sum(gpu_ms), min(id), max(id) FROM transfers "
    rows = connection.execute(text(sums + "GROUP BY kind, debit, credit ORDER BY kind, debit, credit")).all()
    return [tuple(map(str, row)) for row in rows]


class Killed(Exception):
    pass


def _upgrade(url: str, stop_at: int | None = None) -> int:
    """Upgrade as opening a store does; dies before that statement. Returns how many there were."""
    database = database_of(url, busy_timeout_seconds=1, readers=1)
    connection = database.connect_writer(1)
    seen = 0

    def count(_connection: Any, _cursor: Any, _statement: str, *_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == stop_at:
            raise Killed

    try:
        database.begin_migration(connection)
        with connection.begin():
            event.listen(connection, "before_cursor_execute", count)
            migrate.upgrade(connection)
        database.end_migration(connection)
    finally:
        connection.close()
        database.close()
    return seen


@pytest.fixture
def first_release(database_url: str) -> list[tuple[Any, ...]]:
    """Makes the database one of the first release; gives its books."""
    database = database_of(database_url, busy_timeout_seconds=1, readers=1)
    with database.connect_writer(1) as connection:
        _first_release(connection)
        with connection.begin():
            books = _books(connection)
    database.close()
    return books


def test_an_upgrade_from_the_first_release_keeps_every_sum(database_url: str, first_release: Any) -> None:
    store = open_store(database_url)
    engine = create_engine(database_url)
    with engine.connect() as connection:
        assert _books(connection) == first_release
    engine.dispose()

    def look(uow: Any) -> None:
        total, months = Scope(account="class:cs101"), sum(n * 1_000_003 for n in range(40))
        assert uow.charged(total) == Totals(months, 40 * HOUR)
        assert uow.charged(total, 0, 21 * HOUR) == Totals(1_000_003, 2 * HOUR)
        assert uow.rollup_faults(10) == []
        assert len(uow.usage("owner", until_ms=40 * 24 * HOUR)) == 1
        assert uow.accounts() == ["class:cs101", "person:bob"]
        check_balanced(uow.transfers())
        assert uow.grants() == [
            Grant(1, "class:cs101", 10**15, 3, note="autumn", by="root"),
            Grant(2, "person:bob", 5, 3, note="autumn", by="root"),
            Grant(3, "class:cs101", 7, 3, note="autumn", by="root"),
        ]
        night, fixed, day = uow.promotions()
        weekly = (WeeklyWindow((0, 4), 60, 120),)
        assert night == Promotion(
            1, "Night", 1, 5, 40, None, ("h100-80gb",), (), weekly, created_by="root", needs_code=True, family=1
        )
        assert (fixed.family, fixed.needs_code, fixed.fixed_per_gpu_hour_micros) == (2, False, 7)
        assert uow.codes(day.family) == [PromotionCode("OWL", 3, None, 1, "root")]
        assert uow.workload("w1").promo_code == "OWL"
        assert [(quota.limit, quota.window, quota.soft) for quota in uow.quotas()] == [(144_000, "week", False)]

    asyncio.run(store.read(look))
    line = Line("gpu_hour", 0, HOUR, 1, 5, 5, 5, 1)
    charges = charge_transfers("w1", "alice", "class:cs101", "h100-80gb", [line], 10)
    written = asyncio.run(store.write(lambda uow: uow.append(charges)))
    assert [transfer.id for transfer in written] == [44]
    asyncio.run(store.close())


@pytest.mark.slow
def test_an_upgrade_killed_at_any_statement_changes_nothing_and_can_be_run_again(
    database_url: str, first_release: Any
) -> None:
    engine = create_engine(database_url)
    for stop_at in range(1, 1_000, 9):
        try:
            _upgrade(database_url, stop_at)
        except Killed:
            with engine.connect() as connection:
                assert _books(connection) == first_release
                assert MigrationContext.configure(connection).get_current_revision() == "0001"
                assert "code" in {column["name"] for column in inspect(connection).get_columns("promotions")}
                assert "grants" not in inspect(connection).get_table_names()
            continue
        break
    assert stop_at > 50  # so many statements were tried
    with engine.connect() as connection:
        assert _books(connection) == first_release
    engine.dispose()
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
