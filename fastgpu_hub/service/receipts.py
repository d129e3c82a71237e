"""Receipts for people and for spreadsheets: text, HTML and CSV, all made from the same lines. Pure."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined

from fastgpu.formatting import decimals_of, format_date_time, format_money, one_line
from fastgpu.models import ChargeLine, Receipt
from fastgpu_hub.service.routing import CSV, HTML, TEXT

FORMATS = {"text": TEXT, "html": HTML, "csv": CSV}

_UNITS = {"gpu_hour": "GPU-hour", "task_hour": "task-hour", "start": "start"}
# A spreadsheet takes a cell that begins so for a formula; some drop white space first.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_COLUMNS_WIDE = 80
_STYLE = (files("fastgpu_hub.service") / "static" / "receipt.css").read_text(encoding="utf-8")
_PAGES = Environment(
    loader=PackageLoader("fastgpu_hub.service", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
# The document brings its own style, and may do nothing else.
HTML_POLICY = (
    "default-src 'none'; frame-ancestors 'none'; sandbox; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'"
)


@dataclass(frozen=True, slots=True)
class Row:
    """A charge line in words. ``list_price`` is empty where it is the price; a start has no ``until``."""

    starts: str
    until: str
    what: str
    price: str
    list_price: str
    rules: tuple[str, ...]
    amount: str
    refunded: bool
    charge_id: int | None


@dataclass(frozen=True, slots=True)
class Itemised:
    """A receipt in words: its rows, and its sums written with as many decimals as the finest row has."""

    rows: tuple[Row, ...]
    total: str
    saved: str
    refunded: str
    ledger: str
    adds_up: bool


def itemised(receipt: Receipt, zone: ZoneInfo) -> Itemised:
    """The receipt's lines and sums in words; ``saved`` and ``refunded`` are empty where there is nothing."""
    decimals = decimals_of([line.amount_micros for line in receipt.lines] + [receipt.total_micros])

    def money(micros: int) -> str:
        return format_money(micros, receipt.currency, decimals=decimals)

    counted = sum(line.amount_micros for line in receipt.lines if not line.refunded)
    return Itemised(
        tuple(_row(line, receipt.currency, decimals, zone) for line in receipt.lines),
        money(receipt.total_micros),
        money(receipt.saved_micros) if receipt.saved_micros else "",
        money(receipt.refunded_micros) if receipt.refunded_micros else "",
        money(receipt.ledger_micros),
        counted == receipt.total_micros == receipt.ledger_micros,
    )


def _row(line: ChargeLine, currency: str, decimals: int, zone: ZoneInfo) -> Row:
    listed = line.rate_micros != line.list_rate_micros
    return Row(
        starts=_when(line.starts_at, zone),
        until="" if line.unit == "start" else _when(line.ends_at, zone),
        what=_what(line),
        price=f"{format_money(line.rate_micros, currency)} per {_UNITS[line.unit]}",
        list_price=format_money(line.list_rate_micros, currency) if listed else "",
        rules=tuple(_rules(line)),
        amount=format_money(line.amount_micros, currency, decimals=decimals),
        refunded=line.refunded,
        charge_id=line.charge_id,
    )


def _when(moment: datetime, zone: ZoneInfo) -> str:
    return format_date_time(moment, zone, seconds=True)


def _what(line: ChargeLine) -> str:
    if line.unit == "start":
        return "1 start"
    length = span(line.starts_at, line.ends_at)
    return f"{line.gpu_count} GPU{'' if line.gpu_count == 1 else 's'} × {length}" if line.unit == "gpu_hour" else length


def _rules(line: ChargeLine) -> Iterable[str]:
    """Exactly which rules priced a line: the numbers are those of the price's and the promotions' versions."""
    yield f"price {line.price_id}{f' ({one_line(line.price_note)})' if line.price_note else ''}"
    for number, name in (
        (line.promotion_id, line.promotion_name),
        (line.stacked_promotion_id, line.stacked_promotion_name),
    ):
        if number is not None:
            yield f"promotion {number}{f' “{one_line(name)}”' if name else ''}"


def span(start: datetime, end: datetime) -> str:
    """Length of an interval: ``2 h 05 min``, ``2 h 05 min 09 s``, ``3 min 07 s``, ``4.250 s``; nothing is left out."""
    seconds, rest = divmod((end - start) // timedelta(milliseconds=1), 1000)
    fraction = f".{rest:03d}" if rest else ""
    hours, minutes, seconds = seconds // 3600, seconds // 60 % 60, seconds % 60
    if not hours and not minutes:
        return f"{seconds}.{rest:03d} s"
    tail = f" {seconds:02d}{fraction} s" if seconds or rest else ""
    return f"{hours} h {minutes:02d} min{tail}" if hours else f"{minutes} min{tail or ' 00 s'}"


def as_text(receipt: Receipt, time_zone: str) -> str:
    """A receipt for a terminal or an e-mail: at most 80 columns wide as long as names are short."""
    told = itemised(receipt, ZoneInfo(time_zone))
    width = max(len(amount) for amount in (*(row.amount for row in told.rows), told.total, told.saved, told.refunded))
    simulated = " (simulated)" if receipt.simulated else ""
    lines = [
        f"Receipt for {one_line(receipt.name) or receipt.lease_id}",
        "",
        f"Lease       {receipt.lease_id}",
        f"Person      {one_line(receipt.owner)}",
        f"Charged to  {one_line(receipt.account)}",
        f"GPU type    {receipt.gpu_type}{simulated}",
        f"State       {'final' if receipt.settled else 'not final: more lines may come'}",
        "",
    ]
    if not told.rows:
        lines += ["Nothing was charged.", ""]
    for number, row in enumerate(told.rows, 1):
        times = f"{row.starts} – {row.until}" if row.until else row.starts
        lines += [
            f"{number:>4}  {times}",
            f"      {row.what} at {row.price}{f' (list price {row.list_price})' if row.list_price else ''}",
            f"      {'; '.join(row.rules)}",
            f"      {'refunded' if row.refunded else '':<{_COLUMNS_WIDE - 6 - width}}{row.amount:>{width}}",
        ]
    sums = [("Total", told.total), ("Saved by promotions", told.saved), ("Refunded, not in the total", told.refunded)]
    lines += ["-" * _COLUMNS_WIDE] if told.rows else []
    lines += [f"      {label:<{_COLUMNS_WIDE - 6 - width}}{amount:>{width}}" for label, amount in sums if amount]
    equal = "which the ledger booked too." if told.adds_up else f"but the ledger booked {told.ledger}."
    lines += ["", f"The lines add up to {told.total}, {equal}"]
    if not told.adds_up:
        lines.append("It does not add up: tell the administrator.")
    return "\n".join(lines) + "\n"


def as_html(receipt: Receipt, time_zone: str) -> str:
    """A receipt as a document of its own, to be kept or printed; it loads nothing and runs nothing."""
    told = itemised(receipt, ZoneInfo(time_zone))
    template = _PAGES.get_template("receipt_document.html")
    return template.render(receipt=receipt, told=told, style=_STYLE, time_zone=time_zone)


_COLUMNS = (
    *("lease", "name", "owner", "account", "gpu_type", "simulated", "charge_id", "starts_at", "ends_at", "unit"),
    *("gpu_count", "quantity", "quantity_unit", "price_id", "price_note", "list_rate", "rate"),
    *("promotion_id", "promotion"),
    *("stacked_promotion_id", "stacked_promotion", "amount", "refunded", "counted_amount", "currency"),
)
_QUANTITIES = {"gpu_hour": "GPU-seconds", "task_hour": "seconds", "start": "starts"}


def as_csv(receipt: Receipt) -> str:
    """One row per charge line, instants in UTC; ``counted_amount`` is 0 for refunded lines and adds up to the total."""
    return csv_text(_COLUMNS, (_cells(receipt, line) for line in receipt.lines))


def _cells(receipt: Receipt, line: ChargeLine) -> tuple[Any, ...]:
    return (
        *(receipt.lease_id, receipt.name, receipt.owner, receipt.account, receipt.gpu_type, _yes(receipt.simulated)),
        *(line.charge_id, _utc(line.starts_at), _utc(line.ends_at), line.unit),
        *(line.gpu_count, line.quantity, _QUANTITIES[line.unit], line.price_id, line.price_note),
        *(format_money(line.list_rate_micros), format_money(line.rate_micros)),
        *(line.promotion_id, line.promotion_name, line.stacked_promotion_id, line.stacked_promotion_name),
        *(format_money(line.amount_micros), _yes(line.refunded)),
        *(format_money(0 if line.refunded else line.amount_micros), receipt.currency),
    )


def csv_text(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """CSV with a head and CRLF. Text that a spreadsheet would take for a formula gets an apostrophe; None is empty."""
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(heads)
    writer.writerows([_harmless(cell) for cell in row] for row in rows)
    return written.getvalue()


def _harmless(cell: Any) -> Any:
    if not isinstance(cell, str):
        return "" if cell is None else cell
    # NFKC: a full-width equals sign is one too, once a spreadsheet has read the file.
    begins = unicodedata.normalize("NFKC", cell.lstrip(" \u00a0\ufeff")[:1])
    return f"'{cell}" if begins.startswith(_FORMULA) else cell


def _utc(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}Z"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
