"""What came of a run: its figures, the use of its GPUs, its attempts. Reads only."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any

from fastgpu import models
from fastgpu_hub.broker import metrics, views
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.desk import Desk
from fastgpu_hub.broker.gpu_history import summary
from fastgpu_hub.broker.metrics import Point, Series
from fastgpu_hub.broker.ports.records import RunRecord, Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.pricing.explain import Refused

SERIES_KEPT_IN_MIND = 32
LOG_LOOK_SECONDS = 0.25


class Results(Desk):
    """The broker's desk for what jobs told of themselves."""

    @cached_property
    def _known_series(self) -> dict[str, tuple[int, list[Series]]]:
        """By job: the size of its report when it was read last, and what was in it."""
        return {}

    async def job_metrics(self, actor: Actor, job_id: str) -> list[models.Metric] | Refused:
        """The figures that a job reports, each by step."""
        found = await self._recorded(actor, job_id)
        if isinstance(found, Refused):
            return found
        return [metric_view(series) for series in await self._series(job_id, found[1])]

    async def run(self, actor: Actor, job_id: str) -> models.Run | Refused:
        """A job with all that came of it."""

        def look(uow: UnitOfWork) -> tuple[models.Job, Workload, RunRecord | None, tuple[models.Job, ...]]:
            workload = self._visible(uow, actor, job_id, "job")
            same = uow.attempts([workload.retry_of or workload.id])
            live, names = self._live([workload, *same]), uow.promotion_names()
            attempts = tuple(views.job(uow, each, live, names) for each in same) if len(same) > 1 else ()
            return views.job(uow, workload, live, names), workload, uow.run_record(job_id), attempts

        found = await self._read(look)
        if isinstance(found, Refused):
            return found
        job, workload, record, attempts = found
        history = self.runtime.runs.history(job_id)
        use = history.plain() if history is not None else record.gpu_use if record is not None else None
        return models.Run(
            job=job,
            argv=tuple(str(word) for word in workload.spec.get("argv", ())),
            progress=_progress(job, record),
            use=None if use is None else use_view(use),
            metrics=tuple(metric_view(series) for series in await self._series(job_id, record)),
            attempts=attempts,
        )

    async def log_grows(self, job_id: str, size_bytes: int, timeout_seconds: float) -> None:
        """Return when a job has printed more than so much, when it has ended, or the time is up."""
        loop = asyncio.get_running_loop()
        until, news = loop.time() + timeout_seconds, asyncio.Event()
        stop = self.engine.on_log(job_id, news.set)
        try:
            while self.engine.log_size(job_id) <= size_bytes and (left := until - loop.time()) > 0:
                with self.runtime.watching(job_id, news), suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(news.wait(), min(left, LOG_LOOK_SECONDS))
                    if job_id not in self.runtime.state.holding:
                        return
                news.clear()
        finally:
            stop()

    async def _recorded(self, actor: Actor, job_id: str) -> tuple[Workload, RunRecord | None] | Refused:
        return await self._read(lambda uow: (self._visible(uow, actor, job_id, "job"), uow.run_record(job_id)))

    async def _series(self, job_id: str, record: RunRecord | None) -> Sequence[Series]:
        """From the job's own file as long as that is there, then as it was kept."""
        found = await asyncio.to_thread(self._series_of_file, job_id)
        return found or (metrics.of_kept(record.metrics) if record is not None else [])

    def _series_of_file(self, job_id: str) -> list[Series]:
        reported = self.engine.metrics(job_id)
        if not reported.size_bytes:
            return []
        size, series = self._known_series.get(job_id, (0, []))
        if size != reported.size_bytes:  # it only ever grows
            series = metrics.read(reported.data)
            if len(self._known_series) >= SERIES_KEPT_IN_MIND:
                self._known_series.clear()
            self._known_series[job_id] = reported.size_bytes, series
        return series


# ---------------------------------------------------------------- views


def metric_view(series: Series) -> models.Metric:
    """A series as it crosses the wire."""
    return models.Metric(
        name=series.name,
        count=series.count,
        last=_point(series.last),
        lowest=None if series.lowest is None else _point(series.lowest),
        highest=None if series.highest is None else _point(series.highest),
        best=None if series.best is None else _point(series.best),
        less_is_better=series.less_is_better,
        points=tuple(_point(point) for point in metrics.thinned(series.points, metrics.MOST_POINTS)),
    )


def _progress(job: models.Job, record: RunRecord | None) -> float | None:
    if job.state is models.JobState.succeeded:
        return 1.0
    return record.progress if job.state.final and record is not None else job.progress


def _point(point: Point) -> models.MetricPoint:
    return models.MetricPoint(step=point.step, value=point.value, at=views.instant(point.at_ms))


def use_view(plain: Mapping[str, Any]) -> models.RunUse:
    """A history's plain data as it crosses the wire."""
    whole, from_ms, width_ms = summary(plain), plain["from_ms"], plain["width_ms"]
    return models.RunUse(
        mean_percent=whole.mean_percent,
        peak_percent=whole.peak_percent,
        memory_peak_bytes=whole.memory_peak_bytes,
        memory_total_bytes=plain["memory_total_bytes"],
        every_seconds=width_ms // 1000,
        points=tuple(
            models.RunUsePoint(
                at=views.at(from_ms + place * width_ms),
                mean_percent=None if mean is None else mean / 10,
                peak_percent=None if peak is None else peak / 10,
                memory_peak_bytes=memory,
            )
            for place, (mean, peak, memory) in enumerate(plain["buckets"])
        ),
    )
