"""What was charged, less refunds: whole months from the rollups, the rest and what is newer from the ledger's lines.

Statements are put together from constants and names of columns only; every value is bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from fastgpu_hub.pricing.quotas import Scope, Totals
from fastgpu_hub.pricing.windows import LATEST_MS, calendar_window
from fastgpu_hub.store.prepared import of_text
from fastgpu_hub.store.rollup_tables import SUMS
from fastgpu_hub.store.rollups import LINES, PAYER, SIGN, Mark, by_id, mark

# The two kinds of lines, who pays or gets back, and the sign. Written out, not bound: a database uses a partial index
# only where it sees the index's own condition.
_KINDS = (("kind = 'charge'", "debit", ""), ("kind = 'refund'", "credit", "-"))

_OF_ROLLUP = {name: f"CAST(sum({name}) AS BIGINT) AS {name}" for name in SUMS}
_OF_LINES = {**{name: name for name in SUMS}, "lines": "1"}

Interval = tuple[int | None, int | None]


class _Span(NamedTuple):
    """An interval's whole months as ``[from, until)``, None when it has none, and what lies beside them."""

    months: Interval | None
    beside: list[Interval]


def _span(time_zone: str, from_ms: int | None, until_ms: int | None) -> _Span:
    if from_ms is not None and from_ms > LATEST_MS:
        return _Span(None, [(from_ms, until_ms)])  # there are no months that far ahead
    first_ms, last_ms = from_ms, until_ms
    if from_ms is not None:
        begin_ms, end_ms = calendar_window("month", time_zone, from_ms)
        first_ms = from_ms if begin_ms == from_ms else end_ms
    if until_ms is not None:
        last_ms = calendar_window("month", time_zone, min(until_ms, LATEST_MS))[0]
    if first_ms is not None and last_ms is not None and first_ms >= last_ms:
        return _Span(None, [(from_ms, until_ms)])
    beside = [(from_ms, first_ms), (last_ms, until_ms)]
    return _Span((first_ms, last_ms), [(begin_ms, end_ms) for begin_ms, end_ms in beside if begin_ms != end_ms])


class _Question:
    """Whose lines are asked for; writes conditions and keeps their values."""

    def __init__(self, connection: Connection, owner: str | None, gpu_type: str | None, accounts: Sequence[str] | None):
        self._connection = connection
        self._owner, self._gpu_type, self._accounts = owner, gpu_type, accounts
        self.values: dict[str, Any] = {"owner": owner, "gpu_type": gpu_type}
        self.values.update({f"account_{index}": account for index, account in enumerate(accounts or ())})

    def where(self, interval: Interval, column: str, payer: str, *conditions: str) -> str:
        """The conditions on an interval of ``column``, with ``payer`` as the expression for the account."""
        found = list(conditions)
        if self._accounts is not None:
            names = ", ".join(f":account_{index}" for index in range(len(self._accounts)))
            found.append(f"{payer} = {names}" if len(self._accounts) == 1 else f"{payer} IN ({names})")
        if self._owner is not None:
            found.append("owner = :owner")
        if self._gpu_type is not None:
            found.append("gpu_type = :gpu_type")
        for sign, at_ms in zip((">=", "<"), interval, strict=True):
            if at_ms is not None:
                name = f"at_{len(self.values)}"
                self.values[name] = at_ms
                found.append(f"{column} {sign} :{name}")
        return f" WHERE {' AND '.join(found)}" if found else ""

    def newer(self, months: Interval, until_id: int, *conditions: str) -> str:
        """The lines of the months that the rollups do not hold yet."""
        self.values["until_id"] = until_id
        where = self.where(months, "from_ms", PAYER, "id > :until_id", LINES, *conditions)
        return f"FROM transfers{by_id(self._connection.dialect.name)}{where}"

    def ask(self, sql: str) -> Sequence[Any]:
        """All rows of the statement."""
        return of_text(sql).rows(self._connection, self.values)


def charged(
    connection: Connection, scope: Scope, from_ms: int | None, until_ms: int | None, known: Mark | None = None
) -> Totals:
    """Sum of charges, less refunds, whose line starts in ``[from_ms, until_ms)``; ``known`` is the mark of now."""
    time_zone, until_id = known or mark(connection)
    months, beside = _span(time_zone, from_ms, until_ms)
    accounts = None if scope.account is None else (scope.account,)
    asked = _Question(connection, scope.owner, scope.gpu_type, accounts)
    parts: list[str] = []
    if months is not None:
        table = "usage_accounts" if scope.owner is None else "usage"
        kept = asked.where(months, "month_ms", "account")
        parts.append(f"SELECT sum(amount_micros) AS amount, sum(gpu_ms) AS gpu_time FROM {table}{kept}")  # noqa: S608
        newer = asked.newer(months, until_id)
        parts.append(f"SELECT sum({SIGN} * amount_micros) AS amount, sum({SIGN} * gpu_ms) AS gpu_time {newer}")
    for interval in beside:
        for kind, payer, sign in _KINDS:
            lines = asked.where(interval, "from_ms", payer, kind)
            sums = f"{sign}sum(amount_micros) AS amount, {sign}sum(gpu_ms) AS gpu_time"
            parts.append(f"SELECT {sums} FROM transfers{lines}")  # noqa: S608
    sums = "SELECT coalesce(sum(amount), 0), coalesce(sum(gpu_time), 0)"
    amount_micros, gpu_ms = asked.ask(f"{sums} FROM ({' UNION ALL '.join(parts)}) AS parts")[0]
    return Totals(int(amount_micros), int(gpu_ms))


def usage(
    connection: Connection,
    by: str,
    owner: str | None,
    accounts: Sequence[str] | None,
    from_ms: int | None,
    until_ms: int | None,
) -> Sequence[tuple[Any, int, int, int, int]]:
    """``(key, amount_micros, gpu_ms, saved_micros, lines)`` by owner, gpu_type, workload_id or from_ms, in no order."""
    if accounts is not None and not accounts:
        return []
    asked = _Question(connection, owner, None, accounts)
    time_zone, until_id = mark(connection)
    months, beside = _span(time_zone, from_ms, until_ms)
    if by not in ("owner", "gpu_type"):
        months, beside = None, [(from_ms, until_ms)]
    kept: Sequence[Any] = []
    parts: list[str] = []
    if months is not None:
        kept = asked.ask(_kept(asked, by, months, time_zone, plain=owner is None and accounts is None))
        sums = ", ".join(f"{SIGN} * {of_line} AS {name}" for name, of_line in _OF_LINES.items())
        parts.append(f"SELECT {by} AS grouped, {sums} {asked.newer(months, until_id)}")
    for interval in beside:
        for kind, payer, sign in _KINDS:
            sums = ", ".join(f"{sign}{of_line} AS {name}" for name, of_line in _OF_LINES.items())
            where = asked.where(interval, "from_ms", payer, kind)
            parts.append(f"SELECT {by} AS grouped, {sums} FROM transfers{where}")  # noqa: S608
    together = f"({' UNION ALL '.join(parts)}) AS parts"
    rest = asked.ask(f"SELECT grouped, {', '.join(_OF_ROLLUP.values())} FROM {together} GROUP BY grouped")  # noqa: S608
    return _added(kept, rest) if kept and rest else kept or rest


def _kept(asked: _Question, by: str, months: Interval, time_zone: str, *, plain: bool) -> str:
    """The statement over the smallest rollup that can tell."""
    if by == "owner" and plain:
        begin_ms, end_ms = months
        if begin_ms is not None and calendar_window("month", time_zone, begin_ms) == (begin_ms, end_ms):
            asked.values["month_ms"] = begin_ms
            return f"SELECT owner, {', '.join(SUMS)} FROM usage_people WHERE month_ms = :month_ms"  # noqa: S608
        table = "usage_people"
    else:
        table = "usage_accounts" if by == "gpu_type" and asked.values["owner"] is None else "usage"
    where = asked.where(months, "month_ms", "account")
    return f"SELECT {by}, {', '.join(_OF_ROLLUP.values())} FROM {table}{where} GROUP BY {by}"  # noqa: S608


def _added(kept: Sequence[Any], rest: Sequence[Any]) -> list[tuple[Any, int, int, int, int]]:
    """Both together, by key."""
    sums: dict[Any, tuple[Any, int, int, int, int]] = {row[0]: tuple(row) for row in kept}
    for key, *more in rest:
        before = sums.get(key, (key, 0, 0, 0, 0))
        sums[key] = (key, *map(sum, zip(before[1:], more, strict=True)))
    return list(sums.values())


def accounts(connection: Connection) -> set[str]:
    """Every account that ever paid for a line."""
    asked = _Question(connection, None, None, None)
    newer = asked.newer((None, None), mark(connection).until_id)
    both = f"SELECT DISTINCT account FROM usage_accounts UNION SELECT {PAYER} {newer}"  # noqa: S608
    return {row[0] for row in asked.ask(both)}


def of_promotions(
    connection: Connection, promotion_ids: Sequence[int], owner: str | None
) -> Sequence[tuple[int, int, int]]:
    """``(promotion_id, saved_micros, gpu_ms)`` of charges less refunds under these versions, those with any."""
    if not promotion_ids:
        return []
    asked = _Question(connection, owner, None, None)
    asked.values.update({f"id_{index}": promotion_id for index, promotion_id in enumerate(promotion_ids)})
    these = f"promotion_id IN ({', '.join(f':id_{index}' for index in range(len(promotion_ids)))})"
    kept = asked.where((None, None), "", "", these)
    newer = asked.newer((None, None), mark(connection).until_id, these)
    both = (
        f"SELECT promotion_id, saved_micros, gpu_ms FROM usage_promotions{kept} UNION ALL "  # noqa: S608
        f"SELECT promotion_id, {SIGN} * saved_micros, {SIGN} * gpu_ms {newer}"
    )
    return asked.ask(
        f"SELECT promotion_id, CAST(sum(saved_micros) AS BIGINT), CAST(sum(gpu_ms) AS BIGINT) "  # noqa: S608
        f"FROM ({both}) AS parts GROUP BY promotion_id"
    )
