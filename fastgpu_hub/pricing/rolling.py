"""Use within a rolling window: how much of it counts now, and when how much comes back.

A use is ``(from_ms, until_ms, amount)``: an amount spread evenly over ``[from_ms, until_ms)``, or at one instant when
both are equal. At ``now_ms`` what lies after ``now_ms - rolling_ms`` counts. The part that counts of each use is
rounded up, the doubt in the limit's favour.
"""

from __future__ import annotations

from collections.abc import Iterable

Use = tuple[int, int, int]

MOST_STEPS = 5


def rolling_use(lines: Iterable[Use], rolling_ms: int, now_ms: int) -> tuple[int, tuple[tuple[int, int], ...]]:
    """What counts at ``now_ms``, and at most five steps ``(at_ms, amount)``: so much of it has come back by then.

    The steps ascend and add up to what counts. Each is where a use has come back wholly; of many uses, where another
    fifth of the whole has. Raises ValueError for a use that is reversed or negative, and a window without length.
    """
    known = _checked(lines, rolling_ms)
    used = _counting(known, now_ms - rolling_ms)
    steps: list[tuple[int, int]] = []
    counting = used
    for end_ms in _ends(known, now_ms - rolling_ms):
        after = _counting(known, end_ms)
        if after < counting:
            steps.append((end_ms + rolling_ms, counting - after))
        counting = after
    return used, tuple(steps)


def frees_when(lines: Iterable[Use], rolling_ms: int, now_ms: int, need: int) -> int | None:
    """The first instant from ``now_ms`` on at which ``need`` of what counts now has come back; None when it never has.

    Raises ValueError as :func:`rolling_use` does.
    """
    known = _checked(lines, rolling_ms)
    used = _counting(known, now_ms - rolling_ms)
    if need > used:
        return None
    too_soon_ms, free_ms = now_ms - 1, max([now_ms, *(until_ms + rolling_ms for _, until_ms, _ in known)])
    while free_ms - too_soon_ms > 1:
        middle_ms = (too_soon_ms + free_ms) // 2
        if used - _counting(known, middle_ms - rolling_ms) >= need:
            free_ms = middle_ms
        else:
            too_soon_ms = middle_ms
    return free_ms


def _checked(lines: Iterable[Use], rolling_ms: int) -> list[Use]:
    known = list(lines)
    if rolling_ms < 1 or any(until_ms < from_ms or amount < 0 for from_ms, until_ms, amount in known):
        raise ValueError("a rolling window has a length, a use does not end before it begins, nor is it negative")
    return known


def _counting(known: list[Use], after_ms: int) -> int:
    total = 0
    for from_ms, until_ms, amount in known:
        if from_ms >= after_ms and until_ms > after_ms:
            total += amount
        elif until_ms > after_ms:
            total += -(-amount * (until_ms - after_ms) // (until_ms - from_ms))
    return total


def _ends(known: list[Use], after_ms: int) -> list[int]:
    """Where uses that count end: all of these instants, or those by which about another fifth has ended."""
    amounts: dict[int, int] = {}
    for from_ms, until_ms, amount in known:
        if until_ms > after_ms and amount:
            amounts[until_ms] = amounts.get(until_ms, 0) + _counting([(from_ms, until_ms, amount)], after_ms)
    if len(amounts) <= MOST_STEPS:
        return sorted(amounts)
    whole, ended = sum(amounts.values()), 0
    found: list[int] = []
    for end_ms in sorted(amounts):
        ended += amounts[end_ms]
        if ended * MOST_STEPS >= whole * (len(found) + 1):
            found.append(end_ms)
    return found
