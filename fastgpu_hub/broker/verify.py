"""The books replayed: what workloads' evidence and the ledger's entries say must agree, to the micro-unit. Pure.

Nothing here trusts a sum that was kept: states, bounds and amounts follow from events and lines alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fastgpu_hub.broker.ports.records import Booked, Hold, Workload, WorkloadEvent
from fastgpu_hub.pricing.ledger import LedgerError, Transfer, check_balanced
from fastgpu_hub.pricing.metering import GPU_HOUR, START, TASK_HOUR, Line
from fastgpu_hub.pricing.money import hourly_amount_micros
from fastgpu_hub.pricing.pricebook import PriceBook, PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Promotion, discounted

_NEXT_STATE = {"granted": "granted", "started": "running", "stopping": "stopping", "ended": "ended"}


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that does not fit: where, and what, in a sentence with its numbers."""

    where: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.where}: {self.sentence}"


class Terms:
    """What a line's rates must be by the price and promotion versions that it names."""

    def __init__(self, prices: Sequence[PriceVersion], promotions: Sequence[Promotion]) -> None:
        self._prices = {version.id: version for version in prices}
        self._promotions = {promotion.id: promotion for promotion in promotions}
        self._known: dict[tuple[object, ...], str] = {}

    def fault(self, gpu_type: str, line: Line, spot_percent_off: int | None) -> str:
        """Why these rates cannot be, or nothing. The same terms are looked at once."""
        key = (
            *(gpu_type, spot_percent_off, line.unit, line.rate_micros, line.list_rate_micros),
            *(line.price_id, line.promotion_id, line.stacked_promotion_id),
        )
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = self._fault(gpu_type, line, spot_percent_off)
        return found

    def _fault(self, gpu_type: str, line: Line, spot_percent_off: int | None) -> str:
        version = self._prices.get(line.price_id)
        if version is None:
            return f"it names price {line.price_id}, which does not exist"
        book = PriceBook([version])
        if spot_percent_off is not None:
            book = book.spot(spot_percent_off)
        priced = book.version_at(gpu_type, version.valid_from_ms)
        if priced is None:
            return f"it names price {line.price_id}, which is for {version.gpu_type}, not {gpu_type}"
        rate = priced.rate
        if _of(rate, line.unit) != line.list_rate_micros:
            return f"its list price is {line.list_rate_micros}, that of price {version.id} is {_of(rate, line.unit)}"
        for number in (line.promotion_id, line.stacked_promotion_id):
            if number is not None and number not in self._promotions:
                return f"it names promotion {number}, which does not exist"
            rate = rate if number is None else discounted(self._promotions[number], rate)
        if _of(rate, line.unit) != line.rate_micros:
            return f"its rate is {line.rate_micros}, by its price and promotions it is {_of(rate, line.unit)}"
        return ""


def _of(rate: Rate, unit: str) -> int:
    by_unit = {GPU_HOUR: rate.per_gpu_hour_micros, TASK_HOUR: rate.per_task_hour_micros, START: rate.per_start_micros}
    return by_unit[unit]


def entry_faults(entries: Sequence[Transfer]) -> list[Fault]:
    """Entries that are malformed, whatever else is written."""
    try:
        check_balanced(entries)
    except LedgerError:
        return [Fault(f"ledger entry {entry.id}", fault) for entry in entries if (fault := _malformed(entry))]
    return []


def _malformed(entry: Transfer) -> str:
    try:
        check_balanced([entry])
    except LedgerError as error:
        return str(error).rpartition(": ")[2]
    return ""


def workload_faults(
    workload: Workload, events: Sequence[WorkloadEvent], booked: Sequence[Booked], hold: Hold | None, terms: Terms
) -> list[Fault]:
    """Everything about one workload that does not fit: its evidence, its charges and refunds, what it holds."""
    where = _name(workload)
    faults = [Fault(where, sentence) for sentence in _history(workload, events)]
    faults += holding_faults(workload, hold)
    if booked:
        faults += entry_faults([each.transfer for each in booked])
        faults += [Fault(f"ledger entry {number}", sentence) for number, sentence in _entries(workload, booked, terms)]
        faults += [Fault(f"ledger entry {number}", sentence) for number, sentence in _refunds(booked)]
    charges = [each.transfer for each in booked if each.transfer.kind == "charge" and each.transfer.line is not None]
    return faults + [Fault(where, sentence) for sentence in _charges(workload, events, charges)]


def holding_faults(workload: Workload, hold: Hold | None) -> list[Fault]:
    """What does not fit between a workload and its open hold, or its lack of one."""
    return [Fault(_name(workload), sentence) for sentence in _holding(workload, hold)]


def _name(workload: Workload) -> str:
    return f"{workload.kind} {workload.id} of {workload.owner}"


# ---------------------------------------------------------------- evidence


def _history(workload: Workload, events: Sequence[WorkloadEvent]) -> Iterator[str]:
    state, at_ms = "queued", {}
    for event in events:
        if event.kind in at_ms and event.kind in ("requested", "granted", "started", "ended"):
            yield f"it was {event.kind} twice"
        at_ms[event.kind] = event.at_ms
        if event.kind == "started" and state == "stopping":
            continue
        state = _NEXT_STATE.get(event.kind, state)
    if state != workload.state:
        yield f"its evidence says that it is {state}, its record says {workload.state}"
    kept = {"requested": workload.requested_ms, "granted": workload.granted_ms, "started": workload.billed_from_ms}
    for kind, kept_ms in kept.items():
        if at_ms.get(kind) != kept_ms:
            yield f"it was {kind} at {at_ms.get(kind)} by its evidence, at {kept_ms} by its record (ms)"
    ended_ms = at_ms.get("ended")
    if ended_ms is not None and (workload.ended_ms is None or workload.ended_ms < ended_ms):
        yield f"its evidence of the end is from {ended_ms}, but by its record it ended at {workload.ended_ms} (ms)"


def _holding(workload: Workload, hold: Hold | None) -> Iterator[str]:
    if workload.state == "ended":
        if hold is not None:
            yield f"it has ended, but hold {hold.id} is still open"
        return
    if hold is None:
        yield f"it is {workload.state} without an open hold"
        return
    if (hold.owner, hold.account, hold.gpu_type) != (workload.owner, workload.account, workload.gpu_type):
        yield f"hold {hold.id} is another person's, account's or GPU type's"
    reached_ms = max(workload.charged_until_ms or 0, workload.billed_from_ms or 0)
    for line in hold.lines:
        if line.unit != START and line.from_ms < reached_ms:
            yield f"hold {hold.id} still holds money for time from {line.from_ms}, charged until {reached_ms} (ms)"
            return


# ---------------------------------------------------------------- charges


def _entries(workload: Workload, booked: Sequence[Booked], terms: Terms) -> Iterator[tuple[int, str]]:
    """What is wrong with single entries, whatever their place among the others."""
    for each in booked:
        entry, line = each.transfer, each.transfer.line
        if line is None:
            continue
        account = entry.credit if entry.kind == "refund" else entry.debit
        if (entry.owner, account, entry.gpu_type) != (workload.owner, workload.account, workload.gpu_type):
            yield entry.id, f"it is another person's, account's or GPU type's than {workload.id}"
        if line.gpu_count != workload.gpu_count:
            yield entry.id, f"it is for {line.gpu_count} GPUs, {workload.id} has {workload.gpu_count}"
        if line.amount_micros < line.priced_at(line.rate_micros):
            yield (
                entry.id,
                f"it charges {line.amount_micros}, its rate and time make {line.priced_at(line.rate_micros)}",
            )
        if line.until_ms > entry.at_ms:
            yield entry.id, f"it was charged at {entry.at_ms} for time until {line.until_ms} (ms)"
        if each.gpu_ms != (line.quantity if line.unit == GPU_HOUR else 0):
            yield entry.id, f"it counts {each.gpu_ms} ms of GPU time, its line has {line.quantity}"
        # Entries from before promotions had budgets count nothing as saved.
        if each.saved_micros not in (0, line.saved_micros):
            yield entry.id, f"it counts {each.saved_micros} as saved, its rates make {line.saved_micros}"
        if entry.gpu_type is not None and (wrong := terms.fault(entry.gpu_type, line, workload.spot_percent_off)):
            yield entry.id, wrong


def _refunds(booked: Sequence[Booked]) -> Iterator[tuple[int, str]]:
    charges = {each.transfer.id: each.transfer for each in booked if each.transfer.kind == "charge"}
    reversed_by: dict[int, int] = {}
    for each in booked:
        entry = each.transfer
        if entry.kind != "refund":
            continue
        charge = charges.get(entry.reverses or 0)
        if charge is None or charge.id > entry.id:
            yield entry.id, f"it refunds entry {entry.reverses}, which is no charge of {entry.workload_id} before it"
            continue
        if charge.id in reversed_by:
            yield entry.id, f"it refunds charge {charge.id}, which entry {reversed_by[charge.id]} refunded before"
        reversed_by[charge.id] = entry.id
        if (entry.amount_micros, entry.line) != (charge.amount_micros, charge.line):
            yield entry.id, f"it refunds charge {charge.id} of {charge.amount_micros} by {entry.amount_micros}"


def _charges(workload: Workload, events: Sequence[WorkloadEvent], charges: Sequence[Transfer]) -> Iterator[str]:
    """What is wrong with the charges of a workload taken together."""
    started = next((event.at_ms for event in events if event.kind == "started"), None)
    if started is None:
        if charges:
            yield f"it was charged {_sum(charges)} micro-units without evidence that it started"
        return
    by_unit: dict[str, list[Line]] = {GPU_HOUR: [], TASK_HOUR: [], START: []}
    for entry in charges:
        if entry.line is not None:
            by_unit[entry.line.unit].append(entry.line)
    free = [(e.detail["from_ms"], e.detail["until_ms"]) for e in events if e.kind == "not_billed"]
    yield from _course(by_unit[GPU_HOUR], started, workload, free)
    for lines in (by_unit[GPU_HOUR], by_unit[TASK_HOUR]):
        yield from _parts(lines)
    intervals = {(line.from_ms, line.until_ms) for line in by_unit[GPU_HOUR]}
    tasks = [(line.from_ms, line.until_ms) for line in by_unit[TASK_HOUR]]
    if len(set(tasks)) != len(tasks) or not intervals.issuperset(tasks):
        yield "its task time is charged for other intervals than its GPU time"
    if len(by_unit[START]) > 1:
        yield f"its start is charged {len(by_unit[START])} times"
    reached = max((line.until_ms for lines in by_unit.values() for line in lines), default=started)
    if workload.charged_until_ms != reached:
        yield f"its charges reach {reached}, its record says {workload.charged_until_ms} (ms)"
    ended = next((event for event in events if event.kind == "ended" and "charged_micros" in event.detail), None)
    if ended is None or workload.ended_ms is None:  # it runs, or ended before the end was noted with its sum
        return
    noted = ended.detail["charged_micros"]
    if noted != _sum(charges):
        yield f"its charges add up to {_sum(charges)} micro-units, at its end they were {noted}"
    if not _covered(max(started, reached), workload.ended_ms, free):
        yield f"time from {max(started, reached)} to its end at {workload.ended_ms} is not charged, without a note (ms)"


def _sum(charges: Sequence[Transfer]) -> int:
    return sum(entry.amount_micros for entry in charges)


def _course(
    lines: Sequence[Line], started_ms: int, workload: Workload, free: Sequence[tuple[int, int]]
) -> Iterator[str]:
    """Time is charged once, in order, without a gap that is not noted, between start and end."""
    reached_ms = started_ms
    for line in lines:
        if line.from_ms < reached_ms:
            what = "before it started" if reached_ms == started_ms else "twice"
            yield f"time from {line.from_ms} to {min(reached_ms, line.until_ms)} is charged {what} (ms)"
        elif line.from_ms > reached_ms and not _covered(reached_ms, line.from_ms, free):
            yield f"time from {reached_ms} to {line.from_ms} is not charged, without a note (ms)"
        reached_ms = max(reached_ms, line.until_ms)
    if workload.ended_ms is not None and reached_ms > workload.ended_ms:
        yield f"time until {reached_ms} is charged, but it ended at {workload.ended_ms} (ms)"


def _covered(from_ms: int, until_ms: int, free: Sequence[tuple[int, int]]) -> bool:
    for begin_ms, end_ms in sorted(free):
        if begin_ms <= from_ms < end_ms:
            from_ms = end_ms
    return from_ms >= until_ms


def _parts(lines: Sequence[Line]) -> Iterator[str]:
    """Parts of a stretch under one set of terms never add up to more than the whole of it."""
    terms: tuple[object, ...] = ()
    from_ms = reached_ms = amount = 0
    for line in lines:
        of_line = (line.rate_micros, line.gpu_count, line.price_id, line.promotion_id, line.stacked_promotion_id)
        if of_line != terms or line.from_ms != reached_ms:
            terms, from_ms, amount = of_line, line.from_ms, 0
        amount += line.amount_micros
        reached_ms = line.until_ms
        count = line.gpu_count if line.unit == GPU_HOUR else 1
        whole = hourly_amount_micros(count, line.rate_micros, reached_ms - from_ms)
        if amount > whole:
            yield f"time from {from_ms} to {reached_ms} is charged {amount} micro-units, its rate makes {whole} (ms)"
            return


def by_workload(entries: Sequence[Booked]) -> Mapping[str, list[Booked]]:
    """Ledger entries by the workload that they are about, in their order."""
    found: dict[str, list[Booked]] = {}
    for entry in entries:
        found.setdefault(entry.transfer.workload_id or "", []).append(entry)
    return found
