"""Pricing is pure: integers and the standard library only; no float, clock, chance, log or I/O anywhere in it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from fastgpu_hub import pricing

MODULES = sorted(Path(pricing.__path__[0]).glob("**/*.py"))
IMPURE_MODULES = {
    *("asyncio", "io", "logging", "math", "os", "pathlib", "random", "secrets", "socket", "sqlite3", "statistics"),
    *("subprocess", "sys", "tempfile", "threading", "time", "urllib", "uuid", "warnings"),
}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval"}
CLOCKS = {"now", "today", "utcnow"}
# Methods of datetime and timedelta that answer with a float.
FLOAT_METHODS = {"timestamp", "total_seconds"}


def floats(source: str) -> list[str]:
    """Everything in the source that makes or may make a float."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, (float, complex)):
            found.append(f"line {node.lineno}: the literal {node.value!r}")
        elif isinstance(node, ast.Name) and node.id in ("float", "complex"):
            found.append(f"line {node.lineno}: {node.id}")
        elif isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.Div):
            found.append(f"line {node.lineno}: a true division")
        elif isinstance(node, ast.Attribute) and node.attr in FLOAT_METHODS:
            found.append(f"line {node.lineno}: .{node.attr}")
    return found


def impurities(source: str) -> list[str]:
    """Imports from outside the standard library and this package, and everything that touches the world."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "." * node.level]
        for name in names:
            root = name.split(".")[0]
            own = name == "fastgpu_hub.pricing" or name.startswith("fastgpu_hub.pricing.")
            if not own and (root not in sys.stdlib_module_names or root in IMPURE_MODULES):
                found.append(f"line {node.lineno}: imports {name}")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            found.append(f"line {node.lineno}: calls {node.func.id}")
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS:
            found.append(f"line {node.lineno}: reads a clock with .{node.attr}")
    return found


def test_there_is_something_to_look_at() -> None:
    assert {"money.py", "metering.py", "ledger.py", "quotas.py", "promotions.py", "credits.py", "fractions.py"} <= {
        path.name for path in MODULES
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_no_float_is_anywhere_near_money(module: Path) -> None:
    assert floats(module.read_text()) == []


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.name)
def test_pricing_touches_nothing_but_its_arguments(module: Path) -> None:
    assert impurities(module.read_text()) == []


@pytest.mark.parametrize(
    "source", ["x = 0.5", "x = 1e6", "x = float('1')", "x = a / b", "a /= b", "x = t.timestamp()", "x = 1j"]
)
def test_the_lint_finds_every_way_to_a_float(source: str) -> None:
    assert floats(source)


@pytest.mark.parametrize(
    "source",
    [
        *("import time", "import os.path", "from random import random", "import pydantic", "from . import x"),
        *("from fastgpu import models", "from fastgpu_hub.broker import admission"),
        *("open('x')", "datetime.now()", "date.today()"),
    ],
)
def test_the_lint_finds_every_way_to_the_world(source: str) -> None:
    assert impurities(source)


def test_the_lint_lets_integers_and_the_standard_library_be() -> None:
    source = "from decimal import Decimal\nfrom fastgpu_hub.pricing.money import MS_PER_HOUR\nx = 7 // 2\n"
    assert floats(source) == impurities(source) == []
