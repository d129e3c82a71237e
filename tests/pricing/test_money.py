"""Money: read exactly or refused, written exactly, C = n·p·t rounded down."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgpu_hub.pricing.money import (
    MAX_MICROS,
    MICROS_PER_UNIT,
    MS_PER_HOUR,
    format_money,
    hourly_amount_micros,
    parse_money,
)


@pytest.mark.parametrize(
    ("written", "micros"),
    [
        ("0", 0),
        ("0.5", 500_000),
        (" 16.00 ", 16_000_000),
        ("0.000001", 1),
        (3, 3_000_000),
        (Decimal("0.42"), 420_000),
        (Decimal("1E+2"), 100_000_000),
        (Decimal("1.0000000"), 1_000_000),
        (Decimal("-0"), 0),
        ("1000000000", MAX_MICROS),
    ],
)
def test_an_amount_is_read_exactly(written: str | int | Decimal, micros: int) -> None:
    assert parse_money(written) == micros


@pytest.mark.parametrize(
    "written",
    [
        *("", "-1", "+1", "1.", ".5", "0.0000001", "1e3", "NaN", "Infinity", "1_000", "1,5", "١٠", "0x10", "9" * 1000),
        *(-1, 10**9 + 1, Decimal("NaN"), Decimal("sNaN"), Decimal("-Infinity"), Decimal("1E+999999")),
        *(Decimal("1E-999999"), Decimal("0.0000001"), Decimal("-0.5")),
    ],
)
def test_a_malformed_amount_is_refused(written: str | int | Decimal) -> None:
    with pytest.raises(ValueError, match="amount"):
        parse_money(written)


@pytest.mark.parametrize("written", [0.5, float("nan"), True, None, b"1"])
def test_a_float_is_never_money(written: object) -> None:
    with pytest.raises(TypeError):
        parse_money(written)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("micros", "currency", "text"),
    [
        (16_000_000, "", "16.00"),
        (420_000, "credits", "0.42 credits"),
        (1, "", "0.000001"),
        (1_230_000, "", "1.23"),
        (1_234_500, "€", "1.2345 €"),
        (-500_000, "", "-0.50"),
        (0, "", "0.00"),
    ],
)
def test_an_amount_is_written_with_two_to_six_decimals(micros: int, currency: str, text: str) -> None:
    assert format_money(micros, currency) == text


@given(st.integers(0, MAX_MICROS))
def test_what_is_written_reads_back_the_same(micros: int) -> None:
    assert parse_money(format_money(micros)) == micros
    assert parse_money(Decimal(format_money(micros))) == micros


@pytest.mark.parametrize(
    ("gpus", "price", "hours", "cost"), [(8, "0.5", 4, "16"), (10, "1", 24, "240"), (1, "0.42", 1, "0.42")]
)
def test_the_documented_formula_gives_the_documented_examples(gpus: int, price: str, hours: int, cost: str) -> None:
    assert hourly_amount_micros(gpus, parse_money(price), hours * MS_PER_HOUR) == parse_money(cost)


@given(st.integers(0, 1024), st.integers(0, 10**12), st.integers(0, 400 * 24 * MS_PER_HOUR))
def test_rounding_is_down_and_less_than_one_micro(count: int, rate: int, ms: int) -> None:
    exact = Fraction(count * rate * ms, MS_PER_HOUR)
    assert 0 <= exact - hourly_amount_micros(count, rate, ms) < 1


@pytest.mark.parametrize(("count", "rate", "ms"), [(-1, 1, 1), (1, -1, 1), (1, 1, -1)])
def test_nothing_about_an_amount_is_negative(count: int, rate: int, ms: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        hourly_amount_micros(count, rate * MICROS_PER_UNIT, ms)
