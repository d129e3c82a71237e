"""Which names a cell needs from outside, found before it costs anything."""

from __future__ import annotations

import json
import math

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgpu_magics.cells import CellError, check_names, names_of, notebook_of


@pytest.mark.parametrize(
    ("cell", "free"),
    [
        ("x = 1\nprint(x)", ()),
        ("x = x + 1", ("x",)),
        ("x += 1", ("x",)),
        ("import numpy as np\nnp.zeros(n)", ("n",)),
        ("def f(a, *b, c=d):\n    return a + q", ("d", "q")),
        ("def f():\n    return f()", ()),
        ("def f():\n    return later\nlater = 1", ()),
        ("def f():\n    global made\n    made = 1\nf()\nprint(made)", ()),
        ("[i for i in items if i < k]", ("items", "k")),
        ("{k: v for k, v in d.items()}", ("d",)),
        ("lambda a: a + b", ("b",)),
        ("for i in r:\n    s += i", ("r", "s")),
        ("with open('f') as f:\n    f.read()", ()),
        ("try:\n    1\nexcept E as e:\n    print(e)", ("E",)),
        ("class A(Base):\n    z = 1\n    y = z + w", ("Base", "w")),
        ("if (n := 10) > 5:\n    print(n)", ()),
        ("await fetch()", ("fetch",)),
        ("f'{value!r}'", ("value",)),
        ("!nvidia-smi\nfiles = !ls\nprint(files)", ()),
        ("print(display, get_ipython(), _, In[1], _i3)", ()),
        ("a, (b, *c) = t\nprint(a, b, c)", ("t",)),
        ("x: int = 1\nprint(x)", ()),
        ("del x", ("x",)),
        ("match v:\n    case [a, *b]:\n        print(a, b)", ("v",)),
    ],
)
def test_free_names_are_found(cell: str, free: tuple[str, ...]) -> None:
    assert names_of(cell).free == free


@pytest.mark.parametrize("cell", ["from math import *\nsqrt(1)", "%run other.py\nmade", "exec('y = 1')\ny"])
def test_names_that_hidden_code_may_bind_pass(cell: str) -> None:
    check_names(cell, [], {})


def test_a_name_of_the_notebook_must_be_given_even_then() -> None:
    with pytest.raises(CellError, match="add `--in model`"):
        check_names("from math import *\nmodel", [], {"model": 1})


def test_the_refusal_lists_what_is_there_and_what_to_add() -> None:
    with pytest.raises(CellError, match=r"`b`, `c` of this notebook: add `--in a,b,c`"):
        check_names("a, b, c", ["a"], {"a": 1, "b": 2, "c": 3})
    with pytest.raises(CellError, match=r"write `import math as m` in the cell or add `--in m`"):
        check_names("m.pi", [], {"m": math})
    with pytest.raises(CellError, match=r"add `--in m,x` or `import math as m` to the cell"):
        check_names("m.pi, x", [], {"m": math, "x": 1})


@pytest.mark.parametrize("cell", ["def f(:", "x = = 1", "print('a", "\x00"])
def test_a_cell_that_does_not_parse_is_refused(cell: str) -> None:
    with pytest.raises(CellError, match="does not parse"):
        names_of(cell)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_notebook_holds_the_text_verbatim(cell: str) -> None:
    notebook = nbformat.reads(notebook_of(cell, ["a"], ["b"], "3.11").decode(), as_version=4)
    assert [each.source for each in notebook.cells] == [cell]
    assert notebook.metadata["fastgpu"] == {"inputs": ["a"], "outputs": ["b"], "python": "3.11"}


def test_the_same_cell_makes_the_same_bytes() -> None:
    first, second = (notebook_of("x", ["a"], [], "3.11") for _ in range(2))
    assert first == second
    assert json.loads(first)["nbformat"] == 4
