"""Always on: the ledger is what its evidence makes it. What is changed by hand is found, and told with since when."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import replace

import pytest
from sqlalchemy import NullPool, create_engine, text

from fastgpu import models
from fastgpu_hub.broker import books, watch
from fastgpu_hub.broker.accounts import Accounts
from fastgpu_hub.broker.ports.records import Hold, Posting
from fastgpu_hub.broker.views import at
from fastgpu_hub.broker.watch import LedgerWatch
from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.ledger import GRANTS, REVENUE
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.store.unit_of_work import SqlUnitOfWork

HOUR = 3_600_000
BOTH = pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True
)


def quiet(*_):
    """Progress that nobody watches."""


def sentences(uow):
    return [str(fault) for fault in books.check_ledger(uow, quiet).faults]


@pytest.fixture
async def term(world):
    """A world with everything in its books: promotion, gift, jobs, a server, refund, expiry. Ids by name."""
    root, ok = world.admin, world.ok
    soon, later = (at(world.clock.ms + hours * HOUR) for hours in (1, 4))
    ok(
        await world.broker.add_promotion(
            root, models.PromotionSet(name="Evening", percent_off=33, starts_at=soon, ends_at=later)
        )
    )
    gift = models.GrantSet(account="person:alice", amount_micros=900_000, from_account="class:cs101", expires_at=later)
    ok(await world.broker.grant(root, gift))
    refunded = ok(await world.submit(time_limit_seconds=1000))
    await world.pass_time(333.333)
    world.engine.finish(refunded.id)
    await world.look()
    ok(await world.broker.refund(root, refunded.id, models.RefundSet(reason="The GPU was broken.")))
    server = ok(await world.lease())
    ok(await world.broker.lease_started(world.spawner, server.id, models.LeaseStarted(pid=1)))
    for _ in range(13):
        await world.pass_time(1000.007)
        await world.reconcile(1)
    done = ok(await world.submit(world.bob, gpu_count=2, time_limit_seconds=7200))
    await world.pass_time(5000.001)
    world.engine.finish(done.id)
    await world.look()
    await world.reconcile()
    return {"server": server.id, "done": done.id, "refunded": refunded.id}


@contextmanager
def by_hand(url, *statements):
    """The database as it would be after these statements, past every trigger and key; taken back at the end."""
    engine = create_engine(url, poolclass=NullPool)
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.connection.driver_connection.isolation_level = None
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
            for name in connection.exec_driver_sql(triggers).scalars().all():
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
        else:
            connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
        try:
            for statement in statements:
                assert connection.execute(text(statement)).rowcount > 0, statement
            yield SqlUnitOfWork(connection)
        finally:
            connection.exec_driver_sql("ROLLBACK")


CHARGE = "(SELECT max(id) FROM transfers WHERE kind = 'charge' AND workload_id = '{done}')"
MIDDLE = "(SELECT min(id) + 2 FROM transfers WHERE kind = 'charge' AND workload_id = '{server}')"
LATER = "(SELECT max(id) + 1 FROM transfers)"
COPIED = (
    "debit, credit, amount_micros, at_ms, workload_id, owner, gpu_type, unit, from_ms, until_ms, gpu_count, "
    "rate_micros, list_rate_micros, price_id, promotion_id, gpu_ms, saved_micros, note, made_by"
)
TAMPERED = {
    "a micro-unit more": (
        f"UPDATE transfers SET amount_micros = amount_micros + 1 WHERE id = {CHARGE}",
        "its rate makes",
    ),
    "a micro-unit less": (f"UPDATE transfers SET amount_micros = amount_micros - 1 WHERE id = {CHARGE}", "it charges"),
    "twice the price": (
        "UPDATE transfers SET amount_micros = amount_micros * 2, rate_micros = rate_micros * 2, "
        f"list_rate_micros = list_rate_micros * 2 WHERE id = {CHARGE}",
        "its list price is",
    ),
    "no discount": (
        "UPDATE transfers SET rate_micros = list_rate_micros WHERE promotion_id IS NOT NULL",
        "by its price and promotions it is",
    ),
    "another price": (f"UPDATE transfers SET price_id = 77 WHERE id = {CHARGE}", "price 77, which does not exist"),
    "the price book": ("UPDATE prices SET per_gpu_hour_micros = 1", "its list price is"),
    "a promotion": ("UPDATE promotions SET percent_off = 34", "by its price and promotions it is"),
    "no promotion": ("DELETE FROM promotions", "which does not exist"),
    "one second more": (f"UPDATE transfers SET until_ms = until_ms + 1000 WHERE id = {CHARGE}", "(ms)"),
    "time from before": (f"UPDATE transfers SET from_ms = from_ms - 1 WHERE id = {MIDDLE}", "is charged twice"),
    "before the start": (
        "UPDATE transfers SET from_ms = from_ms - 5 WHERE id = "
        "(SELECT min(id) FROM transfers WHERE kind = 'charge' AND workload_id = '{done}')",
        "is charged before it started",
    ),
    "a charge less": (f"DELETE FROM transfers WHERE id = {MIDDLE}", "is not charged, without a note"),
    "the last charge less": (f"DELETE FROM transfers WHERE id = {CHARGE}", "its charges reach"),
    "a charge twice": (
        f"INSERT INTO transfers (id, kind, {COPIED}) SELECT {LATER}, kind, {COPIED} FROM transfers WHERE id = {CHARGE}",
        "is charged twice",
    ),
    "another person": (f"UPDATE transfers SET owner = 'alice' WHERE id = {CHARGE}", "another person's"),
    "another account": (
        f"UPDATE transfers SET debit = 'person:alice' WHERE id = {CHARGE}",
        "another person's, account's",
    ),
    "more GPUs": (f"UPDATE transfers SET gpu_count = 1 WHERE id = {CHARGE}", "it is for 1 GPUs"),
    "less GPU time counted": (f"UPDATE transfers SET gpu_ms = 1 WHERE id = {CHARGE}", "it counts 1 ms of GPU time"),
    "more saved": (f"UPDATE transfers SET saved_micros = saved_micros + 1 WHERE id = {CHARGE}", "as saved"),
    "charged beforehand": (f"UPDATE transfers SET at_ms = from_ms WHERE id = {CHARGE}", "it was charged at"),
    "an unknown kind": (f"UPDATE transfers SET kind = 'gift' WHERE id = {CHARGE}", "gift"),
    "an unknown workload": (
        f"UPDATE transfers SET workload_id = 'j-0' WHERE id = {CHARGE}",
        "its workload does not exist",
    ),
    "to nobody": (f"UPDATE transfers SET credit = 'person:eve' WHERE id = {CHARGE}", "from an account to site:revenue"),
    "no evidence of a start": (
        "DELETE FROM workload_events WHERE kind = 'started' AND workload_id = '{done}'",
        "without evidence that it started",
    ),
    "a later start": (
        "UPDATE workload_events SET at_ms = at_ms + 1 WHERE kind = 'started' AND workload_id = '{done}'",
        "it was started at",
    ),
    "started twice": (
        "INSERT INTO workload_events (workload_id, at_ms, kind, detail) "
        "SELECT workload_id, at_ms, kind, detail FROM workload_events "
        "WHERE kind = 'started' AND workload_id = '{done}'",
        "it was started twice",
    ),
    "no evidence of the end": (
        "DELETE FROM workload_events WHERE kind = 'ended' AND workload_id = '{done}'",
        "its evidence says that it is running",
    ),
    "said to run": ("UPDATE workloads SET state = 'running' WHERE id = '{done}'", "its record says running"),
    "ended earlier": ("UPDATE workloads SET ended_ms = ended_ms - 9 WHERE id = '{done}'", "but by its record it ended"),
    "ended later": ("UPDATE workloads SET ended_ms = ended_ms + 9 WHERE id = '{done}'", "to its end"),
    "charged further": ("UPDATE workloads SET charged_until_ms = 5 WHERE id = '{server}'", "its charges reach"),
    "an open hold at the end": ("UPDATE holds SET state = 'open' WHERE workload_id = '{done}'", "is still open"),
    "no hold": ("UPDATE holds SET state = 'voided' WHERE workload_id = '{server}'", "without an open hold"),
    "a hold for charged time": (
        "UPDATE hold_lines SET from_ms = 1 WHERE position = (SELECT min(position) FROM hold_lines)",
        "still holds money for time from 1",
    ),
    "more held than there is": ("UPDATE hold_lines SET amount_micros = 99000000000", "are held for it"),
    "a refund less": ("DELETE FROM transfers WHERE kind = 'refund'", "its grants add up to"),
    "a smaller refund": (
        "UPDATE transfers SET amount_micros = amount_micros - 1 WHERE kind = 'refund'",
        "it refunds charge",
    ),
    "a refund of another charge": (
        f"UPDATE transfers SET reverses = {CHARGE} WHERE kind = 'refund'",
        "which is no charge of",
    ),
    "a larger grant": ("UPDATE grants SET amount_micros = amount_micros + 1 WHERE id = 1", "but grant 1 is of"),
    "a grant less": ("DELETE FROM grants WHERE id = 1", "grant 1, which does not exist"),
    "a grant nobody booked": (
        "INSERT INTO grants (account, amount_micros, granted_ms, priority, rollover_percent, source, note, made_by) "
        "VALUES ('person:eve', 5, 1, 100, 0, '', '', 'eve')",
        "its grants add up to 5",
    ),
    "credit made smaller": (
        "UPDATE transfers SET amount_micros = 1000000 WHERE grant_id = 1;"
        "UPDATE grants SET amount_micros = 1000000 WHERE id = 1",
        "micro-units below 0",
    ),
    "expired in part": ("UPDATE transfers SET amount_micros = amount_micros - 1 WHERE kind = 'expire'", "expired, "),
    "expired too soon": ("UPDATE transfers SET at_ms = 1 WHERE kind = 'expire'", "had not expired at 1"),
    "never to expire": ("UPDATE grants SET expires_ms = NULL WHERE expires_ms IS NOT NULL", "had not expired"),
    "sums": ("UPDATE usage_people SET amount_micros = amount_micros + 1", "sums: "),
}


@BOTH
@pytest.mark.slow
async def test_whatever_is_changed_by_hand_is_found(world, term, database):
    with create_engine(database, poolclass=NullPool).connect() as connection:
        while not connection.exec_driver_sql("SELECT count(*) FROM usage_people").scalar_one():
            connection.rollback()
            await asyncio.sleep(0.01)  # the sums follow when the writer is idle
    with by_hand(database) as uow:
        assert sentences(uow) == []
    missed = {}
    for name, (statements, said) in TAMPERED.items():
        with by_hand(database, *statements.format(**term).split(";")) as uow:
            found = sentences(uow)
            if not any(said in sentence for sentence in found):
                missed[name] = found
            watched = LedgerWatch()
            if name != "sums" and "orphan" not in name and not watched.check(uow):
                missed[f"{name}, watched"] = []
    assert missed == {}


async def test_what_does_not_fit_is_told_once_with_since_when_until_it_is_repaired(world, term, caplog):
    root = world.admin
    assert world.ok(await world.broker.problems(root)) == []
    since = world.clock.ms
    job = await world.store.read(lambda uow: uow.workload(term["done"]))
    await world.store.write(lambda uow: uow.save_workload(replace(job, charged_until_ms=1)))
    for _ in range(3):
        await world.reconcile(1)
        world.clock.ms += 1000
    (problem,) = world.ok(await world.broker.problems(root))
    assert problem.since == at(since)
    assert problem.sentence.startswith(f"job {job.id} of bob: its charges reach")
    assert sum("inconsistent" in record.message for record in caplog.records) == 1
    assert (await world.broker.metrics_snapshot())["consistency_problems"] == 1
    await world.restart()
    await world.reconcile(1)
    assert world.ok(await world.broker.problems(root))[0].since == at(since)
    await world.store.write(lambda uow: uow.save_workload(job))
    await world.reconcile(1)
    assert world.ok(await world.broker.problems(root)) == []
    assert (await world.broker.metrics_snapshot())["consistency_problems"] == 0
    assert (await world.broker.problems(world.teacher)).code == "not_allowed"


async def test_the_watch_reads_new_entries_at_once_and_old_ones_a_few_at_a_time(world, term, database, monkeypatch):
    monkeypatch.setattr(watch, "OLD_ENTRIES", 2)
    monkeypatch.setattr(watch, "WORKLOADS", 1)
    watched = LedgerWatch()
    assert await world.store.read(watched.check) == []
    entries = (await world.store.read(lambda uow: uow.extent()))[1]
    with by_hand(database, "UPDATE transfers SET kind = 'gift' WHERE id = 2") as uow:
        rounds = next(number for number in range(2 * entries) if watched.check(uow))
        assert rounds <= entries
        assert watched.check(uow)
    # Repaired, it is forgotten as soon as it was read again.
    assert not [found for _ in range(2 * entries) if not (found := await world.store.read(watched.check))][-1]


async def test_an_entry_that_comes_in_wrong_is_seen_in_the_next_round(world, term, database, monkeypatch):
    monkeypatch.setattr(watch, "OLD_ENTRIES", 2)
    watched = LedgerWatch()
    assert await world.store.read(watched.check) == []
    new = (
        "INSERT INTO transfers (id, kind, debit, credit, amount_micros, at_ms, gpu_ms, note, made_by) "
        f"SELECT {LATER}, 'grant', 'site:grants', 'person:eve', 5, 1, 0, '', 'eve'"
    )
    with by_hand(database, new) as uow:
        assert [str(fault) for fault in watched.check(uow)] == [
            "account person:eve: its grants add up to 0 micro-units, the ledger gave it 5"
        ]


async def test_the_audits_chain_is_on_the_metrics_page(world):
    await world.reconcile(1)
    figures = await world.broker.metrics_snapshot()
    assert (figures["audit_chain_intact"], figures["audit_chain_entries"]) == (1, 2)
    assert figures["consistency_checked_timestamp_seconds"] == world.clock.ms / 1000
    head = await world.store.read(lambda uow: uow.audit_head())
    await world.store.write(lambda uow: uow.set_setting("audit_head", {"id": 1, "sha256": head.sha256}))
    await world.reconcile(1)
    assert (await world.broker.metrics_snapshot())["audit_chain_intact"] == 0
    assert "audit entry 2" in world.ok(await world.broker.problems(world.admin))[0].sentence
    await world.store.write(lambda uow: uow.set_setting("audit_head", {"id": 2, "sha256": head.sha256}))
    await world.reconcile(1)
    assert (await world.broker.metrics_snapshot())["audit_chain_intact"] == 1


# ---------------------------------------------------------------- accounts


def posted(number, kind, debit, credit, amount, at_ms=0, from_ms=None, grant_id=None):
    return Posting(number, kind, debit, credit, amount, at_ms, from_ms, grant_id, None)


def held(account, *lines):
    return Hold(1, "w", "alice", account, "h100", 0, 9, tuple(lines))


def line(from_ms, amount):
    return Line("gpu_hour", from_ms, from_ms + 1, 1, 1, 1, amount, 1)


A = "person:alice"


@pytest.mark.parametrize(
    ("postings", "holds", "said"),
    [
        ([], [], None),
        ([posted(3, "charge", A, REVENUE, 60, 5, 5)], [held(A, line(6, 40), line(20, 100))], None),
        ([posted(3, "charge", A, REVENUE, 301, 5, 5)], [], "it is 101 micro-units below 0"),
        ([posted(3, "charge", A, REVENUE, 60, 5, 5)], [held(A, line(6, 141))], "are held for it"),
        # The first 100 expire at 10: what is for later than that cannot be paid from them.
        (
            [posted(3, "charge", A, REVENUE, 60, 25, 20)],
            [held(A, line(30, 41))],
            "1 micro-units are spent or held that",
        ),
        ([posted(3, "expire", A, GRANTS, 100, 10, None, 1)], [], None),
        ([posted(3, "expire", A, GRANTS, 99, 10, None, 1)], [], "99 micro-units of grant 1 expired, 100 were left"),
        ([posted(3, "expire", A, GRANTS, 100, 9, None, 1)], [], "grant 1 had not expired at 9"),
        ([posted(3, "expire", A, GRANTS, 100, 10, None, 2)], [], "grant 2 had not expired"),
        ([posted(3, "grant", GRANTS, A, 100, 0, None, 1)], [], "grant 1 was booked before"),
        ([posted(3, "charge", REVENUE, A, 1)], [], "a charge of 1 from site:revenue"),
        ([posted(3, "charge", A, REVENUE, -1)], [], "a charge of -1"),
    ],
)
def test_credit_is_never_spent_twice_nor_after_it_expired(postings, holds, said):
    grants = [Grant(1, A, 100, 0, expires_ms=10), Grant(2, A, 100, 0)]
    accounts = Accounts(grants)
    granted = [posted(n, "grant", GRANTS, A, 100, 0, None, n) for n in (1, 2)]
    found = [str(fault) for fault in accounts.add([*granted, *postings])]
    found += [str(fault) for _, fault in accounts.close(holds)]
    assert (found == []) if said is None else any(said in sentence for sentence in found)
