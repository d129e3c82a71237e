"""Kept files, as views."""

from __future__ import annotations

from collections.abc import Sequence

from fastgpu import models
from fastgpu.formatting import format_bytes, one_line
from fastgpu.view import Lens, Table, View, explain


def artifacts(job: models.Job, answer: Sequence[models.Artifact], lens: Lens) -> View:
    """What is kept of a job, and how it stands with the rest."""
    rows = tuple((one_line(file.path), format_bytes(file.size_bytes), lens.at(file.kept_at)) for file in answer)
    empty = "none; submit with --outputs, or keep some with: fastgpu artifacts keep ID PATTERN"
    facts = (("kept", explain(job.artifacts_note, lens)),) if job.artifacts_note else ()
    table = Table(("file", "size", "kept"), rows, frozenset({1}), empty=empty)
    return View(f"Kept files of {job.id}", lens.now, facts=facts, tables=(table,))


def kept_files(answer: Sequence[models.KeptFiles], lens: Lens) -> View:
    """Whose files take how much."""
    rows = tuple(
        (kept.job_id, one_line(kept.job_name), str(kept.files), format_bytes(kept.size_bytes), lens.at(kept.kept_at))
        for kept in answer
    )
    total = format_bytes(sum(kept.size_bytes for kept in answer))
    table = Table(("job", "name", "files", "size", "kept"), rows, frozenset({2, 3}), empty="none")
    return View("Kept files", lens.now, facts=(("in all", total),), tables=(table,))
