"""Limits: what is used, reserved and left of each, and whether a wish fits."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit on one metric.

    ``scope``: ``site`` (everyone together), ``class`` (all that is charged to the class ``name``), ``member`` (each
    person's part of that), ``person`` (``name``, whoever pays). ``metric``: ``concurrent_gpus`` (GPUs), ``gpu_seconds``, ``spend_micros``.
    ``window``: ``day``, ``week`` (from Monday), ``month`` (calendar, in ``time_zone``) or ``always``.
    """

    id: int
    scope: str
    name: str
    metric: str
    limit: int
    window: str = "always"
    gpu_type: str | None = None
    time_zone: str = "UTC"


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose charges and holds to add up: every field that is set must match."""

    account: str | None = None
    owner: str | None = None
    gpu_type: str | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """Money and GPU time of charges or of open hold lines."""

    amount_micros: int = 0
    gpu_ms: int = 0
