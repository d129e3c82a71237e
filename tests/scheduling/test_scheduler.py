"""The scheduler never gives a GPU twice, never exceeds a limit, keeps the order, and says why anybody waits."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.scheduling import scheduler as s
from fastgpu_hub.scheduling.inventory import Device
from fastgpu_hub.scheduling.policies import Want, fifo


def devices(count: int, gpu_type: str = "h100-80gb", node: str = "a") -> tuple[Device, ...]:
    return tuple(Device(f"{gpu_type}-{node}-{i}", gpu_type, node, i) for i in range(count))


def want(name: str, count: int = 1, at: int = 0, limits=(), gpu_type: str = "h100-80gb") -> Want:
    return Want(name, name.split("-")[0], gpu_type, count, at, limits)


def check(state: s.State) -> None:
    """What must hold after every event."""
    held = Counter(state.inventory.holder.values())
    assert held == Counter({w.id: w.gpu_count for w in state.holding.values()})
    assert not {w.id for w in state.queue} & set(state.holding)
    assert state.queue == sorted(state.queue, key=fifo)
    per_key: Counter[str] = Counter()
    for holder in state.holding.values():
        for key, _ in holder.limits:
            per_key[key] += holder.gpu_count
    assert per_key == state.held_per_key
    for uuid, holder_id in state.inventory.holder.items():
        assert state.inventory.devices[uuid].gpu_type == state.holding[holder_id].gpu_type


def run(*events: s.Event) -> tuple[s.State, list[s.Grant]]:
    state, grants = s.State(), []
    for event in events:
        state, new = s.handle(state, event)
        grants += new
        check(state)
    return state, grants


def test_reasons_tell_apart_limits_turns_and_capacity_of_several_types():
    limited = (("quota:1", 1),)
    never = (("quota:2", 0),)
    state, _ = run(
        s.Discovered((*devices(1), *devices(1, "l40s"))),
        s.Arrived(want("runs", limits=limited)),
        s.Arrived(want("limited", at=1, limits=limited)),
        s.Arrived(want("next", at=2)),
        s.Arrived(want("later", at=3)),
        s.Arrived(want("l-runs", at=4, gpu_type="l40s")),
        s.Arrived(want("l-next", at=5, gpu_type="l40s")),
        s.Arrived(want("never", at=6, limits=never, gpu_type="l40s")),
    )
    reasons = s.why_waiting(state, ["limited", "next", "later", "l-next", "never", "runs", "unknown"])
    assert {who: reason.code for who, reason in reasons.items()} == {
        "limited": "quota_concurrent_gpus",
        "next": "capacity",  # who waits for a limit is not in its way
        "later": "turn",
        "l-next": "capacity",
        "never": "quota_concurrent_gpus",
    }
    assert (reasons["later"].numbers["place"], reasons["later"].numbers["ahead"]) == (3, 1)
    assert "raised" in reasons["never"].instead
    state, grants = s.handle(state, s.Gone("l-runs"))
    assert [grant.id for grant in grants] == ["l-next"]


def test_a_snapshot_stays_as_it_was():
    state, _ = run(s.Discovered(devices(1)), s.Arrived(want("a")), s.Arrived(want("b", at=1)))
    before = s.snapshot(state)
    s.handle(state, s.Gone("a"))
    check(before)
    assert (set(before.holding), [w.id for w in before.queue]) == ({"a"}, ["b"])


def test_limits_of_requests_that_are_not_named_stay():
    state, _ = run(s.Discovered(devices(1)), s.Arrived(want("a", limits=(("k", 1),))))
    state, _ = s.handle(state, s.LimitsChanged({}))
    assert state.held_per_key == {"k": 1}


def test_a_held_device_that_vanished_is_well_again_when_it_returns():
    state, _ = run(
        s.Discovered(devices(2)), s.Arrived(want("a", 2)), s.Discovered(devices(1)), s.Discovered(devices(2))
    )
    state, _ = s.handle(state, s.Gone("a"))
    assert state.inventory.count("h100-80gb") == (2, 2)


def test_first_come_is_first_served():
    _, grants = run(
        s.Discovered(devices(2)), s.Arrived(want("b", at=2)), s.Arrived(want("a", at=1)), s.Arrived(want("c", at=3))
    )
    assert [g.id for g in grants] == ["b", "a"]  # b came when GPUs were free


def test_a_large_request_at_the_head_is_not_overtaken():
    state, grants = run(
        s.Discovered(devices(2)), s.Arrived(want("a")), s.Arrived(want("big", 2, 1)), s.Arrived(want("small", 1, 2))
    )
    assert [g.id for g in grants] == ["a"]
    assert s.why_waiting(state, ["big"])["big"].code == "capacity"
    assert s.why_waiting(state, ["small"])["small"].code == "turn"
    state, grants = s.handle(state, s.Gone("a"))
    assert [g.id for g in grants] == ["big"]


def test_a_request_at_its_limit_lets_others_pass():
    limits = (("class:x", 1),)
    state, grants = run(
        s.Discovered(devices(3)),
        s.Arrived(want("a", 1, 0, limits)),
        s.Arrived(want("b", 1, 1, limits)),
        s.Arrived(want("c", 1, 2)),
    )
    assert [g.id for g in grants] == ["a", "c"]
    why = s.why_waiting(state, ["b"])["b"]
    assert why.code == "quota_concurrent_gpus"
    assert why.numbers["held"] == 1


def test_a_raised_limit_starts_who_waited_for_it():
    state, _ = run(
        s.Discovered(devices(2)), s.Arrived(want("a", 1, 0, (("q", 1),))), s.Arrived(want("b", 1, 1, (("q", 1),)))
    )
    state, grants = s.handle(state, s.LimitsChanged({"a": (("q", 2),), "b": (("q", 2),)}))
    check(state)
    assert [g.id for g in grants] == ["b"]


def test_a_declined_grant_waits_with_its_reason_until_reconsidered():
    reason = Explained("credit", "No credit left.")
    state, _ = run(s.Discovered(devices(1)), s.Arrived(want("a")), s.Declined("a", reason), s.Arrived(want("b", 1, 1)))
    assert s.why_waiting(state, ["a"])["a"] == reason
    assert set(state.holding) == {"b"}
    state, grants = s.handle(state, s.Gone("b"))
    assert grants == ()
    state, grants = s.handle(state, s.Reconsider())
    assert [g.id for g in grants] == ["a"]


def test_a_fenced_gpu_is_not_given_out_until_it_is_well():
    state, grants = run(
        s.Discovered(devices(1)), s.Fenced("h100-80gb-a-0", "lost"), s.Arrived(want("a")), s.Unfenced("h100-80gb-a-0")
    )
    assert [g.id for g in grants] == ["a"]
    state, _ = s.handle(state, s.Discovered(()))
    assert state.inventory.fenced == {"h100-80gb-a-0": "not found any more"}


def test_best_fit_leaves_the_larger_gap():
    _, grants = run(s.Discovered(devices(4, node="a") + devices(2, node="b")), s.Arrived(want("x", 2)))
    assert {uuid.split("-")[2] for uuid in grants[0].uuids} == {"b"}


def test_contradictions_are_errors():
    state, _ = run(s.Discovered(devices(1)), s.Arrived(want("a")))
    with pytest.raises(ValueError, match="already known"):
        s.handle(state, s.Arrived(want("a")))
    with pytest.raises(ValueError, match="held by a"):
        s.handle(state, s.Resumed(want("b"), ("h100-80gb-a-0",)))


class Machine(RuleBasedStateMachine):
    """Random lives of requests on two nodes of two types."""

    def __init__(self) -> None:
        super().__init__()
        self.state, _ = s.handle(
            s.State(), s.Discovered(devices(3, node="a") + devices(2, node="b") + devices(2, "a100-40gb", "a"))
        )
        self.at = 0

    def feed(self, event: s.Event) -> None:
        self.state, _ = s.handle(self.state, event)

    @rule(count=st.integers(1, 3), kind=st.sampled_from(["h100-80gb", "a100-40gb"]), limit=st.integers(1, 4))
    def arrive(self, count, kind, limit):
        self.at += 1
        self.feed(s.Arrived(want(f"w-{self.at}", count, self.at, (("all", limit + 2), (kind, 4)), kind)))

    @precondition(lambda self: self.state.holding or self.state.queue)
    @rule(data=st.data())
    def leave(self, data):
        self.feed(s.Gone(data.draw(st.sampled_from(sorted([*self.state.holding, *[w.id for w in self.state.queue]])))))

    @precondition(lambda self: self.state.holding)
    @rule(data=st.data())
    def decline(self, data):
        who = data.draw(st.sampled_from(sorted(self.state.holding)))
        self.feed(s.Declined(who, Explained("credit", "none")))

    @rule()
    def reconsider(self):
        self.feed(s.Reconsider())

    @rule(index=st.integers(0, 2), lost=st.booleans())
    def fence(self, index, lost):
        uuid = f"h100-80gb-a-{index}"
        self.feed(s.Fenced(uuid, "lost") if lost else s.Unfenced(uuid))

    @invariant()
    def holds(self):
        check(self.state)
        for w in self.state.holding.values():
            assert all(self.state.held_per_key[key] <= 6 for key, _ in w.limits)
        for w in self.state.queue:
            assert s.why_waiting(self.state, [w.id])


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestSchedulerMachine = Machine.TestCase
