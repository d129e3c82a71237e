"""Every scheduler test ends with a check that its states hold together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from fastgpu_hub.scheduling import scheduler as s
from fastgpu_hub.scheduling.inventory import Device
from fastgpu_hub.scheduling.policies import POLICIES, Want
from fastgpu_hub.scheduling.state import State

H100, A100 = "h100-80gb", "a100-40gb"


def check(state: State) -> None:
    """What must hold after every event: of devices, the queue, limits, and what is counted of them."""
    inventory = state.inventory
    holder = inventory.holder
    assert Counter(holder.values()) == Counter({w: r.want.gpu_count for w, r in state.holding.items()})
    for uuid, who in holder.items():
        assert inventory.devices[uuid].gpu_type == state.holding[who].want.gpu_type
    for pool in inventory.pools.values():
        _check_pool(inventory, pool, holder)
    _check_queue(state)
    per_key: Counter[str] = Counter()
    for running in state.holding.values():
        for key, _ in running.want.limits:
            per_key[key] += running.want.gpu_count
    assert +per_key == +state.held_per_key
    servers = Counter()
    for running in state.holding.values():
        servers[running.want.gpu_type] += running.want.gpu_count * (running.want.kind == "server")
    assert +servers == +state.held_by_servers
    assert set(state.preempting) <= set(state.holding)
    assert set(state.declined) == set(state.set_aside)


def _check_pool(inventory, pool, holder) -> None:
    free = 0
    for node in pool.nodes.values():
        well = [d for d in node.devices if d.uuid not in inventory.fenced]
        names = [node.devices[place].uuid for place in node.free]
        assert names == [d.uuid for d in well if d.uuid not in holder]
        assert node.usable == len(well)
        assert node in pool.buckets[len(node.free)]
        assert sum(node.held.values()) == sum(1 for d in node.devices if d.uuid in holder)
        free += len(node.free)
    assert pool.free == free
    assert sum(len(bucket) for bucket in pool.buckets) == len(pool.nodes)
    assert pool.mask == sum(1 << n for n, bucket in enumerate(pool.buckets) if bucket)


def _check_queue(state: State) -> None:
    waiting = list(state.wants_waiting())
    assert len(waiting) == len({want.id for want in waiting}) == state.waits
    assert not {want.id for want in waiting} & set(state.holding)
    gates = [gate for gates in state.blocked.values() for gate in gates.values()]
    for line in state.lines.values():
        lots = list(line.lots.values())
        assert line.size == sum(len(lot.wants) for lot in lots)
        heaps = [*line.heaps.values(), *(gate.heap for gate in gates if gate.line is line)]
        entries = {id(entry[3]): (heap, entry) for heap in heaps for entry in heap if entry[3].entry == entry[2]}
        for lot in lots:
            assert lot.wants, "an empty lot is kept"
            assert len(lot.wants) == len(lot.numbers)
            assert list(lot.numbers) == sorted(lot.numbers) or len({w.requested_ms for w in lot.wants}) > 1
            assert lot.entry, "a lot is in no heap"
            assert id(lot) in entries, "a lot is lost to its heap"
            heap, entry = entries[id(lot)]
            assert entry[1] == lot.numbers[0], "a lot stands where its first request did not"
            asleep = lot.gate is not None and lot not in lot.gate.out
            assert heap is (lot.gate.heap if asleep else line.heaps[lot.lane]), "a lot is in the wrong heap"
            assert lot.gate is None or lot.gate in gates, "a gate that is gone holds a lot back"
    _check_gates(state, gates)


def _check_gates(state: State, gates) -> None:
    """Nobody is behind a gate whose limit has room, unless another one from there stands in the queue."""
    for gate in gates:
        _, lane, limit = gate.which
        behind = [lot for lot in gate.line.lots.values() if lot.gate is gate and lot not in gate.out]
        assert all(lot.gate is gate for lot in gate.out)
        assert behind or gate.out, "a gate of nobody"
        room = state.held_per_key[gate.key] + abs(lane) <= limit
        assert gate.out or not room, "a limit has room and nobody is let out"


class Desk:
    """Feeds events to a scheduler, with a clock, and checks the state after each."""

    def __init__(self, policy: str = "fifo", **kept: object) -> None:
        self.state = State(policy=POLICIES[policy], **kept)
        self.now_ms = 0
        self.orders: list[s.Instruction] = []
        self.numbers = 0

    def feed(self, kind: type, *values: object, at: int | None = None, **named: object) -> list[s.Instruction]:
        self.now_ms = max(self.now_ms, at if at is not None else self.now_ms)
        self.state, orders = s.handle(self.state, kind(*values, at_ms=self.now_ms, **named))
        check(self.state)
        self.orders += orders
        return list(orders)

    def find(self, count: int, gpu_type: str = H100, node: str = "a") -> list[s.Instruction]:
        there = [d for d in self.state.inventory.devices.values() if (d.gpu_type, d.node) != (gpu_type, node)]
        new = [Device(f"{gpu_type}-{node}-{i}", gpu_type, node, i) for i in range(count)]
        return self.feed(s.Discovered, (*there, *new))

    def ask(self, name: str, count: int = 1, at: int | None = None, gpu_type: str = H100, **more) -> list[str]:
        self.now_ms = max(self.now_ms, at or 0)
        more.setdefault("owner", name.split("-")[0])
        owner = more.pop("owner")
        want = Want(name, owner, gpu_type, count, self.now_ms if at is None else at, **more)
        return [order.id for order in self.feed(s.Arrived, want) if isinstance(order, s.Grant)]

    def end(self, name: str, at: int | None = None) -> list[str]:
        return [order.id for order in self.feed(s.Gone, name, at=at) if isinstance(order, s.Grant)]

    @property
    def granted(self) -> list[str]:
        return [order.id for order in self.orders if isinstance(order, s.Grant)]


@pytest.fixture
def desk() -> Iterator[type[Desk]]:
    """Makes schedulers; each is checked once more at the end."""
    made: list[Desk] = []

    class Kept(Desk):
        def __init__(self, *args, **kwargs) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    yield Kept
    for each in made:
        check(each.state)


@pytest.fixture
def check_state():
    """The check itself."""
    return check
