"""What the administrator chose, as the broker needs it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Settings:
    """What the administrator chose. ``server_horizon_ms`` is how far ahead an open-ended server's money is held.

    ``follow_list_prices`` and ``follow_promotions``: whether a change reaches leases that run already (else they keep
    the terms they were granted with). ``max_artifacts``, ``max_artifact_bytes`` and ``max_source_bytes`` are per job.
    Things are kept for so many days; 0 means for ever. ``policy`` is how the queue is served; ``seats`` are GPUs, by
    type, that jobs leave to notebook servers. Spot jobs cost ``spot_percent_off`` less than the list price.
    """

    currency: str = "credits"
    time_zone: str = "UTC"
    server_horizon_ms: int = 60 * MINUTE_MS
    stop_grace_seconds: float = 10.0
    max_grace_seconds: float = 120.0
    reconcile_interval_ms: int = 15_000
    follow_list_prices: bool = True
    follow_promotions: bool = False
    max_artifacts: int = 1000
    max_artifact_bytes: int = 20 * 2**30
    max_source_bytes: int = 20 * 2**30
    fetch_seconds: int = 600
    keep_files_days: int = 0
    keep_artifacts_days: int = 0
    policy: str = "default"
    seats: Mapping[str, int] = field(default_factory=dict)
    spot_percent_off: int = 50
