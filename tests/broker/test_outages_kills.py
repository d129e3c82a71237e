"""Promise 3: killed with SIGKILL at any moment while it meters, the service charges each second once and loses none."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest

from fastgpu_hub.pricing.ledger import check_balanced
from fastgpu_hub.store import open_store

pytestmark = pytest.mark.slow  # hundreds of services, one after another


def kill_many_times(url: str, rounds: int) -> tuple[list[list], float]:
    """Run the program; its facts in the order they were told, and the seconds it took."""
    program = Path(__file__).with_name("killed_service.py")
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(program), url, str(rounds), "1"],
        env={**os.environ, "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        timeout=rounds * 2 + 120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    # At this speed a minute without looking passes at once: such news of late looks are true.
    assert not re.search("inconsistent: (?!.*funding is over)", done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()], time.monotonic() - began


class Truth:
    """What engine and hub know and callers were told, by workload."""

    def __init__(self, facts: list[list]) -> None:
        self.count = Counter(fact[0] for fact in facts)
        self.of = {(fact[0], fact[1]): fact[2:] for fact in facts}
        self.acknowledged_rows = {int(fact[1]): fact[2:] for fact in facts if fact[0] == "row"}
        self.acknowledged_events = [tuple(fact[1].split()) for fact in facts if fact[0] == "event"]
        self.id_of = {name: values[0] for (kind, name), values in self.of.items() if kind == "asked"}
        self.name_of = {workload_id: name for name, workload_id in self.id_of.items()}
        # Per server: when it was last seen up before each heartbeat that was acknowledged.
        self.last_seen_ms: dict[str, int] = {}
        seen: dict[str, int] = {}
        for kind, name, *values in facts:
            if kind == "checked":
                seen[name] = values[0]
            elif kind == "killed":
                seen.clear()  # what no heartbeat had taken down by then
            elif kind == "beat":
                self.last_seen_ms |= seen

    def ran(self, workload_id: str) -> tuple[int, int] | None:
        """When a job's processes began and ended, as its engine knows."""
        return self.of.get(("finished", workload_id))


def expected_micros(prices: list, from_ms: int, until_ms: int) -> float:
    """What the time costs at the price of each moment."""
    cost = 0
    for price, following in itertools.zip_longest(prices, prices[1:]):
        end_ms = until_ms if following is None else min(until_ms, following.valid_from_ms)
        cost += max(0, end_ms - max(from_ms, price.valid_from_ms)) * price.rate.per_gpu_hour_micros
    return cost / 3_600_000


def check_lines(workload, lines: list, prices: list, noted: list) -> Counter:
    """Each millisecond from first to last charged once, at the price of then; gaps are noted. Milliseconds by kind."""
    spans = sorted((line.from_ms, line.until_ms) for line in lines)
    pairs = list(itertools.pairwise(spans))
    double_ms = sum(max(0, before[1] - after[0]) for before, after in pairs)
    assert double_ms == 0, (workload.id, spans)
    # Time for which nothing could be held, because no service lived long enough to renew, is noted and not billed.
    assert [(before[1], after[0]) for before, after in pairs if before[1] < after[0]] == noted, (workload.id, spans)
    assert (spans[0][0], spans[-1][1]) == (workload.billed_from_ms, workload.ended_ms)
    charged, expected = (
        sum(line.amount_micros for line in lines),
        sum(expected_micros(prices, *span) for span in spans),
    )
    assert expected - len(lines) - 1 < charged <= expected + 1e-6  # each line rounded down
    return Counter(
        charged=sum(until - start for start, until in spans),
        double=double_ms,
        not_billed=sum(until - start for start, until in noted),
    )


def check_job(truth: Truth, workload) -> int:
    """Charged from the first to the last moment that the engine knows of. Milliseconds lost."""
    ran = truth.ran(workload.id)
    if ran is None:
        assert workload.billed_from_ms is None
        return 0
    assert (workload.billed_from_ms, workload.ended_ms) == tuple(ran)
    return ran[1] - workload.ended_ms


def check_server(truth: Truth, workload) -> int:
    """Charged from the report of its start to its end, or to the last sign of it: at most one heartbeat less.

    Milliseconds lost.
    """
    up_ms = truth.of["up", workload.id][0]
    down_ms = truth.of["down", truth.name_of[workload.id]][0]
    assert up_ms <= workload.billed_from_ms <= truth.of["started", workload.id][0]
    seen_ms = truth.last_seen_ms.get(truth.name_of[workload.id], 0)
    assert max(workload.billed_from_ms, min(seen_ms, down_ms)) <= workload.ended_ms, (workload, seen_ms, down_ms)
    latest_ms = truth.of["ended", workload.id][1] if ("released", workload.id) in truth.of else down_ms
    assert workload.ended_ms <= max(latest_ms, workload.billed_from_ms), (workload, down_ms)
    return max(0, down_ms - workload.ended_ms)


def look(uow) -> SimpleNamespace:
    workloads = uow.workloads()
    return SimpleNamespace(
        workloads=workloads,
        transfers=uow.transfers(),
        events={workload.id: uow.events(workload.id) for workload in workloads},
        holds=uow.open_holds(),
        prices=sorted(uow.prices(), key=lambda price: price.valid_from_ms),
    )


@pytest.mark.timeout(3000)
def test_a_thousand_kills_charge_no_second_twice_and_lose_nothing_acknowledged(database_url: str) -> None:
    """``FASTGPU_KILLS=1000`` for all of them; a server is slower to connect to, and gets a tenth."""
    rounds = int(os.environ.get("FASTGPU_KILLS", "100"))
    if not database_url.startswith("sqlite"):
        rounds = max(12, rounds // 10)
    facts, seconds = kill_many_times(database_url, rounds)
    truth = Truth(facts)
    store = open_store(database_url)
    kept = asyncio.run(store.read(look))
    asyncio.run(store.close())

    assert truth.count["killed"] == rounds
    assert truth.of["problems", ""] == [[]]
    check_balanced(kept.transfers)
    assert kept.holds == []
    assert {workload.state for workload in kept.workloads} == {"ended"}

    # Nothing acknowledged is lost, nothing has happened twice.
    rows = {transfer.id: transfer for transfer in kept.transfers}
    for row_id, (workload_id, from_ms, amount) in truth.acknowledged_rows.items():
        row = rows[row_id]
        assert (row.workload_id, row.line.from_ms, row.amount_micros) == (workload_id, from_ms, amount)
    happened = {(who, event.kind, str(event.at_ms)) for who, events in kept.events.items() for event in events}
    assert set(truth.acknowledged_events) <= happened
    once = ("requested", "granted", "started", "stopping", "ended")
    for events in kept.events.values():
        assert max(Counter(event.kind for event in events if event.kind in once).values()) == 1
    assert set(truth.id_of.values()) == {workload.id for workload in kept.workloads}
    assert len(truth.id_of) == len(kept.workloads)

    charges = defaultdict(list)
    for transfer in kept.transfers:
        if transfer.kind == "charge":
            charges[transfer.workload_id].append(transfer.line)
    sums, most_lost = Counter(), 0
    for workload in kept.workloads:
        lines = charges[workload.id]
        noted = [e.detail for e in kept.events[workload.id] if e.kind == "not_billed"]
        if workload.billed_from_ms is not None and workload.ended_ms > workload.billed_from_ms:
            spans = [(detail["from_ms"], detail["until_ms"]) for detail in noted]
            gaps = [span for span in spans if span[0] < workload.ended_ms]  # beyond its last evidence nothing is due
            sums += check_lines(workload, lines, kept.prices, gaps)
        told = truth.of["ended", workload.id][0]
        assert told == sum(line.amount_micros for line in lines)  # a final bill stays as it is
        missing = (check_job if workload.kind == "job" else check_server)(truth, workload)
        sums["lost"] += missing
        most_lost = max(most_lost, missing)
    figures = {"rounds": rounds, "seconds": round(seconds, 1), "workloads": len(kept.workloads)}
    figures |= {f"{kind}_s": sums[kind] / 1000 for kind in ("charged", "double", "lost", "not_billed")}
    print(json.dumps(figures | {"most_lost_s": most_lost / 1000}))
