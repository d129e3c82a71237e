"""``make demo``: the main job without a screen."""

from __future__ import annotations

import subprocess
import sys

from tools.hub import ROOT


def test_the_demo_ends_well_and_its_receipts_add_up():
    done = subprocess.run(
        [sys.executable, "-m", "tools.demo"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert done.stdout.count("receipt total == ledger total") >= 3  # in the notebook, and both receipts at the end
    assert "0.00 held" in done.stdout
