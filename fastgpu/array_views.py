"""What an array says to a person: how far it is, and a table of its jobs by their parameters."""

from __future__ import annotations

from collections.abc import Sequence

from fastgpu import models
from fastgpu.formatting import NO_VALUE, format_amount, format_fraction, format_money, one_line
from fastgpu.view import Bar, Cell, Lens, Table, View, gpu_words
from fastgpu.views import job_row
from fastgpu.words import array_words


def array(answer: models.JobArray, lens: Lens) -> View:
    """An array: how many of its jobs are where, its cost, and each job with its values."""
    money = (format_money if answer.done else format_amount)(answer.cost_micros, answer.currency)
    held = f", {format_amount(answer.held_micros, answer.currency)} reserved" if answer.held_micros else ""
    facts: list[tuple[str, Cell]] = [
        ("jobs", array_words(answer)),
        ("GPU", f"{gpu_words(answer.gpu_type, answer.gpu_count, answer.simulated)} each"),
        ("submitted", lens.at(answer.submitted_at)),
        ("cost", f"{money}{held}"),
        ("charged to", one_line(answer.account)),
    ]
    if answer.max_running is not None:
        facts.insert(1, ("at once", f"at most {answer.max_running}"))
    return View(
        f"Array {one_line(answer.id)} {one_line(answer.name)}", lens.now, tuple(facts), (_by_parameter(answer),)
    )


def _by_parameter(answer: models.JobArray) -> Table:
    names = list(answer.parameters)
    rows = tuple(
        (
            *(one_line(job.parameters.get(name, NO_VALUE)) for name in names),
            one_line(job.id),
            _state(job),
            format_amount(job.cost_micros),
        )
        for job in answer.jobs
    )
    columns = (*(one_line(name) for name in names), "job", "state", "cost")
    return Table(columns, rows, frozenset({len(columns) - 1}), f"Cost in {one_line(answer.currency)}")


def _state(job: models.ArrayJob) -> str:
    words = job.state.value.replace("_", " ")
    if job.state is models.JobState.failed and job.exit_code is not None:
        words = f"{words}, exit code {job.exit_code}"
    return f"{words}, attempt {job.attempt}" if job.attempt > 1 else words


def listed(answer: Sequence[models.Job | models.JobArray], lens: Lens) -> View:
    """A list of jobs, newest first, each array in one row."""
    rows = tuple(_array_row(each) if isinstance(each, models.JobArray) else job_row(each, lens) for each in answer)
    caption = f"Cost in {one_line(answer[0].currency)}" if answer else ""
    columns = ("id", "name", "state", "GPU", "progress", "ends", "cost")
    return View("Jobs", lens.now, tables=(Table(columns, rows, frozenset({6}), caption),))


def _array_row(answer: models.JobArray) -> tuple[Cell, ...]:
    ended = sum(count for state, count in answer.counts.items() if state.final)
    return (
        one_line(answer.id),
        one_line(answer.name),
        array_words(answer),
        gpu_words(answer.gpu_type, answer.gpu_count, answer.simulated),
        Bar(ended / answer.size, format_fraction(ended / answer.size)),
        NO_VALUE,
        format_amount(answer.cost_micros),
    )
