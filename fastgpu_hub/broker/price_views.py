"""Prices, priced intervals and receipts as wire models. Pure given what was read."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from fastgpu import models
from fastgpu_hub.broker import views
from fastgpu_hub.broker.ports.records import Workload
from fastgpu_hub.pricing import metering
from fastgpu_hub.pricing.ledger import Transfer
from fastgpu_hub.pricing.metering import Line
from fastgpu_hub.pricing.pricebook import PriceVersion, Rate


def price_note(line: Line, spot_percent_off: int | None, spot_price_ids: Collection[int]) -> str:
    """What a line's price is where it is not the list price of its GPU type."""
    if spot_percent_off is None:
        return ""
    return "spot price" if line.price_id in spot_price_ids else f"spot, {spot_percent_off} % off"


def charge_line(
    line: Line, names: Mapping[int, str], charge_id: int | None = None, *, refunded: bool = False, note: str = ""
) -> models.ChargeLine:
    """A priced interval; quantities in seconds, rounded down (amounts come from milliseconds)."""
    seconds = (line.until_ms - line.from_ms) * (line.gpu_count if line.unit == "gpu_hour" else 1) // 1000
    return models.ChargeLine.model_validate(
        {
            "unit": line.unit,
            "starts_at": views.at(line.from_ms),
            "ends_at": views.at(line.until_ms),
            "gpu_count": line.gpu_count,
            "quantity": 1 if line.unit == "start" else seconds,
            "rate_micros": line.rate_micros,
            "list_rate_micros": line.list_rate_micros,
            "amount_micros": line.amount_micros,
            "price_id": line.price_id,
            "price_note": note,
            "promotion_id": line.promotion_id,
            "promotion_name": names.get(line.promotion_id or 0, ""),
            "stacked_promotion_id": line.stacked_promotion_id,
            "stacked_promotion_name": names.get(line.stacked_promotion_id or 0, ""),
            "charge_id": charge_id,
            "refunded": refunded,
        }
    )


def receipt(
    workload: Workload,
    booked: Sequence[Transfer],
    ledger_micros: int,
    names: Mapping[int, str],
    spot_price_ids: Collection[int],
    currency: str,
) -> models.Receipt:
    """All settled lines of a lease, each with whether it was refunded."""
    refunded = {t.reverses for t in booked if t.reverses is not None}
    charges = [(t.id, t.line) for t in booked if t.kind == "charge" and t.line is not None]
    kept = [line for charge_id, line in charges if charge_id not in refunded]
    total = metering.total_micros(kept)
    return models.Receipt(
        lease_id=workload.id,
        workload_id=workload.id,
        name=workload.name,
        owner=workload.owner,
        account=workload.account,
        gpu_type=workload.gpu_type,
        lines=tuple(
            charge_line(
                line,
                names,
                id_,
                refunded=id_ in refunded,
                note=price_note(line, workload.spot_percent_off, spot_price_ids),
            )
            for id_, line in charges
        ),
        total_micros=total,
        ledger_micros=ledger_micros,
        saved_micros=max(0, metering.list_micros(kept) - total),
        refunded_micros=sum(line.amount_micros for charge_id, line in charges if charge_id in refunded),
        currency=currency,
        settled=workload.state == "ended",
        simulated=workload.simulated,
    )


def rate(value: Rate) -> models.Rate:
    """A price."""
    return models.Rate(
        per_gpu_hour_micros=value.per_gpu_hour_micros,
        per_task_hour_micros=value.per_task_hour_micros,
        per_start_micros=value.per_start_micros,
    )


def price(version: PriceVersion) -> models.Price:
    """A price version."""
    return models.Price(
        id=version.id,
        gpu_type=version.gpu_type,
        rate=rate(version.rate),
        valid_from=views.at(version.valid_from_ms),
        created_by=version.created_by,
    )
