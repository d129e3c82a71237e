"""Who has used how much of late: GPU time that loses half its weight every half-life, per GPU type."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

HALF_LIFE_MS = 24 * 3_600_000
GROWTH_STEP_MS = 60_000
_REBASE = 2.0**200


@dataclass(slots=True)
class Shares:
    """Decayed GPU time by person and account.

    New use is written down larger as time goes on (by 2 to the power of half-lives since the beginning) instead of old
    use smaller: so nothing has to be touched that has not changed, and the order of two is that of their numbers.
    """

    half_life_ms: int = HALF_LIFE_MS
    weights: dict[str, float] = field(default_factory=dict)
    _since_ms: int | None = None
    _grown_ms: int = -GROWTH_STEP_MS
    _growth: float = 1.0
    _used: dict[Hashable, float] = field(default_factory=dict)
    total: float = 0.0

    def add(self, owner: str, account: str, gpu_ms: float, now_ms: int) -> None:
        """Note use (or take back what was noted too much, as a negative amount)."""
        if not 0 <= now_ms - self._grown_ms < GROWTH_STEP_MS:
            if self._since_ms is None:
                self._since_ms = now_ms
            self._grown_ms = now_ms
            self._growth = 2.0 ** ((now_ms - self._since_ms) / self.half_life_ms)
        grown = gpu_ms * self._growth
        used = self._used
        used[owner] = used.get(owner, 0.0) + grown
        if account:
            key = ("account", account)
            used[key] = used.get(key, 0.0) + grown
        self.total += grown
        if self.total > _REBASE:
            self._rebase(now_ms)

    def _rebase(self, now_ms: int) -> None:
        scale = 2.0 ** (-(now_ms - (self._since_ms or now_ms)) / self.half_life_ms)
        self._used = {key: used * scale for key, used in self._used.items() if used * scale > 1e-6}
        self.total = sum(used for key, used in self._used.items() if isinstance(key, str))
        self._since_ms = self._grown_ms = now_ms
        self._growth = 1.0

    def share(self, owner: str) -> float:
        """A person's part of all recent use, 0–1."""
        return max(0.0, self._used.get(owner, 0.0)) / self.total if self.total > 0 else 0.0

    def owner_use(self, owner: str) -> float:
        """Decayed use of a person, to be compared with others'."""
        return self._used.get(owner, 0.0)

    def account_use(self, account: str) -> float:
        """Decayed use of an account divided by its weight, to be compared with others'."""
        return self._used.get(("account", account), 0.0) / self.weights.get(account, 1.0)
