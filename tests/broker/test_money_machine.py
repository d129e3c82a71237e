"""*spend + holds <= limit* in every interleaving: a state machine over the real store, checked from its bare rows.

Every step is a transaction of its own that may also be broken off in its middle. Nothing is checked through the code
that decides: the books are read row by row and added up here.
"""

from __future__ import annotations

import asyncio
import os
from collections import defaultdict
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import create_engine, event, text
from sqlalchemy.pool import NullPool

from fastgpu import models
from fastgpu_hub.broker import credit_rules, deferral, funding, funds, lifecycle
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.ports.records import PromotionCode, Workload
from fastgpu_hub.broker.settings import Settings
from fastgpu_hub.broker.views import at
from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.ledger import grant_transfer
from fastgpu_hub.pricing.pricebook import Rate
from fastgpu_hub.pricing.promotions import Promotion
from fastgpu_hub.pricing.quotas import Quota
from fastgpu_hub.store import open_store
from fastgpu_hub.store.buffered import BufferedUnitOfWork
from fastgpu_hub.store.kept import Kept
from tests.broker.bare_books import Books, check_kept, check_rolling

EXAMPLES = int(os.environ.get("FASTGPU_EXAMPLES", "60"))
H100 = "h100-80gb"
START_MS = 1_760_000_400_000
HOUR_MS, DAY_MS = 3_600_000, 86_400_000
PEOPLE, ACCOUNTS = ("alice", "bob"), ("class:cs101", "person:alice")
ADMIN = Actor("root", admin=True)

REQUEST = {
    "owner": st.sampled_from(PEOPLE),
    "own": st.booleans(),
    "gpus": st.integers(1, 3),
    "code": st.booleans(),
    "most": st.one_of(st.none(), st.none(), st.integers(0, 5_000_000)),
    "steps": st.integers(0, 3),
}


class Broken(Exception):
    """The transaction was broken off."""


class Money(RuleBasedStateMachine):
    """One class, two people, one GPU type; every rule a transaction."""

    connection = None
    ids = Bundle("ids")

    def __init__(self) -> None:
        super().__init__()
        self.now_ms = START_MS
        self.settings = Settings(server_horizon_ms=HOUR_MS, follow_promotions=True)
        self.count = 0
        self.quotes = {}
        self.break_at = 0
        self.kept = Kept()
        self.statements = 0
        self.inside = False
        self.connection.execute(text("SAVEPOINT example"))
        event.listen(self.connection, "before_cursor_execute", self._statement)

    def teardown(self) -> None:
        event.remove(self.connection, "before_cursor_execute", self._statement)
        self.connection.execute(text("ROLLBACK TO SAVEPOINT example"))
        self.connection.execute(text("RELEASE SAVEPOINT example"))  # else the next one would lie within it

    def _statement(self, *_) -> None:
        self.statements += 1
        if self.inside and self.statements == self.break_at:
            raise Broken

    def step(self, work):
        """One transaction; nothing of it stays when it is refused or broken off."""
        self.connection.execute(text("SAVEPOINT step"))
        self.statements, self.inside = 0, True
        try:
            uow = BufferedUnitOfWork(self.connection, kept=self.kept)
            result = work(uow)
            uow.done()
        except (Refusal, Broken, lifecycle.Stale) as error:
            self.inside = False
            self.kept.forget()
            self.connection.execute(text("ROLLBACK TO SAVEPOINT step"))
            self.connection.execute(text("RELEASE SAVEPOINT step"))
            if isinstance(error, Refusal):
                self.justify(error.refused)
            return None
        finally:
            self.inside, self.break_at = False, 0
        self.connection.execute(text("RELEASE SAVEPOINT step"))
        return result

    @staticmethod
    def justify(refused) -> None:
        """A refusal says what was wanted and what was left."""
        numbers = refused.numbers
        if refused.code == "credit" and "left_micros" in numbers:
            assert numbers["wanted_micros"] > 0
        if refused.code == "quota_spend":
            assert numbers["wanted"] > numbers["limit"] - numbers["used"] - numbers["reserved"]

    # ------------------------------------------------------------ rules

    @initialize(
        credit=st.integers(500_000, 30_000_000),
        limit=st.integers(500_000, 20_000_000),
        hours=st.integers(1, 40),
        budget=st.integers(1, 2_000_000),
        free_minutes=st.integers(1, 300),
        plain=st.booleans(),
    )
    def found(self, credit, limit, hours, budget, free_minutes, plain) -> None:
        """In a plain one, without promotions and rolling windows, the writer follows its sums from step to step."""
        week = {"starts_ms": START_MS - DAY_MS, "ends_ms": START_MS + 30 * DAY_MS}
        self.cheap = Promotion(-1, "Third off", **week, percent_off=33, budget_micros=budget)
        self.free = Promotion(-1, "Free", **week, free_gpu_ms=free_minutes * 60_000)
        self.coded = Promotion(-1, "Code", **week, percent_off=77, needs_code=True, max_redemptions=1)
        self.plain = plain

        def work(uow):
            uow.add_price(H100, Rate(700_001, 50_003, 10_007), START_MS - DAY_MS, "test")
            for account in ACCOUNTS:
                self._grant(uow, account, credit, None, 100)
            if not plain:
                self.cheap, self.free, self.coded = map(uow.add_promotion, (self.cheap, self.free, self.coded))
                uow.add_promotion(Promotion(0, "On top", **week, percent_off=7, stacks=True))
                uow.add_codes([PromotionCode("ABC", self.coded.family, None, START_MS, "test")])
            self.quotas = [
                uow.add_quota(Quota(0, "class", "cs101", "spend_micros", limit, "day")),
                uow.add_quota(Quota(0, "person", "alice", "gpu_seconds", hours * 3600, "always")),
            ]
            rolling = Quota(0, "member", "cs101", "spend_micros", limit - limit // 3, "rolling", rolling_ms=DAY_MS)
            self.quotas += [] if plain else [uow.add_quota(rolling)]
            return True

        assert self.step(work)
        self.budget, self.free_ms = budget, free_minutes * 60_000

    def _grant(self, uow, account, amount, expires_ms, priority, rollover=0) -> None:
        kept = uow.add_grant(Grant(0, account, amount, self.now_ms, priority, expires_ms, rollover))
        uow.append([grant_transfer(kept)])

    @rule(target=ids, minutes=st.integers(1, 2000), **REQUEST)
    def reserve_for_a_job(self, minutes, **request):
        return self._reserve(minutes, **request)

    @rule(target=ids, **REQUEST)
    def reserve_for_a_server(self, **request):
        return self._reserve(None, **request)

    @rule(target=ids, minutes=st.integers(1, 900), later=st.integers(1, 3000), **{**REQUEST, "steps": st.just(0)})
    def reserve_for_a_job_that_starts_later(self, minutes, later, **request):
        """Its quote is what is held for it; whenever it is granted, it costs no more."""
        who = self._reserve(minutes, later=later, **request)
        if (books := Books(self.connection)).workloads.get(who):
            self.quotes[who] = sum(row["amount_micros"] for row in books.held if row["workload_id"] == who)
        return who

    @rule(who=ids, micros=st.integers(0, 1_000_000))
    def plan_anew(self, who, micros) -> None:
        """A promotion is published; a deferred job may move to where it makes it cheaper."""

        def publish(uow):
            price = {"fixed_per_gpu_hour_micros": micros, "starts_ms": self.now_ms, "ends_ms": self.now_ms + DAY_MS}
            uow.add_promotion(Promotion(0, "Fixed", **price))

        if not self.plain:
            self.step(publish)
        self.step(lambda uow: deferral.replan(uow, who, self.now_ms, 0, self.settings))

    def _reserve(self, minutes, owner, own, gpus, code, most, steps, later=None):
        """A request; it may be granted, started and looked at at once."""
        self.count += 1
        workload = Workload(
            id=f"w-{self.count}",
            kind="job" if minutes else "server",
            owner=owner,
            account="person:alice" if own and owner == "alice" else "class:cs101",
            classes=("cs101",),
            name="test",
            gpu_type=H100,
            gpu_count=gpus,
            state="queued",
            requested_ms=self.now_ms,
            time_limit_ms=None if minutes is None else minutes * 60_000,
            promo_code="ABC" if code else None,
            max_cost_micros=most,
            not_before_ms=None if later is None else self.now_ms + later * 60_000,
            quoted_micros=None if later is None else 0,
            spec={} if later is None else {"start": "cheapest", "by": at(self.now_ms + 6 * DAY_MS).isoformat()},
        )
        self.step(lambda uow: lifecycle.request(uow, workload, self.now_ms, self.settings))
        for step in (self.grant, lambda who: self.start(who, 500), lambda who: self.renew_or_settle(who, 0))[:steps]:
            step(who=workload.id)
        return workload.id

    @rule(who=ids)
    def grant(self, who) -> None:
        def work(uow):
            if uow.workload(who) is not None:
                lifecycle.grant(uow, who, (f"GPU-{who}",), "node", True, self.now_ms, self.settings)

        self.step(work)

    @rule(who=ids, late_ms=st.integers(0, 5000))
    def start(self, who, late_ms) -> None:
        self.now_ms += late_ms
        self.step(lambda uow: lifecycle.started(uow, who, self.now_ms, 1, self.settings))

    @rule(minutes=st.integers(0, 600), ms=st.integers(0, 60_000))
    def pass_time(self, minutes, ms) -> None:
        self.now_ms += minutes * 60_000 + ms
        if not self.plain:
            self.step(lambda uow: funds.expire(uow, self.now_ms))

    @rule(who=ids, unseen_ms=st.integers(0, 20_000))
    def renew_or_settle(self, who, unseen_ms) -> None:
        look = self.step(lambda uow: funding.edge(uow, who, self.now_ms, self.now_ms - unseen_ms, self.settings))
        if look is not None and look.stop is not None:
            self.step(lambda uow: lifecycle.order_stop(uow, who, self.now_ms, look.stop))

    @rule(who=consumes(ids), ago_ms=st.integers(0, 20_000))
    def finish(self, who, ago_ms) -> None:
        ended_ms = self.now_ms - ago_ms
        self.step(lambda uow: lifecycle.finish(uow, who, ended_ms, "cancelled", self.settings))

    @rule(who=ids)
    def refund(self, who) -> None:
        def work(uow):
            if (workload := uow.workload(who)) is not None:
                credit_rules.refund(uow, ADMIN, workload, models.RefundSet(reason="a test"), self.now_ms)

        self.step(work)

    @rule(
        account=st.sampled_from(ACCOUNTS),
        amount=st.integers(1, 5_000_000),
        minutes=st.one_of(st.none(), st.integers(1, 3000)),
        priority=st.integers(1, 255),
        rollover=st.sampled_from((0, 50, 100)),
    )
    def give_credit(self, account, amount, minutes, priority, rollover) -> None:
        expires_ms = None if minutes is None else self.now_ms + minutes * 60_000
        self.step(lambda uow: self._grant(uow, account, amount, expires_ms, priority, rollover if expires_ms else 0))

    @rule(who=ids, rate=st.integers(0, 2_000_000), minutes=st.integers(0, 600))
    def set_a_price_and_follow(self, who, rate, minutes) -> None:
        self.step(lambda uow: uow.add_price(H100, Rate(rate, rate // 7, 9), self.now_ms + minutes * 60_000, "test"))
        self.step(lambda uow: funding.follow(uow, who, self.now_ms, self.settings))

    @rule(who=ids)
    def end_a_promotion_and_follow(self, who) -> None:
        def end(uow):
            newest = next((p for p in uow.promotions() if p.family == self.cheap.family), None)
            if newest is not None and newest.ends_ms > self.now_ms:
                uow.add_promotion(replace(newest, version=newest.version + 1, ends_ms=self.now_ms))

        self.step(end)
        self.step(lambda uow: funding.follow(uow, who, self.now_ms, self.settings))

    @rule(at=st.integers(1, 60))
    def break_the_next_one_off(self, at) -> None:
        self.break_at = at

    # ------------------------------------------------------------ invariants

    @invariant()
    def everything_adds_up(self) -> None:
        if not hasattr(self, "quotas"):
            return
        books = Books(self.connection)
        self._limits_hold(books)
        self._promotions_hold(books)
        self._holds_match(books)
        self._lines_are_right(books)
        check_kept(self.kept, self.connection)
        for who, quoted in self.quotes.items():
            rows = [row for row in (*books.charges, *books.held) if row["workload_id"] == who]
            assert sum(row["amount_micros"] for row in rows) <= quoted, who

    def _limits_hold(self, books) -> None:
        for account in ACCOUNTS:
            assert books.can_be_paid(account), account
            granted = sum(g["amount_micros"] for g in books.grants if g["account"] == account)
            credited = sum(t["amount_micros"] for t in books.transfers if t["credit"] == account)
            assert granted == credited
        spend, hours, *rolling = self.quotas
        days = {row["from_ms"] // DAY_MS for row in (*books.kept, *books.held)}
        for day in days:
            used = books.taken("class:cs101", None, day * DAY_MS, (day + 1) * DAY_MS)
            assert used <= spend.limit
        assert books.taken(owner="alice", what="gpu_ms") <= hours.limit * 1000
        for owner in PEOPLE if rolling else ():
            check_rolling(books, owner, rolling[0].limit)

    def _promotions_hold(self, books) -> None:
        saved, freed = 0, defaultdict(int)
        for row in (*books.kept, *books.held):
            count = row["gpu_count"] if row["unit"] == "gpu_hour" else 1
            if row["promotion_id"] == self.cheap.id:
                if row["unit"] == "start":
                    saved += row["list_rate_micros"] - row["rate_micros"]
                else:
                    ms = row["until_ms"] - row["from_ms"]
                    saved += (row["list_rate_micros"] - row["rate_micros"]) * count * ms // HOUR_MS
            if row["promotion_id"] == self.free.id and row["unit"] == "gpu_hour":
                freed[row["owner"]] += row["gpu_ms"]
        assert saved <= self.budget
        assert all(ms <= self.free_ms for ms in freed.values())
        assert len(books.redemptions) <= 1
        winners = {row["owner"] for row in books.redemptions}
        assert {row["owner"] for row in (*books.kept, *books.held) if row["promotion_id"] == self.coded.id} <= winners

    def _holds_match(self, books) -> None:
        open_ = [hold["workload_id"] for hold in books.holds if hold["state"] == "open"]
        active = [w["id"] for w in books.workloads.values() if w["state"] != "ended"]
        assert sorted(open_) == sorted(active)
        assert len(books.holds) == len(books.workloads)
        for hold in books.holds:
            charged = any(t["workload_id"] == hold["workload_id"] for t in books.charges)
            assert (hold["state"], charged) != ("voided", True)

    def _lines_are_right(self, books) -> None:
        lines = defaultdict(list)
        for charge in books.charges:
            assert (
                charge["amount_micros"]
                <= charge["rate_micros"]
                * max(
                    Fraction(1) if charge["unit"] == "start" else Fraction(0),
                    Fraction((charge["until_ms"] - charge["from_ms"]), HOUR_MS)
                    * (charge["gpu_count"] if charge["unit"] == "gpu_hour" else 1),
                )
                + 1
            )
            if charge["unit"] == "gpu_hour":
                lines[charge["workload_id"]].append((charge["from_ms"], charge["until_ms"]))
        for who, intervals in lines.items():
            workload = books.workloads[who]
            assert intervals == sorted(intervals)
            assert all(first[1] <= second[0] for first, second in pairwise(intervals))
            assert intervals[0][0] >= workload["billed_from_ms"]
            assert workload["ended_ms"] is None or intervals[-1][1] <= workload["ended_ms"]


@pytest.mark.slow
def test_spend_and_holds_stay_within_every_limit_in_every_interleaving(database_url) -> None:
    asyncio.run(open_store(database_url).close())
    engine = create_engine(database_url, poolclass=NullPool)
    if database_url.startswith("sqlite"):
        event.listen(engine, "connect", lambda raw, _record: setattr(raw, "isolation_level", None))
        event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with engine.connect() as connection, connection.begin() as transaction:
        machine = type("MoneyHere", (Money,), {"connection": connection})
        run_state_machine_as_test(
            machine,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=15,
                deadline=None,
                suppress_health_check=list(HealthCheck),
                database=None,
            ),
        )
        transaction.rollback()
    engine.dispose()
