"""What one scheduling decision costs as the queue and the cluster grow: ``python benchmarks/scheduler.py [--json]``.

A decision is what the service does in production when GPUs come free: a running job ends, the scheduler of the default
policy chooses who is next (limits of site, class and person, for which half of the queue waits; recent use of a
thousand people; run times predicted from history), and the price of the chosen job is worked out line by line. Then
one more job joins the queue, so that it stays as long. Sizes are measured interleaved in one run; figures are medians
over rounds.

JSON keys: ``decision_us`` (100,000 queued jobs, 10,000 GPUs), ``ratio_100k_over_1k_jobs`` (10,000 GPUs; against 1,000
queued jobs) and ``ratio_100k_over_1k_gpus`` (10,000 queued jobs; 100,000 against 1,000 GPUs).
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import time
from dataclasses import dataclass, field

from fastgpu_hub.pricing.pricebook import PriceBook, PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Customer, Promotion
from fastgpu_hub.pricing.timeline import RateCard
from fastgpu_hub.pricing.windows import WeeklyWindow
from fastgpu_hub.scheduling.inventory import Device
from fastgpu_hub.scheduling.policies import Want
from fastgpu_hub.scheduling.scheduler import Arrived, Discovered, Gone, Grant, handle
from fastgpu_hub.scheduling.state import State

HOUR_MS = 3_600_000
NOW_MS = 1_759_104_000_000  # a Monday
GPU_TYPE = "h100-80gb"
PEOPLE, CLASSES = 1000, 20
GPUS_PER_NODE = 8
SIZES = {"jobs": ((1_000, 10_000), (100_000, 10_000)), "gpus": ((10_000, 1_000), (10_000, 100_000))}


def rate_card() -> RateCard:
    """A list price, a night rate, and a promotion per class."""
    book = PriceBook([PriceVersion(1, GPU_TYPE, Rate(per_gpu_hour_micros=2_000_000), 0, "root")])
    nights = (WeeklyWindow(tuple(range(7)), 20 * 60, 6 * 60),)
    year = {"starts_ms": NOW_MS - 30 * 24 * HOUR_MS, "ends_ms": NOW_MS + 300 * 24 * HOUR_MS}
    promotions = [Promotion(1, "night rate", **year, percent_off=40, weekly=nights, time_zone="Europe/Berlin")]
    for number in range(CLASSES):
        promotions.append(
            Promotion(number + 2, f"cs{number}", **year, percent_off=number + 1, audience=(f"class:cs{number}",))
        )
    return RateCard(book, promotions, time_zone="Europe/Berlin")


@dataclass
class Site:
    """A full cluster with a queue, and what is measured on it."""

    queued: int
    gpus: int
    dice: random.Random = field(default_factory=lambda: random.Random(1))
    state: State = field(default_factory=State)
    card: RateCard = field(default_factory=rate_card)
    now_ms: int = NOW_MS
    made: int = 0
    rounds_us: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        devices = tuple(
            Device(f"{number}", GPU_TYPE, f"n{number // GPUS_PER_NODE}", number % GPUS_PER_NODE)
            for number in range(self.gpus)
        )
        handle(self.state, Discovered(devices, self.now_ms))
        self.learn()
        while self.state.waits < self.queued:
            self.now_ms += 1000  # a day and more in all: hardly two are alike and of the same minute
            handle(self.state, Arrived(self.want(), self.now_ms))

    def learn(self) -> None:
        """A past for everybody: who runs how long."""
        for number in range(2 * PEOPLE):
            self.state.predictor.remember(self.want(number % PEOPLE), self.now_ms, self.run_ms(number % PEOPLE))

    def run_ms(self, person: int) -> int:
        """A run time: long for some people, short for others, never twice the same."""
        return int(HOUR_MS * (0.1 + person % 17) * self.dice.lognormvariate(0.0, 0.5))

    def want(self, person: int | None = None) -> Want:
        """One more request."""
        self.made += 1
        person = self.dice.randrange(PEOPLE) if person is None else person
        group = person % CLASSES
        of_class = self.gpus // (10 if group % 2 else 40)  # half of the classes are at their limit
        limits = (("site", self.gpus), (f"class:{group}", of_class), (f"person:{person}", self.gpus // 50))
        count = self.dice.choice((1, 1, 1, 2, 4, 8))
        return Want(
            f"j{self.made}",
            f"p{person}",
            GPU_TYPE,
            count,
            self.now_ms,
            limits,
            24 * HOUR_MS,
            account=f"class:cs{group}",
        )

    def round(self, decisions: int) -> None:
        """So many decisions; notes the microseconds of one."""
        state, card = self.state, self.card
        ends = self.dice.sample(sorted(state.holding), min(decisions, len(state.holding)))
        joining = [self.want() for _ in ends]
        gc.collect()
        gc.disable()
        began = time.process_time()
        for who, want in zip(ends, joining, strict=True):
            self.now_ms += 1000
            _, orders = handle(state, Gone(who, self.now_ms))
            for order in orders:
                if isinstance(order, Grant):
                    chosen = state.holding[order.id].want
                    customer = Customer(chosen.owner, chosen.account, (chosen.account.removeprefix("class:"),))
                    until_ms = self.now_ms + (chosen.duration_ms or 0)
                    card.quote(customer, GPU_TYPE, chosen.gpu_count, self.now_ms, until_ms)
            handle(state, Arrived(want, self.now_ms))
        self.rounds_us.append((time.process_time() - began) / len(ends) * 1e6)
        gc.enable()


def measure(rounds: int, decisions: int) -> dict[str, float]:
    """All sizes, interleaved; medians."""
    sites = {size: Site(*size) for pair in SIZES.values() for size in pair}
    for site in sites.values():
        site.round(decisions)
        site.rounds_us.clear()
    for _ in range(rounds):
        for site in sites.values():
            site.round(decisions)
    found = {}
    for name, (few, many) in SIZES.items():
        ratios = [b / a for a, b in zip(sites[few].rounds_us, sites[many].rounds_us, strict=True)]
        found[f"ratio_100k_over_1k_{name}"] = round(statistics.median(ratios), 3)
    for (queued, gpus), site in sites.items():
        print(f"{queued:7,} queued jobs, {gpus:7,} GPUs: {statistics.median(site.rounds_us):7.1f} µs per decision")
    found["decision_us"] = round(statistics.median(sites[SIZES["jobs"][1]].rounds_us), 1)
    return found


def main() -> None:
    """Measure and tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="rounds, of which the median is told")
    parser.add_argument("--decisions", type=int, default=200, help="decisions in each round")
    parser.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    arguments = parser.parse_args()
    found = measure(arguments.rounds, arguments.decisions)
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"100,000 queued jobs cost {found['ratio_100k_over_1k_jobs']} x what 1,000 do (wanted: at most 4)")
    print(f"100,000 GPUs cost {found['ratio_100k_over_1k_gpus']} x what 1,000 do (wanted: at most 1.5)")


if __name__ == "__main__":
    main()
