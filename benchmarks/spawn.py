"""How soon is a server ready? The stock SimpleLocalProcessSpawner against FastGPULocalSpawner, in turn.

Measured per start: from the POST of /users/NAME/server to the hub's own `ready` flag, asked every 20 ms. Both spawners
start the same single-user server of the same Python without a GPU, each from a hub of its own (one idles while the
other is measured); which of a pair goes first alternates. Before the first pair each spawner starts once unmeasured,
so that neither pays for cold files.

    python benchmarks/spawn.py --pairs 7 --json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.running_hub import RunningHub

CONFIGS = {
    "stock": 'c.JupyterHub.spawner_class = "simple"',
    "fastgpu": 'c.JupyterHub.spawner_class = "fastgpu_hub.spawner.FastGPULocalSpawner"',
}


def measure(hub: RunningHub, user: str) -> float:
    """Seconds from asking for a server to the hub calling it ready; the server is stopped afterwards."""
    began = time.monotonic()
    answer = hub.api("POST", f"/users/{user}/server", {})
    if answer.status not in (201, 202):
        raise RuntimeError(f"the hub refused to start {user}'s server: {answer}")
    hub.wait_ready(user)
    seconds = time.monotonic() - began
    hub.api("DELETE", f"/users/{user}/server")
    hub.wait_gone(user)
    return seconds


def run(pairs: int) -> dict[str, float | int]:
    """All pairs; medians in seconds and their ratio."""
    seconds: dict[str, list[float]] = {"stock": [], "fastgpu": []}
    with contextlib.ExitStack() as stack:
        hubs = {}
        for kind, config in CONFIGS.items():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            hubs[kind] = stack.enter_context(RunningHub(config, folder))
            hubs[kind].api("POST", "/users/alice")
            measure(hubs[kind], "alice")
        for pair in range(pairs):
            for kind in ("stock", "fastgpu") if pair % 2 == 0 else ("fastgpu", "stock"):
                seconds[kind].append(measure(hubs[kind], "alice"))
            latest = ", ".join(f"{kind} {seconds[kind][-1]:.2f} s" for kind in hubs)
            print(f"pair {pair + 1}: {latest}", flush=True)
    stock, fastgpu = (statistics.median(seconds[kind]) for kind in ("stock", "fastgpu"))
    return {
        "stock_ready_s_p50": round(stock, 3),
        "fastgpu_ready_s_p50": round(fastgpu, 3),
        "ratio_p50": round(fastgpu / stock, 3),
        "pairs": pairs,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Ready sooner than the stock spawner? Measured side by side.")
    parser.add_argument("--pairs", type=int, default=7, help="starts of each spawner, in turn (default: 7)")
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object on the last line")
    chosen = parser.parse_args()
    result = run(chosen.pairs)
    print(f"median: stock {result['stock_ready_s_p50']} s, fastgpu {result['fastgpu_ready_s_p50']} s", flush=True)
    if chosen.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
