"""Credit of an account: what was granted, spent and held, and whether a wish can be paid."""

from __future__ import annotations

from dataclasses import dataclass

from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.money import format_money


@dataclass(frozen=True, slots=True)
class Balance:
    """An account in micro-units: granted, settled charges, open holds."""

    granted_micros: int = 0
    spent_micros: int = 0
    held_micros: int = 0

    @property
    def left_micros(self) -> int:
        """What may still be held. Never below zero as long as every hold passed :func:`check`."""
        return self.granted_micros - self.spent_micros - self.held_micros


def check(account: str, balance: Balance, wanted_micros: int, *, currency: str = "") -> Refused | None:
    """Why the account cannot pay ``wanted_micros`` more; None when it can. What costs nothing needs no credit."""
    left = balance.left_micros
    if wanted_micros <= 0 or wanted_micros <= left:
        return None
    wanted, remains, granted, spent, held = (
        format_money(micros, currency)
        for micros in (wanted_micros, left, balance.granted_micros, balance.spent_micros, balance.held_micros)
    )
    return Refused(
        "credit",
        f"This may cost {wanted} but {account} has only {remains} left "
        f"({granted} granted, {spent} spent, {held} held for running work).",
        {
            "account": account,
            "granted_micros": balance.granted_micros,
            "spent_micros": balance.spent_micros,
            "held_micros": balance.held_micros,
            "left_micros": left,
            "wanted_micros": wanted_micros,
        },
        instead="Ask for less time or fewer GPUs, charge another account, or ask for more credit.",
    )
