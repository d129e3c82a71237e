"""Is the ledger fast? Charge lines against the driver's own insert, reports against DuckDB, quotes against a clock.

All is measured in one run, in turn where two are compared, and medians are told. Data are the same in every run. The
report of DuckDB must be ours to the micro-unit and every price a reference's with fractions, else the run fails.
DuckDB and pyarrow are the extra ``bench``; without them their figures are null.

    python benchmarks/ledger.py --json
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ledger_quotes
import ledger_report
import ledger_writes

WANTED = {
    "ingest_ratio_accepted": "at least 0.75",
    "ingest_ratio_caught_up": "at least 0.5",
    "group_commit_speedup_64": "at least 10",
    "report_1m_p50_ms": "at most 1/3 of DuckDB's",
    "duckdb_1m_p50_ms": "",
    "report_10m_p50_ms": "at most 1/4 of DuckDB's",
    "duckdb_10m_p50_ms": "",
    "quotes_per_s": "at least 10,000",
    "price_500_over_10_segments": "at least 0.8",
}
MEANS = {
    "ingest_ratio_accepted": "charge lines accepted, of the driver's batch insert",
    "ingest_ratio_caught_up": "the same until the rollups caught up",
    "group_commit_speedup_64": "writes of 64 writers at once, times those of one",
    "report_1m_p50_ms": "month's report of 5,000 people over {small:,} lines, ms",
    "duckdb_1m_p50_ms": "DuckDB over Parquet, the same, ms",
    "report_10m_p50_ms": "month's report over {large:,} lines, ms",
    "duckdb_10m_p50_ms": "DuckDB over Parquet, the same, ms",
    "quotes_per_s": "full quotes a second, 200 promotions, one core",
    "price_500_over_10_segments": "speed of a price over 500 segments, of one over 10",
}


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    rounds: int
    lines: int
    small: int
    large: int
    quotes: int


FULL = Size(rounds=7, lines=50_000, small=1_000_000, large=10_000_000, quotes=20_000)
QUICK = Size(rounds=2, lines=2_000, small=5_000, large=20_000, quotes=400)


def say(text: str) -> None:
    """Progress, as it happens."""
    print(text, flush=True)


def run(folder: Path, size: Size) -> dict[str, Any]:
    """All parts; the figures by their keys."""
    say("price of an interval")
    segments = ledger_quotes.segments(size.quotes // 4, 4 * size.rounds + 1, say)
    say("quotes")
    quotes = ledger_quotes.quotes(size.quotes, size.rounds, say)
    say("group commit")
    commits = ledger_writes.commits(folder, 2 * size.rounds + 1, say)
    say("charge lines")
    ingest = ledger_writes.ingest(folder, size.rounds, size.lines, say)
    reports = []
    for lines in (size.small, size.large):
        say(f"report over {lines:,} lines")
        reports.append(ledger_report.report(folder, lines, 3 * size.rounds, say))
    small, large = reports
    return {
        "ingest_ratio_caught_up": round(ingest.ratio(ingest.caught_up), 3),
        "ingest_ratio_accepted": round(ingest.ratio(ingest.accepted), 3),
        "group_commit_speedup_64": round(commits.speedup, 1),
        "report_1m_p50_ms": _median(small.ours),
        "report_10m_p50_ms": _median(large.ours),
        "duckdb_1m_p50_ms": _median(small.duckdb),
        "duckdb_10m_p50_ms": _median(large.duckdb),
        "quotes_per_s": round(statistics.median(quotes.per_second)),
        "price_500_over_10_segments": round(segments, 3),
    }


def _median(times: list[float] | None) -> float | None:
    return None if times is None else round(statistics.median(times), 2)


def table(found: dict[str, Any], size: Size) -> str:
    """The figures for people."""
    lines = [f"{'':<58} {'measured':>10}   wanted"]
    for key, wanted in WANTED.items():
        value = found[key]
        shown = "left out" if value is None else f"{value:,}"
        lines.append(f"{MEANS[key].format(small=size.small, large=size.large):<58} {shown:>10}   {wanted}".rstrip())
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="How fast the ledger is, side by side with what it could be.")
    parser.add_argument("--quick", action="store_true", help="a smaller run, to see that it works; no figures to quote")
    parser.add_argument("--lines", type=int, help="lines of the larger report (default: 10,000,000)")
    parser.add_argument("--folder", type=Path, help="where to put up to 7 GiB of data (default: a temporary folder)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line")
    chosen = parser.parse_args()
    size = QUICK if chosen.quick else FULL
    if chosen.lines:
        size = Size(size.rounds, size.lines, min(size.small, chosen.lines), chosen.lines, size.quotes)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fastgpu-bench-", dir=chosen.folder) as folder:
        found = run(Path(folder), size)
    if found["duckdb_1m_p50_ms"] is None:
        say("left out: DuckDB and pyarrow are not installed (pip install 'fastgpu-hub[bench]')")
    say(f"{table(found, size)}\n{time.monotonic() - began:.0f} s in all")
    if chosen.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
