"""The ledger's benchmark runs, compares what it measures, and tells its figures by their keys."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parent.parent.parent / "benchmarks" / "ledger.py"
KEYS = {
    "ingest_ratio_caught_up",
    "ingest_ratio_accepted",
    "group_commit_speedup_64",
    "report_1m_p50_ms",
    "report_10m_p50_ms",
    "duckdb_1m_p50_ms",
    "duckdb_10m_p50_ms",
    "quotes_per_s",
    "price_500_over_10_segments",
}


@pytest.mark.slow
def test_a_small_run_gives_every_figure_and_agrees_with_its_references(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--quick", "--json", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == KEYS
    left_out = {key for key, value in found.items() if value is None}
    if importlib.util.find_spec("duckdb") and importlib.util.find_spec("pyarrow"):
        assert left_out == set()
    else:
        assert left_out == {"duckdb_1m_p50_ms", "duckdb_10m_p50_ms"}
        assert "left out: DuckDB" in done.stdout
    assert all(value > 0 for value in found.values() if value is not None)
    assert "400 prices equal to the reference" in done.stdout
    assert list(tmp_path.iterdir()) == []  # gigabytes, in a full run
