"""Who has used how much of late: GPU time that loses half its weight every half-life, per GPU type."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

HALF_LIFE_MS = 24 * 3_600_000
GROWTH_STEP_MS = 60_000
MOST_HALF_LIVES = 200


@dataclass(slots=True)
class Shares:
    """Decayed GPU time by person and account.

    New use is written down larger as time goes on (by 2 to the power of half-lives since the beginning) instead of old
    use smaller: so nothing has to be touched that has not changed, and the order of two is that of their numbers.
    """

    half_life_ms: int = HALF_LIFE_MS
    _since_ms: int | None = None
    _step: int = 0
    _growth: float = 1.0
    _used: dict[Hashable, float] = field(default_factory=dict)
    total: float = 0.0

    def add(self, owner: str, account: str, gpu_ms: float, now_ms: int, instead_of: float = 0.0) -> float:
        """Note use, instead of what an earlier call returned if so; returns what was written down."""
        if self._since_ms is None:
            self._since_ms = now_ms
        step = (now_ms - self._since_ms) // GROWTH_STEP_MS
        if step != self._step:
            self._step = step
            self._growth = 2.0 ** min(2.0 * MOST_HALF_LIVES, step * GROWTH_STEP_MS / self.half_life_ms)
        written = gpu_ms * self._growth
        more = written - instead_of
        used = self._used
        used[owner] = used.get(owner, 0.0) + more
        if account:
            key = ("account", account)
            used[key] = used.get(key, 0.0) + more
        self.total += more
        return written

    def rebase(self, now_ms: int) -> float | None:
        """Once in many half-lives, write all down smaller; returns how much smaller, None when that is not due."""
        if self._since_ms is None or now_ms - self._since_ms < MOST_HALF_LIVES * self.half_life_ms:
            return None
        steps = (now_ms - self._since_ms) // GROWTH_STEP_MS
        scale: float = 2.0 ** -min(2.0 * MOST_HALF_LIVES, steps * GROWTH_STEP_MS / self.half_life_ms)
        self._used = {key: used * scale for key, used in self._used.items() if used * scale > 1e-6}
        self.total = sum(used for key, used in self._used.items() if isinstance(key, str))
        self._since_ms += steps * GROWTH_STEP_MS
        self._step, self._growth = 0, 1.0
        return scale

    def share(self, owner: str) -> float:
        """A person's part of all recent use, 0–1."""
        used = self._used.get(owner, 0.0)
        return used / self.total if used > 0.0 and self.total > 0.0 else 0.0

    def owner_use(self, owner: str) -> float:
        """Decayed use of a person, to be compared with others'."""
        return self._used.get(owner, 0.0)

    def account_use(self, account: str) -> float:
        """Decayed use of an account, to be compared with others'."""
        return self._used.get(("account", account), 0.0)
