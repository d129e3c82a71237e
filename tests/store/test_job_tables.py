"""What the store tells of jobs that belong together, the same over every database."""

from __future__ import annotations

from dataclasses import replace

from fastgpu_hub.broker.ports.records import Dependency, Hold, Workload
from fastgpu_hub.pricing.ledger import Transfer, charge_transfers
from fastgpu_hub.pricing.metering import GPU_HOUR, Line
from fastgpu_hub.pricing.pricebook import Rate
from fastgpu_hub.store import SqlStore

ENDED = {"state": "ended", "ended_ms": 9}


def job(job_id: str, at_ms: int = 1, **changes: object) -> Workload:
    made = Workload(job_id, "job", "alice", "person:alice", (), "train", "h100", 1, "queued", at_ms)
    return replace(made, **changes)  # type: ignore[arg-type]


def line(amount_micros: int) -> Line:
    return Line(GPU_HOUR, 0, 3_600_000, 1, amount_micros, amount_micros, amount_micros, 1)


async def test_those_that_wait_are_ready_when_all_they_need_has_succeeded_in_some_attempt(store: SqlStore) -> None:
    def fill(uow) -> None:  # type: ignore[no-untyped-def]
        for each in (
            job("a", **ENDED, outcome="succeeded"),
            job("b", **ENDED, outcome="lost"),
            job("c", state="running"),
            job("waits-1", 2),
            job("waits-2", 3),
            job("waits-3", 4),
            job("over", 5, **ENDED, outcome="cancelled"),
        ):
            uow.add_workload(each)
        needs = {"waits-1": "a", "waits-2": "ab", "waits-3": "abc", "over": "a"}
        uow.add_dependencies([Dependency(waits, each) for waits, all_of in needs.items() for each in all_of])
        uow.add_dependencies([])

    def ready(needs_id: str) -> object:
        return lambda uow: [workload.id for workload in uow.dependants(needs_id, ready=True)]

    await store.write(fill)
    waiting = await store.read(lambda uow: [workload.id for workload in uow.dependants("a")])
    assert waiting == ["waits-1", "waits-2", "waits-3"]
    assert await store.read(ready("a")) == ["waits-1"]
    await store.write(lambda uow: uow.add_workload(job("b2", **ENDED, outcome="succeeded", retry_of="b", attempt=2)))
    assert await store.read(ready("a")) == ["waits-1", "waits-2"]
    assert await store.read(ready("b")) == ["waits-2"]
    assert [each.id for each in await store.read(lambda uow: uow.attempts(["b", "a"]))] == ["a", "b", "b2"]
    of_some = await store.read(lambda uow: uow.needs(["waits-2", "over"]))
    assert of_some == [Dependency("over", "a"), Dependency("waits-2", "a"), Dependency("waits-2", "b")]
    of_all = await store.read(lambda uow: uow.needs())
    assert {each.workload_id for each in of_all} == {"waits-1", "waits-2", "waits-3"}


async def test_an_array_adds_up_what_each_attempt_cost_and_holds(store: SqlStore) -> None:
    def fill(uow) -> None:  # type: ignore[no-untyped-def]
        uow.add_price("h100", Rate(1_000_000), 0, "root")
        for each in (
            job("x"),
            job("e0", 2, array_id="a-1", array_index=0, **ENDED, outcome="lost"),
            job("e1", 3, array_id="a-1", array_index=1),
            job("e0-2", 4, array_id="a-1", array_index=0, attempt=2, retry_of="e0"),
            job("f0", 5, array_id="a-2", array_index=0),
        ):
            uow.add_workload(each)
        for owner, amounts in {"e1": (5, 6), "e0-2": (7,), "f0": (9,)}.items():
            lines = tuple(line(amount) for amount in amounts)
            uow.add_hold(Hold(0, owner, "alice", "person:alice", "h100", 1, 3_600_000, lines))
        charges = [
            charge_transfers(each, "alice", "person:alice", "h100", [line(amount)], 3_600_000)
            for each, amount in (("e0", 30), ("e0", 40), ("e1", 50), ("f0", 60))
        ]
        written = uow.append([transfer for some in charges for transfer in some])
        refunded = written[0]
        uow.append([refund_of(refunded)])

    await store.write(fill)
    money = await store.read(lambda uow: uow.array_money("a-1"))
    assert money == {"e0": (40, 0), "e1": (50, 11), "e0-2": (0, 7)}
    assert [each.id for each in await store.read(lambda uow: uow.array("a-1"))] == ["e0", "e0-2", "e1"]
    assert await store.read(lambda uow: uow.array_money("a-9")) == {}

    def listed(**how: object) -> object:
        return lambda uow: [each.id for each in uow.workloads(one_of_array=True, **how)]

    assert await store.read(listed(newest_first=True)) == ["f0", "e0-2", "x"]
    assert await store.read(listed()) == ["x", "e0", "f0"]
    assert await store.read(listed(newest_first=True, limit=2)) == ["f0", "e0-2"]
    assert await store.read(listed(states=["ended"])) == ["e0"]
    assert await store.read(lambda uow: [each.id for each in uow.workloads(array_id="a-1")]) == ["e0", "e1", "e0-2"]


def refund_of(charge: Transfer) -> Transfer:
    return replace(charge, id=0, kind="refund", debit=charge.credit, credit=charge.debit, reverses=charge.id)
