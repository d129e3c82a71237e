"""What teachers and administrators set, and what people take or ask for of it: rules, credit, codes, requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cached_property

from pydantic import RootModel

from fastgpu import models
from fastgpu_hub.broker import ask_rules, credit_rules, previews, price_views, promotion_rules, rule_views, rules
from fastgpu_hub.broker.actors import Actor, can_be_stored, not_allowed, not_found
from fastgpu_hub.broker.admission import Rules
from fastgpu_hub.broker.desk import Desk, M
from fastgpu_hub.broker.idempotency import IdempotencyClaim, Refusal
from fastgpu_hub.broker.ports.store import UnitOfWork
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.promotions import Customer


class _Codes(RootModel[tuple[models.PromotionCode, ...]]):
    """New codes as one answer, so that a repeat gets the same."""


class Office(Desk):
    """Sets rules, each change audited, and applies them to what waits and runs."""

    @cached_property
    def _previewing(self) -> asyncio.Semaphore:
        """Lets one preview through at a time: it may read much."""
        return asyncio.Semaphore(1)

    async def _rule(
        self, actor: Actor, key: IdempotencyClaim | None, model: type[M], work: Callable[[UnitOfWork, int], M]
    ) -> M | Refused:
        answer = await self._write(actor, key, model, lambda uow: work(uow, self.clock.now_ms()))
        if not isinstance(answer, Refused):
            await self.runtime.rules_changed()
        return answer

    # ------------------------------------------------------------ prices
    async def prices(self, actor: Actor) -> list[models.Price]:
        """All price versions."""
        return await self.store.read(lambda uow: [price_views.price(version) for version in uow.prices()])

    async def set_price(
        self, actor: Actor, request: models.PriceSet, *, key: IdempotencyClaim | None = None
    ) -> models.Price | Refused:
        """A new price version."""
        return await self._rule(actor, key, models.Price, lambda uow, now: rules.set_price(uow, actor, request, now))

    # ------------------------------------------------------------ promotions
    async def promotions(self, actor: Actor, promo_code: str | None = None) -> list[models.Promotion] | Refused:
        """Promotions that are not over, as the caller may use them; drafts too for those who may edit them."""
        wrong = await self._try_code(actor.name, actor.classes, promo_code)
        if refused := self._too_many(wrong):
            return refused
        code = None if wrong else promo_code
        now_ms, customer = self.clock.now_ms(), rules.own_customer(actor)

        def look(uow: UnitOfWork) -> list[models.Promotion]:
            return list(rule_views.own_promotions(uow, actor, customer, code, now_ms, drafts=True))

        return await self.store.read(look)

    async def add_promotion(
        self, actor: Actor, request: models.PromotionSet, *, key: IdempotencyClaim | None = None
    ) -> models.Promotion | Refused:
        """A new promotion."""
        return await self._with_chosen_code(
            actor, key, lambda uow, now: promotion_rules.add(uow, actor, request, now), request.code
        )

    async def edit_promotion(
        self, actor: Actor, family: int, request: models.PromotionSet, *, key: IdempotencyClaim | None = None
    ) -> models.Promotion | Refused:
        """A new version of a promotion."""
        return await self._with_chosen_code(
            actor, key, lambda uow, now: promotion_rules.edit(uow, actor, family, request, now), request.code
        )

    async def _with_chosen_code(
        self,
        actor: Actor,
        key: IdempotencyClaim | None,
        work: Callable[[UnitOfWork, int], models.Promotion],
        code: str | None,
    ) -> models.Promotion | Refused:
        """Choosing a code that is taken tells that it exists, so it counts as a guess."""
        now_ms = self.clock.now_ms()
        if code is not None and (refused := self.guesses.refusal(actor.name, now_ms)) is not None:
            return refused
        answer = await self._rule(actor, key, models.Promotion, work)
        if isinstance(answer, Refused) and answer.code == "promo_code_taken":
            self.guesses.wrong(actor.name, now_ms)
        return answer

    async def publish_promotion(
        self, actor: Actor, family: int, *, key: IdempotencyClaim | None = None
    ) -> models.Promotion | Refused:
        """Make a draft count."""
        return await self._rule(
            actor, key, models.Promotion, lambda uow, now: promotion_rules.publish(uow, actor, family, now)
        )

    async def end_promotion(
        self, actor: Actor, family: int, *, key: IdempotencyClaim | None = None
    ) -> models.Promotion | Refused:
        """End a promotion now."""
        return await self._rule(
            actor, key, models.Promotion, lambda uow, now: promotion_rules.end(uow, actor, family, now)
        )

    async def restore_promotion(
        self, actor: Actor, family: int, version: int, *, key: IdempotencyClaim | None = None
    ) -> models.Promotion | Refused:
        """Make an earlier version of a promotion count again."""
        return await self._rule(
            actor, key, models.Promotion, lambda uow, now: promotion_rules.restore(uow, actor, family, version, now)
        )

    async def promotion_versions(self, actor: Actor, family: int) -> list[models.Promotion] | Refused:
        """Every version of a promotion, newest first."""
        now_ms = self.clock.now_ms()
        return await self._read(lambda uow: promotion_rules.versions(uow, actor, family, now_ms))

    async def managed_promotions(self, actor: Actor) -> list[models.Promotion]:
        """Every promotion that the caller may edit, drafts and ended ones too, newest first."""
        now_ms = self.clock.now_ms()
        return await self.store.read(lambda uow: rule_views.managed_promotions(uow, actor, now_ms))

    async def promotion_codes(self, actor: Actor, family: int) -> list[models.PromotionCode] | Refused:
        """A promotion's codes."""
        return await self._read(lambda uow: promotion_rules.codes(uow, actor, family))

    async def make_codes(
        self, actor: Actor, family: int, request: models.CodesSet, *, key: IdempotencyClaim | None = None
    ) -> list[models.PromotionCode] | Refused:
        """New codes."""

        def make(uow: UnitOfWork) -> _Codes:
            return _Codes(tuple(promotion_rules.make_codes(uow, actor, family, request, self.clock.now_ms())))

        answer = await self._write(actor, key, _Codes, make)
        return answer if isinstance(answer, Refused) else list(answer.root)

    async def preview(self, actor: Actor, request: models.PreviewSet) -> models.Preview | Refused:
        """What a past period would have cost under a promotion."""
        async with self._previewing:
            return await self._read(lambda uow: previews.preview(uow, actor, request, self.settings.currency))

    async def redeem(
        self, actor: Actor, request: models.Redeem, *, key: IdempotencyClaim | None = None
    ) -> models.Redeemed | Refused:
        """Take a place in a promotion."""
        if actor.kind != "user":
            return not_allowed("Only a person can redeem a promotion.")
        if refused := await self._try_code(actor.name, actor.classes, request.code):
            return refused

        def take(uow: UnitOfWork, now_ms: int) -> models.Redeemed:
            account = None
            if request.account is not None:
                account = self._customer(actor.name, actor.classes, request.account).account
            return promotion_rules.redeem(uow, actor, request, account, now_ms)

        return await self._rule(actor, key, models.Redeemed, take)

    # ------------------------------------------------------------ limits
    async def quotas(self, actor: Actor) -> list[models.QuotaUse]:
        """Every limit the caller falls under; all of those they run classes of, and for administrators all there are.

        A limit on each member or person stands there as it is for the caller, else as it is unused.
        """
        now_ms, held, currency = self.clock.now_ms(), self._gpus_held(), self.settings.currency

        def look(uow: UnitOfWork) -> list[models.QuotaUse]:
            found = {use.quota_id: use for use in self._quotas(uow, actor.name, actor.classes, now_ms)}
            known = Rules.load(uow)
            for quota in known.quotas:
                if quota.id not in found and rule_views.may_see_limit(actor, quota):
                    nobody = Customer("", f"class:{quota.name}", ())
                    found[quota.id] = rule_views.quota_use(uow, known, quota, nobody, now_ms, held, currency)
            return list(found.values())

        return await self.store.read(look)

    async def add_quota(
        self, actor: Actor, request: models.QuotaSet, *, key: IdempotencyClaim | None = None
    ) -> models.QuotaUse | Refused:
        """Set a limit."""

        def set_limit(uow: UnitOfWork, now_ms: int) -> models.QuotaUse:
            return rules.add_quota(uow, actor, request, now_ms, self.settings.currency)

        return await self._rule(actor, key, models.QuotaUse, set_limit)

    async def remove_quota(self, actor: Actor, quota_id: int) -> Refused | None:
        """Lift a limit."""
        now_ms = self.clock.now_ms()
        try:
            await self.store.write(lambda uow: rules.remove_quota(uow, actor, quota_id, now_ms, self.settings.currency))
        except Refusal as error:
            return error.refused
        await self.runtime.rules_changed()
        return None

    # ------------------------------------------------------------ credit
    async def grant(
        self, actor: Actor, request: models.GrantSet, *, key: IdempotencyClaim | None = None
    ) -> models.Account | Refused:
        """Give credit: of the site, or of a class to one of its members."""
        members = None
        source = request.from_account or ""
        if source.startswith("class:") and actor.manages(source):
            members = await self.hub.class_members(source.removeprefix("class:"))

        def give(uow: UnitOfWork, now_ms: int) -> models.Account:
            credit_rules.check_giver(actor, request, members)
            return credit_rules.grant(uow, actor, request, now_ms, self.settings.currency)

        return await self._rule(actor, key, models.Account, give)

    async def grants(self, actor: Actor, account: str | None = None) -> list[models.Grant] | Refused:
        """Grants of an account, or of all that the caller sees, with what is left of each."""
        if account is not None and not (can_be_stored(account) and credit_rules.may_see_account(actor, account)):
            return not_found("account", account)
        now_ms = self.clock.now_ms()

        def look(uow: UnitOfWork) -> list[models.Grant]:
            accounts = [account] if account is not None else credit_rules.accounts_seen(uow, actor)
            return [grant for each in accounts for grant in rule_views.grants(uow, each, now_ms)]

        return await self.store.read(look)

    async def account(self, actor: Actor, account: str) -> models.Account | Refused:
        """An account's credit, for those who may charge or run it."""
        if not (can_be_stored(account) and credit_rules.may_see_account(actor, account)):
            return not_found("account", account)
        now_ms = self.clock.now_ms()
        return await self.store.read(lambda uow: rule_views.account(uow, account, now_ms))

    async def latest_grants(self, actor: Actor, limit: int, *, refunds: bool = False) -> list[models.Grant] | Refused:
        """The latest grants to any account, or those that are refunds, for administrators."""
        if not actor.admin:
            return not_allowed("Only an administrator sees everybody's grants.")
        now_ms = self.clock.now_ms()
        return await self.store.read(lambda uow: rule_views.latest_grants(uow, limit, now_ms, refunds=refunds))

    async def refund(
        self, actor: Actor, lease_id: str, request: models.RefundSet, *, key: IdempotencyClaim | None = None
    ) -> models.Receipt | Refused:
        """Give back what was charged for a lease."""

        def give_back(uow: UnitOfWork, now_ms: int) -> models.Receipt:
            workload = self._visible(uow, actor, lease_id)
            credit_rules.refund(uow, actor, workload, request, now_ms)
            return self._receipt(uow, workload)

        return await self._rule(actor, key, models.Receipt, give_back)

    # ------------------------------------------------------------ requests for more
    async def _members(self, actor: Actor) -> ask_rules.Members:
        """Who is in the classes that the caller runs; an administrator decides without that."""
        if actor.admin:
            return {}
        found = await asyncio.gather(*(self.hub.class_members(name) for name in actor.teaches))
        return {name: frozenset(members or ()) for name, members in zip(actor.teaches, found, strict=True)}

    async def asks(self, actor: Actor, state: str | None = None) -> list[models.Ask]:
        """The caller's requests for more and those they may answer, newest first."""
        members = await self._members(actor)
        return await self.store.read(lambda uow: ask_rules.asks(uow, actor, members, state, self.settings.currency))

    async def ask(
        self, actor: Actor, request: models.AskSet, *, key: IdempotencyClaim | None = None
    ) -> models.Ask | Refused:
        """Ask for more."""
        if actor.kind != "user":
            return not_allowed("Only a person can ask for more.")

        def write(uow: UnitOfWork) -> models.Ask:
            return ask_rules.ask(uow, actor, request, self.clock.now_ms(), self.settings.currency)

        return await self._write(actor, key, models.Ask, write)

    async def approve_ask(
        self, actor: Actor, ask_id: int, request: models.AskDecision, *, key: IdempotencyClaim | None = None
    ) -> models.Ask | Refused:
        """Give what was asked for."""
        members = await self._members(actor)

        def decide(uow: UnitOfWork, now_ms: int) -> models.Ask:
            return ask_rules.approve(uow, actor, ask_id, request, members, now_ms, self.settings.currency)

        return self._told(await self._rule(actor, key, models.Ask, decide))

    async def decline_ask(
        self, actor: Actor, ask_id: int, request: models.AskDecision, *, key: IdempotencyClaim | None = None
    ) -> models.Ask | Refused:
        """Say no."""
        members = await self._members(actor)

        def decide(uow: UnitOfWork) -> models.Ask:
            return ask_rules.decline(uow, actor, ask_id, request, members, self.clock.now_ms(), self.settings.currency)

        return self._told(await self._write(actor, key, models.Ask, decide))

    async def withdraw_ask(
        self, actor: Actor, ask_id: int, *, key: IdempotencyClaim | None = None
    ) -> models.Ask | Refused:
        """Take one's own request back."""

        def take_back(uow: UnitOfWork) -> models.Ask:
            return ask_rules.withdraw(uow, actor, ask_id, self.clock.now_ms(), self.settings.currency)

        return await self._write(actor, key, models.Ask, take_back)

    def _told(self, answer: models.Ask | Refused) -> models.Ask | Refused:
        """Whoever waits for news of the asker hears of it."""
        if not isinstance(answer, Refused):
            self.runtime.news.told(answer.owner)
        return answer
