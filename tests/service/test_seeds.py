from __future__ import annotations

from typing import Any

import pytest

from fastgpu import models as m
from fastgpu_hub.service.seeds import apply_seeds, read_seeds


def test_seeds_take_money_as_decimal_text_and_gpu_time_as_duration() -> None:
    seeds = read_seeds(
        {
            "prices": [{"gpu_type": "h100-80gb", "per_gpu_hour": "0.50", "per_start": "0.000001"}],
            "quotas": [
                {"scope": "site", "metric": "spend_micros", "limit": "16.5"},
                {"scope": "member", "name": "cs101", "metric": "gpu_seconds", "limit": "40h", "window": "week"},
                {"scope": "person", "name": "bob", "metric": "concurrent_gpus", "limit": 2},
            ],
            "grants": [{"account": "class:cs101", "amount": "100"}],
        }
    )
    wanted = [seed.wanted for seed in seeds]
    assert wanted[0] == m.PriceSet(gpu_type="h100-80gb", per_gpu_hour_micros=500_000, per_start_micros=1)
    assert [q.limit for q in wanted[1:4]] == [16_500_000, 144_000, 2]
    assert wanted[4].amount_micros == 100_000_000


@pytest.mark.parametrize(
    ("section", "entry", "says"),
    [
        ("prices", {"gpu_type": "h100-80gb", "per_gpu_hour": 0.5}, "prices[0]"),
        ("prices", {"gpu_type": "h100-80gb", "per_gpu_hour": "-1"}, "prices[0]"),
        ("prices", {"per_gpu_hour": "1"}, "gpu_type is missing"),
        ("prices", {"gpu_type": "x", "per_hour": "1"}, "per_hour is not a known field"),
        ("quotas", {"scope": "site", "metric": "concurrent_gpus", "limit": "many"}, "whole number"),
        ("promotions", {"name": "x", "starts_at": "soon", "ends_at": "later"}, "starts_at"),
    ],
)
def test_a_wrong_seed_is_named_with_its_list_and_place(section: str, entry: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match="FastGPUService") as caught:
        read_seeds({section: [entry]})
    assert says in str(caught.value)


async def test_a_seed_is_applied_once_and_later_edits_win(service: Any) -> None:
    seeds = read_seeds({"prices": [{"gpu_type": "l4", "per_gpu_hour": "1"}]})
    assert await apply_seeds(service.broker, seeds) == 1
    price = {"gpu_type": "l4", "per_gpu_hour_micros": 2_000_000}
    assert (await service.call("t-root", "POST", "api/prices", json=price)).status_code == 201
    assert await apply_seeds(service.broker, seeds) == 0
    listed = (await service.call("t-root", "GET", "api/prices")).json()
    assert [row["rate"]["per_gpu_hour_micros"] for row in listed if row["gpu_type"] == "l4"] == [1_000_000, 2_000_000]


async def test_a_refused_seed_is_logged_and_does_not_stop_the_others(service: Any, caplog: Any) -> None:
    seeds = read_seeds(
        {
            "prices": [
                {"gpu_type": "l4", "per_gpu_hour": "1", "valid_from": "2001-01-01T00:00:00Z"},
                {"gpu_type": "t4", "per_gpu_hour": "1"},
            ]
        }
    )
    assert await apply_seeds(service.broker, seeds) == 1
    assert "FastGPUService.prices[0] was refused" in caplog.text
