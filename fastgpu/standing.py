"""What the caller may use and has used: promotions, credit, limits, prices, costs, and asking for more."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from fastgpu import models, requests, rule_requests
from fastgpu.requests import Call, GroupBy, Written
from fastgpu.submission import make

T = TypeVar("T")


class Standing:
    """The part of :class:`~fastgpu.client.GPUClient` about the rules and costs of its owner."""

    def send(self, call: Call[T]) -> T:
        """Send one call and read its answer."""
        raise NotImplementedError

    def promotions(self, promo_code: str | None = None) -> list[models.Promotion]:
        """Promotions I can see; with a code also the one it opens."""
        return self.send(rule_requests.promotions(promo_code))

    def redeem(
        self, code: str | None = None, *, promotion_id: int | None = None, account: str | None = None
    ) -> models.Redeemed:
        """Take a place in a promotion, by its code or, where it needs none, by its id; ``account`` gets its credit."""
        request = make(models.Redeem, code=code, promotion_id=promotion_id, account=account)
        return self.send(rule_requests.redeem(request))

    def grants(self, account: str | None = None) -> list[models.Grant]:
        """Credit given to my accounts: what is left of each grant and when it expires."""
        return self.send(rule_requests.grants(account))

    def asks(self, state: str | None = None) -> list[models.Ask]:
        """My requests for more, and those I may decide, newest first."""
        return self.send(rule_requests.asks(state))

    def ask(self, amount: int, reason: str, *, quota_id: int | None = None, account: str | None = None) -> models.Ask:
        """Ask for more of a limit (in its metric's unit) or of an account's credit (micro-units)."""
        request = make(models.AskSet, quota_id=quota_id, account=account, amount=amount, reason=reason)
        return self.send(rule_requests.ask(request))

    def withdraw(self, ask_id: int) -> models.Ask:
        """Take a request for more back."""
        return self.send(rule_requests.withdraw(ask_id))

    def quotas(self) -> list[models.QuotaUse]:
        """The limits that apply to me: used, reserved, left, when they reset."""
        return self.send(rule_requests.quotas())

    def prices(self) -> list[models.Price]:
        """The price book."""
        return self.send(rule_requests.prices())

    def costs(self, since: datetime | None = None, by: GroupBy = "job") -> models.CostReport:
        """Settled and running cost since an instant (with a zone), grouped by job, gpu, day or person."""
        return self.send(rule_requests.costs(since, by))

    def receipt(self, lease_id: str) -> models.Receipt:
        """Every charge of a lease or job, each naming its rule."""
        return self.send(requests.receipt(lease_id))

    def written_receipt(self, lease_id: str, format: Written) -> str:
        """A receipt as text, as a page, or as a table for a spreadsheet."""
        return self.send(requests.written_receipt(lease_id, format))
