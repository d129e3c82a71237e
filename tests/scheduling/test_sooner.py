"""What is said to start a request sooner does: it is tried, in the same scheduler."""

from __future__ import annotations

import copy
import random
from collections import Counter
from dataclasses import replace

import pytest

from fastgpu_hub.scheduling import scheduler as s
from fastgpu_hub.scheduling.inventory import Device
from fastgpu_hub.scheduling.overview import overview
from fastgpu_hub.scheduling.policies import POLICIES, Want
from fastgpu_hub.scheduling.sooner import sooner
from fastgpu_hub.scheduling.state import State

H100, A100, HOUR = "h100-80gb", "a100-40gb", 3_600_000
CHANGES = {
    "fewer_gpus": lambda numbers: {"gpu_count": numbers["gpu_count"]},
    "other_gpu_type": lambda numbers: {"gpu_type": numbers["gpu_type"]},
    "shorter": lambda numbers: {"duration_ms": numbers["minutes"] * 60_000},
}


def starts_then(state: State, want: Want, now_ms: int, **changes) -> bool:
    """Whether a request that is taken back and asked for otherwise starts."""
    other = copy.deepcopy(state)
    orders = list(s.handle(other, s.Gone(want.id, now_ms))[1])
    orders += s.handle(other, s.Arrived(replace(want, id="again", requested_ms=now_ms, **changes), now_ms))[1]
    return any(isinstance(order, s.Grant) and order.id == "again" for order in orders)


@pytest.mark.slow
@pytest.mark.parametrize("policy", list(POLICIES))
def test_what_is_suggested_starts_it(policy, check_state):
    tried: Counter[str] = Counter()
    failed = 0
    for seed in range(3):
        dice = random.Random(seed)
        state = State(policy=POLICIES[policy], seats={H100: seed})
        limits = {key: dice.randint(3, 9) for key in ("site", "class:0", "class:1", "p0", "p1", "p2")}
        devices = tuple(
            Device(f"{t}-{n}-{i}", t, f"{t}{n}", i) for t in (H100, A100) for n in range(3) for i in range(4)
        )
        s.handle(state, s.Discovered(devices, 0))
        now = 0
        for number in range(100):
            now += dice.choice((0, 1, 60_000, HOUR, 5 * HOUR))
            if dice.random() < 0.6:
                person = dice.randrange(3)
                under = [key for key in ("site", f"class:{person % 2}", f"p{person}") if dice.random() < 0.4]
                want = Want(
                    f"w{number}",
                    f"p{person}",
                    dice.choice((H100, A100)),
                    dice.choice((1, 1, 2, 3, 4, 6, 8)),
                    now,
                    tuple((key, limits[key]) for key in under),
                    dice.choice((HOUR, 30 * HOUR)),
                    similar=dice.choice("ab"),
                )
                s.handle(state, s.Arrived(want, now))
            elif state.holding:
                s.handle(state, s.Gone(dice.choice(sorted(state.holding)), now))
            check_state(state)
            waiting = list(state.wants_waiting())
            for want in dice.sample(waiting, min(2, len(waiting))):
                for told in sooner(state, want, now, {H100: want.limits, A100: want.limits}):
                    if told.code in CHANGES:
                        tried[told.code] += 1
                        failed += not starts_then(state, want, now, **CHANGES[told.code](told.numbers))
    assert min(tried["fewer_gpus"], tried["other_gpu_type"]) > 10
    assert failed <= 0.01 * tried.total()  # GPUs that are kept are planned anew at the next event only


def test_nothing_is_suggested_that_others_would_have_first(desk):
    d = desk("fifo")
    d.find(4)
    d.ask("runs", 2)
    d.ask("wide", 4, at=1)
    assert [each.code for each in sooner(d.state, d.state.waiting("wide"), 1)] == ["fewer_gpus"]
    d.ask("next", 2, at=2)
    for name in ("wide", "next"):
        assert sooner(d.state, d.state.waiting(name), 2) == ()


def test_who_waits_for_several_to_end_hears_how_many(desk):
    d = desk("default")
    d.find(4)
    for number in range(2):
        d.ask(f"a-{number}", limits=(("k", 2),), duration_ms=(1 + number) * HOUR)
    d.ask("b", 2, at=1, limits=(("k", 2),))
    (told,) = sooner(d.state, d.state.waiting("b"), d.now_ms)
    assert (told.numbers["id"], told.numbers["before"], told.frees_at_ms) == ("a-1", 1, 2 * HOUR)
    assert "a-1 and 1 that probably ends before it have ended" in told.message
    assert "enough of them" in overview(d.state, d.now_ms).reasons["b"].instead
