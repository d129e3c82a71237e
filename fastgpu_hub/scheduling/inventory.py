"""The GPUs there are, who holds each, and which are fenced."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

VANISHED = "not found any more"


@dataclass(frozen=True, slots=True)
class Device:
    """A leasable device: a whole GPU or a MIG slice, on a node."""

    uuid: str
    gpu_type: str
    node: str
    index: int = 0


@dataclass(slots=True)
class Inventory:
    """Devices with their holder. Every device is free, held by one workload, or fenced (and then maybe still held)."""

    devices: dict[str, Device] = field(default_factory=dict)
    holder: dict[str, str] = field(default_factory=dict)
    fenced: dict[str, str] = field(default_factory=dict)

    def discover(self, devices: Iterable[Device]) -> None:
        """Replace the list of devices.

        One that vanished while held stays, fenced, until its holder is gone; it is well again when it is found again.
        """
        found = {device.uuid: device for device in devices}
        for uuid in found:
            if self.fenced.get(uuid) == VANISHED:
                del self.fenced[uuid]
        for uuid in set(self.devices) - set(found):
            if uuid in self.holder:
                self.fenced[uuid] = VANISHED
                found[uuid] = self.devices[uuid]
            else:
                self.fenced.pop(uuid, None)
        self.devices = found

    def free(self, gpu_type: str) -> dict[str, list[Device]]:
        """Free, unfenced devices of a type by node, in index order."""
        nodes: dict[str, list[Device]] = {}
        for device in self.devices.values():
            if device.gpu_type == gpu_type and device.uuid not in self.holder and device.uuid not in self.fenced:
                nodes.setdefault(device.node, []).append(device)
        for devices in nodes.values():
            devices.sort(key=lambda device: (device.index, device.uuid))
        return nodes

    def count(self, gpu_type: str) -> tuple[int, int]:
        """(usable, free) devices of a type; fenced ones are not usable."""
        usable = sum(1 for d in self.devices.values() if d.gpu_type == gpu_type and d.uuid not in self.fenced)
        return usable, sum(len(devices) for devices in self.free(gpu_type).values())

    def largest_node(self, gpu_type: str) -> int:
        """Most usable devices of a type on one node: the largest request that can ever be placed."""
        nodes: dict[str, int] = {}
        for device in self.devices.values():
            if device.gpu_type == gpu_type and device.uuid not in self.fenced:
                nodes[device.node] = nodes.get(device.node, 0) + 1
        return max(nodes.values(), default=0)

    def gpu_types(self) -> list[str]:
        """Types there are, in alphabetical order."""
        return sorted({device.gpu_type for device in self.devices.values()})

    def take(self, uuids: Iterable[str], holder: str) -> None:
        """Give devices to a workload. Raises ValueError when one is already held by another."""
        for uuid in uuids:
            if self.holder.get(uuid, holder) != holder:
                raise ValueError(f"{uuid} is held by {self.holder[uuid]}, cannot be given to {holder}")
            self.holder[uuid] = holder

    def give_back(self, holder: str) -> list[str]:
        """Take back everything a workload holds; returns the uuids."""
        uuids = [uuid for uuid, who in self.holder.items() if who == holder]
        for uuid in uuids:
            del self.holder[uuid]
        return uuids
