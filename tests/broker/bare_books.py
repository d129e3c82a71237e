"""The books' bare rows, added up without any of the code under test."""

from __future__ import annotations

from fractions import Fraction

from sqlalchemy import text

from fastgpu_hub.store.unit_of_work import SqlUnitOfWork

DAY_MS = 86_400_000


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


def check_kept(kept, connection) -> None:
    """What the writer has at hand is what it would read."""
    rows = SqlUnitOfWork(connection)
    for sums, ask in ((kept.charged, rows.charged), (kept.held, rows.held)):
        for known in sums._known.values():
            for key, total in known.items():
                assert ask(key.scope, key.from_ms, key.until_ms) == total, key
    assert {who: rows.workload(who) for who in kept.workloads} == kept.workloads
    assert {who: rows.open_hold(who) for who in kept.holds} == kept.holds


def check_rolling(books, owner, limit) -> None:
    """In no day, wherever it begins, does a member of the class spend more than the limit."""
    rows = [t for t in books.kept if t["debit"] == "class:cs101"] + [
        h for h in books.held if h["account"] == "class:cs101"
    ]
    mine = [row for row in rows if row["owner"] == owner]
    for end_ms in {row["until_ms"] for row in mine}:
        begin_ms = end_ms - DAY_MS
        inside = Fraction(0)
        for row in mine:
            length = row["until_ms"] - row["from_ms"]
            if length == 0:
                inside += row["amount_micros"] if begin_ms < row["from_ms"] <= end_ms else 0
            else:
                overlap = min(row["until_ms"], end_ms) - max(row["from_ms"], begin_ms)
                inside += Fraction(row["amount_micros"] * max(0, overlap), length)
        assert inside <= limit + len(mine)  # amounts are rounded per line, the overlap is not
