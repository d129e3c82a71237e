"""The half of the unit of work that keeps rules: prices, promotions, limits, grants, requests, notices, settings."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from sqlalchemy import (
    ColumnElement,
    Connection,
    Executable,
    Insert,
    Table,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)

from fastgpu_hub.broker.ports.records import Ask, Notice, PromotionCode, PromotionUse, Redemption
from fastgpu_hub.pricing.credits import Grant
from fastgpu_hub.pricing.pricebook import PriceVersion, Rate
from fastgpu_hub.pricing.promotions import Promotion
from fastgpu_hub.pricing.quotas import Extra, Quota
from fastgpu_hub.store import rows, usage
from fastgpu_hub.store import tables as t
from fastgpu_hub.store.prepared import Prepared

_VERSION = "rules_version"

# Written into the statement, not bound: a database uses a partial index only where it sees the index's condition.
_CHARGE: ColumnElement[str] = literal_column("'charge'")

_GRANTS = Prepared(select(t.grants).where(t.grants.c.account == bindparam("name")).order_by(t.grants.c.id))
_SETTING = Prepared(select(t.settings.c.value).where(t.settings.c.name == bindparam("key")))
_PROMOTION_NAMES = Prepared(select(t.promotions.c.id, t.promotions.c.name))


class RuleTables:
    """Reads and writes of rules over one connection."""

    def __init__(self, connection: Connection) -> None:
        self._bare = connection

    def flush(self) -> None:
        """Write what was kept back: nothing, where everything is written at once."""

    @property
    def _connection(self) -> Connection:
        """For statements that must see all that was written before them."""
        self.flush()
        return self._bare

    def _all(self, statement: Executable) -> list[rows.Row]:
        return [cast("rows.Row", row) for row in self._connection.execute(statement).mappings()]

    def _first(self, statement: Executable) -> rows.Row | None:
        return cast("rows.Row | None", self._connection.execute(statement).mappings().first())

    def _changed(self, statement: Executable) -> int:
        return self._connection.execute(statement).rowcount

    def _insert(self, table: Table, row: dict[str, Any]) -> int:
        return self._insert_all(table, [row])[0]

    def _insert_all(self, table: Table, new: list[dict[str, Any]]) -> list[int]:
        statement: Insert = insert(table).returning(table.c.id, sort_by_parameter_order=True)
        return list(self._connection.execute(statement, new).scalars()) if new else []

    # ------------------------------------------------------------ prices

    def prices(self) -> list[PriceVersion]:
        """Every price version, oldest entry first."""
        return [rows.price_of(row) for row in self._all(select(t.prices).order_by(t.prices.c.id))]

    def add_price(self, gpu_type: str, rate: Rate, valid_from_ms: int, created_by: str) -> PriceVersion:
        """Insert a price version; returns it with its id."""
        row = {
            "gpu_type": gpu_type,
            "per_gpu_hour_micros": rate.per_gpu_hour_micros,
            "per_task_hour_micros": rate.per_task_hour_micros,
            "per_start_micros": rate.per_start_micros,
            "valid_from_ms": valid_from_ms,
            "created_by": created_by,
        }
        self._rules_changed()
        return PriceVersion(self._insert(t.prices, row), gpu_type, rate, valid_from_ms, created_by)

    # ------------------------------------------------------------ promotions

    def promotions(self) -> list[Promotion]:
        """The newest version of every promotion, drafts and ended ones too, oldest promotion first."""
        newest: dict[int, Promotion] = {}
        for promotion in self.promotion_versions():
            newest[promotion.family] = promotion
        return list(newest.values())

    def promotion_versions(self) -> list[Promotion]:
        """Every version of every promotion, in the order they were made."""
        return [rows.promotion_of(row) for row in self._all(select(t.promotions).order_by(t.promotions.c.id))]

    def add_promotion(self, promotion: Promotion) -> Promotion:
        """Insert a version (its ``id`` is ignored; family 0 is a new promotion); returns it with id and family."""
        self._rules_changed()
        new = self._insert(t.promotions, rows.promotion_row(promotion))
        return replace(promotion, id=new, family=promotion.family or new)

    def promotion_names(self) -> dict[int, str]:
        """The name of every version there ever was, by its id."""
        return dict(_PROMOTION_NAMES.rows(self._bare, {}))

    def add_codes(self, codes: Sequence[PromotionCode]) -> None:
        """Insert codes. Raises ValueError naming one that exists already."""
        wanted = [code.code for code in codes]
        c = t.promotion_codes.c
        if (taken := self._first(select(c.code).where(c.code.in_(wanted)))) is not None:
            raise ValueError(f"the code {taken['code']} exists already")
        self._connection.execute(insert(t.promotion_codes), [rows.code_row(code) for code in codes])

    def code(self, code: str) -> PromotionCode | None:
        """A code with its uses so far."""
        return next(iter(self._codes(t.promotion_codes.c.code == code)), None)

    def codes(self, family: int) -> list[PromotionCode]:
        """The codes of a promotion with their uses so far."""
        return self._codes(t.promotion_codes.c.family == family)

    def _codes(self, condition: ColumnElement[bool]) -> list[PromotionCode]:
        c, uses = t.promotion_codes.c, func.count(t.redemptions.c.id).label("uses")
        joined = select(t.promotion_codes, uses).outerjoin(t.redemptions, t.redemptions.c.code == c.code)
        found = self._all(joined.where(condition).group_by(*c).order_by(c.created_ms, c.code))
        return [PromotionCode(**row) for row in found]

    def add_redemption(self, redemption: Redemption) -> Redemption:
        """Insert (its ``id`` is ignored); returns it with its id."""
        return replace(redemption, id=self._insert(t.redemptions, rows.redemption_row(redemption)))

    def redemption_counts(self, owner: str) -> dict[int, tuple[int, int]]:
        """By promotion: how often the person redeemed it, and how often everybody did. Those never redeemed lack."""
        c = t.redemptions.c
        mine = func.sum(case((c.owner == owner, 1), else_=0))
        statement = select(c.family, mine, func.count()).group_by(c.family)
        return {
            family: (int(own), int(all_of_them)) for family, own, all_of_them in self._connection.execute(statement)
        }

    def promotion_use(self, families: Sequence[int], owner: str | None = None) -> dict[int, PromotionUse]:
        """What these promotions took off and the GPU time under them: charges less refunds, plus open holds."""
        c = t.promotions.c
        family = func.coalesce(c.family, c.id)
        versions = self._connection.execute(select(c.id, family).where(family.in_(families)))
        family_of: dict[int, int] = {version: of for version, of in versions}  # noqa: C416
        h = t.hold_lines.c
        held = select(h.promotion_id, func.sum(h.saved_micros), func.sum(h.gpu_ms)).where(h.promotion_id.in_(family_of))
        if owner is not None:
            held = held.where(h.owner == owner)
        charged = usage.of_promotions(self._connection, list(family_of), owner)
        used: dict[int, PromotionUse] = {}
        for version, saved, gpu_ms in [*charged, *self._connection.execute(held.group_by(h.promotion_id))]:
            before = used.get(family_of[version], PromotionUse())
            used[family_of[version]] = PromotionUse(before.saved_micros + int(saved), before.gpu_ms + int(gpu_ms))
        return used

    def first_used_ms(self, owner: str) -> int | None:
        """When the person's first charged line began; None when there is none."""
        c = t.transfers.c
        first = select(func.min(c.from_ms)).where(c.kind == _CHARGE, c.owner == owner)
        return cast("int | None", self._connection.execute(first).scalar_one())

    # ------------------------------------------------------------ limits

    def quotas(self) -> list[Quota]:
        """The limits in force, oldest first."""
        return [rows.quota_of(row) for row in self._all(select(t.quotas).order_by(t.quotas.c.id))]

    def add_quota(self, quota: Quota) -> Quota:
        """Insert (its ``id`` is ignored); returns it with its id."""
        self._rules_changed()
        return replace(quota, id=self._insert(t.quotas, rows.quota_row(quota)))

    def remove_quota(self, quota_id: int) -> Quota | None:
        """Take a limit out of force; returns it, None when there is none."""
        row = self._first(select(t.quotas).where(t.quotas.c.id == quota_id))
        self._rules_changed()
        self._changed(delete(t.quotas).where(t.quotas.c.id == quota_id))
        return None if row is None else rows.quota_of(row)

    def extras(self) -> list[Extra]:
        """Everything ever given beyond a limit, oldest first."""
        return [rows.extra_of(row) for row in self._all(select(t.quota_extras).order_by(t.quota_extras.c.id))]

    def add_extra(self, extra: Extra) -> Extra:
        """Insert (its ``id`` is ignored); returns it with its id."""
        self._rules_changed()
        return replace(extra, id=self._insert(t.quota_extras, rows.extra_row(extra)))

    def rules_version(self) -> str:
        """Another one, never used before, after every change of a price, promotion, quota or extra; "" at first."""
        return str(self.setting(_VERSION) or "")

    def _rules_changed(self) -> None:
        # Not a counter: what a transaction that is rolled back called its version must not come again.
        self.set_setting(_VERSION, secrets.token_hex(8))

    # ------------------------------------------------------------ credit

    def add_grant(self, grant: Grant) -> Grant:
        """Insert (its ``id`` is ignored); returns it with its id. The ledger entry is the caller's."""
        return replace(grant, id=self._insert(t.grants, rows.grant_row(grant)))

    def grants(self, account: str | None = None) -> list[Grant]:
        """Grants ever given, oldest first; of one account, or of all."""
        if account is None:
            return [rows.grant_of(row) for row in self._all(select(t.grants).order_by(t.grants.c.id))]
        return [rows.grant_of(row) for row in _GRANTS.records(self._bare, {"name": account})]

    def expired_grants(self, now_ms: int) -> list[Grant]:
        """Grants that expired by now and whose expiry is not booked yet, oldest expiry first."""
        c, entry = t.grants.c, t.transfers.c
        booked = select(entry.grant_id).where(entry.kind != _CHARGE, entry.kind == "expire")
        statement = select(t.grants).where(c.expires_ms <= now_ms, c.id.not_in(booked)).order_by(c.expires_ms, c.id)
        return [rows.grant_of(row) for row in self._all(statement)]

    # ------------------------------------------------------------ asking for more, news

    def add_ask(self, ask: Ask) -> Ask:
        """Insert (its ``id`` is ignored); returns it with its id."""
        return replace(ask, id=self._insert(t.asks, rows.ask_row(ask)))

    def save_ask(self, ask: Ask) -> None:
        """Replace a request for more. Raises LookupError when there is none of its id."""
        if self._changed(update(t.asks).where(t.asks.c.id == ask.id).values(rows.ask_row(ask))) != 1:
            raise LookupError(f"there is no request {ask.id}")

    def asks(self, *, owner: str | None = None, state: str | None = None) -> list[Ask]:
        """Requests for more matching every given filter, newest first."""
        c = t.asks.c
        given = [(c.owner, owner), (c.state, state)]
        statement = select(t.asks).where(*(column == value for column, value in given if value is not None))
        return [rows.ask_of(row) for row in self._all(statement.order_by(c.id.desc()))]

    def add_notice(self, notice: Notice) -> Notice:
        """Insert (its ``id`` is ignored); returns it with its id."""
        return replace(notice, id=self._insert(t.notices, rows.notice_row(notice)))

    def notices(self, owner: str, after_id: int = 0, limit: int = 100) -> list[Notice]:
        """The person's notices after one, oldest first; the latest ``limit`` of them."""
        c = t.notices.c
        latest = select(t.notices).where(c.owner == owner, c.id > after_id).order_by(c.id.desc()).limit(limit)
        return [rows.notice_of(row) for row in reversed(self._all(latest))]

    # ------------------------------------------------------------ settings

    def setting(self, name: str) -> Any | None:
        """The JSON value kept under a name."""
        found = _SETTING.rows(self._bare, {"key": name})
        return rows.from_json(found[0][0]) if found else None

    def set_setting(self, name: str, value: Any) -> None:
        """Keep a small JSON value under a name."""
        text = rows.to_json(value)
        if not self._changed(update(t.settings).where(t.settings.c.name == name).values(value=text)):
            self._connection.execute(insert(t.settings), {"name": name, "value": text})
