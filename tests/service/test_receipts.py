"""Receipts as documents: every line named by its rules, every format adding up to the same micro-unit."""

from __future__ import annotations

import csv
import io
import re
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from fastgpu.formatting import parse_money
from fastgpu.models import ChargeLine, Receipt
from fastgpu_hub.service import receipts

NOON = datetime(2025, 11, 21, 12, 0, tzinfo=timezone.utc)


def line(charge_id: int, minutes: int, **changes: Any) -> ChargeLine:
    values: dict[str, Any] = {
        "unit": "gpu_hour",
        "starts_at": NOON,
        "ends_at": NOON + timedelta(minutes=minutes),
        "gpu_count": 2,
        "quantity": 2 * 60 * minutes,
        "rate_micros": 250_000,
        "list_rate_micros": 500_000,
        "amount_micros": 2 * 250_000 * minutes // 60,
        "price_id": 3,
        "promotion_id": 7,
        "promotion_name": "Launch <b>week</b>",
        "charge_id": charge_id,
    }
    return ChargeLine.model_validate({**values, **changes})


def receipt(*lines: ChargeLine, **changes: Any) -> Receipt:
    kept = sum(item.amount_micros for item in lines if not item.refunded)
    values: dict[str, Any] = {
        "lease_id": "j-000000000001",
        "workload_id": "j-000000000001",
        "name": "=train <1>",
        "owner": "alice",
        "account": "class:cs101",
        "gpu_type": "h100-80gb",
        "lines": lines,
        "total_micros": kept,
        "ledger_micros": kept,
        "saved_micros": 10_000,
        "refunded_micros": sum(item.amount_micros for item in lines if item.refunded),
        "currency": "credits",
        "settled": True,
        "simulated": True,
    }
    return Receipt.model_validate({**values, **changes})


START = line(
    1, 0, unit="start", quantity=1, rate_micros=10_000, list_rate_micros=10_000, amount_micros=10_000, promotion_id=None
)
USUAL = receipt(
    START,
    line(2, 61, stacked_promotion_id=9, stacked_promotion_name="+Bonus"),
    line(3, 1, amount_micros=8_333, refunded=True),
)

TEXT = """\
Receipt for =train <1>

Lease       j-000000000001
Person      alice
Charged to  class:cs101
GPU type    h100-80gb (simulated)
State       final

   1  Fri 21 Nov 2025, 13:00:00 CET
      1 start at 0.01 credits per start
      price 3
                                                                0.010000 credits
   2  Fri 21 Nov 2025, 13:00:00 CET – Fri 21 Nov 2025, 14:01:00 CET
      2 GPUs × 1 h 01 min at 0.25 credits per GPU-hour (list price 0.50 credits)
      price 3; promotion 7 “Launch <b>week</b>”; promotion 9 “+Bonus”
                                                                0.508333 credits
   3  Fri 21 Nov 2025, 13:00:00 CET – Fri 21 Nov 2025, 13:01:00 CET
      2 GPUs × 1 min 00 s at 0.25 credits per GPU-hour (list price 0.50 credits)
      price 3; promotion 7 “Launch <b>week</b>”
      refunded                                                  0.008333 credits
--------------------------------------------------------------------------------
      Total                                                     0.518333 credits
      Saved by promotions                                       0.010000 credits
      Refunded, not in the total                                0.008333 credits

The lines add up to 0.518333 credits, which the ledger booked too.
"""

CSV = """\
lease,name,owner,account,gpu_type,simulated,charge_id,starts_at,ends_at,unit,gpu_count,quantity,quantity_unit,\
price_id,price_note,list_rate,rate,promotion_id,promotion,stacked_promotion_id,stacked_promotion,amount,refunded,\
counted_amount,currency
j-000000000001,'=train <1>,alice,class:cs101,h100-80gb,yes,1,2025-11-21T12:00:00.000Z,2025-11-21T12:00:00.000Z,start,\
2,1,starts,3,,0.01,0.01,,Launch <b>week</b>,,,0.01,no,0.01,credits
j-000000000001,'=train <1>,alice,class:cs101,h100-80gb,yes,2,2025-11-21T12:00:00.000Z,2025-11-21T13:01:00.000Z,\
gpu_hour,2,7320,GPU-seconds,3,,0.50,0.25,7,Launch <b>week</b>,9,'+Bonus,0.508333,no,0.508333,credits
j-000000000001,'=train <1>,alice,class:cs101,h100-80gb,yes,3,2025-11-21T12:00:00.000Z,2025-11-21T12:01:00.000Z,\
gpu_hour,2,120,GPU-seconds,3,,0.50,0.25,7,Launch <b>week</b>,,,0.008333,yes,0.00,credits
"""


def test_the_text_of_a_receipt_names_interval_quantity_price_and_rules_of_each_line() -> None:
    assert receipts.as_text(USUAL, "Europe/Berlin") == TEXT


def test_the_csv_of_a_receipt_is_one_row_per_line_whose_counted_amounts_are_the_total() -> None:
    assert receipts.as_csv(USUAL).replace("\r\n", "\n") == CSV
    rows = list(csv.DictReader(io.StringIO(receipts.as_csv(USUAL))))
    assert sum(parse_money(row["counted_amount"]) for row in rows) == USUAL.total_micros
    assert sum(parse_money(row["amount"]) for row in rows) == USUAL.total_micros + USUAL.refunded_micros


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "\ufeff=1", "＝1", "\n-1"])
def test_a_name_never_becomes_a_formula_in_a_spreadsheet(name: str) -> None:
    (_, row) = csv.reader(io.StringIO(receipts.csv_text(["name"], [[name]]), newline=""))
    assert row == [f"'{name}"]
    assert receipts.csv_text(["n"], [[-5, "a=b", None]]).splitlines()[1] == "-5,a=b,"


def amounts(page: str) -> tuple[list[int], int]:
    """The amounts of the lines of a page that are not struck through, and its total."""
    body, foot = page[page.index("<tbody>") : page.index("</tbody>")], page[page.index("<tfoot>") :]
    cells = re.findall(r'data-label="Amount">([^<]+)<', body)
    total = re.search(r"<strong>([\d.]+) credits</strong>", foot)
    assert total is not None
    return [parse_money(cell.split()[0]) for cell in cells], parse_money(total.group(1))


def test_the_html_of_a_receipt_adds_up_and_says_in_words_what_is_refunded() -> None:
    page = receipts.as_html(USUAL, "UTC")
    kept, total = amounts(page)
    assert sum(kept) == total == USUAL.ledger_micros
    assert "<s>0.008333 credits</s><br><small>refunded</small>" in page
    assert "It adds up" in page
    assert "Launch &lt;b&gt;week&lt;/b&gt;" in page
    assert "<b>week" not in page
    assert "<script" not in page


@pytest.mark.parametrize("changes", [{"ledger_micros": 1}, {"total_micros": 2, "ledger_micros": 2}])
def test_a_receipt_that_does_not_add_up_says_so_everywhere(changes: dict[str, int]) -> None:
    wrong = receipt(START, **changes)
    assert not receipts.itemised(wrong, ZoneInfo("UTC")).adds_up
    assert "does not add up: receipt total" in receipts.as_html(wrong, "UTC")
    assert "It does not add up: tell the administrator." in receipts.as_text(wrong, "UTC")


def test_a_receipt_without_lines_says_that_nothing_was_charged() -> None:
    empty = receipt(saved_micros=0, settled=False)
    assert "Nothing was charged." in receipts.as_text(empty, "UTC")
    assert "not final: more lines may come" in receipts.as_text(empty, "UTC")
    assert "Nothing was charged." in receipts.as_html(empty, "UTC")


@pytest.mark.parametrize(
    ("ms", "words"),
    [
        *((0, "0.000 s"), (4_250, "4.250 s"), (60_000, "1 min 00 s"), (187_000, "3 min 07 s")),
        *((7_500_000, "2 h 05 min"), (7_509_040, "2 h 05 min 09.040 s"), (3_600_001, "1 h 00 min 00.001 s")),
    ],
)
def test_a_span_leaves_nothing_out(ms: int, words: str) -> None:
    assert receipts.span(NOON, NOON + timedelta(milliseconds=ms)) == words


def test_terminal_escapes_in_a_name_do_not_reach_a_terminal() -> None:
    text = receipts.as_text(receipt(START, name="a\x1b[2Jb"), "UTC")
    assert "\x1b" not in text
    assert text.startswith("Receipt for ab\n")


@pytest.mark.slow
async def test_one_receipt_in_all_formats_is_what_the_ledger_booked(service: Any) -> None:
    job = await service.running(name="=short")
    service.engine.finish(job["id"])
    await service.call("t-alice", "GET", f"api/jobs/{job['id']}?wait_seconds=5&state=running")
    path = f"api/leases/{job['id']}/receipt"
    plain = (await service.call("t-alice", "GET", path)).json()
    assert (await service.call("t-alice", "GET", f"{path}?format=json")).json() == plain
    total = plain["ledger_micros"]
    text = await service.call("t-alice", "GET", f"{path}?format=text")
    assert "which the ledger booked too" in text.text
    assert text.headers["Content-Type"] == "text/plain; charset=utf-8"
    sheet = await service.call("t-alice", "GET", f"{path}?format=csv")
    assert sum(parse_money(row["counted_amount"]) for row in csv.DictReader(io.StringIO(sheet.text))) == total
    assert sheet.headers["Content-Disposition"] == f'attachment; filename="receipt-{job["id"]}.csv"'
    document = await service.call("t-alice", "GET", f"{path}?format=html")
    assert amounts(document.text) == ([item["amount_micros"] for item in plain["lines"]], total)
    assert "sandbox" in document.headers["Content-Security-Policy"]
    assert (await service.call("t-alice", "GET", f"{path}?format=pdf")).status_code == 422
    for kind in ("text", "csv", "html"):
        assert (await service.call("t-carol", "GET", f"{path}?format={kind}")).status_code == 404
