"""Figures for Prometheus: requests by route and status, their time, and what the broker counts."""

from __future__ import annotations

import re
from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)


class ServiceMetrics:
    """The service's own registry."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "fastgpu_http_requests", "Requests answered", ["route", "method", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "fastgpu_http_request_seconds",
            "Time to answer, long polls left out",
            ["route"],
            buckets=_BUCKETS,
            registry=self._registry,
        )

    def answered(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """Count one answer; ``seconds`` is None when it waited on purpose."""
        self._requests.labels(route, method, str(status)).inc()
        if seconds is not None:
            self._seconds.labels(route).observe(seconds)

    def text(self, gauges: Mapping[str, float]) -> bytes:
        """Everything in Prometheus' text format, with the broker's gauges as they are now."""
        now = CollectorRegistry()
        for key, value in sorted(gauges.items()):
            name = "fastgpu_" + re.sub(r"[^a-zA-Z0-9_]", "_", key.removeprefix("fastgpu_"))
            Gauge(name, key.replace("_", " "), registry=now).set(value)
        return generate_latest(self._registry) + generate_latest(now)
