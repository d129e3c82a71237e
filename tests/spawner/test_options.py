"""What was asked for is read strictly, from the form and from the API alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgpu_hub.spawner.options import OptionError, ServerChoice, parse_options, shown_values

FORM = {
    "gpu_type": ["h100-80gb"],
    "gpu_count": ["2"],
    "account": ["class:cs101"],
    "promo_code": [" NIGHT-OWL "],
    "time_limit": ["1h30m"],
}


def test_a_form_and_the_api_are_read_alike():
    choice = parse_options(FORM)
    assert choice == ServerChoice("h100-80gb", 2, "class:cs101", "NIGHT-OWL", 5400)
    assert parse_options(choice.user_options()) == choice


@pytest.mark.parametrize("nothing", [None, {}, {"gpu_type": ""}, {"gpu_type": None}, {**FORM, "gpu_type": [""]}])
def test_nothing_chosen_is_a_server_without_gpu(nothing):
    choice = parse_options(nothing)
    assert choice == ServerChoice()
    assert not choice.wants_gpu
    assert parse_options(choice.user_options()) == choice


def test_empty_fields_are_left_to_the_service():
    raw = {"gpu_type": ["h100"], "gpu_count": [""], "account": [""], "promo_code": ["  "], "time_limit": [""]}
    assert parse_options(raw) == ServerChoice("h100")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpu_type": "H100 80GB"}, "gpu_type 'H100 80GB' is not the name of a GPU type; choose one"),
        ({"gpu_type": ["a", "b"]}, "'gpu_type' is given 2 times; give it once"),
        ({"gpu_type": {"$ne": ""}}, "is not the name of a GPU type"),
        ({"gpu_type": True}, "gpu_type True is not"),
        ({"gpu_count": "0"}, "gpu_count 0 is not possible; write a whole number from 1 to 1024"),
        ({"gpu_count": -1}, "gpu_count -1 is"),
        ({"gpu_count": 1.5}, "gpu_count 1.5 is"),
        ({"gpu_count": 2**63}, "gpu_count 9223372036854775808 is"),
        ({"gpu_count": "١٠"}, "gpu_count '\\\\u0661\\\\u0660' is"),
        ({"gpu_count": True}, "gpu_count True is"),
        ({"gpu_count": float("nan")}, "gpu_count nan is"),
        ({"account": "cs101"}, "account 'cs101' cannot be right; write an account such as class:cs101"),
        ({"account": "class:a\nb"}, "cannot be right"),
        ({"promo_code": "<script>"}, "promo_code '<script>' cannot be right; write letters, digits and dashes"),
        ({"promo_code": "x" * 1_000_000}, "cannot be right"),
        ({"time_limit": "soon"}, "time_limit: cannot read 'soon' as a duration; write for example 45m"),
        ({"time_limit": ["0"]}, "time_limit: cannot read"),
        ({"time_limit_seconds": 0}, "time_limit_seconds 0 is not possible; write whole seconds from 1"),
        ({"time_limit_seconds": True}, "time_limit_seconds True"),
        ({"gpus": 2}, "unknown option 'gpus'; use gpu_type, gpu_count, account"),
    ],
)
def test_what_cannot_be_read_says_what_which_and_what_instead(changes, message):
    with pytest.raises(OptionError, match=message.replace("(", r"\(")) as error:
        parse_options({"gpu_type": "h100-80gb", **changes})
    assert len(str(error.value)) < 300


def test_options_that_are_no_object_are_refused():
    with pytest.raises(OptionError, match="send an object"):
        parse_options(["h100-80gb"])


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(["gpu_type", "gpu_count", "account", "promo_code", "time_limit", "time_limit_seconds", "x"])


@given(st.dictionaries(names, json_values))
def test_whatever_is_posted_is_a_choice_or_a_clear_error(raw):
    shown_values(raw)
    try:
        choice = parse_options(raw)
    except OptionError as error:
        refusal = str(error)
    else:
        refusal = ""
        assert parse_options(choice.user_options()) == choice
        if choice.wants_gpu:
            choice.lease_request("")
    assert refusal.isprintable()


def test_a_link_prefills_and_the_last_choice_is_shown_again():
    assert shown_values({"gpu": ["h100-80gb"], "count": ["2"]}) == {"gpu_type": "h100-80gb", "gpu_count": "2"}
    assert shown_values(parse_options(FORM).user_options())["time_limit"] == "90m"
    assert shown_values({"gpu_type": "h100", "time_limit_seconds": 7200})["time_limit"] == "2h"
    assert shown_values({"gpu_count": "many"}) == {"gpu_count": "many"}, "what was typed stays to be corrected"
    assert shown_values(None) == {}
