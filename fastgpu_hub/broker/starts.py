"""When should this run? A start chosen by price, limits, credit, expected wait and deadline, with its reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from fastgpu import models
from fastgpu_hub.broker import views
from fastgpu_hub.broker.admission import Desired, Rules, Wish
from fastgpu_hub.broker.idempotency import Refusal
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.broker.settings import MINUTE_MS, Settings
from fastgpu_hub.pricing import starts, windows
from fastgpu_hub.pricing.explain import Explained, Refused
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.money import format_money
from fastgpu_hub.pricing.starts import Start

# As far ahead as prices and timetables are usually known; it also bounds how many starts are compared.
LONGEST_AHEAD_MS = 35 * windows.MS_PER_DAY
WITHIN_MS = windows.MS_PER_DAY
MOST_SHOWN = 12


@dataclass(frozen=True, slots=True)
class Option:
    """A start, the rule that makes it cheaper, what forbids it, what might make it miss the deadline."""

    start: Start
    why: str = ""
    why_not: Refused | None = None
    risk: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """Starts worth a look, the first of them now; the chosen one, if any is allowed, and why in a sentence."""

    by_ms: int
    wait_ms: int | None
    options: tuple[Option, ...]
    chosen: Option | None
    explained: Explained

    @property
    def now(self) -> Option:
        """Starting now, after the expected wait."""
        return self.options[0]

    @property
    def deferred(self) -> bool:
        """Whether a later start than now was chosen."""
        return self.chosen is not None and self.chosen.start.start_ms != self.now.start.start_ms


def default_by_ms(now_ms: int, duration_ms: int) -> int:
    """The deadline where none is given: it starts within a day."""
    return now_ms + WITHIN_MS + duration_ms


def check_deadline(by_ms: int, start_ms: int, duration_ms: int, settings: Settings) -> None:
    """Raises Refusal when what begins at ``start_ms`` cannot be sure to have ended by then, or it is too far ahead."""
    if start_ms + duration_ms > by_ms:
        ends = moment(start_ms + duration_ms, settings)
        raise Refusal(
            Refused(
                "deadline",
                f"It cannot be sure to end by {moment(by_ms, settings)}: with its time limit of "
                f"{_minutes(duration_ms)} it may run until {ends}.",
                {"by_ms": by_ms, "ends_ms": start_ms + duration_ms, "time_limit_ms": duration_ms},
                instead="Shorten the time limit, or choose a later deadline.",
            )
        )
    if by_ms - start_ms > LONGEST_AHEAD_MS + duration_ms:
        days = LONGEST_AHEAD_MS // windows.MS_PER_DAY
        message = f"{moment(by_ms, settings)} is too far ahead: a start is planned at most {days} days ahead."
        raise Refusal(Refused("invalid_request", message, {"days": days}, instead="Choose an earlier deadline."))


def make(
    uow: UnitOfWork,
    wish: Wish,
    duration_ms: int,
    by_ms: int,
    wait_ms: int | None,
    now_ms: int,
    settings: Settings,
    suits: Callable[[Start], bool] = lambda start: True,
) -> Plan:
    """The plan for a wish that is to run for up to ``duration_ms`` and end ``by_ms``.

    A start later than now counts as sure only when it would still end in time after a wait like the present one. Only
    one that ``suits`` is chosen. Raises Refusal when even starting now ends too late, and where there is no price.
    """
    check_deadline(by_ms, now_ms, duration_ms, settings)
    rules = Rules.load(uow)
    wanted = Desired(uow, rules, wish, now_ms, settings)
    latest_ms = by_ms - duration_ms
    earliest_ms = min(now_ms + (wait_ms or 0), latest_ms)
    sure_ms = max(earliest_ms, latest_ms - (wait_ms or 0))
    found = wanted.starts(duration_ms, earliest_ms, latest_ms, [sure_ms])
    return _Planner(rules, wanted, found, sure_ms, by_ms, wait_ms, now_ms, settings, suits).plan()


class _Planner:
    """The choice among starts in one transaction."""

    def __init__(
        self,
        rules: Rules,
        wanted: Desired,
        found: list[Start],
        sure_ms: int,
        by_ms: int,
        wait_ms: int | None,
        now_ms: int,
        settings: Settings,
        suits: Callable[[Start], bool],
    ) -> None:
        self._rules, self._wanted, self._found, self._settings = rules, wanted, found, settings
        self._sure_ms, self._by_ms, self._wait_ms, self._now_ms = sure_ms, by_ms, wait_ms, now_ms
        self._suits = suits
        self._refusals: dict[int, Refused | None] = {}

    def plan(self) -> Plan:
        chosen = self._cheapest_allowed()
        shown = {start.start_ms: start for start in self._worth_a_look(chosen)}
        options = tuple(self._option(shown[at_ms]) for at_ms in sorted(shown))
        picked = None if chosen is None else next(o for o in options if o.start.start_ms == chosen.start_ms)
        plan = Plan(self._by_ms, self._wait_ms, options, picked, Explained("", ""))
        return replace(plan, explained=self._explained(plan))

    def _refusal(self, start: Start) -> Refused | None:
        if start.start_ms not in self._refusals:
            self._refusals[start.start_ms] = self._wanted.refusal(start.lines)
        return self._refusals[start.start_ms]

    def _cheapest_allowed(self) -> Start | None:
        for start in starts.cheapest_first(self._found):
            if start.start_ms > self._sure_ms or not self._suits(start):
                continue
            refused = self._refusal(start)
            if refused is None:
                return start
            if _costs_too_much(refused):  # whatever follows costs as much or more
                return None
        return None

    def _worth_a_look(self, chosen: Start | None) -> list[Start]:
        """Now, each start that is cheaper than all before it, the chosen one, and the next that is dearer than now."""
        now = self._found[0]
        front = starts.frontier(self._found)[1:][-MOST_SHOWN:]
        dearer = [start for start in self._found if start.exact > now.exact][:1]
        return [now, *front, *([] if front else dearer), *([] if chosen is None else [chosen])]

    def _option(self, start: Start) -> Option:
        now = self._found[0]
        rule = "" if start is now else self._rule(starts.decisive(start, now))
        return Option(start, rule, self._refusal(start), self._risk(start))

    def _risk(self, start: Start) -> str:
        if not self._wait_ms:
            return ""
        wait = _minutes(self._wait_ms)
        if start is self._found[0] and self._now_ms + self._wait_ms + start.end_ms - start.start_ms > self._by_ms:
            return f"With the wait expected now, up to {wait}, it may end after the deadline."
        if start.start_ms > self._sure_ms:
            return f"With a wait like the one expected now, up to {wait}, it would end after the deadline."
        return ""

    def _rule(self, line: Line | None) -> str:
        """The rule of a line: a promotion with its hours, or a list price."""
        if line is None:
            return ""
        rate = f"{format_money(line.rate_micros, self._settings.currency)} per GPU-hour"
        promotion = next((p for p in self._rules.promotions if p.id == line.promotion_id), None)
        if promotion is None:
            return f"the list price of {rate}"
        hours = starts.hours_words(promotion.weekly, promotion.time_zone)
        if not hours and promotion.starts_ms > self._now_ms:
            hours = f"from {moment(promotion.starts_ms, self._settings)} on"
        return f"“{promotion.name}”{f', {hours}' if hours else ''} ({rate})"

    # ------------------------------------------------------------ words
    def _explained(self, plan: Plan) -> Explained:
        by, now = moment(self._by_ms, self._settings), plan.now.start
        chosen = plan.chosen
        if chosen is None:
            return self._nothing()
        if not plan.deferred:
            why = f"Starting now is best: no later start that ends by {by} costs less."
            if any(option.risk and option.start.exact < now.exact for option in plan.options[1:]):
                why = f"Only starting now is sure to end by {by}, though a later start would cost less."
            cost = format_money(now.cost_micros, self._settings.currency)
            return Explained("start_now", " ".join(filter(None, (why, f"It costs {cost}.", chosen.risk))))
        numbers: dict[str, int | str] = {
            "start_ms": chosen.start.start_ms,
            "cost_micros": chosen.start.cost_micros,
            "now_micros": now.cost_micros,
            "now_ends_ms": now.end_ms,
        }
        message = f"Start at {moment(chosen.start.start_ms, self._settings)} {because(plan, self._settings)}"
        return Explained("start_later", message, numbers, chosen.start.start_ms)

    def _nothing(self) -> Explained:
        cheapest = next(start for start in starts.cheapest_first(self._found) if start.start_ms <= self._sure_ms)
        refused = self._refusal(cheapest)
        if refused is None:
            return Explained("unsuitable", "No start is better than the planned one.")
        at = moment(cheapest.start_ms, self._settings)
        return replace(
            refused,
            message=f"No start that ends by {moment(self._by_ms, self._settings)} is possible. The cheapest, at {at}: "
            f"{refused.message}",
        )


def _costs_too_much(refused: Refused) -> bool:
    """Whether a start is refused for its cost alone, whenever it is."""
    left, wanted = refused.numbers.get("left_micros"), refused.numbers.get("wanted_micros")
    short = isinstance(left, int) and isinstance(wanted, int) and wanted > left
    return refused.code == "max_cost" or (refused.code == "credit" and short)


def because(plan: Plan, settings: Settings) -> str:
    """Why the chosen start was preferred to now, with both prices: the end of a sentence about that start."""
    assert plan.chosen is not None
    now, chosen = plan.now, plan.chosen
    cost, dearer = (format_money(each.start.cost_micros) for each in (chosen, now))
    if now.why_not is not None:
        return f"for {cost} {settings.currency}, because starting now is refused: {now.why_not.message}"
    saved = saved_percent(chosen.start.cost_micros, now.start.cost_micros)
    return (
        f"because of {chosen.why}: {cost} instead of {dearer} {settings.currency}, {saved} % less; starting now would "
        f"cost {dearer} and end by {moment(now.start.end_ms, settings)}."
    )


def saved_percent(cost_micros: int, instead_of_micros: int) -> int:
    """What is saved of a price, in whole percent, rounded down."""
    return (instead_of_micros - cost_micros) * 100 // instead_of_micros if instead_of_micros else 0


def moment(at_ms: int, settings: Settings) -> str:
    """An instant for people, in the service's zone: ``Fri 2025-03-14 18:00 Europe/Berlin``."""
    return windows.day_and_time(at_ms, settings.time_zone)


def _minutes(ms: int) -> str:
    minutes = -(-ms // MINUTE_MS)
    hours, rest = divmod(minutes, 60)
    return f"{minutes} min" if minutes < 120 else f"{hours} h{f' {rest} min' if rest else ''}"


def view(plan: Plan, wish: Wish, duration_ms: int, settings: Settings, *, simulated: bool) -> models.StartPlan:
    """The plan as it crosses the wire."""
    return models.StartPlan(
        gpu_type=wish.gpu_type,
        gpu_count=wish.gpu_count,
        account=wish.customer.account,
        duration_seconds=duration_ms // 1000,
        by=views.at(plan.by_ms),
        options=tuple(_option_views(plan)),
        explanation=views.explanation(plan.explained),
        wait_seconds=None if plan.wait_ms is None else plan.wait_ms // 1000,
        currency=settings.currency,
        time_zone=settings.time_zone,
        simulated=simulated,
    )


def _option_views(plan: Plan) -> Iterable[models.StartOption]:
    now = plan.now.start
    for option in plan.options:
        yield models.StartOption(
            starts_at=views.at(option.start.start_ms),
            ends_at=views.at(option.start.end_ms),
            cost_micros=option.start.cost_micros,
            saving_micros=now.cost_micros - option.start.cost_micros,
            why=option.why,
            allowed=option.why_not is None,
            why_not=None if option.why_not is None else views.explanation(option.why_not),
            risk=option.risk,
            now=option.start is now,
            chosen=option is plan.chosen,
        )
