"""When a job is to run: a start and a deadline as people give them, and the question which start costs least."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import TypeVar
from zoneinfo import ZoneInfo

from fastgpu import models, requests
from fastgpu.deadlines import Moment, Timing, needs_zone, timing_of
from fastgpu.requests import Call
from fastgpu.submission import Amount, make, micros_of, seconds_of

T = TypeVar("T")


def plan_request(
    gpu_type: str,
    gpu_count: int,
    duration: str | int,
    by: datetime | None,
    *,
    account: str | None = None,
    promo_code: str | None = None,
    max_cost: Amount | None = None,
    spot: bool = False,
) -> models.StartPlanRequest:
    """The question which start costs least. Raises InvalidRequest."""
    return make(
        models.StartPlanRequest,
        gpu_type=gpu_type,
        gpu_count=gpu_count,
        duration_seconds=seconds_of(duration),
        by=by,
        account=account,
        promo_code=promo_code,
        max_cost_micros=micros_of(max_cost),
        spot=spot,
    )


class Planning:
    """The part of :class:`~fastgpu.client.GPUClient` that has to do with time."""

    _zone: ZoneInfo | None = None

    def send(self, call: Call[T]) -> T:
        """Send one call and read its answer."""
        raise NotImplementedError

    def when(
        self,
        gpu_type: str,
        gpu_count: int = 1,
        duration: str | int = "1h",
        *,
        by: Moment | None = None,
        account: str | None = None,
        promo_code: str | None = None,
        max_cost: Amount | None = None,
        spot: bool = False,
    ) -> models.StartPlan:
        """When this costs least: starts up to a deadline with their cost, and the one to choose.

        ``by`` is when it must have ended: an aware datetime, or text such as ``"Fri 18:00"`` in the service's time
        zone; without it, it starts within a day.
        """
        deadline = self.timing("now", by).by
        request = plan_request(
            gpu_type,
            gpu_count,
            duration,
            deadline,
            account=account,
            promo_code=promo_code,
            max_cost=max_cost,
            spot=spot,
        )
        return self.send(requests.start_plan(request))

    def timing(self, start: Moment = "now", by: Moment | None = None) -> Timing:
        """When a job is to start (``now``, ``cheapest`` or an instant) and to have ended. Raises InvalidRequest."""
        if self._zone is None and needs_zone(start, by):
            self._zone = ZoneInfo(self.send(requests.me()).time_zone)
        return timing_of(start, by, datetime.now(timezone.utc), self._zone or ZoneInfo("UTC"))


class AsyncPlanning:
    """As :class:`Planning`, for :class:`~fastgpu.aio.AsyncGPUClient`."""

    _zone: ZoneInfo | None = None

    async def send(self, call: Call[T]) -> T:
        """Send one call and read its answer."""
        raise NotImplementedError

    async def when(
        self,
        gpu_type: str,
        gpu_count: int = 1,
        duration: str | int = "1h",
        *,
        by: Moment | None = None,
        account: str | None = None,
        promo_code: str | None = None,
        max_cost: Amount | None = None,
        spot: bool = False,
    ) -> models.StartPlan:
        """When this costs least; arguments as in :meth:`fastgpu.client.GPUClient.when`."""
        deadline = (await self.timing("now", by)).by
        request = plan_request(
            gpu_type,
            gpu_count,
            duration,
            deadline,
            account=account,
            promo_code=promo_code,
            max_cost=max_cost,
            spot=spot,
        )
        return await self.send(requests.start_plan(request))

    async def timing(self, start: Moment = "now", by: Moment | None = None) -> Timing:
        """When a job is to start (``now``, ``cheapest`` or an instant) and to have ended. Raises InvalidRequest."""
        if self._zone is None and needs_zone(start, by):
            self._zone = ZoneInfo((await self.send(requests.me())).time_zone)
        return timing_of(start, by, datetime.now(timezone.utc), self._zone or ZoneInfo("UTC"))
