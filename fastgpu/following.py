"""Reading a job's output as it comes, over lost connections and restarts of the service: nothing lost or doubled."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from fastgpu.errors import Unavailable
from fastgpu.formatting import clean_text

if TYPE_CHECKING:
    from fastgpu.job import Job

T = TypeVar("T")
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
AWAY = "The service does not answer. The job runs on; its output goes on here as soon as the service is back."


class Patience:
    """Asks again and again while the service is away, once it was there. ``tell`` hears of an outage, once for each."""

    def __init__(self, sleep: Callable[[float], None], tell: Callable[[str], object] | None = None) -> None:
        self._sleep, self._tell = sleep, tell
        self._was_there = False

    def ask(self, question: Callable[[], T]) -> T:
        """The answer, as soon as there is one. Raises Unavailable when there never was any, and every refusal."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                answer = question()
            except Unavailable:
                if not self._was_there:
                    raise
                if pause == FIRST_PAUSE_SECONDS and self._tell is not None:
                    self._tell(AWAY)
                self._sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                self._was_there = True
                return answer


def follow(job: Job, wait_seconds: int, patience: Patience) -> Iterator[str]:
    """What a job prints from ``job.log_offset`` on, until it ends, and after it each further attempt.

    At least every ``wait_seconds`` there is a text while the service answers, if only an empty one. ``log_offset``
    moves with each piece, so that another reader can go on after an interruption.
    """
    while True:
        attempt = job.id
        yield from _follow_attempt(job, attempt, wait_seconds, patience)
        answer = patience.ask(job.refresh)
        if answer.id == attempt:
            return
        job.log_offset = 0
        yield f"\n[fastgpu] attempt {answer.attempt}: {answer.id}\n"


def _follow_attempt(job: Job, attempt: str, wait_seconds: int, patience: Patience) -> Iterator[str]:
    # A piece may end within a character.
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    while True:
        part = patience.ask(lambda: job.log_part(attempt, job.log_offset, wait_seconds))
        job.log_offset = part.next_offset
        yield clean_text(decoder.decode(part.data))
        if not part.data and part.state.final:
            break
        with suppress(Unavailable):
            job.look()
    yield decoder.decode(b"", final=True)
