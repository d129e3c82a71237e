"""Numbers as people read them, the same on every screen."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgpu import formatting as f

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2025, 11, 21, 17, 0, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (16_000_000, "16.00"),
        (420_000, "0.42"),
        (1, "0.000001"),
        (1_234_500, "1.2345"),
        (0, "0.00"),
        (-500_000, "-0.50"),
    ],
)
def test_money_shows_at_least_two_decimals_and_hides_none(micros: int, text: str) -> None:
    assert f.format_money(micros) == text
    assert f.format_money(micros, "credits") == f"{text} credits"


@settings(deadline=None)
@given(st.integers(0, 10**15))
def test_an_amount_read_back_is_the_same_amount(micros: int) -> None:
    assert f.parse_money(f.format_money(micros)) == micros


@settings(deadline=None)
@given(st.text())
def test_any_text_is_an_amount_or_a_clear_refusal(text: str) -> None:
    refused = ""
    try:
        assert f.parse_money(text) >= 0
    except ValueError as error:
        refused = str(error)
    assert not refused or "write for example 2.50" in refused


@pytest.mark.parametrize("value", [0.1, True, None])
def test_a_float_is_not_an_amount(value: object) -> None:
    with pytest.raises(TypeError):
        f.parse_money(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["NaN", "1e3", "-1", "0.0000001", "٣", Decimal("NaN"), Decimal("-2")])
def test_an_amount_is_plain_digits(value: str | Decimal) -> None:
    with pytest.raises(ValueError, match="cannot read"):
        f.parse_money(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "—"),
        (0, "0 s"),
        (45.9, "45 s"),
        (60, "1 min"),
        (7800, "2 h 10 min"),
        (7205, "2 h"),
        (273_600, "3 d 4 h"),
        (-5, "0 s"),
    ],
)
def test_a_duration_is_its_two_largest_units(seconds: float | None, text: str) -> None:
    assert f.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"), [(None, "—"), (0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (80 * 2**30, "80 GiB")]
)
def test_a_size_is_in_binary_units(size: int | None, text: str) -> None:
    assert f.format_bytes(size) == text


@settings(deadline=None)
@given(st.integers(0, 2**60))
def test_a_size_never_shows_1024_of_a_unit(size: int) -> None:
    number = f.format_bytes(size).split()[0]
    assert float(number) < 1024 or size >= 2**50


@pytest.mark.parametrize(
    ("fraction", "text"), [(None, "—"), (0.999, "99 %"), (1.0, "100 %"), (7.0, "100 %"), (-1, "0 %")]
)
def test_progress_says_100_only_when_finished(fraction: float | None, text: str) -> None:
    assert f.format_fraction(fraction) == text


@pytest.mark.parametrize(
    ("minutes", "text"),
    [
        (0, "today 18:00 CET"),
        (-24 * 60, "yesterday 18:00 CET"),
        (6 * 60, "tomorrow 00:00 CET"),
        (7 * 24 * 60, "Fri 28 Nov 18:00 CET"),
        (250 * 24 * 60, "Wed 29 Jul 2026 19:00 CEST"),
    ],
)
def test_an_instant_is_in_local_words_with_its_zone(minutes: int, text: str) -> None:
    assert f.format_instant(NOW + timedelta(minutes=minutes), now=NOW, zone=BERLIN) == text


def test_an_unknown_instant_is_a_dash_and_a_snapshot_is_utc() -> None:
    assert f.format_instant(None) == "—"
    assert f.format_utc(NOW.astimezone(BERLIN)) == "2025-11-21 17:00:00 UTC"


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]8;;http://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;owned\x07ok", "ok"),
        ("a\x00b\u202ec\ud800d", "abcd"),
        ("keep\ttabs\nand\rreturns", "keep\ttabs\nand\rreturns"),
    ],
)
def test_text_from_a_job_cannot_steer_a_terminal(dirty: str, clean: str) -> None:
    assert f.clean_text(dirty) == clean


@settings(deadline=None)
@given(st.text(st.characters()))
def test_clean_text_holds_no_control_character(text: str) -> None:
    cleaned = f.clean_text(text)
    assert not any(ord(c) < 32 and c not in "\t\n\r" for c in cleaned)
    assert "\n" not in f.one_line(text)


def test_rates_and_percent() -> None:
    assert f.format_rate(420_000, "credits") == "0.42 credits/h"
    assert (f.format_percent(63), f.format_percent(None)) == ("63 %", "—")


@pytest.mark.parametrize(
    ("micros", "text"),
    [
        (0, "0.00"),
        (1, "< 0.01"),
        (9_999, "< 0.01"),
        (10_000, "0.01"),
        (99_333_334, "99.33"),
        (666_666, "0.67"),
        (-500_000, "-0.50"),
    ],
)
def test_an_amount_at_a_glance_has_two_decimals_and_never_hides_a_cost(micros: int, text: str) -> None:
    assert f.format_amount(micros) == text
    assert f.format_amount(micros, "credits") == f"{text} credits"


def test_exact_amounts_of_a_column_line_up() -> None:
    amounts = [420_000, 1_234_500, 16_000_000]
    decimals = f.decimals_of(amounts)
    assert [f.format_money(micros, decimals=decimals) for micros in amounts] == ["0.4200", "1.2345", "16.0000"]
    assert f.decimals_of([]) == 2


def test_an_instant_that_stays_on_a_page_names_its_day() -> None:
    assert f.format_date_time(NOW, BERLIN) == "Fri 21 Nov 2025, 18:00 CET"
    assert f.format_date_time(NOW, seconds=True) == "Fri 21 Nov 2025, 17:00:00 UTC"
    assert f.format_instant(NOW, now=NOW, zone=BERLIN, seconds=True) == "today 18:00:00 CET"
