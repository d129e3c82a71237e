"""What a plan of starts says to a person: the best start, and what the others cost. Pure, as ``views``.

Instants are shown in the service's time zone, in which deadlines are read and the hours of prices are written.
"""

from __future__ import annotations

from zoneinfo import ZoneInfo

from fastgpu import models
from fastgpu.deadlines import written
from fastgpu.formatting import format_duration, format_money, one_line
from fastgpu.view import Bar, Cell, Lens, Table, View, explain, gpu_words
from fastgpu.words import wait_words


def start_plan(answer: models.StartPlan, lens: Lens) -> View:
    """Each start worth a look with its end, its cost, what it saves and the rule behind that."""
    there = _there(answer, lens)
    most = max((option.cost_micros for option in answer.options), default=0)
    rows = tuple(_row(option, most, answer.currency, there) for option in answer.options)
    facts: tuple[tuple[str, Cell], ...] = (
        ("best", one_line(answer.explanation.message)),
        ("ends by", written(answer.by.astimezone(there.zone))),
        ("expected wait now", wait_words(answer.wait_seconds)),
        ("charged to", one_line(answer.account)),
    )
    columns = ("start", "ends", "cost at most", "saves", "because of", "may I")
    gpu = gpu_words(answer.gpu_type, answer.gpu_count, answer.simulated)
    notes = () if answer.chosen is None else (_how(answer.chosen),)
    title = f"When to run {gpu} for {format_duration(answer.duration_seconds)}"
    return View(title, lens.now, facts, (Table(columns, rows, frozenset({3}), "Starts"),), notes)


def cheapest(answer: models.StartPlan, lens: Lens) -> str:
    """The best start in a line: ``cheapest: today 20:00 CET, 40 % less …``."""
    there, chosen = _there(answer, lens), answer.chosen
    by = written(answer.by.astimezone(there.zone))
    if chosen is None:
        return f"No start that ends by {by}: {explain(answer.explanation, there)}"
    if chosen.now:
        return f"Cheapest: now. No later start that surely ends by {by} costs less."
    cost = format_money(chosen.cost_micros, answer.currency)
    return f"Cheapest: {there.at(chosen.starts_at)}{_less(chosen)}, {cost} ({one_line(chosen.why)}); ends by {by}."


def _there(answer: models.StartPlan, lens: Lens) -> Lens:
    return Lens(lens.now, ZoneInfo(answer.time_zone))


def _row(option: models.StartOption, most: int, currency: str, lens: Lens) -> tuple[Cell, ...]:
    mark = " (now)" if option.now else ""
    return (
        f"{'→ ' if option.chosen else ''}{lens.at(option.starts_at)}{mark}",
        lens.at(option.ends_at),
        Bar(option.cost_micros / most if most else 0.0, format_money(option.cost_micros, currency)),
        format_money(option.saving_micros),
        one_line(option.why) or "—",
        _may_i(option, lens),
    )


def _may_i(option: models.StartOption, lens: Lens) -> str:
    if option.why_not is not None:
        return explain(option.why_not, lens)
    return one_line(option.risk) or "yes"


def _less(option: models.StartOption) -> str:
    before = option.cost_micros + option.saving_micros
    percent = option.saving_micros * 100 // before if before > 0 else 0
    return f", {percent} % less" if percent > 0 else ""


def _how(chosen: models.StartOption) -> str:
    return "Submit it as usual." if chosen.now else "Submit it with --start cheapest and the same --by."
