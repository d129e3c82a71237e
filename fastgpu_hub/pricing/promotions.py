"""Time-limited or conditional price changes, who may have them, and which one wins.

Promotions do not add up: at every instant the one that makes the request cheapest applies, or none. Only one that is
made to stack applies on top of another.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fastgpu_hub.pricing import eligibility, windows
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.money import MAX_MICROS, MS_PER_HOUR
from fastgpu_hub.pricing.pricebook import Rate
from fastgpu_hub.pricing.windows import WeeklyWindow

NEW = "new"
MAX_WEEKLY_OPENINGS = 50
MAX_FREE_GPU_MS = 1_000_000 * MS_PER_HOUR
MAX_CREDIT_DAYS = 3660
MAX_REDEMPTIONS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Promotion:
    """One version of a price change or of a gift of credit: what, when, for whom, how often and how much in all.

    Exactly one of ``percent_off``, ``fixed_per_gpu_hour_micros``, ``free_gpu_ms`` (the first so many GPU-milliseconds
    of a person are free) and ``credit_micros`` (credit given when redeemed, which expires ``credit_days`` days later;
    it takes no part in pricing) is set.

    An empty ``gpu_types`` means all types, an empty ``audience`` everyone. An audience entry is an account id
    (``class:cs101``, ``person:alice``) or ``new``: people who had not used a GPU before ``starts_ms``; being named by
    one entry is enough. Active in ``[starts_ms, ends_ms)`` and, if ``weekly`` is not empty, only within one of its
    windows in ``time_zone``. ``stacks`` lets it apply on top of another promotion. ``budget_micros`` is the most that
    all versions together may take off prices.

    Immutable: an edit, publishing and ending make a new version with its own ``id`` and the same ``family`` (the id of
    the first; 0 before it is stored). ``published=False`` is a draft, which nobody gets. Raises ValueError, with the
    numbers, for what makes no sense.
    """

    id: int
    name: str
    starts_ms: int
    ends_ms: int
    percent_off: int | None = None
    fixed_per_gpu_hour_micros: int | None = None
    gpu_types: tuple[str, ...] = ()
    audience: tuple[str, ...] = ()
    weekly: tuple[WeeklyWindow, ...] = ()
    time_zone: str = "UTC"
    created_by: str = ""
    needs_code: bool = False
    family: int = 0
    version: int = 1
    published: bool = True
    free_gpu_ms: int | None = None
    credit_micros: int | None = None
    credit_days: int | None = None
    stacks: bool = False
    max_redemptions: int | None = None
    max_per_person: int = 1
    budget_micros: int | None = None

    def __post_init__(self) -> None:
        kinds = (self.percent_off, self.fixed_per_gpu_hour_micros, self.free_gpu_ms, self.credit_micros)
        given = sum(kind is not None for kind in kinds)
        if given != 1:
            raise ValueError(
                f"a promotion is one of percent off, fixed price, free GPU time and credit; {given} are given"
            )
        _check_range("percent off", self.percent_off, 1, 100)
        _check_range("price per GPU-hour in micro-units", self.fixed_per_gpu_hour_micros, 0, MAX_MICROS)
        _check_range("free GPU time in milliseconds", self.free_gpu_ms, 1, MAX_FREE_GPU_MS)
        _check_range("credit in micro-units", self.credit_micros, 1, MAX_MICROS)
        _check_range("time to spend its credit, in days,", self.credit_days, 1, MAX_CREDIT_DAYS)
        _check_range("number of places", self.max_redemptions, 1, MAX_REDEMPTIONS)
        _check_range("number of redemptions per person", self.max_per_person, 1, MAX_REDEMPTIONS)
        _check_range("budget in micro-units", self.budget_micros, 1, MAX_MICROS)
        if self.credit_days is not None and self.credit_micros is None:
            raise ValueError("a promotion without credit has no days in which to spend it")
        if self.credit_micros is not None and (self.budget_micros is not None or self.gpu_types):
            raise ValueError("a promotion that gives credit has places instead of a budget, and serves for every GPU")
        if self.stacks and (self.percent_off is None or self.budget_micros is not None):
            raise ValueError("a promotion that applies on top of others takes a percentage off and has no budget")
        # Every opening is two edges a week in every hold: a bound keeps pricing quick and receipts readable.
        openings = sum(len(window.days) for window in self.weekly)
        if openings > MAX_WEEKLY_OPENINGS:
            raise ValueError(f"a promotion opens at most {MAX_WEEKLY_OPENINGS} times a week, not {openings}")
        windows.zone(self.time_zone)

    @property
    def needs_redemption(self) -> bool:
        """Whether who gets it is recorded once per person: it has a code, a number of places, or gives credit."""
        return self.needs_code or self.max_redemptions is not None or self.credit_micros is not None

    @property
    def has_allowance(self) -> bool:
        """Whether it ends for somebody when something is used up: its budget, or the person's free GPU time."""
        return self.budget_micros is not None or self.free_gpu_ms is not None


def _check_range(what: str, value: int | None, least: int, most: int) -> None:
    if value is not None and not least <= value <= most:
        raise ValueError(f"a promotion's {what} lies between {least} and {most}, not {value}")


@dataclass(frozen=True, slots=True)
class Customer:
    """Who asks and who pays: the person, the account charged, the person's classes, when they first used a GPU.

    ``first_used_ms`` is None for somebody who never has.
    """

    owner: str
    account: str
    classes: tuple[str, ...] = ()
    first_used_ms: int | None = None

    @property
    def audiences(self) -> frozenset[str]:
        """Every audience entry that names this customer: the person, each class, the account that pays.

        ``new`` is not among them, for it depends on the promotion.
        """
        return frozenset((self.account, f"person:{self.owner}", *(f"class:{name}" for name in self.classes)))


@dataclass(frozen=True, slots=True)
class Standing:
    """How a promotion stands for one person at one moment, over all its versions.

    ``code_given``: the request gives one of its codes, with uses left. ``redeemed``: how often this person redeemed
    it, ``redemptions``: everybody. ``saved_micros``: what it took off everybody's prices, ``free_gpu_ms``: this
    person's GPU-milliseconds under it; both settled and held.
    """

    code_given: bool = False
    redeemed: int = 0
    redemptions: int = 0
    saved_micros: int = 0
    free_gpu_ms: int = 0


NOTHING = Standing()


def active_at(promotion: Promotion, at_ms: int) -> bool:
    """Whether the promotion's windows are open at ``at_ms``, whoever asks."""
    return windows.active(promotion.starts_ms, promotion.ends_ms, promotion.weekly, promotion.time_zone, at_ms)


def edges(promotion: Promotion, from_ms: int, until_ms: int) -> list[int]:
    """Instants strictly inside ``(from_ms, until_ms)`` at which the promotion begins or ceases to be active."""
    return windows.edges(
        promotion.starts_ms, promotion.ends_ms, promotion.weekly, promotion.time_zone, from_ms, until_ms
    )


def next_change(promotion: Promotion, at_ms: int) -> int | None:
    """The first instant after ``at_ms`` at which the promotion begins or ceases to be active; None if never again."""
    return windows.next_change(promotion.starts_ms, promotion.ends_ms, promotion.weekly, promotion.time_zone, at_ms)


def state_at(promotion: Promotion, at_ms: int) -> str:
    """``draft``, ``scheduled``, ``live`` or ``ended``; live does not look at the hours of the week."""
    if not promotion.published:
        return "draft"
    if at_ms >= promotion.ends_ms or promotion.starts_ms >= promotion.ends_ms:
        return "ended"
    return "scheduled" if at_ms < promotion.starts_ms else "live"


def hindrance(
    promotion: Promotion, customer: Customer, standing: Standing = NOTHING, gpu_type: str | None = None
) -> str | None:
    """The code of what keeps this customer from the promotion at any time; None when nothing does.

    What can never change comes before what a code would change. :func:`why_not` says the same in words.
    """
    if not promotion.published:
        return "promo_draft"
    if gpu_type is not None and promotion.gpu_types and gpu_type not in promotion.gpu_types:
        return "promo_wrong_gpu"
    if not _named(promotion, customer):
        return "promo_audience"
    # Credit is given at every redemption; anything else is had for good after the first.
    gives_credit = promotion.credit_micros is not None
    if gives_credit and standing.redeemed >= promotion.max_per_person:
        return "promo_redeemed"
    if promotion.needs_redemption and (gives_credit or not standing.redeemed):
        if promotion.max_redemptions is not None and standing.redemptions >= promotion.max_redemptions:
            return "promo_full"
        if promotion.needs_code and not standing.code_given:
            return "promo_code_needed"
    if promotion.budget_micros is not None and standing.saved_micros >= promotion.budget_micros:
        return "promo_budget_spent"
    if promotion.free_gpu_ms is not None and standing.free_gpu_ms >= promotion.free_gpu_ms:
        return "promo_free_hours_used"
    return None


def _named(promotion: Promotion, customer: Customer) -> bool:
    if not promotion.audience:
        return True
    if NEW in promotion.audience and (customer.first_used_ms is None or customer.first_used_ms >= promotion.starts_ms):
        return True
    return not customer.audiences.isdisjoint(promotion.audience)


def why_not(
    promotion: Promotion,
    customer: Customer,
    standing: Standing = NOTHING,
    *,
    gpu_type: str | None = None,
    at_ms: int | None = None,
) -> Refused | None:
    """Why this customer does not get the promotion, or may not redeem it if it gives credit; None when they do.

    Without a ``gpu_type`` or an ``at_ms`` that condition is not looked at. What can never change is said before what
    waiting or a code would change.
    """
    code = hindrance(promotion, customer, standing, gpu_type)
    if at_ms is not None and code != "promo_draft":
        if state_at(promotion, at_ms) == "ended":
            code = "promo_ended"
        elif code is None and not active_at(promotion, at_ms):
            code = "promo_not_started" if at_ms < promotion.starts_ms else "promo_outside_hours"
    return None if code is None else eligibility.refusal(code, promotion, customer, standing, gpu_type, at_ms or 0)


def discounted(promotion: Promotion, rate: Rate) -> Rate:
    """The rate with the promotion: a percentage off all three parts, each rounded down, or the fixed price.

    A fixed price replaces the price per GPU-hour only where it is lower. Free GPU time leaves the price of a start,
    credit leaves everything as it is.
    """
    if promotion.percent_off is not None:
        keep = 100 - promotion.percent_off
        return Rate(
            rate.per_gpu_hour_micros * keep // 100,
            rate.per_task_hour_micros * keep // 100,
            rate.per_start_micros * keep // 100,
        )
    if promotion.fixed_per_gpu_hour_micros is not None:
        per_gpu_hour = min(rate.per_gpu_hour_micros, promotion.fixed_per_gpu_hour_micros)
        return Rate(per_gpu_hour, rate.per_task_hour_micros, rate.per_start_micros)
    return rate if promotion.free_gpu_ms is None else Rate(per_start_micros=rate.per_start_micros)


def best(promotions: Iterable[Promotion], rate: Rate, gpu_count: int) -> Promotion | None:
    """The promotion that makes ``gpu_count`` GPUs cheapest per hour, then per start; the oldest of equals, or None.

    None means that no promotion is cheaper than the list price. Which of the promotions apply (audience, code,
    windows) is for the caller to decide before.
    """
    winner: Promotion | None = None
    lowest = cost_order((), rate, gpu_count)
    for promotion in sorted(promotions, key=lambda promotion: promotion.id):
        cost = cost_order((promotion,), rate, gpu_count)
        if cost < lowest:
            winner, lowest = promotion, cost
    return winner


def cost_order(applied: Iterable[Promotion], rate: Rate, gpu_count: int) -> tuple[int, int]:
    """What promotions, one after the other, are compared by: micro-units per hour, then per start."""
    for promotion in applied:
        rate = discounted(promotion, rate)
    return rate.hourly_micros(gpu_count), rate.per_start_micros


def stacked(promotions: Iterable[Promotion], rate: Rate, gpu_count: int) -> tuple[Promotion, ...]:
    """What applies together at an instant, in this order: none, one, or one with another that ``stacks`` on top.

    The cheapest of: the best single one of those that do not stack; the largest that stacks; and that one on top of
    the best that has neither budget nor free GPU time. Of equals the fewer, then the older. Which are open and whose
    they are is for the caller to decide before.
    """
    offered = list(promotions)
    singles = [promotion for promotion in offered if not promotion.stacks]
    return combined(
        best(singles, rate, gpu_count),
        best((promotion for promotion in singles if not promotion.has_allowance), rate, gpu_count),
        min((promotion for promotion in offered if promotion.stacks), key=stacking_order, default=None),
        rate,
        gpu_count,
    )


def stacking_order(promotion: Promotion) -> tuple[int, int]:
    """Sorts those that stack: the largest percentage first, then the oldest."""
    return -(promotion.percent_off or 0), promotion.id


def combined(
    single: Promotion | None, plain: Promotion | None, top: Promotion | None, rate: Rate, gpu_count: int
) -> tuple[Promotion, ...]:
    """The cheapest of ``single`` alone, ``top`` alone, ``top`` on ``plain``, and nothing; see :func:`stacked`."""
    choices: list[tuple[Promotion, ...]] = [()]
    choices += [(promotion,) for promotion in (single, top) if promotion is not None]
    if top is not None and plain is not None:
        choices.append((plain, top))
    return min(
        choices,
        key=lambda choice: (cost_order(choice, rate, gpu_count), len(choice), [promotion.id for promotion in choice]),
    )
