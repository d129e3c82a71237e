"""Why somebody does not get a promotion, in words and numbers that help."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastgpu_hub.pricing import windows
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.money import MS_PER_HOUR, format_money

if TYPE_CHECKING:
    from fastgpu_hub.pricing.promotions import Customer, Promotion, Standing


def refusal(
    code: str, promotion: Promotion, customer: Customer, standing: Standing, gpu_type: str | None, at_ms: int
) -> Refused:
    """The refusal with one of the codes that ``promotions.why_not`` finds, about the instant ``at_ms``.

    ``numbers`` always has what is limited and what is left of it.
    """
    name, left = promotion.name, _left(promotion, standing)
    if code == "promo_ended":
        return _ended(promotion, left)
    if code == "promo_wrong_gpu":
        types = ", ".join(promotion.gpu_types)
        return Refused(
            code,
            f"“{name}” is for {types}, not for {gpu_type}.",
            {"gpu_type": str(gpu_type), "gpu_types": types, **left},
            instead=f"Ask for {' or '.join(promotion.gpu_types)}.",
        )
    if code == "promo_audience":
        return _not_named(promotion, customer, left)
    if code in ("promo_not_started", "promo_outside_hours"):
        return _not_now(code, promotion, at_ms, left)
    sentence, instead = _said(code, promotion)
    return Refused(code, f"“{name}” {sentence}.", left, instead=instead)


def _said(code: str, promotion: Promotion) -> tuple[str, str]:
    if code == "promo_draft":
        return "is a draft and not published yet", ""
    if code == "promo_redeemed":
        times = "once" if promotion.max_per_person == 1 else f"{promotion.max_per_person} times"
        return f"can be redeemed {times} per person, and you have", ""
    if code == "promo_full":
        places = "The only place" if promotion.max_redemptions == 1 else f"All {promotion.max_redemptions} places"
        return f"is full. {places} of it {'is' if promotion.max_redemptions == 1 else 'are'} taken", ""
    if code == "promo_code_needed":
        return "needs one of its codes", "Give the code with your request."
    if code == "promo_budget_spent":
        return f"has used up its budget of {format_money(promotion.budget_micros or 0)}", ""
    return f"gave you the first {_gpu_hours(promotion.free_gpu_ms or 0)} free, and they are used", ""


def _gpu_hours(gpu_ms: int) -> str:
    hundredths = gpu_ms * 100 // MS_PER_HOUR
    text = f"{hundredths // 100}.{hundredths % 100:02d}".removesuffix(".00")
    return f"{text} GPU-hour" if text == "1" else f"{text} GPU-hours"


def _left(promotion: Promotion, standing: Standing) -> dict[str, int | str]:
    numbers: dict[str, int | str] = {}
    if promotion.max_redemptions is not None:
        numbers["places"] = promotion.max_redemptions
        numbers["places_left"] = max(0, promotion.max_redemptions - standing.redemptions)
    if promotion.credit_micros is not None:
        numbers["per_person"] = promotion.max_per_person
        numbers["per_person_left"] = max(0, promotion.max_per_person - standing.redeemed)
    if promotion.budget_micros is not None:
        numbers["budget_micros"] = promotion.budget_micros
        numbers["budget_left_micros"] = max(0, promotion.budget_micros - standing.saved_micros)
    if promotion.free_gpu_ms is not None:
        numbers["free_gpu_ms"] = promotion.free_gpu_ms
        numbers["free_gpu_ms_left"] = max(0, promotion.free_gpu_ms - standing.free_gpu_ms)
    return numbers


def _ended(promotion: Promotion, left: dict[str, int | str]) -> Refused:
    if promotion.starts_ms >= promotion.ends_ms:
        sentence = "was withdrawn before it began"
    else:
        sentence = f"ended on {windows.when(promotion.ends_ms, promotion.time_zone)}"
    return Refused("promo_ended", f"“{promotion.name}” {sentence}.", {"ended_ms": promotion.ends_ms, **left})


def _not_named(promotion: Promotion, customer: Customer, left: dict[str, int | str]) -> Refused:
    numbers: dict[str, int | str] = {"owner": customer.owner, "account": customer.account}
    others = set(promotion.audience) != {"new"}
    if "new" not in promotion.audience:
        sentence = f"is for certain classes and people; {customer.owner} charging {customer.account} is not one"
    else:
        first_used_ms = customer.first_used_ms or 0
        numbers |= {"first_used_ms": first_used_ms, "starts_ms": promotion.starts_ms}
        starts, used = (windows.when(at_ms, promotion.time_zone) for at_ms in (promotion.starts_ms, first_used_ms))
        sentence = (
            f"is for new users{', and for certain classes and people' if others else ''}; {customer.owner} first used "
            f"a GPU on {used}, before it began on {starts}"
        )
    return Refused(
        "promo_audience",
        f"“{promotion.name}” {sentence}.",
        {**numbers, **left},
        instead="If you are in an eligible class, charge its account." if others else "",
    )


def _not_now(code: str, promotion: Promotion, at_ms: int, left: dict[str, int | str]) -> Refused:
    opens_ms: int | None = promotion.starts_ms
    if code == "promo_outside_hours" or not _active(promotion, promotion.starts_ms):
        opens_ms = windows.next_change(*_hours(promotion), max(at_ms, promotion.starts_ms))
    if opens_ms is None or opens_ms >= promotion.ends_ms:
        ends = windows.when(promotion.ends_ms, promotion.time_zone)
        return Refused(
            "promo_outside_hours",
            f"“{promotion.name}” has no more hours before it ends on {ends}.",
            {"ends_ms": promotion.ends_ms, **left},
        )
    if code == "promo_not_started":
        sentence, numbers = "has not started; it starts on", {"starts_ms": promotion.starts_ms}
    else:
        sentence, numbers = "is outside its hours; it opens again on", {"opens_ms": opens_ms}
    opens = windows.when(opens_ms, promotion.time_zone)
    return Refused(
        code, f"“{promotion.name}” {sentence} {opens}.", {**numbers, **left}, opens_ms, f"Start at {opens} or later."
    )


def _active(promotion: Promotion, at_ms: int) -> bool:
    return windows.active(*_hours(promotion), at_ms)


def _hours(promotion: Promotion) -> tuple[int, int, tuple[windows.WeeklyWindow, ...], str]:
    return promotion.starts_ms, promotion.ends_ms, promotion.weekly, promotion.time_zone
