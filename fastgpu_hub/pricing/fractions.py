"""Parts of a GPU: which part of which physical GPU a MIG slice or a share is, and what a part costs.

The names are those of :mod:`fastgpu_hub.probes.gpu_types`: ``h100-80gb.1g.10gb`` is a MIG slice with one of seven
compute slices, ``h100-80gb.1c.3g.40gb`` a compute instance with one of the three in such a slice, and
``h100-80gb.share-4`` a quarter of the time of a GPU, or of a slice of one.

A slice costs the mean of its part of the compute slices and its part of the memory. Memory is counted in the eighths
that the hardware divides it into, for the gigabytes in a profile's name are rounded (an ``h200-141gb`` divides into two
of ``71gb``). So the parts that fit on a GPU never cost more than the GPU, and with what is idle they cost exactly that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastgpu_hub.pricing.pricebook import Rate

MAX_SHARES = 64

_SHARE = re.compile(r"(?P<of>.+)\.share-(?P<shares>[1-9][0-9]?)", re.ASCII)
# Variants have other engines (media, graphics) beside the same compute and memory. "+" is written "." in a GPU type.
_SLICE = re.compile(
    r"(?P<of>[a-z0-9][a-z0-9.-]*-(?P<whole_gb>[1-9][0-9]{0,3})gb)\.(?:(?P<instance>[1-7])c\.)?(?P<compute>[1-7])g"
    r"\.(?P<gb>[1-9][0-9]{0,3})gb(?:[.+](?:me|gfx|me\.all)|-me)?",
    re.ASCII,
)
# GPUs that divide into fewer compute slices than seven, by the beginning of their type.
_COMPUTE_SLICES = {"a30-": 4, "rtx-pro-6000-": 4}
_MEMORY_SLICES = 8


def part_of(gpu_type: str) -> tuple[str, Fraction] | None:
    """What a GPU type is a part of and how much of it, one step: a share of a slice is a part of the slice.

    None for a whole GPU, and for a name that no slice or share has.
    """
    if len(gpu_type) > 100:
        return None
    if match := _SHARE.fullmatch(gpu_type):
        shares = int(match["shares"])
        if shares > MAX_SHARES or _SHARE.fullmatch(match["of"]):
            return None
        return match["of"], Fraction(1, shares)
    match = _SLICE.fullmatch(gpu_type)
    if match is None:
        return None
    slices = next((count for begins, count in _COMPUTE_SLICES.items() if match["of"].startswith(begins)), 7)
    compute, gb, whole_gb = int(match["compute"]), int(match["gb"]), int(match["whole_gb"])
    instance = int(match["instance"] or compute)
    if compute > slices or gb > whole_gb or instance > compute:
        return None
    eighths = max(1, (2 * _MEMORY_SLICES * gb + whole_gb) // (2 * whole_gb)) if compute < slices else _MEMORY_SLICES
    mean = Fraction(1, 2) * (Fraction(compute, slices) + Fraction(eighths, _MEMORY_SLICES))
    return match["of"], mean * Fraction(instance, compute)


def shares_of(gpu_type: str) -> int | None:
    """How many share what a GPU type is one share of; None for what is no share."""
    match = _SHARE.fullmatch(gpu_type)
    return None if match is None or part_of(gpu_type) is None else int(match["shares"])


def fraction_of(gpu_type: str) -> tuple[str, Fraction]:
    """The physical GPU type and which part of it a GPU type is: ``h100-80gb.1g.10gb`` is 15/112 of ``h100-80gb``.

    A whole GPU, and whatever else is no part of one, is the whole of itself.
    """
    fraction = Fraction(1)
    while (part := part_of(gpu_type)) is not None:
        gpu_type, of_it = part
        fraction *= of_it
    return gpu_type, fraction


def slice_rate(rate: Rate, fraction: Fraction) -> Rate:
    """The rate of a part, each price rounded down to whole micro-units. Raises ValueError unless 0 < fraction <= 1."""
    if not 0 < fraction <= 1:
        raise ValueError(f"a part is more than nothing and at most the whole GPU, not {fraction}")
    return replace(
        rate,
        per_gpu_hour_micros=rate.per_gpu_hour_micros * fraction.numerator // fraction.denominator,
        per_task_hour_micros=rate.per_task_hour_micros * fraction.numerator // fraction.denominator,
        per_start_micros=rate.per_start_micros * fraction.numerator // fraction.denominator,
    )


def split(rate: Rate, parts: Iterable[Fraction]) -> tuple[Rate, ...]:
    """The rates of a GPU's parts, in order, and last that of what is idle: together exactly the rate of the GPU.

    Raises ValueError when the parts are more than one GPU.
    """
    known = list(parts)
    if sum(known) > 1:
        raise ValueError(f"the parts are {sum(known)} of a GPU, more than there is")
    rates = [slice_rate(rate, part) for part in known]
    idle = replace(
        rate,
        per_gpu_hour_micros=rate.per_gpu_hour_micros - sum(part.per_gpu_hour_micros for part in rates),
        per_task_hour_micros=rate.per_task_hour_micros - sum(part.per_task_hour_micros for part in rates),
        per_start_micros=rate.per_start_micros - sum(part.per_start_micros for part in rates),
    )
    return *rates, idle
