"""Parts of a GPU: every real MIG profile is understood; what is sold of a GPU and what idles cost what the GPU does."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgpu_hub.pricing.fractions import fraction_of, part_of, slice_rate, split
from fastgpu_hub.pricing.pricebook import Rate
from fastgpu_hub.probes.gpu_types import gpu_type_of

# Profiles as the drivers name them, with how many compute slices (of 7) and memory slices (of 8) each occupies.
SEVENTHS = ((1, 1), (1, 2), (2, 2), (3, 4), (4, 4), (7, 8))
PROFILES = {
    "NVIDIA A100-SXM4-40GB": (40960, "1g.5gb 1g.10gb 2g.10gb 3g.20gb 4g.20gb 7g.40gb"),
    "NVIDIA A100-SXM4-80GB": (81920, "1g.10gb 1g.20gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb"),
    "NVIDIA H100 80GB HBM3": (81559, "1g.10gb 1g.20gb 2g.20gb 3g.40gb 4g.40gb 7g.80gb"),
    "NVIDIA H100 NVL": (95830, "1g.12gb 1g.24gb 2g.24gb 3g.47gb 4g.47gb 7g.94gb"),
    "NVIDIA H200": (143771, "1g.18gb 1g.35gb 2g.35gb 3g.71gb 4g.71gb 7g.141gb"),
    "NVIDIA B200": (183359, "1g.23gb 1g.45gb 2g.45gb 3g.90gb 4g.90gb 7g.180gb"),
}
SLICES = [
    (name, mib, profile, compute, memory)
    for name, (mib, profiles) in PROFILES.items()
    for profile, (compute, memory) in zip(profiles.split(), SEVENTHS, strict=True)
]
MICROS = st.integers(0, 10**12)


def typed(name: str, mib: int, profile: str) -> str:
    return gpu_type_of(f"{name} MIG {profile}", mib * 1024**2)


@pytest.mark.parametrize(("name", "mib", "profile", "compute", "memory"), SLICES)
def test_every_mig_profile_as_the_probe_names_it_is_its_part_of_its_gpu(
    name: str, mib: int, profile: str, compute: int, memory: int
) -> None:
    expected = (Fraction(compute, 7) + Fraction(memory, 8)) / 2
    for variant in ("", "+me"):
        found = fraction_of(typed(name, mib, profile + variant))
        assert found == (gpu_type_of(name, mib * 1024**2), expected)


@pytest.mark.parametrize(
    ("gpu_type", "whole", "fraction"),
    [
        ("h100-80gb.1g.10gb", "h100-80gb", Fraction(15, 112)),
        ("h100-80gb.1g.10gb+me", "h100-80gb", Fraction(15, 112)),
        (
            "rtx-pro-6000-blackwell-server-edition-96gb.1g.24gb.me.all",
            "rtx-pro-6000-blackwell-server-edition-96gb",
            "1/4",
        ),
        ("rtx-pro-6000-blackwell-server-edition-96gb.2g.48gb-me", "rtx-pro-6000-blackwell-server-edition-96gb", "1/2"),
        ("a30-24gb.2g.12gb", "a30-24gb", Fraction(1, 2)),
        ("a30-24gb.4g.24gb", "a30-24gb", Fraction(1)),
        ("h100-80gb.1c.3g.40gb", "h100-80gb", Fraction(13, 28) / 3),
        ("h100-80gb.3c.3g.40gb", "h100-80gb", Fraction(13, 28)),
        ("h100-80gb.share-4", "h100-80gb", Fraction(1, 4)),
        ("gb10.share-2", "gb10", Fraction(1, 2)),
        ("h100-80gb.3g.40gb.share-2", "h100-80gb", Fraction(13, 56)),
        ("h100-80gb.share-1", "h100-80gb", Fraction(1)),
    ],
)
def test_a_part_names_its_gpu_and_how_much_of_it_it_is(gpu_type: str, whole: str, fraction: Fraction | str) -> None:
    assert fraction_of(gpu_type) == (whole, Fraction(fraction))


@pytest.mark.parametrize(
    "gpu_type",
    [
        *("", "h100-80gb", "gpu", "gb10", "t4-16gb", "h100-80gb.", "h100-80gb.share", "h100-80gb.sharing-4"),
        *("h100-80gb.share-0", "h100-80gb.share-65", "h100-80gb.share-04", "h100-80gb.share--4", "h100-80gb.share-٤"),
        *("h100-80gb.share-2.share-2", ".share-2", "h100-80gb.0g.10gb", "h100-80gb.8g.80gb", "h100-80gb.1g.81gb"),
        *(
            "h100-80gb.1g.0gb",
            "h100-80gb.1g.10gb.xy",
            "h100-80gb.1g.10gb.me.me",
            "h100-80gb.4c.3g.40gb",
            "gb10.1g.10gb",
        ),
        *("a30-24gb.7g.24gb", "h100-80gb.1g.10gb\n", "H100-80GB.1g.10gb", "h100-80gb.1g." + "9" * 5000 + "gb"),
    ],
)
def test_what_is_no_part_of_a_gpu_is_whole(gpu_type: str) -> None:
    assert part_of(gpu_type) is None
    assert fraction_of(gpu_type) == (gpu_type, 1)


@given(st.text(max_size=80))
def test_any_name_at_all_has_an_answer(gpu_type: str) -> None:
    whole, fraction = fraction_of(gpu_type)
    assert gpu_type.startswith(whole)
    assert 0 < fraction <= 1


@given(st.data(), MICROS, MICROS, MICROS)
def test_slices_plus_idle_cost_the_physical_gpu_to_the_micro_unit(
    data: st.DataObject, per_gpu_hour: int, per_task_hour: int, per_start: int
) -> None:
    name, (mib, profiles) = data.draw(st.sampled_from(sorted(PROFILES.items())))
    sizes = dict(zip(profiles.split(), SEVENTHS, strict=True))
    wished = data.draw(st.lists(st.sampled_from(profiles.split()), max_size=8))
    placed: list[str] = []
    for profile in wished:
        compute, memory = (sum(sizes[p][axis] for p in [*placed, profile]) for axis in (0, 1))
        if compute <= 7 and memory <= 8:
            placed.append(profile)
    rate = Rate(per_gpu_hour, per_task_hour, per_start)
    fractions = [fraction_of(typed(name, mib, profile))[1] for profile in placed]
    *parts, idle = split(rate, fractions)
    assert parts == [slice_rate(rate, fraction) for fraction in fractions]
    assert _sum([*parts, idle]) == rate
    if sum(sizes[profile][0] for profile in placed) == 7 and sum(sizes[profile][1] for profile in placed) == 8:
        # Only what rounding leaves: less than a micro-unit per part.
        assert idle.per_gpu_hour_micros < max(1, len(parts))


@given(st.integers(1, 64), MICROS)
def test_shares_plus_idle_cost_the_physical_gpu_to_the_micro_unit(shares: int, micros: int) -> None:
    _, fraction = fraction_of(f"h100-80gb.share-{shares}")
    *parts, idle = split(Rate(micros), [fraction] * shares)
    assert len(set(parts)) == 1
    assert _sum([*parts, idle]) == Rate(micros)
    assert idle.per_gpu_hour_micros < shares


def _sum(rates: Sequence[Rate]) -> Rate:
    return Rate(
        sum(rate.per_gpu_hour_micros for rate in rates),
        sum(rate.per_task_hour_micros for rate in rates),
        sum(rate.per_start_micros for rate in rates),
    )


def test_a_slice_is_priced_by_compute_and_memory() -> None:
    # 1g.10gb: a seventh of the compute, an eighth of the memory, so 15/112 of 2.50 per hour; rounded down.
    assert slice_rate(Rate(2_500_000, 1_000_000, 7), Fraction(15, 112)) == Rate(334_821, 133_928, 0)


def test_the_idle_rest_of_a_gpu_with_nothing_on_it_is_the_gpu() -> None:
    assert split(Rate(7, 5, 3), []) == (Rate(7, 5, 3),)


@pytest.mark.parametrize("fraction", [Fraction(0), Fraction(-1, 7), Fraction(8, 7)])
def test_a_part_that_is_none_has_no_price(fraction: Fraction) -> None:
    with pytest.raises(ValueError, match="a part is more than nothing"):
        slice_rate(Rate(1), fraction)


def test_more_than_a_gpu_cannot_be_split_off_it() -> None:
    with pytest.raises(ValueError, match="9/7 of a GPU"):
        split(Rate(7), [Fraction(4, 7), Fraction(5, 7)])
