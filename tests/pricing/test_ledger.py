"""The ledger: every entry balanced and well-formed, the books always close, a charge is given back at most once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.ledger import (
    GRANTS,
    REVENUE,
    LedgerError,
    Transfer,
    balances,
    charge_transfers,
    check_balanced,
    expire_transfer,
    grant_transfer,
    refund_transfers,
)
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.quote import Itemised

CLASS = "class:cs101"
HOUR_MS = 3_600_000


def charges(*lines: Line) -> list[Transfer]:
    return charge_transfers("job-1", "alice", CLASS, "h100", lines, HOUR_MS)


def test_a_charge_moves_exactly_its_line_from_the_account_to_revenue(hours: Callable[..., Line]) -> None:
    line = hours(0, HOUR_MS)
    (entry,) = charges(line)
    assert entry == Transfer(
        0, "charge", CLASS, REVENUE, 500_000, HOUR_MS, workload_id="job-1", owner="alice", gpu_type="h100", line=line
    )


def test_what_costs_nothing_is_booked_too_for_quotas_count_its_time(hours: Callable[..., Line]) -> None:
    (entry,) = charges(hours(0, HOUR_MS, rate_micros=0))
    assert entry.amount_micros == 0
    check_balanced([entry])


def granted(amount: int, account: str = CLASS, *, id: int = 5, expires_ms: int | None = None) -> Grant:
    return Grant(id, account, amount, 7, expires_ms=expires_ms, note="term", by="admin")


def booked(*entries: Transfer) -> list[Transfer]:
    return [replace(entry, id=position) for position, entry in enumerate(entries, 1)]


def test_a_grant_is_booked_from_the_site_and_a_gift_from_the_class_that_gives_it() -> None:
    assert grant_transfer(granted(9)) == Transfer(0, "grant", GRANTS, CLASS, 9, 7, note="term", by="admin", grant_id=5)
    gift = grant_transfer(granted(9, "person:alice"), CLASS)
    assert (gift.debit, gift.credit, gift.kind) == (CLASS, "person:alice", "grant")
    assert balances([grant_transfer(granted(20)), gift]) == {GRANTS: -20, CLASS: 11, "person:alice": 9}
    assert grant_transfer(granted(9, id=0)).grant_id is None


@pytest.mark.parametrize(
    ("giver", "taker"),
    [("person:bob", "person:alice"), (CLASS, "class:art7"), (CLASS, REVENUE), (REVENUE, CLASS), (GRANTS, GRANTS)],
)
def test_only_the_site_and_classes_give_and_classes_only_to_people(giver: str, taker: str) -> None:
    with pytest.raises(ValueError, match="cannot give credit"):
        grant_transfer(granted(9, taker), giver)


def test_a_refund_gives_back_exactly_the_charge_and_names_it(hours: Callable[..., Line]) -> None:
    first, free = booked(*charges(hours(0, HOUR_MS), hours(HOUR_MS, 2 * HOUR_MS, rate_micros=0)))
    refunds = refund_transfers([first, free], 99, "root", "the node failed", 12)
    assert refunds[0] == Transfer(
        *(
            0,
            "refund",
            REVENUE,
            CLASS,
            500_000,
            99,
            "job-1",
            "alice",
            "h100",
            first.line,
            "the node failed",
            "root",
            1,
            12,
        )
    )
    # What cost nothing is given back too: its GPU time counted against quotas.
    assert (refunds[1].amount_micros, refunds[1].reverses, refunds[1].line) == (0, 2, free.line)
    grant = replace(grant_transfer(granted(10**6)), id=3)
    check_balanced([grant, first, free, *booked(*refunds)])
    assert balances([grant, first, free, *refunds]) == {GRANTS: -(10**6), CLASS: 10**6, REVENUE: 0}


def test_a_charge_is_refunded_at_most_once(hours: Callable[..., Line]) -> None:
    (charge,) = booked(*charges(hours(0, HOUR_MS)))
    with pytest.raises(ValueError, match="charge 1 can be refunded only once"):
        refund_transfers([charge, charge], 99, "root", "why")
    again = [replace(refund, id=id_) for id_ in (2, 3) for refund in refund_transfers([charge], 99, "root", "why")]
    check_balanced([charge, again[0]])
    with pytest.raises(LedgerError, match=r"entry 3 .*charge 1 was refunded before"):
        check_balanced([charge, *again])


@pytest.mark.parametrize("made", [("", "why"), ("root", "")])
def test_a_refund_says_who_and_why(made: tuple[str, str], hours: Callable[..., Line]) -> None:
    with pytest.raises(ValueError, match="who made it and why"):
        refund_transfers(booked(*charges(hours(0, 1))), 99, *made)


def test_only_booked_charges_are_refunded(hours: Callable[..., Line]) -> None:
    (charge,) = charges(hours(0, HOUR_MS))
    for entry in (charge, replace(grant_transfer(granted(5)), id=3), replace(charge, id=3, kind="refund")):
        with pytest.raises(ValueError, match="not a booked charge"):
            refund_transfers([entry], 99, "root", "why")


@pytest.mark.parametrize(
    "changes",
    [{"amount_micros": 5}, {"credit": "person:mallory"}, {"owner": "bob"}, {"workload_id": "x"}, {"gpu_type": "t4"}],
)
def test_a_refund_that_is_not_what_was_charged_is_found(changes: dict[str, Any], hours: Callable[..., Line]) -> None:
    (charge,) = booked(*charges(hours(0, HOUR_MS)))
    (refund,) = refund_transfers([charge], 99, "root", "why")
    other = replace(refund, id=2, **changes)
    if "amount_micros" in changes:
        other = replace(other, line=replace(hours(0, HOUR_MS), amount_micros=5))
    with pytest.raises(LedgerError, match=r"entry 2 .*not what charge 1 charged"):
        check_balanced([charge, other])


def test_what_expires_goes_back_to_the_site_once() -> None:
    grant = granted(100, expires_ms=50)
    entry = expire_transfer(grant, 40, 60)
    assert entry == Transfer(0, "expire", CLASS, GRANTS, 40, 60, grant_id=5)
    assert expire_transfer(grant, 0, 50).amount_micros == 0
    check_balanced([grant_transfer(grant), entry])
    assert balances([grant_transfer(grant), entry]) == {GRANTS: -60, CLASS: 60}
    with pytest.raises(LedgerError, match="expired before"):
        check_balanced([grant_transfer(grant), entry, entry])


@pytest.mark.parametrize(("left", "at_ms", "expires_ms"), [(101, 60, 50), (-1, 60, 50), (1, 49, 50), (1, 60, None)])
def test_nothing_expires_early_or_beyond_its_grant(left: int, at_ms: int, expires_ms: int | None) -> None:
    with pytest.raises(ValueError, match="grant"):
        expire_transfer(granted(100, expires_ms=expires_ms), left, at_ms)


@given(st.lists(st.tuples(st.sampled_from(["grant", "gift", "charge", "refund", "expire"]), st.integers(1, 10**12))))
def test_the_books_close_after_anything_that_can_happen(steps: list[tuple[str, int]]) -> None:
    entries: list[Transfer] = []
    due: list[Transfer] = []
    sums = dict.fromkeys(("grant", "gift", "charge", "refund", "expire"), 0)
    for number, (kind, amount) in enumerate(steps, 1):
        if kind == "charge":
            made = charges(Line("start", 0, 0, 1, amount, amount, amount, 1))
        elif kind == "refund":
            made = refund_transfers([due.pop()] if due else [], 1, "root", "why")
        elif kind == "expire":
            made = [expire_transfer(granted(amount, id=number, expires_ms=9), amount, 9)]
        else:
            taker = "person:bob" if kind == "gift" else CLASS
            made = [grant_transfer(granted(amount, taker), CLASS if kind == "gift" else None)]
        for entry in made:
            entries.append(replace(entry, id=len(entries) + 1))
            due += [entries[-1]] if kind == "charge" else []
            sums[kind] += entry.amount_micros
    check_balanced(entries)
    left = balances(entries)
    assert sum(left.values()) == 0
    assert left.get(GRANTS, 0) == sums["expire"] - sums["grant"]
    assert left.get(REVENUE, 0) == sums["charge"] - sums["refund"]
    assert left.get(CLASS, 0) == sums["grant"] + sums["refund"] - sums["charge"] - sums["gift"] - sums["expire"]
    assert left.get("person:bob", 0) == sums["gift"]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"amount_micros": -1}, "negative"),
        ({"amount_micros": 499_999}, "not its line's"),
        ({"credit": "person:mallory"}, "from an account to site:revenue"),
        ({"debit": GRANTS}, "from an account to site:revenue"),
        ({"kind": "gift"}, "no such kind"),
        ({"kind": "grant"}, "from site:grants to an account"),
        ({"kind": "grant", "debit": GRANTS}, "from site:grants to an account"),
        ({"kind": "grant", "debit": "person:bob", "credit": "person:alice"}, "from a class to a person"),
        ({"kind": "refund"}, "reverses a charge"),
        ({"reverses": 3}, "reverses a charge"),
        ({"kind": "refund", "reverses": 3}, "from site:revenue to an account"),
        ({"kind": "refund", "reverses": 3, "debit": REVENUE, "credit": GRANTS}, "from site:revenue to an account"),
        ({"kind": "expire"}, "names its grant"),
        ({"kind": "expire", "credit": GRANTS}, "names its grant"),
        ({"kind": "expire", "credit": CLASS, "grant_id": 5}, "goes from an account to site:grants"),
        ({"line": None}, "carries its line"),
        ({"workload_id": None}, "carries its line"),
        ({"owner": None}, "carries its line"),
        ({"gpu_type": None}, "carries its line"),
    ],
)
def test_a_malformed_entry_is_named(changes: dict[str, Any], fault: str, hours: Callable[..., Line]) -> None:
    (entry,) = charges(hours(0, HOUR_MS))
    good = grant_transfer(granted(1))
    with pytest.raises(LedgerError, match=fault) as caught:
        check_balanced([good, replace(entry, id=42, **changes)])
    assert "entry 42" in str(caught.value)


def test_a_quote_says_what_starting_costs_what_it_may_cost_and_what_is_saved(hours: Callable[..., Line]) -> None:
    start = Line("start", 0, 0, 1, 30_000, 40_000, 30_000, 1, 7)
    quote = Itemised((start, hours(0, 2 * HOUR_MS)))
    assert quote.min_micros == 30_000
    assert quote.max_micros == 1_030_000
    assert quote.list_micros == 1_040_000
    assert quote.saved_micros == 10_000
