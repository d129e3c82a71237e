"""Credit: what an account was given, spent, holds, lost to expiry; whether it can pay; grants that expire."""

from __future__ import annotations

from collections.abc import Sequence

from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.pricing import credits, metering
from fastgpu_hub.pricing.credits import Balance, Burned, Spent
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.ledger import expire_transfer, grant_transfer
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.quotas import Scope

REFUND = "refund:"


class Funds:
    """An account's grants and what of them is taken, in one transaction.

    Money is spent at the time that it pays for: spending is summed between the instants at which grants begin and
    expire, and burnt from the grants valid then.
    """

    def __init__(self, uow: UnitOfWork, account: str, now_ms: int, time_zone: str = "UTC") -> None:
        self._uow, self._account, self._now_ms, self._time_zone = uow, account, now_ms, time_zone
        self.grants = uow.grants(account)
        self.edges = credits.edges(self.grants)
        self._taken: list[Spent] | None = None

    def _buckets(self) -> list[tuple[int | None, int | None]]:
        return list(zip([None, *self.edges], [*self.edges, None], strict=True))

    @property
    def taken(self) -> list[Spent]:
        """What is spent, held and given away, by the time it pays for. A refund is a grant, so it is not taken off."""
        if self._taken is None:
            scope = Scope(account=self._account)
            self._taken = [
                Spent(
                    from_ms,
                    self._uow.charged(scope, from_ms, until_ms).amount_micros
                    + self._uow.refunded(scope, from_ms, until_ms).amount_micros
                    + self._uow.held(scope, from_ms, until_ms).amount_micros
                    + self._uow.given(self._account, from_ms, until_ms),
                )
                for from_ms, until_ms in self._buckets()
            ]
        return self._taken

    def wanted(self, lines: Sequence[Line]) -> list[int]:
        """What these lines cost, by the time they pay for: between the instants at which grants begin and expire."""
        return [
            sum(
                line.amount_micros
                for line in lines
                if (from_ms is None or from_ms <= line.from_ms) and (until_ms is None or line.from_ms < until_ms)
            )
            for from_ms, until_ms in self._buckets()
        ]

    def burn(self, lines: Sequence[Line] = ()) -> Burned:
        """What is left of each grant when these lines are spent too."""
        both = zip(self.taken, self.wanted(lines), strict=True)
        return credits.burn(self.grants, [Spent(taken.from_ms, taken.amount_micros + more) for taken, more in both])

    def balance(self) -> Balance:
        """The account as it stands."""
        scope = Scope(account=self._account)
        left = self.burn().left
        expiring: dict[int, int] = {}
        for grant in self.grants:
            if grant.expires_ms is not None and grant.expires_ms > self._now_ms and left[grant.id]:
                expiring[grant.expires_ms] = expiring.get(grant.expires_ms, 0) + left[grant.id]
        return Balance(
            granted_micros=sum(g.amount_micros for g in self.grants if not g.source.startswith(REFUND)),
            spent_micros=self._uow.charged(scope).amount_micros,
            held_micros=self._uow.held(scope).amount_micros,
            expired_micros=sum(
                left[g.id] for g in self.grants if g.expires_ms is not None and g.expires_ms <= self._now_ms
            ),
            given_micros=self._uow.given(self._account),
            expiring=tuple(sorted(expiring.items())),
        )

    def refusal(self, lines: Sequence[Line], currency: str) -> Refused | None:
        """Why the account cannot pay for these lines; None when it can."""
        total = metering.total_micros(lines)
        if total == 0:
            return None
        balance = self.balance()
        if refused := credits.check(self._account, balance, total, currency=currency):
            return refused
        return credits.too_late(
            self._account,
            balance,
            self.burn(lines),
            total,
            short_before_micros=self.burn().short_micros,
            currency=currency,
            time_zone=self._time_zone,
        )


def balance(uow: UnitOfWork, account: str, now_ms: int) -> Balance:
    """An account's credit as it stands."""
    return Funds(uow, account, now_ms).balance()


def expire(uow: UnitOfWork, now_ms: int) -> int:
    """Book what expired unspent, and roll over what rolls over; returns how many grants are done with.

    A grant waits while a hold still covers time before its expiry, for only then is it certain what of it was spent.
    """
    done = 0
    for grant in uow.expired_grants(now_ms):
        assert grant.expires_ms is not None
        if uow.held(Scope(account=grant.account), None, grant.expires_ms).amount_micros:
            continue
        left_micros = Funds(uow, grant.account, now_ms).burn().left[grant.id]
        uow.append([expire_transfer(grant, left_micros, now_ms)])
        rolled = credits.rolled_over(grant, left_micros)
        if rolled is not None:
            kept = uow.add_grant(rolled)
            uow.append([grant_transfer(kept)])
        done += 1
    return done
