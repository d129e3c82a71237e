"""Nobody waits for ever: not behind shorter ones of their own width, nor for seats, nor for what can never start."""

from __future__ import annotations

import pytest

from fastgpu_hub.scheduling import eta
from fastgpu_hub.scheduling import scheduler as s
from fastgpu_hub.scheduling.overview import overview
from fastgpu_hub.scheduling.policies import POLICIES
from fastgpu_hub.scheduling.state import STRICT_FACTOR

H100, HOUR, MINUTE = "h100-80gb", 3_600_000, 60_000


def stream(d, arrive, until_ms: int, run_ms: int, watched: str) -> int | None:
    """Lets requests come every ``run_ms / 2`` and end after ``run_ms``; when the watched one starts, None if never."""
    ends: list[tuple[int, str]] = []
    number = 0
    while d.now_ms < until_ms:
        now = d.now_ms + run_ms // 2
        for each in [each for each in ends if each[0] <= now]:
            ends.remove(each)
            started = d.end(each[1], at=now)
            if watched in started:
                return now
            ends += [(now + run_ms, who) for who in started]
        number += 1
        d.now_ms = now
        ends += [(now + run_ms, who) for who in arrive(number, now)]
    return None


@pytest.mark.parametrize("policy", ["default", pytest.param("shortest", marks=pytest.mark.slow)])
def test_a_long_request_in_a_stream_of_short_ones_as_wide_starts_within_a_bound(desk, policy):
    """Each hour one ends and another comes; all that are short stand before the long one."""
    d = desk(policy)
    d.find(4)
    for owner, run in (("long", 20 * HOUR), *((f"s{n}", HOUR) for n in range(7))):  # who runs how long is known
        d.ask(f"{owner}-past", 4, owner=owner)
        d.end(f"{owner}-past", at=d.now_ms + run)
    d.now_ms += 20 * 24 * HOUR
    for number in range(3):
        d.ask(f"s{number}-first", 4, duration_ms=2 * HOUR)
    asked = d.now_ms
    d.ask("long-1", 4, owner="long", duration_ms=30 * HOUR)
    bound = STRICT_FACTOR * POLICIES[policy].patience(20 * HOUR) + 2 * HOUR
    for number in range(400):
        (runs,) = d.state.holding
        if runs == "long-1":
            break
        d.ask(f"s{number % 7}-{number}", 4, at=d.now_ms + HOUR, duration_ms=2 * HOUR)
        d.end(runs)
    assert number > 40, "it was not overtaken at all"
    assert d.now_ms - asked <= bound


def test_a_wide_job_gets_its_turn_though_seats_are_kept(desk):
    d = desk("default", seats={H100: 1})
    d.find(4)
    d.ask("s0-0", at=0, duration_ms=HOUR)
    d.ask("s0-00", at=0, duration_ms=HOUR)
    d.ask("wide", 3, at=1, duration_ms=HOUR)

    def arrive(number: int, now: int) -> list[str]:
        if number == 1:
            d.end("s0-0", at=now)
        if number == 2:
            d.end("s0-00", at=now)
        return [who for n in (1, 2) for who in d.ask(f"s{number % 7}-{number}-{n}", at=now, duration_ms=HOUR)]

    began = stream(d, arrive, 60 * HOUR, HOUR, "wide")
    assert began is not None
    assert began <= POLICIES["default"].patience(HOUR) + 8 * HOUR


@pytest.mark.parametrize("policy", list(POLICIES))
def test_a_server_takes_its_seat_whoever_else_waits(desk, policy):
    d = desk(policy, seats={H100: 1})
    d.find(2)
    d.ask("runs", duration_ms=HOUR)
    for number in range(120):
        assert d.ask(f"job-{number}", owner=f"o{number}", at=number, duration_ms=HOUR) == []
    assert d.ask("lab", kind="server", at=200) == ["lab"]
    d.end("runs", at=300)
    assert len(d.state.holding) == 2


def test_seats_are_left_free_under_every_policy(desk):
    for policy in POLICIES:
        d = desk(policy, seats={H100: 1})
        d.find(2)
        d.ask("a")
        d.ask("b", at=1)
        assert d.granted == ["a"], policy


def test_a_server_that_has_its_seat_leaves_none_to_be_kept(desk):
    d = desk("default", seats={H100: 1})
    d.find(2)
    d.ask("lab", kind="server")
    d.ask("a")
    d.ask("b", at=1)
    assert overview(d.state, d.now_ms).reasons["b"].code == "capacity"


def test_a_spot_job_makes_room_where_seats_are_kept(desk):
    d = desk("default", seats={H100: 1})
    d.find(2)
    d.ask("cheap", spot=True)
    d.ask("real", at=1)
    assert d.orders[-1] == s.Preempt("cheap", "real")
    assert d.end("cheap", at=2) == ["real"]


def test_those_behind_one_that_can_never_start_have_their_time_and_place_told(desk):
    d = desk("fifo")
    d.find(2)
    d.ask("runs", 2, duration_ms=HOUR)
    d.ask("never", 3, at=1)
    d.ask("next", at=2, duration_ms=HOUR)
    told = overview(d.state, d.now_ms)
    assert set(eta.starts(d.state, H100, d.now_ms)) == {"next"}
    assert (told.reasons["next"].code, told.reasons["next"].numbers["ahead"]) == ("capacity", 0)
    assert "cannot start" in told.reasons["never"].message
    assert d.end("runs") == ["next"]


def test_when_a_gpu_is_lost_those_behind_whom_that_stops_go_on(desk):
    d = desk("fifo")
    d.find(3)
    d.ask("runs", 2)
    d.ask("wide", 3, at=1)
    d.ask("narrow", 1, at=2)
    orders = d.feed(s.Fenced, f"{H100}-a-0", "lost")
    assert [order.id for order in orders] == ["narrow"]


@pytest.mark.parametrize("gone", ["fence", "vanish"])
def test_room_that_is_lost_while_it_is_made_is_made_elsewhere(desk, gone):
    d = desk("default")
    for node in "ab":
        d.find(2, node=node)
    for number in (1, 2):
        d.ask(f"cheap-{number}", 2, spot=True)
    d.ask("real", 2, at=1)
    (first,) = [order.id for order in d.orders if isinstance(order, s.Preempt)]
    node = d.state.inventory.held_by(first)[0].removeprefix(f"{H100}-")[0]
    if gone == "fence":
        d.feed(s.Fenced, f"{H100}-{node}-0", "lost")
    else:
        d.find(0, node=node)
    d.end(first, at=2)
    orders = [order.id for order in d.orders if isinstance(order, s.Preempt)]
    assert sorted(orders) == ["cheap-1", "cheap-2"]
    assert d.end(orders[1], at=3) == ["real"]


def test_room_that_is_planned_anew_takes_those_that_go_already(desk):
    d = desk("default")
    for node in "ab":
        d.find(2, node=node)
    d.ask("cheap-1", 1, spot=True)
    d.ask("cheap-2", 2, spot=True, at=5 * HOUR)
    d.ask("real", 2, at=6 * HOUR)
    d.now_ms = 20 * HOUR  # by now less would be lost of the other
    d.feed(s.Discovered, tuple(d.state.inventory.devices.values()))
    assert [order.id for order in d.orders if isinstance(order, s.Preempt)] == ["cheap-2"]
