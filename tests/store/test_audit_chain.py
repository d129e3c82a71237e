"""Promise 29: every entry of the audit is chained to the one before; whatever is done to the table is found."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import pytest
from alembic import command
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, NullPool, create_engine, delete, insert

from fastgpu_hub.broker.books import check_audit
from fastgpu_hub.broker.ports import chain
from fastgpu_hub.broker.ports.chain import Head
from fastgpu_hub.broker.ports.records import AuditEntry, AuditLink
from fastgpu_hub.broker.watch import ChainWatch
from fastgpu_hub.store import SqlStore, migrate, open_store
from fastgpu_hub.store.databases import database_of
from fastgpu_hub.store.reading import read_only
from fastgpu_hub.store.tables import audit
from fastgpu_hub.store.unit_of_work import SqlUnitOfWork

# ---------------------------------------------------------------- the chain itself


def linked(count: int) -> list[AuditLink]:
    links, previous = [], chain.START.sha256
    for number in range(1, count + 1):
        link = AuditLink(number, 1_000 + number, "root", "set_price", f"h{number}", None, '{"n":1}', "")
        links.append(replace(link, sha256=chain.sha256_of(previous, link)))
        previous = links[-1].sha256
    return links


def end_of(links: list[AuditLink]) -> Head:
    return Head(links[-1].id, links[-1].sha256)


def broken_at(links: list[AuditLink], kept: Head) -> int | None:
    followed = chain.follow(links)
    return followed.broken_at if followed.broken_at is not None else chain.ends_at(followed.head, kept).broken_at


OTHER: dict[str, st.SearchStrategy[Any]] = {
    "id": st.integers(1, 30),
    "at_ms": st.integers(0, 2**62),
    "actor": st.text(max_size=4),
    "action": st.sampled_from(("set_price", "grant", "")),
    "subject": st.text(max_size=4),
    "before": st.none() | st.just("") | st.just("null") | st.text(max_size=9),
    "after": st.none() | st.just('{"n": 1}') | st.text(max_size=9),
    "sha256": st.text("0123456789abcdef", min_size=64, max_size=64),
}


@given(st.data())
def test_any_change_of_any_entry_is_found_and_the_first_broken_one_is_named(data: st.DataObject) -> None:
    links = linked(data.draw(st.integers(2, 12)))
    tampered = list(links)
    place, other = data.draw(st.lists(st.integers(0, len(links) - 1), min_size=2, max_size=2, unique=True))
    match what := data.draw(st.sampled_from((*OTHER, "remove", "cut off", "insert", "repeat", "swap"))):
        case "remove":
            del tampered[place]
        case "cut off":
            del tampered[place:]
        case "insert":
            tampered.insert(place, replace(links[place], actor="eve"))
        case "repeat":
            tampered.insert(place, links[other])
        case "swap":
            tampered[place] = replace(links[other], id=links[place].id)
            tampered[other] = replace(links[place], id=links[other].id)
        case _:
            value = data.draw(OTHER[what].filter(lambda value: value != getattr(links[place], what)))
            tampered[place] = replace(links[place], **{what: value})
    differs = next(n for n in range(len(links) + 1) if tampered[n : n + 1] != links[n : n + 1])
    first = (tampered if differs < len(tampered) else links)[differs]
    assert broken_at(tampered, end_of(links)) == first.id


def test_an_untouched_chain_holds_and_says_where_it_ends() -> None:
    links = linked(50)
    assert broken_at(links, end_of(links)) is None
    assert chain.follow(links).head == end_of(links)
    assert chain.follow(links[20:], Head(20, links[19].sha256)).head == end_of(links)


def test_an_entry_computed_anew_breaks_the_next() -> None:
    links = linked(3)
    forged = replace(links[1], actor="eve", sha256="")
    links[1] = replace(forged, sha256=chain.sha256_of(links[0].sha256, forged))
    assert broken_at(links, end_of(links)) == 3


def test_no_two_entries_are_encoded_alike() -> None:
    one = AuditLink(1, 1, "a", "b", "c", None, None, "")
    likely = [
        one,
        replace(one, before="null"),
        replace(one, before="", after=""),
        replace(one, actor='a","b', action=""),
        replace(one, actor="ab", action=""),
        replace(one, id=11, at_ms=1),
        replace(one, id=1, at_ms=11),
        replace(one, before="x"),
        replace(one, after="x"),
    ]
    assert len({chain.sha256_of("", link) for link in likely}) == len(likely)


# ---------------------------------------------------------------- in the database


def entry(number: int) -> AuditEntry:
    before = {"n": number - 1} if number > 1 else None
    return AuditEntry(number, "root", "set_price", "h100-80gb", before, {"n": number})


@contextmanager
def past_the_triggers(url: str) -> Iterator[Connection]:
    """A connection of somebody who has the database's password; taken back at the end unless committed."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            raw: Any = connection.connection.driver_connection
            raw.isolation_level = None
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            for change in ("update", "delete"):
                connection.exec_driver_sql(f"DROP TRIGGER audit_refuse_{change}")
        else:
            connection.exec_driver_sql("DROP TRIGGER audit_refuse_change ON audit")
        yield connection
        connection.exec_driver_sql("ROLLBACK")


COPY = "INSERT INTO audit (id, at_ms, actor, action, subject, before, after, sha256) SELECT"
NOTE = "UPDATE settings SET value = '{value}' WHERE name = 'audit_head'"
BY_HAND = {
    "UPDATE audit SET actor = 'eve' WHERE id = 2": 2,
    "UPDATE audit SET after = '{\"n\": 2}' WHERE id = 2": 2,  # one more space: the same JSON
    "UPDATE audit SET before = 'null' WHERE id = 1": 1,
    "UPDATE audit SET at_ms = at_ms + 1 WHERE id = 5": 5,
    "UPDATE audit SET id = 9 WHERE id = 5": 9,
    "DELETE FROM audit WHERE id = 1": 2,
    "DELETE FROM audit WHERE id = 3": 4,
    "DELETE FROM audit WHERE id >= 4": 4,
    "DELETE FROM audit": 1,
    f"{COPY} 6, 6, 'eve', action, subject, before, after, sha256 FROM audit WHERE id = 5": 6,
    NOTE.format(value='{"id": 4, "sha256": "0"}'): 5,
    NOTE.format(value='{"id": 5, "sha256": "0"}'): 5,
    NOTE.format(value="what?"): 5,
    "DELETE FROM settings WHERE name = 'audit_head'": 5,
}


async def test_a_database_that_was_changed_by_hand_is_found_out(store: SqlStore, database_url: str) -> None:
    await store.write(lambda uow: [uow.add_audit(entry(number)) for number in range(1, 6)])
    missed = {}
    for statement, broken in BY_HAND.items():
        watch = ChainWatch()
        with past_the_triggers(database_url) as connection:
            uow = SqlUnitOfWork(connection)
            assert watch.check(uow) == []
            report = check_audit(uow, lambda *_: None)
            assert (report.found, report.checked, report.followed.head.id) == (0, {"audit_entries": 5}, 5)
            connection.exec_driver_sql(statement)
            report = check_audit(uow, lambda *_: None)
            named = report.followed.broken_at, report.found, len(watch.check(uow))
            uow.add_audit(entry(6))  # what comes after does not cover it up
            covered = check_audit(uow, lambda *_: None).found, len(watch.check(uow))
        if (named, covered) != ((broken, 1, 1), (1, 1)):
            missed[statement] = named, covered
    assert missed == {}


async def test_a_chain_computed_anew_from_end_to_end_is_found_by_what_was_seen_of_it_before(
    store: SqlStore, database_url: str
) -> None:
    watch = ChainWatch()
    await store.write(lambda uow: [uow.add_audit(entry(number)) for number in (1, 2, 3)])
    assert await store.read(watch.check) == []
    noted = await store.read(lambda uow: uow.audit_head())
    assert noted is not None
    previous, forged = chain.START.sha256, []
    for link in await store.read(lambda uow: uow.audit_links()):
        link = replace(link, actor="eve")
        forged.append(replace(link, sha256=chain.sha256_of(previous, link)))
        previous = forged[-1].sha256
    with past_the_triggers(database_url) as connection:
        connection.execute(delete(audit))
        connection.execute(insert(audit), [asdict(link) for link in forged])
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("BEGIN")
    await store.write(lambda uow: uow.set_setting(chain.HEAD, {"id": 3, "sha256": previous}))
    with read_only(database_url) as uow:
        assert check_audit(uow, lambda *_: None).found == 0  # nothing in the database tells
        report = check_audit(uow, lambda *_: None, [noted])
    assert [fault.where for fault in report.faults] == ["audit entry 3"]
    assert "not the one that was followed" in str((await store.read(watch.check))[0])


async def test_an_expected_entry_that_is_gone_is_named(store: SqlStore, database_url: str) -> None:
    await store.write(lambda uow: uow.add_audit(entry(1)))
    with read_only(database_url) as uow:
        report = check_audit(uow, lambda *_: None, [Head(7, "0" * 64)])
    assert [str(fault) for fault in report.faults] == ["audit entry 7: it was there once, it is gone"]


async def test_a_change_that_is_rolled_back_leaves_no_gap(store: SqlStore, database_url: str) -> None:
    def fails(uow: Any) -> None:
        uow.add_audit(entry(2))
        raise RuntimeError("refused")

    await store.write(lambda uow: uow.add_audit(entry(1)))
    results = await asyncio.gather(
        *(store.write(fails if number % 2 else lambda uow: uow.add_audit(entry(3))) for number in range(20)),
        return_exceptions=True,
    )
    assert sum(isinstance(result, RuntimeError) for result in results) == 10
    assert [found.id for found in await store.read(lambda uow: uow.audit_links())] == list(range(1, 12))
    with read_only(database_url) as uow:
        assert check_audit(uow, lambda *_: None).found == 0


def test_entries_from_before_the_chain_are_chained_by_the_migration(database_url: str) -> None:
    texts = {"before": None, "after": json.dumps({"größe": 1})}
    rows = [{"id": n, "at_ms": n, "actor": "ä", "action": "a", "subject": "s", **texts} for n in (1, 2, 5)]

    def old(connection: Connection) -> None:
        command.upgrade(migrate.alembic_config(connection), "0002")
        for row in rows:
            names = ", ".join(row)
            marks = ", ".join("%(" + name + ")s" if connection.dialect.name != "sqlite" else ":" + name for name in row)
            connection.exec_driver_sql(f"INSERT INTO audit ({names}) VALUES ({marks})", row)

    database = database_of(database_url, busy_timeout_seconds=1, readers=1)
    connection = database.connect_writer(1)
    database.begin_migration(connection)
    with connection.begin():
        old(connection)
    connection.close()
    database.close()

    async def reopened() -> None:
        store = await asyncio.to_thread(open_store, database_url)
        links = await store.read(lambda uow: uow.audit_links())
        assert [(link.id, link.actor, link.after) for link in links] == [(n, "ä", texts["after"]) for n in (1, 2, 5)]
        assert await store.read(lambda uow: chain.ends_at(chain.follow(links).head, uow.audit_head()).broken_at) is None
        await store.write(lambda uow: uow.add_audit(entry(9)))
        links = await store.read(lambda uow: uow.audit_links())
        assert [link.id for link in links] == [1, 2, 5, 6]
        assert chain.follow(links).broken_at is None
        await store.close()

    asyncio.run(reopened())
    engine = create_engine(database_url)
    for change in ("UPDATE audit SET actor = 'eve'", "DELETE FROM audit"):
        with pytest.raises(Exception, match="append-only"), engine.begin() as connection:
            connection.exec_driver_sql(change)
    engine.dispose()


def test_what_sqlite_lets_into_any_column_is_found_too(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path}/store.sqlite"

    async def fill() -> None:
        store = await asyncio.to_thread(open_store, url)
        await store.write(lambda uow: [uow.add_audit(entry(number)) for number in (1, 2)])
        await store.close()

    asyncio.run(fill())
    with sqlite3.connect(f"{tmp_path}/store.sqlite") as raw:
        raw.execute("DROP TRIGGER audit_refuse_update")
        raw.execute("UPDATE audit SET actor = x'00ff' WHERE id = 2")
    raw.close()
    with read_only(url) as uow:
        assert check_audit(uow, lambda *_: None).followed.broken_at == 2
