"""The result page of a run: what came of it, how long it took, what it used, what it cost."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator
from datetime import datetime

from fastgpu.models import Job, JobFile, Run
from fastgpu.result_files import RESULT_NOTEBOOK
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.service.pages import charts, outputs
from fastgpu_hub.service.pages.mine import home_page
from fastgpu_hub.service.pages.outputs import Notebook
from fastgpu_hub.service.pages.visit import Done, Page, Streamed, Visit, must

FILES_SHOWN = 200
LOG_PIECE_BYTES = 1024 * 1024


async def job_page(visit: Visit) -> Page:
    """What came of one job."""
    broker, actor, job_id = visit.broker, visit.actor, visit.path["id"]
    run = must(await broker.run(actor, job_id))
    found = [] if run.job.files_removed_at else await broker.job_files(actor, job_id)
    files = [] if isinstance(found, Refused) else found
    log, log_bytes = await _log_tail(visit, run)
    waits = run.job.state.value == "queued"
    return Page(
        "run.html",
        {
            "run": run,
            "job": run.job,
            "sooner": must(await broker.why(actor, job_id)).sooner if waits else (),
            "command": shlex.join(run.argv),
            "times": times(run.job, visit.now),
            "charts": {metric.name: charts.of_metric(metric) for metric in run.metrics},
            "use_charts": _use_charts(run),
            "artifacts": must(await broker.artifacts(actor, job_id)),
            "files": files[:FILES_SHOWN],
            "more_files": max(0, len(files) - FILES_SHOWN),
            "notebook": await _notebook(visit, files),
            "log": log,
            "log_bytes": log_bytes,
            "may_stop": not run.job.state.final and run.job.state.value != "stopping",
        },
    )


def times(job: Job, now: datetime) -> dict[str, int]:
    """Whole seconds that it waited and ran, so far or in all."""
    over = job.ended_at or now
    started = job.started_at or over
    waited, ran = (started - job.submitted_at).total_seconds(), (over - started).total_seconds()
    return {"waited": max(0, int(waited)), "ran": max(0, int(ran))}


def _use_charts(run: Run) -> list[tuple[str, charts.Chart]]:
    if run.use is None:
        return []
    last = "end" if run.job.state.final else "now"
    utilisation, memory = charts.of_use(run.use, "start", last), charts.of_memory(run.use, "start", last)
    return [(name, chart) for name, chart in (("Utilisation", utilisation), ("Memory", memory)) if chart is not None]


async def _log_tail(visit: Visit, run: Run) -> tuple[str, int]:
    """The log's last lines, and how many bytes it has."""
    begin = max(0, run.job.log_bytes - outputs.TAIL_BYTES)
    found = await visit.broker.job_log(visit.actor, run.job.id, begin, 2 * outputs.TAIL_BYTES)
    if isinstance(found, Refused):
        return "", 0
    return outputs.log_tail(found[0], whole=begin == 0), found[1]


async def _notebook(visit: Visit, files: list[JobFile]) -> Notebook | None:
    there = [file for file in files if file.path == RESULT_NOTEBOOK]
    if not there or there[0].size_bytes > outputs.LARGEST_NOTEBOOK_BYTES:
        return None
    content = await visit.broker.job_file(visit.actor, visit.path["id"], RESULT_NOTEBOOK)
    return None if isinstance(content, Refused) else outputs.notebook(content)


async def whole_log(visit: Visit) -> Streamed:
    """All that a job has printed so far, as a file."""
    broker, actor, job_id = visit.broker, visit.actor, visit.path["id"]
    first, size, _ = must(await broker.job_log(actor, job_id, 0, LOG_PIECE_BYTES))

    async def pieces() -> AsyncIterator[bytes]:
        piece, offset = first, 0
        while piece:
            yield piece
            offset += len(piece)
            if offset >= size:
                return
            following = await broker.job_log(actor, job_id, offset, min(LOG_PIECE_BYTES, size - offset))
            piece = b"" if isinstance(following, Refused) else following[0]

    return Streamed(f"{job_id}.log.txt", pieces())


async def cancel_own_job(visit: Visit) -> Done:
    """Stop a job: one's own, or one of a class that one teaches."""
    must(await visit.broker.cancel_job(visit.actor, visit.path["id"], key=visit.key))
    return Done(f"jobs/{visit.path['id']}" if _from_its_page(visit) else "", "job-stopping")


async def page_of_stop(visit: Visit) -> Page:
    """Where the form to stop a job was: on the job's page or on one's own."""
    return await (job_page if _from_its_page(visit) else home_page)(visit)


def _from_its_page(visit: Visit) -> bool:
    return visit.form.get("back") == "run"
