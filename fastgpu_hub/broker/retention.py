"""What goes with time: folders and logs of old jobs, old artifacts, input files that nobody names any more."""

from __future__ import annotations

from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.windows import when

DAY_MS = 24 * 3600 * 1000
BATCH = 200
_PAGE = 1000
SWEPT = "files_swept_ms"


def is_due(uow: UnitOfWork, now_ms: int) -> bool:
    """Whether the last sweep was a day ago, or there was none."""
    swept_ms = uow.setting(SWEPT)
    return not isinstance(swept_ms, int) or now_ms - swept_ms >= DAY_MS or now_ms < swept_ms


def old_jobs(uow: UnitOfWork, ended_before_ms: int) -> tuple[list[str], list[str]]:
    """Jobs whose folders may go, and those first attempts of them whose checkpoints may go too.

    Checkpoints are shared by all attempts of a job: they go when the last of them has been over for long enough.
    """
    jobs = uow.jobs_with_files(ended_before_ms, BATCH)
    firsts = {job.retry_of or job.id for job in jobs}
    needed = {
        attempt.retry_of or attempt.id
        for attempt in uow.attempts(sorted(firsts))
        if attempt.state != "ended" or (attempt.ended_ms or 0) >= ended_before_ms
    }
    return [job.id for job in jobs], sorted(firsts - needed)


def named_blobs(uow: UnitOfWork) -> set[str]:
    """The hashes of all input files that a job names whose folder is still kept."""
    named: set[str] = set()
    after = ""
    while page := uow.workloads_after(after, _PAGE):
        after = page[-1].id
        for job in page:
            if job.kind == "job" and job.files_removed_ms is None:
                named.update(entry["sha256"] for entry in job.spec.get("inputs", ()))
    return named


def removed(workload: Workload, time_zone: str) -> Refused | None:
    """That a job's files and log are gone, and since when; None when they are there."""
    if workload.files_removed_ms is None:
        return None
    return Refused(
        "removed",
        f"The files and the log of job {workload.id} were removed on {when(workload.files_removed_ms, time_zone)}, "
        "as all are some time after their job's end.",
        {"removed_ms": workload.files_removed_ms},
        instead="What was kept as an artifact is still there: fastgpu artifacts ID.",
    )
