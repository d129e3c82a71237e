"""What the administrator chose, as the broker needs it."""

from __future__ import annotations

from dataclasses import dataclass

MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Settings:
    """What the administrator chose. ``server_horizon_ms`` is how far ahead an open-ended server's money is held.

    ``follow_list_prices`` and ``follow_promotions``: whether a change reaches leases that run already (else they keep
    the terms they were granted with).
    """

    currency: str = "credits"
    time_zone: str = "UTC"
    server_horizon_ms: int = 60 * MINUTE_MS
    stop_grace_seconds: float = 10.0
    reconcile_interval_ms: int = 15_000
    follow_list_prices: bool = True
    follow_promotions: bool = False
