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
    weights: dict[str, float] = field(default_factory=dict)
    _since_ms: int | None = None
    _step: int = 0
    _growth: float = 1.0
    _used: dict[Hashable, float] = field(default_factory=dict)
    total: float = 0.0

    def add(
        self, owner: str, account: str, gpu_ms: float, now_ms: int, noted_gpu_ms: float = 0.0, noted_ms: int = 0
    ) -> float:
        """Note use, in place of what was noted too early, if so; returns by how much their recent use grew."""
        grown = -noted_gpu_ms * self._growth_at(noted_ms) if noted_gpu_ms else 0.0
        grown += gpu_ms * self._growth_at(now_ms)
        used = self._used
        used[owner] = used.get(owner, 0.0) + grown
        if account:
            key = ("account", account)
            used[key] = used.get(key, 0.0) + grown
        self.total += grown
        return grown

    def _growth_at(self, at_ms: int) -> float:
        if self._since_ms is None:
            self._since_ms = at_ms
        step = (at_ms - self._since_ms) // GROWTH_STEP_MS
        if step != self._step:
            self._step = step
            self._growth = 2.0 ** min(2.0 * MOST_HALF_LIVES, step * GROWTH_STEP_MS / self.half_life_ms)
        return self._growth

    def rebase(self, now_ms: int) -> bool:
        """Once in many half-lives, write all down smaller. True when that was due: earlier answers are void then."""
        if self._since_ms is None or now_ms - self._since_ms < MOST_HALF_LIVES * self.half_life_ms:
            return False
        steps = (now_ms - self._since_ms) // GROWTH_STEP_MS
        scale = 2.0 ** -min(2.0 * MOST_HALF_LIVES, steps * GROWTH_STEP_MS / self.half_life_ms)
        self._used = {key: used * scale for key, used in self._used.items() if used * scale > 1e-6}
        self.total = sum(used for key, used in self._used.items() if isinstance(key, str))
        self._since_ms += steps * GROWTH_STEP_MS
        self._step, self._growth = 0, 1.0
        return True

    def share(self, owner: str) -> float:
        """A person's part of all recent use, 0–1."""
        return max(0.0, self._used.get(owner, 0.0)) / self.total if self.total > 0 else 0.0

    def owner_use(self, owner: str) -> float:
        """Decayed use of a person, to be compared with others'."""
        return self._used.get(owner, 0.0)

    def account_use(self, account: str) -> float:
        """Decayed use of an account divided by its weight, to be compared with others'."""
        return self._used.get(("account", account), 0.0) / self.weights.get(account, 1.0)
