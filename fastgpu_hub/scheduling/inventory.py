"""The GPUs there are, who holds each, and which are fenced; free ones are counted per node, in buckets."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

VANISHED = "not found any more"


@dataclass(frozen=True, slots=True)
class Device:
    """A leasable device: a whole GPU, a MIG slice or a share of one, on a node."""

    uuid: str
    gpu_type: str
    node: str
    index: int = 0


class Node:
    """The devices of one type on one node: ``free`` are positions in ``devices``, in order; ``held`` counts by id."""

    __slots__ = ("devices", "free", "held", "name", "usable", "uuids")

    def __init__(self, name: str, devices: Sequence[Device]) -> None:
        self.name, self.devices = name, devices
        self.uuids = [device.uuid for device in devices]
        self.free: list[int] = []
        self.usable = 0
        self.held: dict[str, int] = {}

    def copy(self) -> Node:
        """One that is changed alone."""
        other = Node.__new__(Node)
        other.name, other.devices, other.uuids, other.usable = self.name, self.devices, self.uuids, self.usable
        other.free, other.held = list(self.free), dict(self.held)
        return other


Places = Sequence[tuple[Node, int]]


class Pool:
    """All devices of one type. ``buckets[n]`` are the nodes with n free devices; bit n of ``mask``: there are some."""

    __slots__ = ("buckets", "free", "gpu_type", "mask", "nodes", "usable", "whole", "widest")

    def __init__(self, gpu_type: str) -> None:
        self.gpu_type = gpu_type
        self.nodes: dict[str, Node] = {}
        self.buckets: list[dict[Node, None]] = []
        self.mask = self.free = self.usable = self.widest = self.whole = 0

    def count_anew(self) -> None:
        """Build the buckets from the nodes."""
        most = max((len(node.devices) for node in self.nodes.values()), default=0)
        self.buckets = [{} for _ in range(most + 1)]
        self.mask = self.free = self.usable = self.widest = 0
        for node in self.nodes.values():
            self.buckets[len(node.free)][node] = None
            self.mask |= 1 << len(node.free)
            self.free += len(node.free)
            self.usable += node.usable
        self.measure()

    def measure(self) -> None:
        """How many usable devices the widest node has, and how many nodes are as wide."""
        self.widest = max((node.usable for node in self.nodes.values()), default=0)
        self.whole = sum(1 for node in self.nodes.values() if node.usable == self.widest)

    def moved(self, node: Node, before: int, after: int) -> None:
        """A node that had ``before`` free devices has ``after``."""
        buckets = self.buckets
        bucket = buckets[before]
        del bucket[node]
        if not bucket:
            self.mask ^= 1 << before
        bucket = buckets[after]
        if not bucket:
            self.mask |= 1 << after
        bucket[node] = None
        self.free += after - before

    def nodes_for(self, count: int) -> int:
        """How many whole nodes a request takes that is wider than any node; 1 for others."""
        return 1 if count <= self.widest or not self.widest else -(-count // self.widest)

    def could_ever(self, count: int) -> bool:
        """Whether a request of this size could be placed if nobody held anything."""
        if count <= self.widest:
            return True
        return bool(self.widest) and self.nodes_for(count) <= self.whole


@dataclass(slots=True)
class Inventory:
    """Devices with their holder. Every device is free, held by one workload, or fenced (and then maybe still held)."""

    devices: dict[str, Device] = field(default_factory=dict)
    fenced: dict[str, str] = field(default_factory=dict)
    pools: dict[str, Pool] = field(default_factory=dict)
    _where: dict[str, tuple[Pool, Node, int]] = field(default_factory=dict)
    _held: dict[str, list[tuple[Pool, Node, list[int]]]] = field(default_factory=dict)

    @property
    def holder(self) -> dict[str, str]:
        """Who holds each device that is held, by uuid."""
        return {
            node.uuids[position]: who
            for who, parts in self._held.items()
            for _, node, positions in parts
            for position in positions
        }

    def discover(self, devices: Iterable[Device]) -> None:
        """Replace the list of devices.

        One that vanished while held stays, fenced, until its holder is gone; it is well again when it is found again.
        """
        found = {device.uuid: device for device in devices}
        holder = self.holder
        for uuid in found:
            if self.fenced.get(uuid) == VANISHED:
                del self.fenced[uuid]
        for uuid in set(self.devices) - set(found):
            if uuid in holder:
                self.fenced[uuid] = VANISHED
                found[uuid] = self.devices[uuid]
            else:
                self.fenced.pop(uuid, None)
        self.devices = found
        self._sort(holder)

    def add_vanished(self, device: Device) -> None:
        """A device that is known to be held, though it is not found."""
        holder = self.holder
        self.devices[device.uuid] = device
        self.fenced[device.uuid] = VANISHED
        self._sort(holder)

    def _sort(self, holder: dict[str, str]) -> None:
        """Nodes, places and buckets from the devices."""
        by_node: dict[tuple[str, str], list[Device]] = {}
        for device in self.devices.values():
            by_node.setdefault((device.gpu_type, device.node), []).append(device)
        self.pools, self._where, self._held = {}, {}, {}
        for (gpu_type, name), devices in sorted(by_node.items()):
            devices.sort(key=lambda device: (device.index, device.uuid))
            pool = self.pools.setdefault(gpu_type, Pool(gpu_type))
            node = pool.nodes[name] = Node(name, devices)
            for position, device in enumerate(devices):
                self._where[device.uuid] = pool, node, position
                who = holder.get(device.uuid)
                if who is not None:
                    self._note(who, pool, node, position)
                if device.uuid not in self.fenced:
                    node.usable += 1
                    if who is None:
                        node.free.append(position)
        for pool in self.pools.values():
            pool.count_anew()

    def _note(self, who: str, pool: Pool, node: Node, position: int) -> None:
        node.held[who] = node.held.get(who, 0) + 1
        parts = self._held.setdefault(who, [])
        for _, known, positions in parts:
            if known is node:
                insort(positions, position)
                return
        parts.append((pool, node, [position]))

    def fence(self, uuid: str, reason: str) -> None:
        """Keep a device from being given out; one that is not known is passed over."""
        if uuid in self.devices:
            known = uuid in self.fenced
            self.fenced[uuid] = reason
            if not known:
                self._usable(uuid, -1)

    def unfence(self, uuid: str) -> None:
        """A fenced device may be given out again."""
        if self.fenced.pop(uuid, None) is not None and uuid in self.devices:
            self._usable(uuid, +1)

    def _usable(self, uuid: str, change: int) -> None:
        pool, node, position = self._where[uuid]
        if self._holder_of(uuid) is None:
            before = len(node.free)
            if change > 0:
                insort(node.free, position)
            else:
                node.free.remove(position)
            pool.moved(node, before, before + change)
        node.usable += change
        pool.usable += change
        pool.measure()

    def _holder_of(self, uuid: str) -> str | None:
        _, node, position = self._where[uuid]
        for who in node.held:
            if any(part is node and position in positions for _, part, positions in self._held[who]):
                return who
        return None

    def free(self, gpu_type: str) -> dict[str, list[Device]]:
        """Free, unfenced devices of a type by node, in index order."""
        pool = self.pools.get(gpu_type)
        nodes = pool.nodes.values() if pool else ()
        return {node.name: [node.devices[place] for place in node.free] for node in nodes if node.free}

    def count(self, gpu_type: str) -> tuple[int, int]:
        """(usable, free) devices of a type; fenced ones are not usable."""
        pool = self.pools.get(gpu_type)
        return (pool.usable, pool.free) if pool else (0, 0)

    def largest_node(self, gpu_type: str) -> int:
        """Most usable devices of a type on one node."""
        pool = self.pools.get(gpu_type)
        return pool.widest if pool else 0

    def gpu_types(self) -> list[str]:
        """Types there are, in alphabetical order."""
        return sorted(self.pools)

    def give(self, pool: Pool, places: Places, holder: str) -> tuple[str, ...]:
        """Give free devices of these nodes to a workload, the first ones of each; returns their uuids."""
        if len(places) > 1:
            return self._give_nodes(pool, places, holder)
        uuids: list[str] = []
        parts = self._held[holder] = []
        for node, count in places:
            free = node.free
            before = len(free)
            names = node.uuids
            if count == before:
                positions, node.free = free, []
                uuids += names if count == len(names) else [names[position] for position in positions]
            else:
                positions = free[:count]
                del free[:count]
                uuids += [names[position] for position in positions]
            node.held[holder] = count
            parts.append((pool, node, positions))
            pool.moved(node, before, before - count)
        return tuple(uuids)

    def _give_nodes(self, pool: Pool, places: Places, holder: str) -> tuple[str, ...]:
        """Give whole, empty nodes, of the last one maybe a part."""
        *whole, last = places
        uuids: list[str] = []
        parts = self._held[holder] = []
        wide = pool.widest
        full, none = pool.buckets[wide], pool.buckets[0]
        if not none:
            pool.mask |= 1
        for node, count in whole:
            del full[node]
            none[node] = None
            parts.append((pool, node, node.free))
            uuids += node.uuids if len(node.uuids) == wide else [node.uuids[position] for position in node.free]
            node.free = []
            node.held[holder] = count
        pool.free -= wide * len(whole)
        node, count = last
        positions = node.free[:count]
        del node.free[:count]
        parts.append((pool, node, positions))
        uuids += [node.uuids[position] for position in positions]
        node.held[holder] = count
        pool.moved(node, wide, wide - count)
        return tuple(uuids)

    def take(self, uuids: Iterable[str], holder: str) -> None:
        """Give certain devices to a workload. Raises ValueError when one is already held by another."""
        wanted = {uuid: self._holder_of(uuid) for uuid in uuids}
        for uuid, who in wanted.items():
            if who is not None and who != holder:
                raise ValueError(f"{uuid} is held by {who}, cannot be given to {holder}")
        for uuid, who in wanted.items():
            if who is not None:
                continue
            pool, node, position = self._where[uuid]
            self._note(holder, pool, node, position)
            if position in node.free:
                node.free.remove(position)
                pool.moved(node, len(node.free) + 1, len(node.free))

    def give_back(self, holder: str) -> None:
        """Take back everything a workload holds."""
        fenced = self.fenced
        for pool, node, positions in self._held.pop(holder, ()):
            del node.held[holder]
            if fenced:
                names = node.uuids
                positions = [position for position in positions if names[position] not in fenced]
                if not positions:
                    continue
            free = node.free
            before = len(free)
            if before:
                free += positions
                free.sort()
            else:
                node.free = positions
            pool.moved(node, before, before + len(positions))

    def held_by(self, holder: str) -> list[str]:
        """Uuids of the devices that a workload holds."""
        return [node.uuids[place] for _, node, places in self._held.get(holder, ()) for place in places]

    def copy(self) -> Inventory:
        """A copy that later changes do not reach, to be looked at and not to be changed."""
        nodes: dict[Node, Node] = {}
        pools = {}
        for gpu_type, pool in self.pools.items():
            other = pools[gpu_type] = Pool(gpu_type)
            for name, node in pool.nodes.items():
                other.nodes[name] = nodes[node] = node.copy()
            other.count_anew()
        held = {
            who: [(pools[pool.gpu_type], nodes[node], list(places)) for pool, node, places in parts]
            for who, parts in self._held.items()
        }
        return Inventory(dict(self.devices), dict(self.fenced), pools, _held=held)
