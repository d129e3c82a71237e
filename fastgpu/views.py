"""What each answer says to a person, as a :class:`~fastgpu.view.View`.

Pure: the :class:`~fastgpu.view.Lens` brings time and zone. Every text from outside is cleaned of control characters;
escaping for HTML or rich is the renderer's duty.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from fastgpu import models
from fastgpu.formatting import (
    NO_VALUE,
    decimals_of,
    format_amount,
    format_bytes,
    format_duration,
    format_fraction,
    format_money,
    format_percent,
    format_rate,
    one_line,
)
from fastgpu.notice_views import nearest_end
from fastgpu.rule_views import account_table, quota_table
from fastgpu.view import Bar, Cell, Lens, Link, Table, View, explain, gpu_words
from fastgpu.words import price_words, step_words, wait_words

# ---------------------------------------------------------------- status, GPUs


def status(answer: models.Status, lens: Lens) -> View:
    """My GPUs, what they do and cost, my active jobs, accounts."""
    active = [job for job in answer.jobs if not job.state.final]
    tables = [lease_table([lease for lease in answer.leases if not _waiting_job(lease)], answer.currency, lens)]
    if answer.gpus:
        tables.append(gpu_use(answer.gpus))
    if active:
        tables.append(_job_table(active, lens, "Active jobs"))
    tables.append(account_table(answer.accounts, answer.currency, lens))
    running = [promotion for promotion in answer.promotions if promotion.active and promotion.eligible]
    notes = [*nearest_end(answer.leases, lens)]
    notes += [f"Promotion {one_line(p.name)} is on until {lens.at(p.changes_at or p.ends_at)}." for p in running]
    if not any(lease.state is not models.LeaseState.queued for lease in answer.leases):
        notes.append("No GPU is held for you, so nothing is charged. See prices with: gpus or quote.")
    return View(f"FastGPU status of {one_line(answer.user)}", lens.now, tables=tuple(tables), notes=tuple(notes))


def _waiting_job(lease: models.Lease) -> bool:
    """It holds nothing yet, and stands among the jobs."""
    return lease.job_id is not None and lease.state is models.LeaseState.queued


def lease_table(leases: Sequence[models.Lease], currency: str, lens: Lens) -> Table:
    """What each lease holds, its rate, what it has cost, how long its money lasts."""
    rows = tuple(
        (
            f"job {one_line(lease.job_id)}" if lease.job_id else f"server {one_line(lease.server_name or '')}".strip(),
            gpu_words(lease.gpu_type, lease.gpu_count, lease.simulated),
            _lease_state(lease),
            format_rate(lease.rate_per_hour_micros, currency),
            format_amount(lease.cost_micros, currency),
            NO_VALUE if lease.state is models.LeaseState.queued else lens.until(lease.funded_until),
            one_line(lease.account),
        )
        for lease in leases
    )
    columns = ("for", "GPU", "state", "rate", "spent", "time left", "account")
    return Table(columns, rows, frozenset({3, 4, 5}), "GPUs held for me")


def _lease_state(lease: models.Lease) -> str:
    place = f", place {lease.queue_place}" if lease.queue_place else ""
    return f"{lease.state.value}{place}"


def gpu_use(uses: Sequence[models.GpuUse]) -> Table:
    """Use and memory of each device, as measured; a dash where the device does not tell."""
    rows = tuple(
        (
            f"{use.gpu.index}: {gpu_words(use.gpu.name or use.gpu.gpu_type, 1, use.gpu.simulated)}",
            "lost" if use.lost else _percent_bar(use.utilisation_percent),
            _memory_bar(use.memory_used_bytes, use.memory_total_bytes),
            NO_VALUE if use.power_watts is None else f"{use.power_watts} W",
            NO_VALUE if use.temperature_celsius is None else f"{use.temperature_celsius} °C",
        )
        for use in uses
    )
    return Table(("GPU", "use", "memory", "power", "temperature"), rows, frozenset({3, 4}), "GPU use")


def _percent_bar(percent: int | None) -> Cell:
    return NO_VALUE if percent is None else Bar(percent / 100, format_percent(percent))


def _memory_bar(used: int | None, total: int | None) -> Cell:
    text = f"{format_bytes(used)} of {format_bytes(total)}"
    return Bar(used / total, text) if used is not None and total else text


def offers(answer: models.Options, lens: Lens) -> View:
    """GPU types with their present price, how many are free, and why one may not be taken."""
    rows = tuple(
        (
            gpu_words(offer.gpu_type, 1, offer.simulated),
            format_bytes(offer.memory_bytes),
            f"{offer.free} of {offer.total}",
            price_words(offer.rate, answer.currency),
            _saving(offer, answer.currency, lens),
            wait_words(offer.wait_seconds),
            "yes" if offer.allowed else explain(offer.why_not, lens) if offer.why_not else "no",
        )
        for offer in answer.offers
    )
    columns = ("GPU", "memory", "free", "price now", "promotion", "wait", "may I")
    return View("GPU types", lens.now, tables=(Table(columns, rows, frozenset({1, 2, 3})),))


def _saving(offer: models.Offer, currency: str, lens: Lens) -> str:
    if not offer.promotion_name:
        return NO_VALUE
    until = f", until {lens.at(offer.rate_until)}" if offer.rate_until else ""
    return f"{one_line(offer.promotion_name)} (list price {price_words(offer.list_rate, currency)}{until})"


# ---------------------------------------------------------------- quotes, receipts, costs

_UNITS = {"gpu_hour": "GPU-hour", "task_hour": "task-hour", "start": "start"}


def quote(answer: models.Quote, lens: Lens) -> View:
    """What it would cost, interval by interval, and whether it would be taken."""
    warnings = [f"Warning: {explain(warning, lens)}" for warning in answer.warnings]
    facts: list[tuple[str, Cell]] = [
        ("at most", format_money(answer.max_micros, answer.currency)),
        ("charged to", one_line(answer.account)),
        ("expected wait", wait_words(answer.wait_seconds)),
    ]
    if answer.min_micros:
        facts.insert(1, ("at least", format_money(answer.min_micros, answer.currency)))
    if answer.list_micros > answer.max_micros:
        facts.insert(1, ("saved", format_money(answer.list_micros - answer.max_micros, answer.currency)))
    if answer.spot:
        less = format_money(answer.spot_saves_micros, answer.currency)
        facts.insert(1, ("as a spot job", f"{less} less; interrupted when one that pays in full needs its GPUs"))
    verdict = "It would be accepted now." if answer.allowed else "It would be refused now."
    if answer.refusal:
        verdict = f"It would be refused now: {explain(answer.refusal, lens)}"
    tables = [charge_lines(answer.lines, answer.currency, lens.at)]
    if answer.quotas:
        tables.append(quota_table(answer.quotas, answer.currency, lens, "Quotas"))
    gpu = gpu_words(answer.gpu_type, answer.gpu_count, answer.simulated)
    title = f"Quote: {gpu} for {format_duration(answer.duration_seconds)}"
    return View(title, lens.now, tuple(facts), tuple(tables), (verdict, *warnings))


def charge_lines(lines: Sequence[models.ChargeLine], currency: str, at: Callable[[datetime], str]) -> Table:
    """Each priced interval with its quantity, rate, rule and exact amount; ``at`` writes its beginning."""
    decimals = decimals_of(line.amount_micros for line in lines)
    rows = tuple(
        (
            at(line.starts_at),
            NO_VALUE if line.unit == "start" else format_duration((line.ends_at - line.starts_at).total_seconds()),
            str(line.gpu_count),
            f"{format_money(line.rate_micros, currency)} per {_UNITS[line.unit]}",
            _rule(line),
            format_money(line.amount_micros, currency, decimals=decimals) + (" refunded" if line.refunded else ""),
        )
        for line in lines
    )
    columns = ("from", "for", "GPUs", "rate", "rule", "amount")
    return Table(columns, rows, frozenset({2, 3, 5}), "Itemised", empty="no charges")


def _rule(line: models.ChargeLine) -> str:
    price = f"price {line.price_id}{f' ({one_line(line.price_note)})' if line.price_note else ''}"
    if line.promotion_id is None:
        return price
    text = f"{price}, promotion {line.promotion_id} {one_line(line.promotion_name)}".rstrip()
    if line.stacked_promotion_id is None:
        return text
    return f"{text} and {line.stacked_promotion_id} {one_line(line.stacked_promotion_name)}".rstrip()


def receipt(answer: models.Receipt, lens: Lens) -> View:
    """Every charge of one lease, and that the sum is what the ledger booked."""
    equal = answer.total_micros == answer.ledger_micros
    facts: tuple[tuple[str, Cell], ...] = (
        ("for", f"{one_line(answer.name)} of {one_line(answer.owner)}"),
        ("charged to", one_line(answer.account)),
        ("GPU", gpu_words(answer.gpu_type, 1, answer.simulated)),
        ("total", format_money(answer.total_micros, answer.currency)),
        ("saved", format_money(answer.saved_micros, answer.currency)),
        *((("refunded", format_money(answer.refunded_micros, answer.currency)),) if answer.refunded_micros else ()),
    )
    booked = format_money(answer.ledger_micros, answer.currency)
    notes = ["receipt total == ledger total" if equal else f"The ledger says {booked}: tell your administrator."]
    if not answer.settled:
        notes.append("It still runs; more lines will follow.")
    table = charge_lines(answer.lines, answer.currency, lens.exactly)
    return View(f"Receipt {one_line(answer.lease_id)}", lens.now, facts, (table,), tuple(notes))


def costs(answer: models.CostReport, lens: Lens) -> View:
    """Settled cost by group; the rows add up to the total."""
    decimals = decimals_of([answer.settled_micros, *(row.amount_micros for row in answer.rows)])
    rows = tuple(
        (
            one_line(row.key),
            format_duration(row.gpu_seconds),
            format_money(row.amount_micros, answer.currency, decimals=decimals),
        )
        for row in answer.rows
    )
    facts: tuple[tuple[str, Cell], ...] = (
        ("settled", format_money(answer.settled_micros, answer.currency, decimals=decimals)),
        ("running, not settled yet", format_amount(answer.running_micros, answer.currency)),
    )
    table = Table((answer.by, "GPU time", "amount"), rows, frozenset({1, 2}), empty="no settled cost")
    return View(f"Cost by {answer.by}", lens.now, facts, (table,))


# ---------------------------------------------------------------- jobs, reasons


def jobs(answer: Sequence[models.Job], lens: Lens) -> View:
    """A list of jobs, newest first."""
    return View("Jobs", lens.now, tables=(_job_table(answer, lens, ""),))


def _job_table(answer: Sequence[models.Job], lens: Lens, caption: str) -> Table:
    rows = tuple(job_row(job, lens) for job in answer)
    if answer:
        caption = f"{caption}, cost in" if caption else "Cost in"
        caption = f"{caption} {one_line(answer[0].currency)}"
    columns = ("id", "name", "state", "GPU", "progress", "ends", "cost")
    return Table(columns, rows, frozenset({6}), caption)


def job_row(job: models.Job, lens: Lens) -> tuple[Cell, ...]:
    """A job in a list: id, name with its parameters, state, GPU, progress, end, cost."""
    return (
        one_line(job.id),
        one_line(" ".join([job.name, *(f"{name}={value}" for name, value in job.parameters.items())])),
        job_state(job),
        gpu_words(job.gpu_type, job.gpu_count, job.simulated),
        _progress(job),
        _end(job, lens),
        format_amount(job.cost_micros),
    )


def job_state(job: models.Job) -> str:
    """State in words, with the queue place or the exit code where there is one."""
    words = job.state.value.replace("_", " ")
    if job.state is models.JobState.queued and job.queue_place:
        words = f"{words}, place {job.queue_place}"
    if job.state is models.JobState.failed and job.exit_code is not None:
        words = f"{words}, exit code {job.exit_code}"
    if job.spot:
        words = f"{words}, spot"
    return f"{words}, attempt {job.attempt}" if job.attempt > 1 else words


def _progress(job: models.Job) -> Cell:
    return NO_VALUE if job.progress is None else Bar(job.progress, format_fraction(job.progress))


def _end(job: models.Job, lens: Lens) -> str:
    if job.ended_at:
        return lens.at(job.ended_at)
    return f"about {lens.at(job.eta_end)}" if job.eta_end else NO_VALUE


def job(answer: models.Job, lens: Lens, page: str = "") -> View:
    """One job: state and reason, progress, GPUs, money; and where its result page is."""
    money = (format_money if answer.state.final else format_amount)(answer.cost_micros, answer.currency)
    held = f", {format_amount(answer.held_micros, answer.currency)} reserved" if answer.held_micros else ""
    promotion = f", promotion {one_line(answer.promotion_name)}" if answer.promotion_name else ""
    facts: list[tuple[str, Cell]] = [
        ("state", job_state(answer)),
        ("GPU", gpu_words(answer.gpu_type, answer.gpu_count, answer.simulated)),
        ("submitted", lens.at(answer.submitted_at)),
        _instant("start", answer.started_at, answer.eta_start, lens),
        _instant("end", answer.ended_at, answer.eta_end, lens),
        ("cost", f"{money}{held}"),
        ("charged to", one_line(answer.account)),
    ]
    if answer.ends_at and answer.ending:
        facts.append(("will be stopped", f"{lens.at(answer.ends_at)}: {explain(answer.ending, lens)}"))
    if not answer.state.final:
        facts.append(("rate", f"{format_rate(answer.rate_per_hour_micros, answer.currency)}{promotion}"))
    if answer.array_id is not None:
        values = ", ".join(f"{name}={value}" for name, value in answer.parameters.items())
        facts.append(("array", one_line(f"{answer.array_id}: {values}")))
    if answer.after and not answer.started_at:
        facts.append(("after", one_line(", ".join(answer.after))))
    if answer.retry_of is not None:
        facts.append(("first attempt", one_line(answer.retry_of)))
    if answer.next_attempt is not None:
        facts.append(("next attempt", one_line(answer.next_attempt)))
    if answer.progress is not None:
        facts.insert(1, ("progress", _progress(answer)))
    if answer.explanation:
        facts.insert(1, ("why", explain(answer.explanation, lens)))
    if page:
        facts.append(("page", Link(page, "result page")))
    return View(f"Job {one_line(answer.id)} {one_line(answer.name)}", lens.now, tuple(facts))


def _instant(verb: str, happened: datetime | None, expected: datetime | None, lens: Lens) -> tuple[str, Cell]:
    if happened:
        return f"{verb}ed", lens.exactly(happened)
    return f"{verb}s", f"about {lens.at(expected)}" if expected else "not known"


def files(job_id: str, answer: Sequence[models.JobFile], lens: Lens) -> View:
    """The files a job left behind."""
    rows = tuple((one_line(file.path), format_bytes(file.size_bytes)) for file in answer)
    return View(f"Files of job {one_line(job_id)}", lens.now, tables=(Table(("file", "size"), rows, frozenset({1})),))


def why(answer: models.Why, lens: Lens) -> View:
    """The reason for the present state and the events that led to it."""
    rows = tuple((lens.exactly(step.at), step_words(step, answer.currency, lens.at)) for step in answer.history)
    state = one_line(answer.state).replace("_", " ")
    facts: list[tuple[str, Cell]] = [("state", state), ("why", explain(answer.explanation, lens))]
    if answer.run:
        facts.append(("expected to run", run_words(answer.run)))
    tables = [Table(("when", "what happened"), rows, caption="How it came to this")]
    if answer.sooner:
        options = tuple((explain(option, lens),) for option in answer.sooner)
        tables.insert(0, Table(("what would help",), options, caption="To start it sooner, or for less"))
    return View(f"Why {one_line(answer.id)}", lens.now, tuple(facts), tuple(tables))


def run_words(run: models.RunEstimate) -> str:
    """An expected run time with its bounds: ``about 12 min (4 min to 1 h)``."""
    low, likely, high = (
        format_duration(max(1, value)) for value in (run.low_seconds, run.likely_seconds, run.high_seconds)
    )
    return f"about {likely}" if low == high else f"about {likely} ({low} to {high})"


def explanation(answer: models.Explanation, lens: Lens) -> View:
    """A single reason, such as the last refusal."""
    facts = (("why", explain(answer, lens)), ("code", one_line(answer.code)))
    return View("Why", lens.now, facts)
