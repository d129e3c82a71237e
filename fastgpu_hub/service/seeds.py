"""What the configuration starts the site with: prices, quotas, promotions, grants. Each is applied once, ever.

Later changes through the API or the pages win: a seed that was applied is never applied again, also not when the rule
it made was changed since. Editing a seed makes it a new one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from fastgpu import models as m
from fastgpu.formatting import parse_bytes
from fastgpu_hub.broker.actors import Actor
from fastgpu_hub.broker.idempotency import IdempotencyClaim
from fastgpu_hub.pricing.explain import Refused
from fastgpu_hub.pricing.fractions import fraction_of
from fastgpu_hub.pricing.money import parse_money
from fastgpu_hub.service.wire import Refusal, parse_model

if TYPE_CHECKING:
    from fastgpu_hub.broker.broker import Broker

log = logging.getLogger("fastgpu.service")

ACTOR = Actor("configuration", admin=True, kind="service")
SETTING = "seeds"

_MODELS: dict[str, type[BaseModel]] = {
    "prices": m.PriceSet,
    "quotas": m.QuotaSet,
    "promotions": m.PromotionSet,
    "grants": m.GrantSet,
}
_MONEY = {
    "prices": ("per_gpu_hour", "per_task_hour", "per_start"),
    "quotas": (),
    "promotions": ("fixed_per_gpu_hour", "budget", "credit"),
    "grants": ("amount",),
}
_DURATIONS = {"prices": (), "quotas": ("rolling_seconds",), "promotions": ("free_gpu_seconds",), "grants": ()}


@dataclass(frozen=True, slots=True)
class Seed:
    """One rule of the configuration, read; ``digest`` identifies its text."""

    kind: str
    place: str
    digest: str
    wanted: BaseModel


def read_seeds(sections: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[Seed]:
    """Read the four lists, in the order prices, quotas, promotions, grants.

    Money may be written as decimal text under its name without ``_micros`` (``{"per_gpu_hour": "0.50"}``), also a
    quota's ``limit`` of ``spend_micros``. A ``limit`` of ``gpu_seconds``, ``rolling_seconds`` and ``free_gpu_seconds``
    may be a duration such as ``"40h"``, one of ``artifact_bytes`` a size such as ``"20GiB"``.
    Raises ValueError naming list, position and what is wrong.
    """
    return [_read(kind, index, entry) for kind in _MODELS for index, entry in enumerate(sections.get(kind, ()))]


def _read(kind: str, index: int, entry: Mapping[str, Any]) -> Seed:
    place = f"{kind}[{index}]"
    try:
        data = dict(entry)
        for name in _MONEY[kind]:
            if name in data:
                data[f"{name}_micros"] = parse_money(data.pop(name))
        if kind == "quotas" and isinstance(data.get("limit"), str):
            data["limit"] = _limit(data)
        for name in _DURATIONS[kind]:
            if isinstance(data.get(name), str):
                data[name] = m.parse_duration(data[name])
        # The same door as for requests: lists stand for tuples, and every field is checked.
        wanted = parse_model(_MODELS[kind], data)
    except Refusal as refusal:
        raise ValueError(
            f"FastGPUService.{place}: {refusal.refused.message} {refusal.refused.instead}".strip()
        ) from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"FastGPUService.{place}: {error}") from None
    text = json.dumps({"kind": kind, "entry": dict(entry)}, sort_keys=True, default=str)
    return Seed(kind, place, hashlib.sha256(text.encode()).hexdigest(), wanted)


def _limit(data: Mapping[str, Any]) -> int:
    if data.get("metric") == "spend_micros":
        return parse_money(data["limit"])
    if data.get("metric") == "gpu_seconds":
        return m.parse_duration(data["limit"])
    if data.get("metric") == "artifact_bytes":
        return parse_bytes(str(data["limit"]))
    raise ValueError(f"limit {data['limit']!r} must be a whole number")


async def apply_seeds(broker: Broker, seeds: Iterable[Seed]) -> int:
    """Apply those not applied before; returns how many. A refused one is logged and tried again at the next start.

    The idempotency key makes a crash between effect and remembering harmless.
    """
    stored: Any | None = await broker.store.read(lambda uow: uow.setting(SETTING))
    applied: list[str] = list(stored or ())
    new = 0
    for seed in seeds:
        if seed.digest in applied:
            continue
        claim = IdempotencyClaim(f"seed-{seed.digest}", f"seed {seed.kind}", seed.digest)
        answer = await _apply(broker, seed, claim)
        if isinstance(answer, Refused):
            log.error("FastGPUService.%s was refused: %s %s", seed.place, answer.message, answer.instead)
            continue
        applied = [*applied, seed.digest]
        await _remember(broker, applied)
        new += 1
    return new


async def missing_prices(broker: Broker, default_price: Mapping[str, Any]) -> list[Seed]:
    """A price seed for each GPU type that is here without a price, when there is a default price.

    A slice or share is priced as a part of its GPU, so it is the whole GPU's type that gets the default.
    """
    if not default_price:
        return []
    priced = {price.gpu_type for price in await broker.prices(ACTOR)}
    here = set(broker.runtime.state.inventory.gpu_types()) - priced
    types = sorted({fraction_of(gpu_type)[0] for gpu_type in here} - priced)
    return read_seeds({"prices": [{"gpu_type": gpu_type, **default_price} for gpu_type in types]})


async def _remember(broker: Broker, applied: list[str]) -> None:
    await broker.store.write(lambda uow: uow.set_setting(SETTING, applied))


async def _apply(broker: Broker, seed: Seed, claim: IdempotencyClaim) -> BaseModel | Refused:
    apply: dict[str, Any] = {
        "prices": broker.set_price,
        "quotas": broker.add_quota,
        "promotions": broker.add_promotion,
        "grants": broker.grant,
    }
    return await apply[seed.kind](ACTOR, seed.wanted, key=claim)
