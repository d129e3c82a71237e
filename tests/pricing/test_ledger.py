"""Credit and ledger: every entry balanced and well-formed, the books always close."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgpu_hub.pricing import credits
from fastgpu_hub.pricing.credits import Balance
from fastgpu_hub.pricing.ledger import (
    GRANTS,
    REVENUE,
    LedgerError,
    Transfer,
    balances,
    charge_transfers,
    check_balanced,
    grant_transfer,
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


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 10**12)), max_size=30))
def test_the_books_close_after_any_grants_and_charges(steps: list[tuple[bool, int]]) -> None:
    entries: list[Transfer] = []
    for is_grant, amount in steps:
        line = Line("start", 0, 0, 1, amount, amount, amount, 1)
        entries += [grant_transfer(CLASS, amount, 0, "admin", "term")] if is_grant else charges(line)
    check_balanced(entries)
    left = balances(entries)
    assert sum(left.values()) == 0
    granted = sum(amount for is_grant, amount in steps if is_grant)
    spent = sum(amount for is_grant, amount in steps if not is_grant)
    assert (left.get(GRANTS, 0), left.get(REVENUE, 0), left.get(CLASS, 0)) == (-granted, spent, granted - spent)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"amount_micros": -1}, "negative"),
        ({"amount_micros": 499_999}, "not its line's"),
        ({"credit": "person:mallory"}, "site:revenue"),
        ({"debit": GRANTS}, "site:revenue"),
        ({"kind": "gift"}, "no such kind"),
        ({"kind": "grant"}, "site:grants"),
        ({"kind": "grant", "debit": GRANTS}, "site:grants"),
        ({"line": None}, "carries its line"),
        ({"workload_id": None}, "carries its line"),
        ({"owner": None}, "carries its line"),
        ({"gpu_type": None}, "carries its line"),
    ],
)
def test_a_malformed_entry_is_named(changes: dict[str, Any], fault: str, hours: Callable[..., Line]) -> None:
    (entry,) = charges(hours(0, HOUR_MS))
    good = grant_transfer(CLASS, 1, 0, "admin")
    with pytest.raises(LedgerError, match=fault) as caught:
        check_balanced([good, replace(entry, id=42, **changes)])
    assert "entry 42" in str(caught.value)


@pytest.mark.parametrize("amount", [0, -1])
def test_a_grant_gives_more_than_nothing(amount: int) -> None:
    with pytest.raises(ValueError, match="grant"):
        grant_transfer(CLASS, amount, 0, "admin")


def test_credit_covers_a_wish_up_to_the_last_micro() -> None:
    balance = Balance(10_000_000, 5_000_000, 2_000_000)
    assert credits.check(CLASS, balance, 3_000_000) is None
    answer = credits.check(CLASS, balance, 3_000_001, currency="credits")
    assert answer is not None
    assert answer.code == "credit"
    assert answer.message == (
        "This may cost 3.000001 credits but class:cs101 has only 3.00 credits left "
        "(10.00 credits granted, 5.00 credits spent, 2.00 credits held for running work)."
    )
    assert answer.numbers == {
        "account": CLASS,
        "granted_micros": 10_000_000,
        "spent_micros": 5_000_000,
        "held_micros": 2_000_000,
        "left_micros": 3_000_000,
        "wanted_micros": 3_000_001,
    }


def test_what_is_free_needs_no_credit() -> None:
    assert credits.check(CLASS, Balance(), 0) is None
    assert credits.check(CLASS, Balance(0, 5, 0), 0) is None


def test_a_quote_says_what_starting_costs_what_it_may_cost_and_what_is_saved(hours: Callable[..., Line]) -> None:
    start = Line("start", 0, 0, 1, 30_000, 40_000, 30_000, 1, 7)
    quote = Itemised((start, hours(0, 2 * HOUR_MS)))
    assert quote.min_micros == 30_000
    assert quote.max_micros == 1_030_000
    assert quote.list_micros == 1_040_000
    assert quote.saved_micros == 10_000
