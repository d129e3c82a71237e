"""The end of a hub. Alone in its module, because it ends the hub that a module's tests share, in whatever order."""

from __future__ import annotations

import os
import time

import psutil


def test_the_end_of_the_hub_leaves_no_process_behind(hub, client_of):
    seconds = str(300_000 + os.getpid())  # tells this run's processes from any other's
    job = client_of("bob").submit(["sh", "-c", f"setsid sleep {seconds} & exec sleep {seconds}"], "h100-80gb", 1, "10m")
    while job.refresh().state.value != "running":
        time.sleep(0.05)
    assert hub.stop() == []
    assert [p for p in psutil.process_iter(["cmdline"]) if (p.info["cmdline"] or [])[-2:] == ["sleep", seconds]] == []
    assert hub.processes() == []
