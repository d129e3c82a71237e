"""Calls about money and rules: costs, prices, promotions, limits, credit, requests for more. Pure as ``requests``."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Literal

from fastgpu import models
from fastgpu.requests import Call, GroupBy, many_of, nothing, one_of, post_call, query, segment


def costs(since: datetime | None = None, by: GroupBy = "job") -> Call[models.CostReport]:
    """Settled and running cost since an instant (with a zone), grouped."""
    params = query(since=since.isoformat() if since else None, by=by)
    return Call("GET", "api/costs", one_of(models.CostReport), params=params)


def promotions(promo_code: str | None = None) -> Call[list[models.Promotion]]:
    """Promotions the caller can see, and with a code the one it opens."""
    return Call("GET", "api/promotions", many_of(models.Promotion), params=query(promo_code=promo_code))


def add_promotion(request: models.PromotionSet, key: str | None = None) -> Call[models.Promotion]:
    """Set up a promotion (administrator; teacher for the own class)."""
    return post_call("api/promotions", request, models.Promotion, key)


def end_promotion(promotion_id: int, key: str | None = None) -> Call[models.Promotion]:
    """End a promotion now."""
    return post_call(f"api/promotions/{segment(promotion_id)}/end", None, models.Promotion, key)


def quotas() -> Call[list[models.QuotaUse]]:
    """The limits that apply to the caller."""
    return Call("GET", "api/quotas", many_of(models.QuotaUse))


def set_quota(request: models.QuotaSet, key: str | None = None) -> Call[models.QuotaUse]:
    """Set a limit (administrator; teacher for the own class)."""
    return post_call("api/quotas", request, models.QuotaUse, key)


def remove_quota(quota_id: int) -> Call[None]:
    """Lift a limit."""
    return Call("DELETE", f"api/quotas/{segment(quota_id)}", nothing)


def prices() -> Call[list[models.Price]]:
    """The price book."""
    return Call("GET", "api/prices", many_of(models.Price))


def set_price(request: models.PriceSet, key: str | None = None) -> Call[models.Price]:
    """New version of a list price (administrator)."""
    return post_call("api/prices", request, models.Price, key)


def grant(request: models.GrantSet, key: str | None = None) -> Call[models.Account]:
    """Give credit to an account (administrator)."""
    return post_call("api/grants", request, models.Account, key)


def class_report(name: str) -> Call[models.ClassReport]:
    """A class as its teacher sees it."""
    return Call("GET", f"api/classes/{segment(name)}", one_of(models.ClassReport))


def inventory() -> Call[list[models.InventoryGpu]]:
    """Every device and who holds it (administrator)."""
    return Call("GET", "api/inventory", many_of(models.InventoryGpu))


def audit() -> Call[list[models.AuditLine]]:
    """Who changed which rule (administrator)."""
    return Call("GET", "api/audit", many_of(models.AuditLine))


def edit_promotion(promotion_id: int, request: models.PromotionSet, key: str | None = None) -> Call[models.Promotion]:
    """A new version of a promotion; what was granted under an older one keeps its price."""
    return post_call(f"api/promotions/{segment(promotion_id)}", request, models.Promotion, key)


def publish_promotion(promotion_id: int, key: str | None = None) -> Call[models.Promotion]:
    """Make a draft count."""
    return post_call(f"api/promotions/{segment(promotion_id)}/publish", None, models.Promotion, key)


def codes(promotion_id: int) -> Call[list[models.PromotionCode]]:
    """The codes of a promotion, for those who may edit it."""
    return Call("GET", f"api/promotions/{segment(promotion_id)}/codes", many_of(models.PromotionCode))


def make_codes(promotion_id: int, request: models.CodesSet, key: str | None = None) -> Call[list[models.PromotionCode]]:
    """New codes, drawn at random."""
    call = post_call(f"api/promotions/{segment(promotion_id)}/codes", request, models.PromotionCode, key)
    return Call("POST", call.path, many_of(models.PromotionCode), headers=call.headers, body=call.body)


def preview(request: models.PreviewSet, key: str | None = None) -> Call[models.Preview]:
    """What a past period would have cost under a promotion."""
    return replace(post_call("api/previews", request, models.Preview, key), timeout_seconds=120.0)


def redeem(request: models.Redeem, key: str | None = None) -> Call[models.Redeemed]:
    """Take a place in a promotion."""
    return post_call("api/redemptions", request, models.Redeemed, key)


def grants(account: str | None = None) -> Call[list[models.Grant]]:
    """Grants of the caller's accounts, or of one that they may see, with what is left of each."""
    return Call("GET", "api/grants", many_of(models.Grant), params=query(account=account))


def asks(state: str | None = None) -> Call[list[models.Ask]]:
    """Requests for more: the caller's own and those they may decide, newest first."""
    return Call("GET", "api/asks", many_of(models.Ask), params=query(state=state))


def ask(request: models.AskSet, key: str | None = None) -> Call[models.Ask]:
    """Ask for more of a limit or of credit."""
    return post_call("api/asks", request, models.Ask, key)


def decide(
    ask_id: int, verdict: Literal["approve", "decline"], request: models.AskDecision, key: str | None = None
) -> Call[models.Ask]:
    """Approve or decline a request for more."""
    return post_call(f"api/asks/{segment(ask_id)}/{verdict}", request, models.Ask, key)


def withdraw(ask_id: int, key: str | None = None) -> Call[models.Ask]:
    """Take a request for more back."""
    return post_call(f"api/asks/{segment(ask_id)}/withdraw", None, models.Ask, key)


def refund(lease_id: str, request: models.RefundSet, key: str | None = None) -> Call[models.Receipt]:
    """Give back what was charged for a lease (administrator)."""
    return post_call(f"api/leases/{segment(lease_id)}/refund", request, models.Receipt, key)


def problems() -> Call[list[models.Problem]]:
    """What does not fit together and nothing repairs (administrator)."""
    return Call("GET", "api/problems", many_of(models.Problem))
