"""The books' bare rows, added up without any of the code under test."""

from __future__ import annotations

from sqlalchemy import text


class Books:
    """Every row that money stands in, as it is at one moment."""

    def __init__(self, connection) -> None:
        def rows(sql):
            return [dict(row) for row in connection.execute(text(sql)).mappings()]

        self.transfers = rows("SELECT * FROM transfers ORDER BY id")
        self.held = rows("SELECT l.*, h.workload_id, h.state FROM hold_lines l JOIN holds h ON h.id = l.hold_id")
        self.holds = rows("SELECT * FROM holds")
        self.workloads = {row["id"]: row for row in rows("SELECT * FROM workloads")}
        self.grants = rows("SELECT * FROM grants ORDER BY id")
        self.redemptions = rows("SELECT * FROM redemptions")
        reversed_ids = {t["reverses"] for t in self.transfers if t["reverses"] is not None}
        self.charges = [t for t in self.transfers if t["kind"] == "charge"]
        self.kept = [t for t in self.charges if t["id"] not in reversed_ids]

    def taken(self, account=None, owner=None, from_ms=None, until_ms=None, what="amount_micros") -> int:
        """Charges that were not refunded, and open hold lines, that start in an interval."""
        total = 0
        for row, pays in [(t, t["debit"]) for t in self.kept] + [(line, line["account"]) for line in self.held]:
            inside = (from_ms is None or row["from_ms"] >= from_ms) and (until_ms is None or row["from_ms"] < until_ms)
            if inside and account in (None, pays) and owner in (None, row["owner"]):
                total += row[what]
        return total

    def demands(self, account) -> list[tuple[int, int]]:
        """What was ever charged or is held, refunded or not, with the instant that it pays for."""
        charged = [(t["from_ms"], t["amount_micros"]) for t in self.charges if t["debit"] == account]
        return sorted(charged + [(h["from_ms"], h["amount_micros"]) for h in self.held if h["account"] == account])

    def can_be_paid(self, account) -> bool:
        """Whether some assignment of grants pays every demand while it is valid: earliest expiry first finds one.

        Earlier demands may only be paid by grants that had begun; a grant that begins later helps later ones.
        """
        left = {g["id"]: g["amount_micros"] for g in self.grants if g["account"] == account}
        expires = {g["id"]: g["expires_ms"] or 10**15 for g in self.grants}
        began = {g["id"]: g["granted_ms"] for g in self.grants}
        dated = any(g["account"] == account and g["expires_ms"] for g in self.grants)
        for at_ms, amount in self.demands(account):
            usable = sorted(
                (g for g in left if expires[g] > at_ms and (not dated or began[g] <= at_ms)), key=expires.__getitem__
            )
            for grant in usable:
                used = min(left[grant], amount)
                left[grant] -= used
                amount -= used
            if amount:
                return False
        return True
