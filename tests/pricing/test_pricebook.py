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


def test_a_slice_without_own_price_follows_its_gpu_under_the_same_versions() -> None:
    book = PriceBook([PriceVersion(1, H100, Rate(1_120_000, 112, 1), 100), PriceVersion(2, H100, Rate(2_240_000), 200)])
    for gpu_type, first, second in (
        (f"{H100}.1g.10gb", Rate(150_000, 15, 0), Rate(300_000)),
        (f"{H100}.1g.10gb.me", Rate(150_000, 15, 0), Rate(300_000)),
        (f"{H100}.share-4", Rate(280_000, 28, 0), Rate(560_000)),
        (f"{H100}.1g.10gb.share-2", Rate(75_000, 7, 0), Rate(150_000)),
    ):
        assert book.version_at(gpu_type, 99) is None
        assert book.version_at(gpu_type, 100) == PriceVersion(1, gpu_type, first, 100)
        assert book.version_at(gpu_type, 200) == PriceVersion(2, gpu_type, second, 200)
        assert book.edges(gpu_type, 0, 1000) == [100, 200]
        assert book.edges(gpu_type, 100, 200) == []
    assert book.gpu_types() == [H100]


def test_a_slices_own_price_counts_from_its_first_version_on() -> None:
    piece = f"{H100}.3g.40gb"
    own = PriceVersion(4, piece, Rate(5), 150)
    book = PriceBook([PriceVersion(1, H100, Rate(2800), 100), PriceVersion(2, H100, Rate(9), 200), own])
    assert book.version_at(piece, 149) == PriceVersion(1, piece, Rate(1300), 100)
    assert book.version_at(piece, 150) == book.version_at(piece, 10**9) == own
    assert book.edges(piece, 0, 1000) == [100, 150]
    # A share of the slice is a share of the slice's own price.
    assert book.version_at(f"{piece}.share-5", 150) == PriceVersion(4, f"{piece}.share-5", Rate(1), 150)


def test_a_version_of_the_slice_from_the_same_instant_replaces_its_gpus() -> None:
    piece = f"{H100}.share-2"
    book = PriceBook([PriceVersion(9, H100, Rate(100), 100), PriceVersion(3, piece, Rate(7), 100)])
    version = book.version_at(piece, 100)
    assert version is not None
    assert version.id == 3
    assert book.edges(piece, 0, 1000) == [100]


def test_names_of_no_priced_gpu_have_no_price_and_are_not_remembered() -> None:
    book = PriceBook([PriceVersion(1, H100, Rate(100), 0)])
    for name in ("t4-16gb.share-2", "b200-180gb.1g.23gb", f"{H100}.1g.90gb", f"{H100}.share-65", "", "\ud800"):
        assert book.version_at(name, 10) is None
        assert book.edges(name, -1, 10) == []
    for shares in range(1, 65):
        for slice_ in ("", ".1g.10gb", ".1g.10gb.me", ".2g.20gb", ".3g.40gb", *(f".1g.{gb}gb" for gb in range(1, 40))):
            assert book.version_at(f"{H100}{slice_}.share-{shares}", 0) is not None
    assert len(book._in_force) <= 1024
