"""tqdm's bars are read from the end of any output, and nothing that is printed leads the reader astray."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgpu_hub.broker.bars import Told, last_bar

# As tqdm 4.67 draws them: narrow and wide terminals, ASCII, scaled units, minutes to days.
DRAWN = [
    (" 40%|████      | 40/100 [00:10<00:15,  4.00it/s]", 0.4, 15),
    ("train:  40%|####      | 40/100 [00:10<00:15,  4.00it/s, loss=0.3]", 0.4, 15),
    ("  0%|          | 0/100 [00:00<?, ?it/s]", 0.0, None),
    ("100%|██████████| 100/100 [01:00<00:00,  1.67it/s]", 1.0, 0),
    (" 43%|████▎     | 3/7 [1:06:40<1:28:53, 1333.33s/it]", 3 / 7, 5333),
    (" 43%|████▎     | 3.00/7.00 [1:06:40<1:28:53, 1.33ks/it]", 3 / 7, 5333),
    ("  5%|▌         | 5.00M/100M [01:40<31:40, 50.0kB/s]", 0.05, 1900),
    ("  1%|          | 1/100 [10:00:00<41 days, 6:00:00, 36000.00s/it]", 0.01, 41 * 86_400 + 6 * 3600),
    (" 40%|▍| 40/100 [00:10<00:1", 0.4, None),  # cut by a narrow terminal: half a number is no number
    ("Epoch 2/5:  40%|████      | 40/100 [00:10<00:15,  4.00it/s]", 0.28, None),
    ("Epoch 5 / 5: 100%|██████████| 100/100 [01:00<00:00,  1.67it/s]", 1.0, None),
    ("Epoch 0/5:  50%|█████     | 50/100 [00:10<00:10,  5.00it/s]", 0.5, 10),  # counted from 0: not understood
]


def is_read_as(told: Told | None, fraction: float, left: int | None) -> bool:
    return told is not None and math.isclose(told.fraction, fraction) and told.seconds_left == left


@pytest.mark.parametrize(("drawn", "fraction", "left"), DRAWN)
def test_a_bar_as_tqdm_draws_it_is_read(drawn: str, fraction: float, left: int | None) -> None:
    assert is_read_as(last_bar(drawn.encode()), fraction, left)
    coloured = f"\x1b[A\x1b[32m{drawn}\x1b[0m"
    assert is_read_as(last_bar(coloured.encode()), fraction, left)


def test_colours_within_a_bar_are_read_over() -> None:
    drawn = "\x1b[1m 40%\x1b[0m|\x1b[38;5;2m████      \x1b[0m| 40/\x1b[31m100\x1b[0m [00:10<00:15,  4.00it/s]\x1b[K"
    assert is_read_as(last_bar(drawn.encode()), 0.4, 15)


def test_the_last_bar_counts_however_often_it_was_drawn_anew() -> None:
    bars = [f" {n}%|{'█' * (n // 10)}| {n}/100 [00:{n:02d}<00:{99 - n:02d},  1.00it/s]" for n in range(10, 60)]
    output = "loading\n" + "\r".join(bars) + "\nsaved a checkpoint\n"
    assert is_read_as(last_bar(output.encode()), 0.59, 40)


def test_a_bar_that_is_being_written_gives_way_to_the_one_before() -> None:
    whole, half = " 40%|████      | 40/100 [00:10<00:15,  4.00it/s]", " 50%|█████     | 50/1"
    assert is_read_as(last_bar(f"{whole}\r{half}".encode()), 0.4, 15)


def test_a_tail_that_begins_within_a_bar_or_a_character_is_read() -> None:
    drawn = f"{DRAWN[0][0]}\r{DRAWN[4][0]}".encode()
    for cut in range(len(drawn)):
        told = last_bar(drawn[cut:])
        assert told is None or 0 <= told.fraction <= 1
    assert is_read_as(last_bar(drawn[20:]), 3 / 7, 5333)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "100% sure | maybe",
        "accuracy 97%|",
        "50%| 3/0 [",
        "a|b|c 1/2 [00:01<00:02]",
        "-5%|█| -1/10 [00:01<00:02, ]",
        "%|" * 2000,
    ],
)
def test_what_only_looks_like_a_bar_is_none(text: str) -> None:
    assert last_bar(text.encode()) is None


@given(
    done=st.integers(0, 10**9),
    total=st.integers(1, 10**9),
    left=st.integers(0, 10**6),
    words=st.text(max_size=20).filter(lambda text: not re.search(r"[|/\r\n\x1b]", text)),
    before=st.binary(max_size=200),
    end=st.sampled_from(["", "\r", "\n", "\r\n", "\x1b[0m"]),
)
def test_every_bar_is_read_after_whatever_came_before_it(
    done: int, total: int, left: int, words: str, before: bytes, end: str
) -> None:
    percent = min(100, 100 * done // total)
    hours, rest = divmod(left, 3600)
    clock = f"{f'{hours}:' if hours else ''}{rest // 60:02d}:{rest % 60:02d}"
    bar = f"{words}: {percent:3d}%|███ | {done}/{total} [00:10<{clock},  4.00it/s]{end}"
    assert is_read_as(last_bar(before + b"\n" + bar.encode("utf-8", "replace")), min(1.0, done / total), left)


@given(st.binary(max_size=4096))
def test_no_output_is_an_error(output: bytes) -> None:
    told = last_bar(output)
    assert told is None or 0 <= told.fraction <= 1


@given(st.text(alphabet="0123456789%|/[]<:,. dayskMG\r\n\x1bm█", max_size=300))
def test_no_output_of_a_bars_own_characters_is_an_error(output: str) -> None:
    told = last_bar(output.encode())
    assert told is None or (0 <= told.fraction <= 1 and (told.seconds_left is None or told.seconds_left >= 0))
