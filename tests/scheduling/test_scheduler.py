"""The scheduler never gives a GPU twice, never exceeds a limit, keeps the order, and says why anybody waits."""

from __future__ import annotations

import pytest

from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.scheduling import scheduler as s
from fastgpu_hub.scheduling.inventory import Device
from fastgpu_hub.scheduling.overview import overview
from fastgpu_hub.scheduling.policies import Want, policy_of
from fastgpu_hub.scheduling.sooner import sooner

A100, H100, HOUR = "a100-40gb", "h100-80gb", 3_600_000


def reasons(desk) -> dict[str, Explained]:
    return dict(overview(desk.state, desk.now_ms).reasons)


def test_first_come_is_first_served(desk):
    d = desk()
    d.find(2)
    d.ask("b", at=2)
    d.ask("a", at=1)
    d.ask("c", at=3)
    assert d.granted == ["b", "a"]  # b came when GPUs were free


def test_a_large_request_at_the_head_is_not_overtaken_under_fifo(desk):
    d = desk("fifo")
    d.find(2)
    d.ask("a")
    d.ask("big", 2, 1)
    d.ask("small", 1, 2)
    assert d.granted == ["a"]
    assert {who: reason.code for who, reason in reasons(d).items()} == {"big": "capacity", "small": "turn"}
    assert d.end("a") == ["big"]


def test_a_request_at_its_limit_lets_others_pass(desk):
    d = desk()
    d.find(3)
    limits = (("class:x", 1),)
    d.ask("a", limits=limits)
    d.ask("b", at=1, limits=limits)
    d.ask("c", at=2)
    assert d.granted == ["a", "c"]
    assert (reasons(d)["b"].code, reasons(d)["b"].numbers["held"]) == ("quota_concurrent_gpus", 1)
    assert d.end("a") == ["b"]


def test_a_raised_limit_starts_who_waited_for_it(desk):
    d = desk()
    d.find(2)
    for name in "ab":
        d.ask(name, limits=(("q", 1),))
    orders = d.feed(s.LimitsChanged, {"a": (("q", 2),), "b": (("q", 2),)})
    assert [order.id for order in orders] == ["b"]


def test_limits_of_requests_that_are_not_named_stay(desk):
    d = desk()
    d.find(1)
    d.ask("a", limits=(("k", 1),))
    d.feed(s.LimitsChanged, {})
    assert d.state.held_per_key == {"k": 1}


def test_limits_that_change_back_leave_nobody_twice_in_the_queue(desk):
    d = desk()
    d.find(1)
    for name in ("runs", "x", "y"):
        d.ask(name, owner="o", limits=(("k", 2),))
    for limits in ((("k", 3),), (("k", 2),)):
        d.feed(s.LimitsChanged, {"x": limits})
    assert (d.end("runs"), d.end("x")) == (["x"], ["y"])


def test_a_declined_grant_waits_with_its_reason_until_reconsidered(desk):
    reason = Explained("credit", "No credit left.")
    d = desk()
    d.find(1)
    d.ask("a")
    d.feed(s.Declined, "a", reason)
    d.ask("b", at=1)
    assert reasons(d)["a"] == reason
    assert set(d.state.holding) == {"b"}
    assert d.end("b") == []
    assert [order.id for order in d.feed(s.Reconsider)] == ["a"]


def test_who_was_declined_comes_back_to_its_old_place(desk):
    d = desk()
    d.find(1)
    for at, name in enumerate(("a", "b", "c")):
        d.ask(name, at=at, owner="o")
    d.feed(s.Declined, "a", Explained("credit", "none"))  # then b starts
    d.feed(s.Reconsider)
    assert (d.end("b"), d.end("a")) == (["a"], ["c"])


def test_a_fenced_gpu_is_not_given_out_until_it_is_well(desk):
    d = desk()
    d.find(1)
    d.feed(s.Fenced, "h100-80gb-a-0", "lost")
    assert d.ask("a") == []
    assert [order.id for order in d.feed(s.Unfenced, "h100-80gb-a-0")] == ["a"]
    d.feed(s.Discovered, ())
    assert d.state.inventory.fenced == {"h100-80gb-a-0": "not found any more"}


def test_a_held_device_that_vanished_is_well_again_when_it_returns(desk):
    d = desk()
    d.find(2)
    d.ask("a", 2)
    d.find(1)
    d.find(2)
    d.end("a")
    assert d.state.inventory.count(H100) == (2, 2)


def test_a_device_that_is_held_and_not_found_is_counted_to_its_holder_and_given_to_nobody(desk):
    d = desk()
    d.find(1)
    d.feed(s.Vanished, Device("gone", H100, "b"))
    d.feed(s.Resumed, Want("a", "o", H100, 1, 0), ("gone",), 0)
    assert d.state.inventory.holder == {"gone": "a"}
    d.end("a")
    assert d.state.inventory.count(H100) == (1, 1)


def test_runs_of_the_past_tell_how_long_the_next_one_takes(desk):
    d = desk()
    d.feed(s.Remembered, tuple((Want(f"r{n}", "o", H100, 1, n, similar="train"), n * 10**8, 90_000) for n in range(9)))
    d.ask("a", owner="o", similar="train")
    running = d.state.batch_of("a")
    assert 60_000 < d.state.predictor.likely_ms(running, d.now_ms) < 135_000


def test_best_fit_leaves_the_larger_gap_and_load_balance_takes_it(desk):
    nodes = {}
    for policy in ("default", "load-balance"):
        d = desk(policy)
        d.find(4, node="a")
        d.find(2, node="b")
        d.ask("x", 2)
        nodes[policy] = {uuid.split("-")[2] for uuid in d.orders[0].uuids}
    assert nodes == {"default": {"b"}, "load-balance": {"a"}}


def test_a_request_wider_than_a_node_takes_whole_nodes_and_waits_for_them(desk):
    d = desk()
    for node in "abc":
        d.find(4, node=node)
    d.ask("one", 1)
    assert d.ask("wide", 8) == ["wide"]
    assert {uuid.split("-")[2] for uuid in d.orders[-1].uuids} == {"b", "c"}
    assert d.ask("wider", 12, at=1) == []
    assert d.end("wide") == []
    assert d.end("one") == ["wider"]
    assert d.state.inventory.pools[H100].could_ever(12)
    assert not d.state.inventory.pools[H100].could_ever(13)


def test_slices_and_shares_are_types_of_their_own(desk):
    d = desk()
    for gpu_type in (H100, "h100-80gb.1g.10gb", "l40s.share-4"):
        d.find(1, gpu_type)
        assert d.ask(f"{gpu_type}-x", gpu_type=gpu_type) == [f"{gpu_type}-x"]
        assert d.ask(f"{gpu_type}-y", gpu_type=gpu_type) == []


def test_contradictions_are_errors(desk):
    d = desk()
    d.find(1)
    d.ask("a")
    with pytest.raises(ValueError, match="already known"):
        d.ask("a")
    with pytest.raises(ValueError, match="held by a"):
        d.feed(s.Resumed, Want("b", "b", H100, 1, 0), ("h100-80gb-a-0",), since_ms=0)
    with pytest.raises(ValueError, match=r"no scheduling policy 'nice'; there are: default"):
        policy_of("nice")


def test_what_ran_before_a_restart_holds_its_devices_and_ends_as_any(desk):
    d = desk("default")
    d.find(2)
    d.feed(s.Resumed, Want("a", "a", H100, 1, 0, (("k", 1),)), ("h100-80gb-a-1",), since_ms=5, at=10)
    assert d.ask("b", 2) == []
    assert d.end("a", at=20) == ["b"]
    assert d.state.held_per_key == {}


# ---------------------------------------------------------------- what would help
def test_what_would_start_it_sooner_is_told_with_numbers(desk):
    d = desk("default")
    d.find(4)
    d.find(8, A100)
    d.ask("a", 2)
    d.ask("big", 4, at=1)
    told = {each.code: each for each in sooner(d.state, d.state.waiting("big"), d.now_ms, {A100: ()})}
    assert told["fewer_gpus"].numbers["gpu_count"] == 2
    assert (told["other_gpu_type"].numbers["gpu_type"], told["other_gpu_type"].numbers["free"]) == (A100, 8)


def test_who_waits_for_a_limit_hears_what_has_to_end(desk):
    d = desk("default")
    d.find(4)
    d.ask("a", 2, limits=(("k", 3),), duration_ms=HOUR)
    d.ask("b", 2, at=1, limits=(("k", 3),))
    told = {each.code: each for each in sooner(d.state, d.state.waiting("b"), d.now_ms)}
    assert told["fewer_gpus"].numbers["gpu_count"] == 1
    assert (told["ends"].numbers["id"], told["ends"].frees_at_ms) == ("a", HOUR)


def test_a_shorter_one_would_fit_before_what_gpus_are_kept_for(desk):
    d = desk("easy")
    d.find(4)
    d.ask("a", 2, duration_ms=HOUR)
    d.ask("first", 4, at=1, duration_ms=HOUR)
    d.ask("long", 1, at=2, duration_ms=5 * HOUR)
    told = {each.code: each for each in sooner(d.state, d.state.waiting("long"), d.now_ms)}
    assert told["shorter"].numbers == {"minutes": 59}


def test_an_overview_stays_as_it_was(desk):
    d = desk()
    d.find(1)
    d.ask("a")
    d.ask("b", at=1)
    before = overview(d.state, d.now_ms)
    d.end("a")
    assert (set(before.holding), dict(before.places)) == ({"a"}, {"b": 1})
    assert before.inventory.holder == {"h100-80gb-a-0": "a"}


def test_devices_are_found_in_any_order(desk):
    d = desk()
    d.feed(s.Discovered, tuple(Device(f"u{i}", H100, "n", 7 - i) for i in range(8)))
    d.ask("a", 2)
    assert d.orders[0].uuids == ("u7", "u6")
