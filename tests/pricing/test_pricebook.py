"""The price book: the version valid at an instant, and where it changes."""

from __future__ import annotations

import pytest

from fastgpu_hub.pricing.pricebook import PriceBook, PriceVersion, Rate

H100 = "h100-80gb"


def test_a_version_is_valid_until_the_next_one_of_its_type() -> None:
    first, second = PriceVersion(1, H100, Rate(1), 100), PriceVersion(2, H100, Rate(2), 200)
    book = PriceBook([second, PriceVersion(3, "a100", Rate(3), 150), first])
    assert book.version_at(H100, 99) is None
    assert book.version_at(H100, 100) == first
    assert book.version_at(H100, 199) == first
    assert book.version_at(H100, 200) == second
    assert book.version_at("unknown", 200) is None
    assert book.edges(H100, 0, 1000) == [100, 200]
    assert book.edges(H100, 100, 200) == []
    assert book.gpu_types() == ["a100", H100]


def test_of_two_versions_from_one_instant_the_later_entered_counts() -> None:
    book = PriceBook([PriceVersion(8, H100, Rate(8), 100), PriceVersion(7, H100, Rate(7), 100)])
    version = book.version_at(H100, 100)
    assert version is not None
    assert version.id == 8
    assert book.edges(H100, 0, 1000) == [100]


def test_a_rate_is_never_negative() -> None:
    with pytest.raises(ValueError, match="negative"):
        Rate(per_start_micros=-1)


def test_an_hour_costs_its_gpus_and_its_task() -> None:
    assert Rate(500_000, 100_000, 9).hourly_micros(8) == 4_100_000
