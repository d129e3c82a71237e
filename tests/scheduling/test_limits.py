"""Waiting for a limit costs nothing and changes no order: against a scheduler that looks at everybody each time."""

from __future__ import annotations

import heapq
import random

import pytest

from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.scheduling import gates
from fastgpu_hub.scheduling import scheduler as s
from fastgpu_hub.scheduling.inventory import Device
from fastgpu_hub.scheduling.policies import POLICIES, Want
from fastgpu_hub.scheduling.state import State

H100, A100, HOUR = "h100-80gb", "a100-40gb", 3_600_000
# Of the others the score changes while a request waits, without anybody being told.
STEADY = [name for name, policy in POLICIES.items() if policy.standing != "share"]


class Everybody(State):
    """Lets all out of a gate at once whenever its limit may have room, and nobody else at any time."""

    def let_out(self, gate, now_ms) -> None:
        return None


def all_out(state, key, now_ms):
    if not isinstance(state, Everybody):
        return OPENED(state, key, now_ms)
    lines = []
    for gate in list(state.blocked.get(key, {}).values()):
        while (entry := state.top(gate.line, gate.heap, now_ms)) is not None:
            heapq.heappop(gate.heap)
            gate.out[entry[3]] = None
            state.push(gate.line, entry[3], entry[0])
        lines.append(gate.line)
    return lines


OPENED = gates.opened


def life(dice: random.Random, state: State):
    """Events, one after the other, that fit the state."""
    keys = ("site", "class:0", "class:1", "class:2", *(f"person:{n}" for n in range(5)))
    limits = {key: dice.randint(2, 8) for key in keys}
    devices = tuple(Device(f"{t}-{n}-{i}", t, f"{t}-{n}", i) for t in (H100, A100) for n in range(3) for i in range(4))
    yield s.Discovered(devices, 0)
    now = number = 0
    for _ in range(250):
        now += dice.choice((0, 1, 60_000, HOUR, 20 * HOUR)) if dice.random() < 0.7 else 1
        kind = dice.random()
        known = sorted(state.holding) if dice.random() < 0.8 else sorted(want.id for want in state.wants_waiting())
        if kind < 0.55:
            number += 1
            person, group = dice.randrange(5), dice.randrange(3)
            server = dice.random() < 0.15
            under = [key for key in ("site", f"class:{group}", f"person:{person}") if dice.random() < 0.9]
            yield s.Arrived(
                Want(
                    f"w{number}",
                    f"p{person}",
                    dice.choice((H100, A100)),
                    dice.choice((1, 1, 1, 2, 3, 4, 8)),
                    now,
                    tuple((key, limits[key]) for key in under),
                    dice.choice((None, HOUR, 30 * HOUR)),
                    account=f"c{group}",
                    kind="server" if server else "job",
                    similar=dice.choice("ab"),
                    spot=not server and dice.random() < 0.1,
                    priority=dice.randrange(2),
                ),
                now,
            )
        elif kind < 0.9 and known:
            yield s.Gone(dice.choice(known), now)
        elif kind < 0.93 and state.holding:
            yield s.Declined(dice.choice(sorted(state.holding)), Explained("credit", "none"), now)
        elif kind < 0.95:
            yield s.Reconsider(now)
        elif kind < 0.97:
            uuid = dice.choice(devices).uuid
            yield s.Fenced(uuid, "lost", now) if dice.random() < 0.5 else s.Unfenced(uuid, now)
        elif kind >= 0.97:
            limits = {key: dice.randint(1, 9) for key in keys}
            wants = [*state.wants_waiting(), *(running.want for running in state.holding.values())]
            yield s.LimitsChanged({w.id: tuple((key, limits[key]) for key, _ in w.limits) for w in wants}, now)


@pytest.mark.slow
@pytest.mark.parametrize("policy", STEADY)
def test_the_same_start_in_the_same_order_as_if_all_were_looked_at(policy, check_state, monkeypatch):
    monkeypatch.setattr(gates, "opened", all_out)
    for seed in range(6):
        kept = {"policy": POLICIES[policy], "seats": {H100: seed % 3}}
        ours, everybody = State(**kept), Everybody(**kept)
        for event in life(random.Random(seed), ours):
            orders = s.handle(ours, event)[1]
            check_state(ours)
            assert orders == s.handle(everybody, event)[1], (seed, event)


@pytest.mark.parametrize("waiting", [400, pytest.param(4000, marks=pytest.mark.slow)])
def test_one_end_looks_at_few_however_many_wait_for_a_limit(waiting, monkeypatch):
    state = State(policy=POLICIES["default"])
    s.handle(state, s.Discovered(tuple(Device(f"d{n}", H100, f"n{n // 8}", n % 8) for n in range(80)), 0))
    for number in range(waiting):
        person = number % 200
        limits = (("site", 40), (f"class:{person % 10}", 6), (f"person:{person}", 2))
        s.handle(state, s.Arrived(Want(f"w{number}", f"p{person}", H100, 1 + number % 2, number, limits), number))
    looks = []
    monkeypatch.setattr(State, "score", lambda *args: looks.append(1) or SCORE(*args))
    ends = 100
    for number in range(ends):
        s.handle(state, s.Gone(next(iter(state.holding)), waiting + number))
        assert state.held_per_key["site"] >= 39
    assert len(looks) < 60 * ends


SCORE = State.score


def test_a_hundred_who_wait_for_a_limit_do_not_keep_others_from_the_plan(desk):
    d = desk("conservative")
    d.find(2)
    d.ask("x-0", limits=(("k", 1),))
    for number in range(1, 120):
        d.ask(f"x-{number}", at=1, limits=(("k", 1),))
    assert d.ask("b", at=2) == ["b"]


@pytest.mark.parametrize("policy", list(POLICIES))
def test_room_under_a_limit_starts_who_waits_for_another_gpu_type(desk, policy):
    d = desk(policy)
    d.find(1)
    d.find(1, A100)
    d.ask("a", limits=(("k", 1),))
    assert d.ask("b", gpu_type=A100, limits=(("k", 1),), at=1) == []
    assert d.end("a", at=2) == ["b"]


def test_requests_of_one_instant_keep_their_order_when_the_first_of_them_leaves(desk):
    d = desk("fifo")
    d.find(1)
    d.ask("runs")
    for name, owner in (("x-1", "x"), ("y-1", "y"), ("x-2", "x")):
        d.ask(name, at=1, owner=owner)
    d.end("x-1")
    assert d.end("runs") == ["y-1"]


def test_one_batch_may_ask_for_several_gpu_types(desk):
    d = desk("default")
    for gpu_type in (H100, A100):
        d.find(1, gpu_type)
        for number in range(3):
            d.ask(f"{gpu_type}-{number}", gpu_type=gpu_type, batch="a-1", owner="o")
    d.end(f"{H100}-0", at=1000)
    assert d.end(f"{A100}-0", at=2000) == [f"{A100}-1"]
