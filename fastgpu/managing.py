"""What teachers and administrators do through the SDK; :class:`~fastgpu.client.GPUClient` has all of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeVar

from fastgpu import models, rule_requests
from fastgpu.requests import Call
from fastgpu.submission import Amount, make, micros_of

T = TypeVar("T")


class Managing:
    """Prices, promotions, limits, credit, requests for more, reports."""

    def send(self, call: Call[T]) -> T:
        """Send one call and read its answer."""
        raise NotImplementedError

    def set_price(
        self,
        gpu_type: str,
        per_gpu_hour: Amount = 0,
        *,
        per_task_hour: Amount = 0,
        per_start: Amount = 0,
        valid_from: datetime | None = None,
    ) -> models.Price:
        """New list price of a GPU type, in whole units; valid from now on or from ``valid_from``."""
        request = make(
            models.PriceSet,
            gpu_type=gpu_type,
            per_gpu_hour_micros=micros_of(per_gpu_hour),
            per_task_hour_micros=micros_of(per_task_hour),
            per_start_micros=micros_of(per_start),
            valid_from=valid_from,
        )
        return self.send(rule_requests.set_price(request))

    def set_quota(
        self, scope: models.QuotaScope | str, metric: models.QuotaMetric | str, limit: int, **more: Any
    ) -> models.QuotaUse:
        """Set a limit, in the metric's unit; ``more`` are the other fields of :class:`~fastgpu.models.QuotaSet`."""
        return self.send(
            rule_requests.set_quota(make(models.QuotaSet, scope=scope, metric=metric, limit=limit, **more))
        )

    def remove_quota(self, quota_id: int) -> None:
        """Lift a limit."""
        self.send(rule_requests.remove_quota(quota_id))

    def add_promotion(self, name: str, starts_at: datetime, ends_at: datetime, **more: Any) -> models.Promotion:
        """Set up a promotion; ``more`` are the other fields of :class:`~fastgpu.models.PromotionSet`."""
        request = make(models.PromotionSet, name=name, starts_at=starts_at, ends_at=ends_at, **more)
        return self.send(rule_requests.add_promotion(request))

    def edit_promotion(
        self, promotion_id: int, name: str, starts_at: datetime, ends_at: datetime, **more: Any
    ) -> models.Promotion:
        """A new version of a promotion, arguments as for :meth:`add_promotion`; what runs keeps its price."""
        request = make(models.PromotionSet, name=name, starts_at=starts_at, ends_at=ends_at, **more)
        return self.send(rule_requests.edit_promotion(promotion_id, request))

    def publish_promotion(self, promotion_id: int) -> models.Promotion:
        """Make a draft count."""
        return self.send(rule_requests.publish_promotion(promotion_id))

    def preview_promotion(
        self, since: datetime, until: datetime, name: str, starts_at: datetime, ends_at: datetime, **more: Any
    ) -> models.Preview:
        """What ``[since, until)`` would have cost under a promotion, per person; nothing is changed."""
        promotion = make(models.PromotionSet, name=name, starts_at=starts_at, ends_at=ends_at, **more)
        return self.send(rule_requests.preview(make(models.PreviewSet, promotion=promotion, since=since, until=until)))

    def make_codes(self, promotion_id: int, count: int, max_uses: int | None = 1) -> list[models.PromotionCode]:
        """New codes drawn at random, each for ``max_uses`` redemptions (None: any number)."""
        return self.send(rule_requests.make_codes(promotion_id, make(models.CodesSet, count=count, max_uses=max_uses)))

    def codes(self, promotion_id: int) -> list[models.PromotionCode]:
        """The codes of a promotion with their uses."""
        return self.send(rule_requests.codes(promotion_id))

    def end_promotion(self, promotion_id: int) -> models.Promotion:
        """End a promotion now; what was granted under it keeps its price."""
        return self.send(rule_requests.end_promotion(promotion_id))

    def grant(self, account: str, amount: Amount, note: str = "", **more: Any) -> models.Account:
        """Give credit (whole units) to ``class:NAME`` or ``person:NAME``.

        ``more`` are the other fields of :class:`~fastgpu.models.GrantSet`; with ``from_account`` a teacher gives it out
        of their class's credit.
        """
        request = make(models.GrantSet, account=account, amount_micros=micros_of(amount), note=note, **more)
        return self.send(rule_requests.grant(request))

    def refund(self, lease_id: str, reason: str, charge_ids: Sequence[int] = ()) -> models.Receipt:
        """Give back what was charged for a lease or job: all of it, or the charge lines with these ids."""
        request = make(models.RefundSet, reason=reason, charge_ids=tuple(charge_ids))
        return self.send(rule_requests.refund(lease_id, request))

    def approve(
        self, ask_id: int, amount: int | None = None, *, until: datetime | None = None, answer: str = ""
    ) -> models.Ask:
        """Give what somebody asked for: as asked, or ``amount`` in the unit of what they asked for."""
        request = make(models.AskDecision, amount=amount, until=until, answer=answer)
        return self.send(rule_requests.decide(ask_id, "approve", request))

    def decline(self, ask_id: int, answer: str = "") -> models.Ask:
        """Decline a request for more."""
        return self.send(rule_requests.decide(ask_id, "decline", make(models.AskDecision, answer=answer)))

    def problems(self) -> list[models.Problem]:
        """What does not fit together and nothing repairs."""
        return self.send(rule_requests.problems())

    def class_report(self, name: str) -> models.ClassReport:
        """A class as its teacher sees it."""
        return self.send(rule_requests.class_report(name))

    def inventory(self) -> list[models.InventoryGpu]:
        """Every device and who holds it."""
        return self.send(rule_requests.inventory())

    def audit(self) -> list[models.AuditLine]:
        """Who changed which rule."""
        return self.send(rule_requests.audit())
