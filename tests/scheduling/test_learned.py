"""What is remembered of use, waits and run times stays true and small, for years and with clocks that jump."""

from __future__ import annotations

import random

import pytest

from fastgpu_hub.scheduling import prediction
from fastgpu_hub.scheduling import scheduler as s
from fastgpu_hub.scheduling.policies import Want
from fastgpu_hub.scheduling.prediction import Predictor
from fastgpu_hub.scheduling.shares import MOST_HALF_LIVES, Shares

H100, MINUTE, HOUR = "h100-80gb", 60_000, 3_600_000
DAY = 24 * HOUR


def test_who_ran_shorter_than_predicted_has_used_what_it_ran_and_not_less_than_nothing(desk):
    d = desk("default")
    d.find(2)
    d.ask("a-1", expected_ms=7 * DAY)
    d.ask("b-1", expected_ms=3 * DAY)
    for name in ("a-1", "b-1"):
        d.end(name, at=3 * DAY)
    shares = d.state.shares[H100]
    assert shares.owner_use("a") == pytest.approx(shares.owner_use("b"))
    assert shares.share("a") == pytest.approx(0.5)


def test_use_is_compared_as_before_when_it_is_written_down_anew():
    shares, plain = Shares(), {}
    dice = random.Random(1)
    now = 0
    for _ in range(4000):
        now += dice.randrange(8 * HOUR)
        owner = dice.choice("abc")
        shares.add(owner, "", float(HOUR), now)
        shares.rebase(now)
        plain[owner] = [*plain.get(owner, []), now]
    assert now > 2 * MOST_HALF_LIVES * shares.half_life_ms
    use = {who: sum(2.0 ** -((now - at) / shares.half_life_ms) for at in times) for who, times in plain.items()}
    for owner, value in use.items():
        assert shares.share(owner) == pytest.approx(value / sum(use.values()), rel=1e-2)


def test_fair_share_serves_who_has_had_least_after_years(desk):
    d = desk("fair-share")
    d.find(1)
    d.ask("x-1", account="x")
    d.end("x-1", at=10 * HOUR)
    d.ask("y-1", account="y")
    for year in range(1, 3):
        later = year * 365 * DAY
        d.ask(f"x-{later}", account="x", at=later)  # waits; x has had more for a long time, and in the end nothing
    order = [d.end("y-1", at=2 * 365 * DAY + HOUR)]
    d.ask("y-2", account="y", at=2 * 365 * DAY + HOUR)
    d.ask("z-1", account="z", at=2 * 365 * DAY + HOUR)
    order.append(d.end(order[0][0], at=2 * 365 * DAY + 5 * HOUR))
    assert [names[0].split("-")[0] for names in order] == ["x", "z"]


def test_a_year_of_jobs_with_names_of_their_own_is_remembered_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(prediction, "MOST_CELLS", 600)
    monkeypatch.setattr(prediction, "MOST_BATCHES", 200)
    predictor = Predictor()
    for number in range(3000):
        want = Want(f"j{number}", f"p{number % 30}", H100, 1, number, similar=f"cell:{number}")
        predictor.remember(want, number * 200_000, 1000 + number % 7)
        assert len(predictor._cells) <= 600
        assert len(predictor._batches) <= 200
    newest = Want("n", "p29", H100, 1, 0, similar="cell:2999")
    assert predictor.predict(predictor.batch_of(newest, 10**12), 10**12).likely_ms < 2000


def test_a_batch_of_which_something_runs_is_not_forgotten(monkeypatch):
    monkeypatch.setattr(prediction, "MOST_BATCHES", 10)
    predictor = Predictor()
    sweep = Want("s", "p", H100, 1, 0, batch="a-1")
    first = predictor.batch_of(sweep, 0)
    first.running["s"] = 0
    for number in range(50):
        predictor.batch_of(Want(f"j{number}", "p", H100, 1, 0, similar=f"cell:{number}"), number)
    assert predictor.batch_of(sweep, 60) is first
    assert len(predictor._batches) <= 11


@pytest.mark.parametrize("ran_ms", [0, 1, -5, 10**15])
def test_run_times_of_any_length_leave_predictions_in_order(ran_ms):
    predictor = Predictor()
    want = Want("j", "p", H100, 1, 0, duration_ms=HOUR)
    for number in range(60):
        batch = predictor.batch_of(want, number * DAY)
        predictor.ended(batch, "j", ran_ms, predictor.told(batch, number * DAY))
        told = predictor.predict(batch, number * DAY)
        assert 0 <= told.low_ms <= told.likely_ms <= told.high_ms <= HOUR


def test_a_clock_that_goes_back_does_not_stop_the_queue(desk):
    d = desk("default")
    d.find(1)
    d.ask("a", at=10 * HOUR)
    d.ask("b", at=10 * HOUR)
    d.feed(s.Foretold, "b", 5)
    _, orders = s.handle(d.state, s.Gone("a", 1))
    assert [order.id for order in orders] == ["b"]


def test_by_its_own_report_nothing_runs_longer_than_its_limit(desk):
    d = desk("default")
    d.find(1)
    d.ask("a", duration_ms=HOUR)
    d.feed(s.Progressed, "a", 0.1, at=30 * MINUTE)
    assert d.state.ends_ms(d.state.holding["a"], d.now_ms) == HOUR
