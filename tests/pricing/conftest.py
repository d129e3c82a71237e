"""What the pricing suites share: an independent reading of the clock, instants at which clocks jump, small builders."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from fractions import Fraction
from random import Random
from zoneinfo import ZoneInfo

import pytest

from fastgpu_hub.pricing.calendars import site_cuts
from fastgpu_hub.pricing.metering import Line, price_interval
from fastgpu_hub.pricing.pricebook import PriceBook, PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Customer, Promotion, Standing
from fastgpu_hub.pricing.quotas import Quota
from fastgpu_hub.pricing.windows import WeeklyWindow

MINUTE_MS = 60_000
DAY_MS = 86_400_000


def utc_ms(text: str) -> int:
    """Milliseconds of a UTC instant written as ``2025-03-30 01:00``."""
    written = datetime.fromisoformat(text).replace(tzinfo=timezone.utc)
    return (
        (written - datetime(1970, 1, 1, tzinfo=timezone.utc)).days * DAY_MS
        + written.hour * 3_600_000
        + (written.minute * MINUTE_MS + written.second * 1000)
    )


# Where clocks jump: an hour, half an hour, a whole day (Apia has no 2011-12-30), over midnight (St John's until 2011),
# at midnight (Beirut, Havana); and a zone that never jumps, on 29 February.
JUMPS = (
    ("Europe/Berlin", "2025-03-30 01:00"),
    ("Europe/Berlin", "2025-10-26 01:00"),
    ("America/New_York", "2025-03-09 07:00"),
    ("America/New_York", "2025-11-02 06:00"),
    ("Australia/Lord_Howe", "2025-04-05 15:00"),
    ("Australia/Lord_Howe", "2025-10-04 15:30"),
    ("Asia/Kolkata", "2024-02-29 00:00"),
    ("Pacific/Apia", "2011-12-30 10:00"),
    ("Pacific/Apia", "2011-09-24 14:00"),
    ("America/St_Johns", "2010-11-07 02:31"),
    ("Asia/Beirut", "2022-03-26 22:00"),
    ("America/Havana", "2024-11-03 05:00"),
)


@dataclass(frozen=True)
class Jump:
    """An instant at which a zone's clock jumps (``at_ms``), and random hours that have to do with it."""

    time_zone: str
    at_ms: int

    def weekly(self, random: Random) -> tuple[WeeklyWindow, ...]:
        """One to three windows; about half of their edges lie within two hours of the jump, on either clock."""
        return tuple(
            WeeklyWindow(
                tuple(random.sample(range(7), random.randint(1, 7))), self._minute(random), self._minute(random)
            )
            for _ in range(random.randint(1, 3))
        )

    def _minute(self, random: Random) -> int:
        if random.random() < 0.5:
            return random.randrange(1440)
        clock = datetime.fromtimestamp(self.at_ms // 1000, ZoneInfo(self.time_zone))
        return (clock.hour * 60 + clock.minute + 15 * random.randint(-8, 8)) % 1440


def _shown(weekly: tuple[WeeklyWindow, ...], time_zone: str, at_ms: int) -> bool:
    clock = datetime.fromtimestamp(at_ms // 1000, ZoneInfo(time_zone))
    minute, today, yesterday = clock.hour * 60 + clock.minute, clock.weekday(), (clock.weekday() - 1) % 7
    for window in weekly:
        if window.from_minute < window.to_minute:
            if today in window.days and window.from_minute <= minute < window.to_minute:
                return True
        elif (today in window.days and minute >= window.from_minute) or (
            yesterday in window.days and minute < window.to_minute
        ):
            return True
    return False


H100 = "h100-80gb"
ALICE = Customer("alice", "class:cs101", ("cs101",), 1_300_000_000_000)


@dataclass(frozen=True)
class Case:
    """Random rules around a jump of some zone's clock, and what alice asks for."""

    time_zone: str
    versions: tuple[PriceVersion, ...]
    promotions: tuple[Promotion, ...]
    quotas: tuple[Quota, ...]
    standings: dict[int, Standing]
    cuts: tuple[int, ...]
    gpus: int
    from_ms: int
    until_ms: int
    starts: bool
    site: bool
    customer: Customer = ALICE

    def lines(self, from_ms: int | None = None, until_ms: int | None = None) -> tuple[Line, ...]:
        """What ``price_interval`` makes of it, or of a part of it; cut where the site's calendar says, if it does."""
        site = site_cuts(self.time_zone, self.from_ms, self.until_ms) if self.site else []
        rules = PriceBook(self.versions), self.promotions, self.quotas
        span = self.from_ms if from_ms is None else from_ms, self.until_ms if until_ms is None else until_ms
        options = {"standings": self.standings, "cuts": (*self.cuts, *site), "starts": self.starts}
        return price_interval(*rules, self.customer, H100, self.gpus, *span, **options)


def a_case(random: Random, jump: Jump, longest_s: int, *, allowances: bool = True, most: int = 5) -> Case:
    """Random rules with all instants on whole seconds, near the jump."""
    before_s, after_s = random.randint(0, longest_s // 2), random.randint(1, longest_s // 2)
    from_ms, until_ms = jump.at_ms - before_s * 1000, jump.at_ms + after_s * 1000

    def inside() -> int:
        return from_ms + random.randint(-600, before_s + after_s + 600) * 1000

    def rate() -> Rate:
        return Rate(random.randint(0, 3_000_000), random.choice([0, 0, 7, 333_333]), random.choice([0, 0, 50_001]))

    versions = [PriceVersion(1, H100, rate(), 0)]
    versions += [PriceVersion(i, H100, rate(), inside()) for i in range(2, random.randint(2, 4))]
    numbers = range(1, random.randint(1, most) + 1)
    promotions = [_a_promotion(random, jump, number, inside, allowances) for number in numbers]
    window = random.choice(["day", "week", "month", "always"])
    used = random.choice([0, 900]), random.choice([0, 999_999])
    known = [number for number in numbers if random.random() < 0.7]
    standings = {number: Standing(random.random() < 0.5, 0, random.randint(0, 3), *used) for number in known}
    return Case(
        jump.time_zone,
        tuple(versions),
        tuple(promotions),
        (Quota(1, "site", "", "spend_micros", 1, window, time_zone=jump.time_zone),),
        standings,
        tuple(inside() for _ in range(random.randint(0, 2))),
        random.choice([1, 2, 8, 1024]),
        from_ms,
        until_ms,
        random.random() < 0.7,
        random.random() < 0.5,
    )


def _a_promotion(random: Random, jump: Jump, number: int, inside: Callable[[], int], allowances: bool) -> Promotion:
    kind = random.choice(["percent", "percent", "percent", "fixed", "free" if allowances else "fixed"])
    stacks = kind == "percent" and random.random() < 0.4
    budgets = [1, 1000, 40_000, 3_000_000] if allowances and not stacks and random.random() < 0.4 else [None]
    return Promotion(
        id=number,
        name="p",
        starts_ms=random.choice([0, 0, inside()]),
        ends_ms=random.choice([10**15, 10**15, inside()]),
        percent_off=random.randint(1, 100) if kind == "percent" else None,
        fixed_per_gpu_hour_micros=random.randint(0, 2_000_000) if kind == "fixed" else None,
        free_gpu_ms=random.choice([1_000_000, 5_000_000, 900_000_000]) if kind == "free" else None,
        audience=random.choice([(), (), (), (), ("new",), ("class:cs101", "new"), ("class:art7",)]),
        gpu_types=random.choice([(), (), (), (H100,), ("t4",)]),
        weekly=random.choice([(), jump.weekly(random)]),
        time_zone=jump.time_zone,
        family=number,
        stacks=stacks,
        budget_micros=random.choice(budgets),
        needs_code=random.random() < 0.1,
        max_redemptions=random.choice([None, None, None, 2]),
        published=random.random() < 0.95,
    )


@dataclass
class Oracle:
    """Lines read off the rules second by second, with fractions: it knows of no edge, window or closed form."""

    case: Case
    left: dict[int, list[Fraction]] = field(default_factory=dict)
    over: set[int] = field(default_factory=set)
    minutes: dict[tuple[int, int], bool] = field(default_factory=dict)
    chosen: dict[tuple[int, tuple[int, ...]], tuple[Promotion, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        infinite = Fraction(10**30)
        self.mine = [promotion for promotion in self.case.promotions if self._mine(promotion)]
        for p in self.mine:
            used = self.case.standings.get(p.id, Standing())
            money = infinite if p.budget_micros is None else Fraction(p.budget_micros - used.saved_micros)
            time = infinite if p.free_gpu_ms is None else Fraction(p.free_gpu_ms - used.free_gpu_ms)
            self.left[p.id] = [money, time]

    def _mine(self, p: Promotion) -> bool:
        standing, is_new = self.case.standings.get(p.id, Standing()), (ALICE.first_used_ms or 0) >= p.starts_ms
        named = not p.audience or "class:cs101" in p.audience or ("new" in p.audience and is_new)
        return (
            p.published
            and named
            and (not p.gpu_types or H100 in p.gpu_types)
            and (not p.needs_code or standing.code_given)
            and (p.max_redemptions is None or standing.redemptions < p.max_redemptions)
            and (p.budget_micros is None or standing.saved_micros < p.budget_micros)
            and (p.free_gpu_ms is None or standing.free_gpu_ms < p.free_gpu_ms)
        )

    def _open(self, p: Promotion, at_ms: int) -> bool:
        if not p.starts_ms <= at_ms < p.ends_ms:
            return False
        key = (p.id, at_ms // MINUTE_MS)
        if p.weekly and key not in self.minutes:
            self.minutes[key] = _shown(p.weekly, p.time_zone, at_ms)
        return not p.weekly or self.minutes[key]

    def version(self, at_ms: int) -> PriceVersion:
        return max((v for v in self.case.versions if v.valid_from_ms <= at_ms), key=lambda v: (v.valid_from_ms, v.id))

    def steps(self, applied: Iterable[Promotion], version: PriceVersion) -> list[tuple[int, int, int]]:
        """Prices of GPU time, task time and start: listed, and after each promotion."""
        listed = version.rate
        found = [(listed.per_gpu_hour_micros, listed.per_task_hour_micros, listed.per_start_micros)]
        for p in applied:
            gpu, task, start = found[-1]
            if p.percent_off is not None:
                keep = Fraction(100 - p.percent_off, 100)
                found.append((int(gpu * keep), int(task * keep), int(start * keep)))
            elif p.free_gpu_ms is not None:
                found.append((0, 0, start))
            else:
                found.append((min(gpu, p.fixed_per_gpu_hour_micros or 0), task, start))
        return found

    def applied(self, at_ms: int, *, start: bool = False) -> tuple[Promotion, ...]:
        """The cheapest allowed combination; of equals the fewer, then the older."""
        version = self.version(at_ms)
        usable = [p for p in self.mine if p.id not in self.over and self._open(p, at_ms)]
        if start:
            listed = version.rate.per_start_micros
            usable = [p for p in usable if listed - self.steps([p], version)[-1][2] <= self.left[p.id][0]]

        key = version.id, tuple(p.id for p in usable)
        if key not in self.chosen:
            self.chosen[key] = self._cheapest(usable, version)
        return self.chosen[key]

    def _cheapest(self, usable: list[Promotion], version: PriceVersion) -> tuple[Promotion, ...]:
        def order(combination: tuple[Promotion, ...]) -> tuple[object, ...]:
            gpu, task, starting = self.steps(combination, version)[-1]
            return gpu * self.case.gpus + task, starting, len(combination), [p.id for p in combination]

        singles = [(p,) for p in usable if not p.stacks]
        plain = sorted((c for c in singles if not (c[0].budget_micros or c[0].free_gpu_ms)), key=order)
        top = sorted((p for p in usable if p.stacks), key=lambda p: (-(p.percent_off or 0), p.id))[:1]
        return min([(), *singles, *((p,) for p in top), *((*c, p) for c in plain[:1] for p in top)], key=order)

    def made(self, unit: int, applied: tuple[Promotion, ...], from_ms: int, until_ms: int) -> Line:
        """One line: unit 0 is GPU time, 1 task time, 2 the start."""
        version, steps = self.version(from_ms), self.steps(applied, self.version(from_ms))
        named = [
            p.id
            for index, p in enumerate(applied)
            if steps[index + 1][unit] < steps[index][unit] or (unit == 0 and p.free_gpu_ms is not None)
        ]
        rate, listed = steps[-1][unit], steps[0][unit]
        hours = Fraction(until_ms - from_ms, 3_600_000) * (self.case.gpus if unit == 0 else 1)
        amount = rate if unit == 2 else int(rate * hours)
        name = ("gpu_hour", "task_hour", "start")[unit]
        ids = (*named, None, None)[:2]
        return Line(name, from_ms, until_ms, self.case.gpus, rate, listed, amount, version.id, *ids)

    def saved(self, applied: tuple[Promotion, ...], from_ms: int, until_ms: int) -> int:
        steps = self.steps(applied, self.version(from_ms))
        first, last = steps[0], steps[-1]
        hours = Fraction(until_ms - from_ms, 3_600_000)
        return int((first[0] - last[0]) * hours * self.case.gpus) + int((first[1] - last[1]) * hours)

    def lines(self, instants: Iterable[int]) -> list[Line]:
        """Lines of the case, looking at the rules at every one of these instants only."""
        case, result = self.case, list[Line]()
        if case.starts and self.version(case.from_ms).rate.per_start_micros:
            applied = self.applied(case.from_ms, start=True)
            result.append(self.made(2, applied, case.from_ms, case.from_ms))
            if result[0].promotion_id is not None:
                self._take(applied[:1], result[0].list_rate_micros - result[0].rate_micros, 0)
        cut = Calendar(case)
        begin_ms, at_ms, applied = case.from_ms, case.from_ms, None
        for next_ms in [*(instant for instant in instants if instant > case.from_ms), case.until_ms]:
            while at_ms < next_ms:
                is_cut, new = cut(at_ms), self.applied(at_ms)
                if applied is not None and (new != applied or is_cut):
                    result += self._closed(applied, begin_ms, at_ms)
                    # Closing a line may use up the last of an allowance.
                    begin_ms, new = at_ms, self.applied(at_ms)
                applied = new
                until_ms = self._lasts(applied, begin_ms, at_ms, next_ms)
                if until_ms < next_ms:
                    result += self._closed(applied, begin_ms, until_ms)
                    self.over.add(applied[0].id)
                    begin_ms, applied = until_ms, None
                at_ms = until_ms
        return result + (self._closed(applied, begin_ms, at_ms) if applied is not None else [])

    def _lasts(self, applied: tuple[Promotion, ...], begin_ms: int, at_ms: int, next_ms: int) -> int:
        if len(applied) != 1 or not (applied[0].budget_micros or applied[0].free_gpu_ms):
            return next_ms
        money, time = self.left[applied[0].id]

        def fits(until_ms: int) -> bool:
            spent = self.saved(applied, begin_ms, until_ms)
            return spent <= money and self.case.gpus * (until_ms - begin_ms) <= time

        return next_ms if fits(next_ms) else next(ms for ms in range(at_ms, next_ms) if not fits(ms + 1))

    def _closed(self, applied: tuple[Promotion, ...], from_ms: int, until_ms: int) -> list[Line]:
        if from_ms == until_ms:
            return []
        self._take(applied, self.saved(applied, from_ms, until_ms), self.case.gpus * (until_ms - from_ms))
        units = (0, 1) if self.version(from_ms).rate.per_task_hour_micros else (0,)
        return [self.made(unit, applied, from_ms, until_ms) for unit in units]

    def _take(self, applied: tuple[Promotion, ...], micros: int, gpu_ms: int) -> None:
        for p in applied:
            self.left[p.id][0] -= micros
            self.left[p.id][1] -= gpu_ms
            if 0 in self.left[p.id]:
                self.over.add(p.id)


class Calendar:
    """Whether lines are cut at an instant whoever prices: asked second by second, in order, it watches the clock."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.zone = ZoneInfo(case.time_zone)
        self.windows = [case.quotas[0].window, "day" if case.site else "always"]
        # From a day earlier on, so that a date already shown before a jump back is known.
        self.latest = [max(self._first(w, case.from_ms - ago * MINUTE_MS) for ago in range(1441)) for w in self.windows]
        self.last_ms = case.from_ms

    def _first(self, window: str, at_ms: int) -> date:
        day = datetime.fromtimestamp(at_ms // 1000, self.zone).date()
        if window == "week":
            return day - timedelta(days=day.weekday())
        return {"always": date.min, "month": day.replace(day=1), "day": day}[window]

    def _offset(self, at_ms: int) -> timedelta | None:
        return datetime.fromtimestamp(at_ms // 1000, self.zone).utcoffset()

    def __call__(self, at_ms: int) -> bool:
        first = [self._first(window, at_ms) for window in self.windows]
        begins = any(new > old for new, old in zip(first, self.latest, strict=True))
        jumps = self.case.site and self._offset(at_ms) != self._offset(self.last_ms)
        self.latest, self.last_ms = [max(pair) for pair in zip(first, self.latest, strict=True)], at_ms
        return begins or jumps or at_ms in self.case.cuts or any(at_ms == v.valid_from_ms for v in self.case.versions)


@pytest.fixture(scope="session")
def case_of() -> Callable[..., Case]:
    return a_case


@pytest.fixture(scope="session")
def oracle_lines() -> Callable[[Case, Iterable[int]], list[Line]]:
    return lambda case, instants: Oracle(case).lines(instants)


@pytest.fixture(scope="session")
def at() -> Callable[[str], int]:
    return utc_ms


@pytest.fixture(scope="session")
def jump_of() -> Callable[[Random], Jump]:
    def choose(random: Random) -> Jump:
        time_zone, jump = random.choice(JUMPS)
        return Jump(time_zone, utc_ms(jump))

    return choose


@pytest.fixture(scope="session")
def shown() -> Callable[[tuple[WeeklyWindow, ...], str, int], bool]:
    """The oracle: is a time within one of the windows on the local clock? Knows nothing of edges or offsets."""
    return _shown


@pytest.fixture(scope="session")
def hours() -> Callable[..., Line]:
    """A ``gpu_hour`` line without promotion, its amount rounded down."""

    def build(from_ms: int, until_ms: int, rate_micros: int = 500_000, gpu_count: int = 1) -> Line:
        amount = gpu_count * rate_micros * (until_ms - from_ms) // 3_600_000
        return Line("gpu_hour", from_ms, until_ms, gpu_count, rate_micros, rate_micros, amount, 1)

    return build
