"""What news says to a person: a table of notices, one line of a stream, the nearest end of what runs. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from fastgpu import models
from fastgpu.formatting import one_line
from fastgpu.view import Lens, Table, View, explain

KINDS = {
    "ending": "ends soon",
    "stopped": "stopped",
    "soft_limit": "limit warning",
    "not_kept": "outputs not kept",
    "late": "may be late",
    "price_changed": "new price",
    "answered": "answer",
}


def notices(answer: Sequence[models.Notice], lens: Lens) -> View:
    """News, oldest first, with what helps."""
    rows = tuple(
        (
            str(notice.id),
            lens.at(notice.at),
            KINDS[notice.kind],
            explain(notice.explanation, lens),
            lens.at(notice.ends_at),
        )
        for notice in answer
    )
    table = Table(("id", "when", "what", "news", "ends"), rows, frozenset({0}), empty="No news.")
    return View("News", lens.now, tables=(table,))


def notice_line(notice: models.Notice, lens: Lens) -> str:
    """One notice of a stream: ``today 14:05 UTC  ends soon: …``."""
    return f"{lens.at(notice.at)}  {KINDS[notice.kind]}: {explain(notice.explanation, lens)}"


def nearest_end(leases: Sequence[models.Lease], lens: Lens) -> tuple[str, ...]:
    """When the first of the leases will be stopped and why, as a sentence; nothing when no end is known."""
    ends = [(lease.ends_at, lease) for lease in leases if lease.ends_at is not None]
    if not ends:
        return ()
    ends_at, lease = min(ends, key=lambda end: end[0])
    name = f"Job {one_line(lease.job_id)}" if lease.job_id else f"Server {one_line(lease.server_name or '')}".strip()
    reason = lease.ending
    words = "its time limit." if reason is None or reason.code == "time_limit" else explain(reason, lens)
    return (f"{name} ends {lens.at(ends_at)}: {words}",)
