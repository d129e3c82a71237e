"""Where a request goes: best fit within one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastgpu_hub.scheduling.inventory import Device


def place(free: Mapping[str, Sequence[Device]], count: int) -> tuple[str, ...] | None:
    """Uuids of ``count`` devices on the node that is left with the fewest free ones; None when no node has enough.

    Ties go to the node first in alphabetical order, so equal states give equal answers.
    """
    fitting = [(len(devices), node) for node, devices in free.items() if len(devices) >= count]
    if not fitting:
        return None
    _, node = min(fitting)
    return tuple(device.uuid for device in free[node][:count])
