"""Reading a magic's line: words, values, help; no exit, no evaluation but of what is marked."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgpu_magics.arguments import (
    CELL_COMMANDS,
    LINE_COMMANDS,
    ArgumentError,
    HelpRequested,
    overview,
    read_line,
    split,
)

SCOPE = {"n": 2, "d": {"a b": "x y"}, "text": "a; b --json"}


def evaluate(expression: str) -> object:
    return eval(expression, {}, SCOPE)


def words(line: str) -> list[str]:
    return [word.fill(evaluate) for word in split(line)]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("", []),
        ("  a   b ", ["a", "b"]),
        ("a;", ["a"]),
        ("a 'b c' \"d e\"", ["a", "b c", "d e"]),
        ("--time ${n}h", ["--time", "$2h"]),
        ("--time {n}h --n $n", ["--time", "2h", "--n", "2"]),
        ("{d['a b']} {n * 2}", ["x y", "4"]),
        ('"{d["a b"]}!"', ["x y!"]),
        ("'$n {n}'", ["$n {n}"]),
        ('"$n {n}"', ["2 2"]),
        ("$$n {{n}} 5$", ["$n", "{n}", "5$"]),
        (r"a\ b \$n", ["a b", "$n"]),
        ("$text", ["a; b --json"]),
        ("$n.real $n. $n.", ["2", "2.", "2."]),
        ("''", [""]),
        ("{ {'k': n}['k'] }", ["2"]),
    ],
)
def test_words_are_split_first_and_filled_in_afterwards(line: str, expected: list[str]) -> None:
    assert words(line) == expected


@pytest.mark.parametrize("line", ["'open", '"open', "{open", "{'}"])
def test_what_is_left_open_is_refused(line: str) -> None:
    with pytest.raises(ArgumentError, match="left open"):
        words(line)


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="${}\\'\"", exclude_categories=["Cs"])))
def test_plain_text_splits_as_at_blanks_and_is_never_evaluated(text: str) -> None:
    def never(expression: str) -> object:
        raise AssertionError

    assert [word.fill(never) for word in split(text)] == text.strip().removesuffix(";").split()


@settings(deadline=None)
@given(st.text())
def test_any_line_is_understood_or_refused_in_one_line(line: str) -> None:
    for commands, default in ((LINE_COMMANDS, "status"), (CELL_COMMANDS, None)):
        refused = ""
        try:
            read_line(line, commands, default, lambda expression: 1)
        except HelpRequested:
            continue
        except ArgumentError as error:
            refused = str(error)
        assert "\n" not in refused


@settings(deadline=None)
@given(st.integers(1, 1024), st.from_regex(r"[a-z_][a-z0-9_]{0,8}(,[a-z_][a-z0-9_]{0,8}){0,3}", fullmatch=True))
def test_options_of_a_cell_are_read_back(count: int, listed: str) -> None:
    name, options = read_line(
        f"submit --count {count} --in {listed} --files *.py --files b", CELL_COMMANDS, None, evaluate
    )
    assert (name, options.count, options.inputs) == ("submit", count, listed.split(","))
    assert options.files == ["*.py", "b"]


@pytest.mark.parametrize("command", [*LINE_COMMANDS, *CELL_COMMANDS])
def test_every_command_has_help_and_json(command: str) -> None:
    commands = LINE_COMMANDS if command in LINE_COMMANDS else CELL_COMMANDS
    with pytest.raises(HelpRequested) as caught:
        read_line(f"{command} --help", commands, None, evaluate)
    assert "--json" in caught.value.text
    assert command in overview()


@pytest.mark.parametrize("value", ["1.5", "-1", "٣", "1e3", "true", "2_0", ""])
def test_a_count_is_a_plain_whole_number(value: str) -> None:
    with pytest.raises(ArgumentError, match="--count"):
        read_line(f"submit --count '{value}'", CELL_COMMANDS, None, evaluate)


@pytest.mark.parametrize("value", ["a-b", "1a", "a b", "a.b"])
def test_variables_are_given_by_name(value: str) -> None:
    with pytest.raises(ArgumentError, match="is not the name of a variable"):
        read_line(f"submit --in '{value}'", CELL_COMMANDS, None, evaluate)
