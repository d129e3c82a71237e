"""Traces in the Standard Workload Format: one job a line, 18 numbers, -1 where something is not known.

The format: Chapin et al., "Benchmarks and Standards for the Evaluation of Parallel Job Schedulers", JSSPP 1999.
"""

from __future__ import annotations

import lzma
import math
import re
from collections import Counter
from pathlib import Path

from fastgpu_hub.simulate.csv_trace import open_text
from fastgpu_hub.simulate.workload import Job, Pool, TraceError, Workload, counted, workload

FIELDS = 18
PART_OF_A_JOB = (2, 3, 4)  # lines between checkpoints; the job's own line holds their sum
CANCELLED = 5
NEVER_RAN = "that never ran"
POOL = "processors"


def read_swf(path: Path, processors: int | None = None) -> Workload:
    """The jobs of a trace on one node of ``processors``, by default the ``MaxProcs`` of the file's header.

    A job's size is what was requested, else what was allocated; it runs at most for the requested time. Left out and
    counted are jobs without processors, jobs that never ran and lines about a part of a job. Raises TraceError.
    """
    jobs: list[Job] = []
    dropped: Counter[str] = Counter()
    with open_text(path) as file:
        try:
            for number, line in enumerate(file, start=1):
                if line.startswith(";"):
                    header = re.match(r";\s*MaxProcs:\s*(\d+)", line)
                    processors = processors or (int(header[1]) if header else None)
                elif line.strip():
                    job = _job(path, number, line)
                    if isinstance(job, Job):
                        jobs.append(job)
                    else:
                        dropped[job] += 1
        except (lzma.LZMAError, EOFError, OSError) as error:
            raise TraceError(f"{path}: cannot be unpacked ({error})") from None
    if not processors:
        raise TraceError(f"{path}: its header does not say how many processors there are; give --processors")
    left_out = [f"{counted(count, 'line')} {why}" for why, count in sorted(dropped.items())]
    return workload(path.name, jobs, [Pool(POOL, (processors,))], left_out)


def _job(path: Path, number: int, line: str) -> Job | str:
    """The job of a line, or why it is none."""
    words = line.split()
    try:
        fields = [float(word) for word in words]
    except ValueError:
        fields = []
    if len(fields) < FIELDS or not all(map(math.isfinite, fields)):
        raise TraceError(f"{path}, line {number}: {line.strip()[:60]!r}; it must be {FIELDS} numbers, -1 for unknown")
    job_id, submit_s, _, run_s, allocated, _, _, requested, requested_s, _, status, user, _, program, *_ = fields
    size = int(requested if requested > 0 else allocated)
    if status in PART_OF_A_JOB:
        return "about a part of a job"
    if size <= 0:
        return "without processors"
    if run_s < 0 or (run_s == 0 and status == CANCELLED):
        return NEVER_RAN
    if submit_s < 0:
        raise TraceError(f"{path}, line {number}: submitted at {words[1]}; it must be seconds, at least 0")
    limit_s = requested_s if requested_s > 0 else None
    return Job(
        id=words[0] if job_id >= 0 else str(number),
        user=words[11] if user >= 0 else "",
        pool=POOL,
        gpu_count=size,
        submit_ms=round(submit_s * 1000),
        run_ms=round((run_s if limit_s is None else min(run_s, limit_s)) * 1000),
        limit_ms=None if limit_s is None else round(limit_s * 1000),
        name=words[13] if program >= 0 else "",
    )
