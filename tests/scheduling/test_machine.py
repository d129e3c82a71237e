"""Random lives of requests under every policy: what must hold does after each event; everybody is served."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastgpu_hub.pricing.explain import Explained
from fastgpu_hub.scheduling import scheduler as s
from fastgpu_hub.scheduling.overview import overview
from fastgpu_hub.scheduling.policies import POLICIES

H100, A100 = "h100-80gb", "a100-40gb"
MINUTE = 60_000

arrivals = st.tuples(
    st.just("ask"),
    st.integers(1, 7),
    st.sampled_from([H100, A100]),
    st.integers(1, 5),
    st.sampled_from([None, 10 * MINUTE, 600 * MINUTE]),
    st.tuples(st.booleans(), st.booleans(), st.integers(-1, 1)),
)
others = st.tuples(
    st.sampled_from(["end", "end", "decline", "reconsider", "fence", "unfence", "limits", "vanish", "progress"]),
    st.integers(0, 1000),
)
lives = st.lists(st.tuples(st.integers(0, 90), st.one_of(arrivals, arrivals, others)), max_size=40)
EXAMPLES = int(os.environ.get("FASTGPU_EXAMPLES", "15"))


class Life:
    """Plays a list of steps, and remembers the limits there are."""

    def __init__(self, desk) -> None:
        self.d = desk
        self.limits = {"all": 9, H100: 6, A100: 5}
        for node in "ab":
            desk.find(3, node=node)
        desk.find(4, A100)

    def limits_of(self, gpu_type: str) -> tuple[tuple[str, int], ...]:
        return ("all", self.limits["all"]), (gpu_type, self.limits[gpu_type])

    def step(self, wait: int, step: tuple) -> None:
        d = self.d
        d.now_ms += wait * 7 * 1000
        kind, number = step[0], step[1]
        known = sorted([*d.state.holding, *(want.id for want in d.state.wants_waiting())])
        if kind == "ask":
            _, count, gpu_type, owner, duration, (spot, server, priority) = step
            d.numbers += 1
            d.ask(
                f"w{d.numbers}",
                count,
                gpu_type=gpu_type,
                owner=f"o{owner}",
                account=f"c{owner % 2}",
                duration_ms=duration,
                spot=spot and not server,
                kind="server" if server else "job",
                priority=priority,
                limits=self.limits_of(gpu_type),
            )
        elif kind == "end" and known:
            d.end(known[number % len(known)])
        elif kind == "decline" and d.state.holding:
            held = sorted(d.state.holding)
            d.feed(s.Declined, held[number % len(held)], Explained("credit", "none"))
        elif kind == "reconsider":
            d.feed(s.Reconsider)
        elif kind in ("fence", "unfence"):
            uuid = f"{H100}-a-{number % 3}"
            d.feed(*((s.Fenced, uuid, "lost") if kind == "fence" else (s.Unfenced, uuid)))
        elif kind == "limits" and known:
            self.limits["all"] = 7 + number % 4
            types = {want.id: want.gpu_type for want in d.state.wants_waiting()}
            types |= {who: running.want.gpu_type for who, running in d.state.holding.items()}
            d.feed(s.LimitsChanged, {who: self.limits_of(types[who]) for who in known})
        elif kind == "vanish":
            d.find(2 + number % 2)
        elif kind == "progress" and d.state.holding:
            held = sorted(d.state.holding)
            d.feed(s.Progressed, held[number % len(held)], number / 1000)
        told = overview(d.state, d.now_ms)
        assert set(told.reasons) == set(told.places) == {want.id for want in d.state.wants_waiting()}
        for who, start in told.starts.items():
            assert d.now_ms <= start.early_ms <= start.likely_ms <= start.late_ms, who


@pytest.mark.parametrize(
    "policy", [name if name == "default" else pytest.param(name, marks=pytest.mark.slow) for name in POLICIES]
)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lives)
def test_whatever_happens_the_state_holds_together_and_everybody_is_served_in_the_end(desk, policy, life):
    d = desk(policy, seats={H100: 1})
    played = Life(d)
    for wait, step in life:
        played.step(wait, step)
    # In the end everything is well, nothing is limited, and whatever runs ends: then everybody gets their turn.
    for uuid in list(d.state.inventory.fenced):
        d.feed(s.Unfenced, uuid)
    d.find(3)
    d.feed(s.Reconsider)
    d.feed(s.LimitsChanged, {want.id: () for want in d.state.wants_waiting()})
    for _ in range(200):
        if not d.state.holding:
            break
        d.now_ms += MINUTE
        d.end(min(d.state.holding))
    never = {w.id for w in d.state.wants_waiting() if not d.state.inventory.pools[w.gpu_type].could_ever(w.gpu_count)}
    seated = {w.id for w in d.state.wants_waiting() if w.kind == "job" and w.gpu_type == H100 and w.gpu_count > 5}
    left = {want.id for want in d.state.wants_waiting()}
    assert left <= never | seated


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 50), st.integers(0, 9)), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_fifo_starts_are_those_of_a_plain_loop(desk, jobs):
    """(GPUs, minutes, minutes after the last): against a simulation that fits on half a page."""
    d = desk("fifo")
    d.find(3)
    waiting, running, starts, now = [], [], {}, 0
    arrivals = []
    for number, (count, run, gap) in enumerate(jobs):
        now += gap * MINUTE
        arrivals.append((now, number, count, run * MINUTE))
    events = list(arrivals)
    expected, free, clock = {}, 3, 0
    while events or waiting or running:
        next_end = min(running)[0] if running else None
        if events and (next_end is None or events[0][0] < next_end):
            clock, number, count, run = events.pop(0)
            waiting.append((number, count, run))
        else:
            clock, count, number = min(running)
            running.remove((clock, count, number))
            free += count
        while waiting and waiting[0][1] <= free:
            number, count, run = waiting.pop(0)
            free -= count
            expected[number] = clock
            running.append((clock + run, count, number))
    ends: list[tuple[int, int, str]] = []
    for at, number, count, _ in [*arrivals, (10**12, -1, 0, 0)]:
        while ends and min(ends)[0] <= at:
            end = min(ends)
            ends.remove(end)
            for who in d.end(end[2], at=end[0]):
                starts[int(who)] = end[0]
                ends.append((end[0] + jobs[int(who)][1] * MINUTE, jobs[int(who)][0], who))
        if number >= 0:
            for who in d.ask(str(number), count, at=at):
                starts[int(who)] = at
                ends.append((at + jobs[int(who)][1] * MINUTE, jobs[int(who)][0], who))
    assert starts == expected
