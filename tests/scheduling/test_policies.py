"""Each policy keeps the order it promises, nobody starves, and spot jobs make room."""

from __future__ import annotations

import pytest

from fastgpu_hub.scheduling import scheduler as s
from fastgpu_hub.scheduling.overview import overview
from fastgpu_hub.scheduling.policies import POLICIES, Want
from fastgpu_hub.scheduling.state import STRICT_FACTOR

H100, HOUR = "h100-80gb", 3_600_000


def reasons(desk):
    return dict(overview(desk.state, desk.now_ms).reasons)


# ---------------------------------------------------------------- policies
def test_the_highest_priority_goes_first(desk):
    d = desk("priority")
    d.find(1)
    d.ask("runs")
    d.ask("low", at=1, priority=-1)
    d.ask("usual", at=2)
    d.ask("high", at=3, priority=5)
    assert [d.end("runs"), d.end("high"), d.end("usual")] == [["high"], ["usual"], ["low"]]


def test_people_take_turns(desk):
    d = desk("round-robin")
    d.find(1)
    for at, name in enumerate(("a-1", "a-2", "a-3", "b-1", "b-2")):
        d.ask(name, at=at)
    served = ["a-1"]
    while len(served) < 5:
        served += d.end(served[-1])
    assert served == ["a-1", "b-1", "a-2", "b-2", "a-3"]


def test_who_has_used_least_goes_first_by_class_and_then_by_person(desk):
    d = desk("fair-share")
    d.find(1)
    d.ask("a-1", account="x")
    d.end("a-1", at=10 * HOUR)
    d.ask("b-1", account="y")
    d.end("b-1", at=11 * HOUR)
    d.ask("c-1", account="z", owner="c")
    for name, account in (("a-2", "x"), ("d-1", "x"), ("b-2", "y")):
        d.ask(name, account=account, at=12 * HOUR)
    order = [d.end("c-1", at=12 * HOUR)]
    for _ in range(2):
        order.append(d.end(order[-1][0], at=12 * HOUR + 60_000))
    assert order == [["b-2"], ["d-1"], ["a-2"]]


def test_weights_make_a_class_entitled_to_more(desk):
    d = desk("fair-share")
    d.find(1)
    for name in ("a", "b"):
        d.ask(f"{name}-1", account=name)
        d.end(f"{name}-1", at=d.now_ms + 10 * HOUR)
    d.ask("c-1", account="c")
    for name in ("b", "a"):
        d.ask(f"{name}-2", account=name)
    d.feed(s.Weighed, {"a": 4.0})
    assert d.end("c-1", at=d.now_ms + 1) == ["a-2"]


def learn(d, owner: str, run_ms: int) -> None:
    d.ask(f"{owner}-past", owner=owner)
    d.end(f"{owner}-past", at=d.now_ms + run_ms)


@pytest.mark.parametrize("policy", ["default", "shortest"])
def test_the_shortest_by_prediction_goes_first(desk, policy):
    d = desk(policy)
    d.find(1)
    learn(d, "long", 10 * HOUR)
    learn(d, "short", 60_000)
    d.now_ms += 30 * 24 * HOUR  # recent use counts no more
    d.ask("runs")
    d.ask("long-2", at=d.now_ms)
    d.ask("short-2", at=d.now_ms + 1000)
    assert d.end("runs", at=d.now_ms + HOUR) == ["short-2"]


def test_one_who_has_had_much_of_late_waits_a_little_longer(desk):
    d = desk("default")
    d.find(1)
    learn(d, "much", HOUR)
    d.ask("runs", owner="third")
    d.ask("much-2", at=d.now_ms)
    d.ask("none-1", at=d.now_ms + 1)
    first = d.end("runs", at=d.now_ms + HOUR)
    assert first == ["none-1"]


def test_easy_lets_go_ahead_only_what_does_not_delay_the_first(desk):
    d = desk("easy")
    d.find(4)
    d.ask("a", 2, duration_ms=HOUR)
    d.ask("b", 1, duration_ms=3 * HOUR)
    d.ask("first", 3, at=1, duration_ms=HOUR)
    assert d.ask("long", 1, at=2, duration_ms=2 * HOUR) == []  # would still run when a has ended
    assert d.ask("short", 1, at=3, duration_ms=HOUR - 10_000) == ["short"]
    assert d.end("a", at=HOUR) == []
    assert reasons(d)["first"].code == "reserved"
    assert d.end("short", at=HOUR + 1) == ["first"]


def test_conservative_lets_go_ahead_what_delays_nobody(desk):
    granted = {}
    for policy in ("easy", "conservative"):
        d = desk(policy)
        d.find(4)
        d.ask("a", 3, duration_ms=HOUR, expected_ms=HOUR)
        d.ask("first", 4, at=1, duration_ms=HOUR, expected_ms=HOUR)
        d.ask("second", 1, at=2, duration_ms=2 * HOUR, expected_ms=2 * HOUR)
        d.ask("third", 1, at=3, duration_ms=HOUR // 2, expected_ms=HOUR // 2)
        granted[policy] = d.granted
    assert granted == {"easy": ["a", "third"], "conservative": ["a", "third"]}


def test_seats_are_kept_for_notebook_servers(desk):
    d = desk(seats={H100: 2})
    d.find(3)
    assert d.ask("job-1") == ["job-1"]
    assert d.ask("job-2") == []
    assert reasons(d)["job-2"].code == "seats"
    assert d.ask("server-1", kind="server") == ["server-1"]
    assert d.ask("server-2", kind="server") == ["server-2"]
    assert d.end("server-1") == []  # one seat is used, one is free, the other must stay
    assert d.end("job-1") == ["job-2"]


# ---------------------------------------------------------------- nobody starves
@pytest.mark.parametrize(
    "policy", ["default", *(pytest.param(name, marks=pytest.mark.slow) for name in ("shortest", "load-balance"))]
)
def test_a_wide_request_in_a_stream_of_short_ones_starts_within_a_bound(desk, policy):
    """Short requests keep coming, and keep every node busy: the wide one gets GPUs kept once its patience is over."""
    d = desk(policy)
    d.find(4)
    length = 10 * 60_000
    ends: list[tuple[int, str]] = []
    number = 0
    wide_at = None
    asked = 2 * HOUR
    now = 0
    while now < 160 * HOUR and wide_at is None:
        now += length // 8
        for at, name in [each for each in ends if each[0] <= now]:
            ends.remove((at, name))
            for who in d.end(name, at=now):
                wide_at = now if who == "wide" else wide_at
                ends.append((now + length, who))
        if asked is not None and now >= asked:
            d.ask("wide", 4, at=now, duration_ms=HOUR)
            asked = None
        number += 1
        for who in d.ask(f"s{number % 7}-{number}", at=now, duration_ms=HOUR):
            ends.append((now + length, who))
    bound = STRICT_FACTOR * POLICIES[policy].patience(HOUR) + HOUR  # and the longest time limit of what runs
    assert wide_at is not None
    assert wide_at - 2 * HOUR <= bound


# ---------------------------------------------------------------- spot
def test_a_spot_job_makes_room_and_nobody_else_takes_it(desk):
    d = desk("default")
    d.find(2)
    d.ask("spot-1", 2, spot=True)
    orders = d.feed(s.Arrived, Want("real", "real", H100, 2, 1), at=1)
    assert orders == [s.Preempt("spot-1", "real")]
    assert reasons(d)["real"].code == "preempting"
    assert d.feed(s.Arrived, Want("spot-2", "x", H100, 1, 2, spot=True), at=2) == []
    assert d.end("spot-1", at=3) == ["real"]


def test_the_youngest_spot_job_that_suffices_goes(desk):
    d = desk("default")
    d.find(3)
    for at, name in ((0, "spot-old"), (HOUR, "spot-new"), (HOUR // 2, "job")):
        d.ask(name, at=at, spot=name != "job")
    d.now_ms = 2 * HOUR
    assert d.feed(s.Arrived, Want("real", "real", H100, 1, d.now_ms)) == [s.Preempt("spot-new", "real")]


def test_spot_jobs_do_not_go_for_spot_jobs_or_for_nothing(desk):
    d = desk("default")
    d.find(2)
    d.ask("spot-1", spot=True)
    d.ask("job-1")
    assert d.feed(s.Arrived, Want("spot-2", "x", H100, 1, 1, spot=True)) == []
    assert d.feed(s.Arrived, Want("real", "x", H100, 2, 2)) == []  # job-1 would still be in its way
