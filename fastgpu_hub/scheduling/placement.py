"""Where a request goes: best fit within one node, whole nodes for what is wider than any node."""

from __future__ import annotations

from collections.abc import Container

from fastgpu_hub.scheduling.inventory import Node, Pool


def place(
    pool: Pool, count: int, *, avoid: Container[Node] = (), spread: bool = False
) -> tuple[tuple[Node, int], ...] | None:
    """Nodes with how many devices to take on each; None when the request does not fit now.

    Best fit: the node that is left with the fewest free devices, so that wide requests find whole nodes; with
    ``spread`` the one that is left with the most. A request wider than any node takes whole, empty nodes. Nodes in
    ``avoid`` are left alone. Equal histories give equal answers.
    """
    if count > pool.widest:
        return _whole_nodes(pool, count, avoid)
    rest = pool.mask >> count
    while rest:
        step = rest.bit_length() - 1 if spread else (rest & -rest).bit_length() - 1
        for node in pool.buckets[count + step]:
            if node not in avoid:
                return ((node, count),)
        rest ^= 1 << step
    return None


def _whole_nodes(pool: Pool, count: int, avoid: Container[Node]) -> tuple[tuple[Node, int], ...] | None:
    wide = pool.widest
    if not wide or not pool.mask >> wide & 1:
        return None
    left = count
    found = []
    for node in pool.buckets[wide]:
        if node not in avoid and node.usable == wide:
            found.append((node, min(wide, left)))
            left -= wide
            if left <= 0:
                return tuple(found)
    return None


def fits(pool: Pool, count: int) -> bool:
    """Whether a request of this size can be placed now, nothing being avoided."""
    if count <= pool.widest:
        return pool.mask >> count != 0
    return place(pool, count) is not None
