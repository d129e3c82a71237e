"""The replay: nothing is lost, nothing is given twice, nothing is known before it happened."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgpu_hub.scheduling.policies import POLICIES, Want
from fastgpu_hub.scheduling.prediction import Predictor
from fastgpu_hub.scheduling.scheduler import Arrived, Event, Gone, Grant
from fastgpu_hub.simulate import replay as replaying
from fastgpu_hub.simulate.replay import StuckError, replay
from fastgpu_hub.simulate.workload import Job, Pool, Workload, workload

NODES = (4, 4, 4)
QUICK = ("default", "fifo")
EVERY_POLICY = [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in POLICIES]

jobs = st.lists(
    st.tuples(
        st.sampled_from(("ann", "bob", "eve")),
        st.sampled_from((1, 1, 2, 3, 4, 8, 12)),
        st.integers(0, 30),  # submitted, s
        st.integers(0, 20),  # runs, s
        st.sampled_from((None, 25)),  # limit, s
    ),
    min_size=1,
    max_size=25,
)


def made(rows: Sequence[tuple[str, int, int, int, int | None]]) -> Workload:
    found = [
        Job(str(place), user, "gpu", gpus, at_s * 1000, run_s * 1000, limit_s and limit_s * 1000)
        for place, (user, gpus, at_s, run_s, limit_s) in enumerate(rows)
    ]
    return workload("made up", found, [Pool("gpu", NODES)])


class Watched:
    """Everything that goes into the scheduler and comes out of it during replays within a ``with``."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.grants: list[Grant] = []
        self.held: dict[str, tuple[str, ...]] = {}

    def __enter__(self) -> Watched:
        self._patch = pytest.MonkeyPatch()
        handle = replaying.handle

        def watched(state, event):
            self.events.append(event)
            if isinstance(event, Gone):
                del self.held[event.id]
            state, grants = handle(state, event)
            for grant in grants:
                taken = {uuid for uuids in self.held.values() for uuid in uuids}
                assert not taken & set(grant.uuids), "a GPU is given twice"
                self.held[grant.id] = grant.uuids
                self.grants.append(grant)
            return state, grants

        self._patch.setattr(replaying, "handle", watched)
        return self

    def __exit__(self, *_: object) -> None:
        self._patch.undo()

    def wants(self) -> list[Want]:
        return [event.want for event in self.events if isinstance(event, Arrived)]


@pytest.mark.parametrize("policy", EVERY_POLICY)
@pytest.mark.parametrize("oracle", [False, True])
@settings(max_examples=30)
@given(rows=jobs)
def test_every_job_starts_once_on_gpus_of_its_own(policy, oracle, rows):
    work = made(rows)
    with Watched() as seen:
        outcome = replay(work, policy, oracle=oracle, observe=False)
    assert Counter(grant.id for grant in seen.grants) == {str(place): 1 for place in range(len(work.jobs))}
    assert not seen.held
    for grant in seen.grants:
        size = work.jobs[int(grant.id)].gpu_count
        by_node = Counter(uuid.rpartition("-")[0] for uuid in grant.uuids)
        assert len(set(grant.uuids)) == size
        assert len(by_node) == 1 if size <= 4 else set(by_node.values()) == {4}
    assert all(wait >= 0 for wait in outcome.waits_ms())


class ByHand:
    """First come, first served, second by second: whoever is first in line holds back the others.

    Best fit; of nodes with equally many free GPUs the one that has had as many for longest.
    """

    def __init__(self, work: Workload) -> None:
        self.jobs = work.jobs
        self.free = dict(enumerate(NODES))
        self.changed = list(self.free)  # nodes, the one that changed last at the end
        self.running: dict[int, tuple[int, dict[int, int]]] = {}
        self.line: list[int] = []
        self.starts: dict[int, int] = {}

    def run(self) -> list[int]:
        for at_s in range(2000):
            self.end(at_s)
            for place, job in enumerate(self.jobs):
                if job.submit_ms == at_s * 1000:
                    self.line.append(place)
                    self.serve(at_s)
                    self.end(at_s)  # what runs for no time at all
        return [self.starts[place] for place in range(len(self.jobs))]

    def end(self, at_s: int) -> None:
        while over := [place for place, (end_s, _) in self.running.items() if end_s <= at_s]:
            for node, count in self.running.pop(min(over))[1].items():
                self.change(node, count)
            self.serve(at_s)

    def serve(self, at_s: int) -> None:
        while self.line and (chosen := self.choose(self.jobs[self.line[0]].gpu_count)):
            place = self.line.pop(0)
            for node, count in chosen.items():
                self.change(node, -count)
            self.starts[place] = at_s * 1000
            self.running[place] = at_s + self.jobs[place].run_ms // 1000, chosen

    def choose(self, count: int) -> dict[int, int]:
        if count <= 4:
            room = [node for node in self.changed if self.free[node] >= count]
            return {min(room, key=self.free.__getitem__): count} if room else {}
        empty = [node for node in self.changed if self.free[node] == 4][: count // 4]
        return dict.fromkeys(empty, 4) if len(empty) * 4 == count else {}

    def change(self, node: int, count: int) -> None:
        self.free[node] += count
        self.changed.remove(node)
        self.changed.append(node)


@given(rows=jobs)
def test_first_come_first_served_starts_when_a_simulation_second_by_second_says(rows):
    work = made(rows)
    assert list(replay(work, "fifo").starts_ms) == ByHand(work).run()


@pytest.mark.parametrize("policy", EVERY_POLICY)
@settings(max_examples=30)
@given(rows=jobs, now_s=st.integers(0, 60), later=st.randoms(use_true_random=False))
def test_nothing_is_known_of_jobs_that_have_not_ended(policy, rows, now_s, later):
    """Up to an instant all decisions and predictions are the same, however long what is not over by then goes on."""
    work = made(rows)
    now_ms = now_s * 1000
    first = replay(work, policy)
    changed = []
    for job, start in zip(work.jobs, first.starts_ms, strict=True):
        if start + job.run_ms > now_ms:
            least = max(0, now_ms - start + 1) if start <= now_ms else 0
            job = Job(**{**fields(job), "run_ms": least + later.randint(0, 40_000)})
        changed.append(job)
    second = replay(Workload("changed", tuple(changed), work.pools), policy)

    def until_now(starts: Sequence[int]) -> list[int | None]:
        return [start if start <= now_ms else None for start in starts]

    assert until_now(first.starts_ms) == until_now(second.starts_ms)
    known = sum(job.submit_ms <= now_ms for job in work.jobs)
    assert first.predictions[:known] == second.predictions[:known]
    assert {place: start for place, start in first.foretold.items() if place < known} == {
        place: start for place, start in second.foretold.items() if place < known
    }


def fields(job: Job) -> dict[str, object]:
    return {name: getattr(job, name) for name in Job.__dataclass_fields__}


@pytest.mark.parametrize("policy", EVERY_POLICY)
@settings(max_examples=30)
@given(rows=jobs)
def test_predicting_starts_changes_nothing(policy, rows):
    work = made(rows)
    assert replay(work, policy).starts_ms == replay(work, policy, observe=False).starts_ms


def test_the_predictor_learns_a_run_time_when_the_job_ends(work, monkeypatch):
    said: list[tuple[str, str, int]] = []
    told, ended = Predictor.batch_of, Predictor.ended

    def watch_asked(self, want, now_ms):
        said.append(("asked", want.owner, now_ms))
        return told(self, want, now_ms)

    def watch_told(self, batch, want_id, ran_ms, *more):
        said.append(("told", want_id, ran_ms))
        return ended(self, batch, want_id, ran_ms, *more)

    monkeypatch.setattr(Predictor, "batch_of", watch_asked)
    monkeypatch.setattr(Predictor, "ended", watch_told)
    jobs = work(("ann", 4, 0, 10), ("bob", 4, 5, 3), ("eve", 1, 10, 1), ("dan", 1, 11, 1))
    replay(jobs, "fifo", observe=False)
    assert said == [
        ("asked", "ann", 0),
        ("asked", "bob", 5_000),
        ("told", "0", 10_000),  # the end comes before the submission of the same second
        ("asked", "eve", 10_000),
        ("asked", "dan", 11_000),
        ("told", "1", 3_000),
        ("told", "2", 1_000),
        ("told", "3", 1_000),
    ]


def test_predictions_are_those_of_the_moment_of_submission(work):
    """Ann's second job is predicted before any has ended, bob's third knows how long his first two ran."""
    jobs = work(("ann", 4, 0, 100), ("ann", 4, 1, 100), ("bob", 4, 500, 7), ("bob", 4, 600, 7), ("bob", 4, 700, 7))
    outcome = replay(jobs)
    assert outcome.predictions[0].likely_ms == outcome.predictions[1].likely_ms == pytest.approx(3_600_000, abs=1)
    assert 2_000 < outcome.predictions[4].likely_ms < 50_000
    assert all(guess.low_ms <= guess.likely_ms <= guess.high_ms for guess in outcome.predictions)


def test_starts_are_foretold_of_jobs_that_wait_at_even_distances(work, monkeypatch):
    jobs = work(("ann", 4, 0, 100), *[("ann", 4, 200 + place, 100) for place in range(9)])
    outcome = replay(jobs, "fifo")
    assert list(outcome.foretold) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert all(start.early_ms <= start.likely_ms <= start.late_ms for start in outcome.foretold.values())
    likely = [start.likely_ms for start in outcome.foretold.values()]
    assert likely == sorted(likely)
    monkeypatch.setattr(replaying, "MOST_FORETOLD", 3)
    assert list(replay(jobs, "fifo").foretold) == [4, 7]


def test_an_oracle_is_told_the_run_times_and_nobody_else(work):
    jobs = work(("ann", 1, 0, 17), ("bob", 2, 3, 23))
    with Watched() as seen:
        assert not replay(jobs, oracle=True).predictions
    assert [want.expected_ms for want in seen.wants()] == [17_000, 23_000]
    with Watched() as seen:
        replay(jobs, observe=False)
    assert [(want.expected_ms, want.duration_ms) for want in seen.wants()] == [(None, None)] * 2


def test_the_scheduler_is_told_what_is_known_at_submission():
    job = Job("x", "ann", "gpu", 2, 5_000, 60_000, limit_ms=90_000, name="train", kind="server")
    with Watched() as seen:
        replay(workload("one", [job], [Pool("gpu", (4,))]), observe=False)
    assert seen.wants() == [
        Want("0", "ann", "gpu", 2, 5_000, duration_ms=90_000, account="gpu", kind="server", similar="train")
    ]


def test_at_one_instant_ends_come_first_each_an_event_of_its_own(work):
    jobs = work(("ann", 1, 0, 10), ("bob", 1, 0, 10), ("eve", 1, 10, 5), ("dan", 1, 10, 5))
    with Watched() as seen:
        replay(jobs, "fifo", observe=False)
    said = [
        ("arrived", event.want.id) if isinstance(event, Arrived) else ("gone", event.id)
        for event in seen.events
        if isinstance(event, Arrived | Gone)
    ]
    assert said == [
        ("arrived", "0"),
        ("arrived", "1"),
        ("gone", "0"),
        ("gone", "1"),
        ("arrived", "2"),
        ("arrived", "3"),
        ("gone", "2"),
        ("gone", "3"),
    ]


def test_pools_do_not_mix():
    crowd = [Job(str(place), "ann", "small", 1, 0, 5_000) for place in range(3)]
    alone = Job("3", "ann", "large", 4, 0, 5_000)
    outcome = replay(workload("two", [*crowd, alone], [Pool("small", (1,)), Pool("large", (4,))]), "fifo")
    assert list(outcome.starts_ms) == [0, 5_000, 10_000, 0]


def test_jobs_that_never_start_are_a_fault_of_the_policy_and_said(work, monkeypatch):
    monkeypatch.setattr(replaying, "handle", lambda state, event: (state, ()))
    with pytest.raises(StuckError, match="policy fifo: 2 of 2 jobs never started"):
        replay(work(("ann", 1, 0, 1), ("bob", 1, 0, 1)), "fifo")


def test_progress_is_told_up_to_the_end(work):
    told: list[tuple[int, int]] = []
    jobs = work(*[("ann", 1, place, 1) for place in range(30)])
    replay(jobs, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 60), (30, 60), (30, 60), (60, 60)]
    told.clear()
    replay(jobs, observe=False, progress=lambda done, total: told.append((done, total)))
    assert told == [(0, 30), (30, 30)]
