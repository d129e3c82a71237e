"""A cell before it is sent: which names it needs from outside, and the notebook that carries it.

Pure. The cell's text goes into the notebook verbatim; only the check looks at IPython's transformed form of it.
"""

from __future__ import annotations

import ast
import builtins
import json
import re
import symtable
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager

from fastgpu_magics.transfer import METADATA

NOTEBOOK_NAME = "cell.ipynb"

_PROVIDED = {
    *dir(builtins),
    *(
        "get_ipython",
        "display",
        "exit",
        "quit",
        "In",
        "Out",
        "_",
        "__",
        "___",
        "_i",
        "_ii",
        "_iii",
        "_oh",
        "_ih",
        "_dh",
    ),
    *("__name__", "__doc__", "__builtins__", "__builtin__", "__package__", "__spec__", "__loader__", "__annotations__"),
}
_HISTORY = re.compile(r"_i?\d+")
_RUNS_OTHER_CODE = {"exec", "eval", "run_line_magic", "run_cell_magic"}


class CellError(Exception):
    """The cell cannot be sent as it is; the message is one sentence for its author."""


@dataclass(frozen=True, slots=True)
class Names:
    """Names a cell uses without binding them first, and whether it runs code that may bind more."""

    free: tuple[str, ...]
    binds_unseen: bool


def names_of(cell: str) -> Names:
    """The free names of a cell. Raises CellError when it is not valid code."""
    source = TransformerManager().transform_cell(cell)
    try:
        tree = ast.parse(source)
        module = symtable.symtable(source, "cell", "exec")
    except (SyntaxError, ValueError, RecursionError) as error:
        where = f", line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        raise CellError(f"the cell does not parse: {reason}{where}") from error
    bound = {symbol.get_name() for symbol in module.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    bound |= _declared_global(module)
    used = _used_globally(module)
    early = _UsedBeforeBound.of(tree)
    free = {name for name in (used - bound) | early if name not in _PROVIDED and not _HISTORY.fullmatch(name)}
    return Names(tuple(sorted(free)), _binds_unseen(tree))


def check_names(cell: str, inputs: Iterable[str], namespace: Mapping[str, Any], parameters: Iterable[str] = ()) -> None:
    """Refuse a cell that would fail for want of a name, before any money is held.

    Raises CellError saying what to add. Names that code run by the cell may bind (a star import, a magic) pass, as do
    those of a sweep's ``parameters``.
    """
    names = names_of(cell)
    missing = [name for name in names.free if name not in {*inputs, *parameters}]
    known = [name for name in missing if name in namespace]
    if known:
        listed = ",".join([*inputs, *known])
        modules = [name for name in known if isinstance(namespace[name], ModuleType)]
        hint = f"add `--in {listed}`"
        if modules:
            imports = "; ".join(_import_of(name, namespace[name]) for name in modules)
            hint = (
                f"write `{imports}` in the cell or {hint}" if modules == known else f"{hint} or `{imports}` to the cell"
            )
        raise CellError(f"the cell uses {_quoted(known)} of this notebook: {hint}")
    if missing and not names.binds_unseen:
        raise CellError(f"the cell uses {_quoted(missing)}, bound neither in it nor in this notebook")


def notebook_of(cell: str, inputs: Iterable[str], outputs: Iterable[str], python: str) -> bytes:
    """The notebook to run: one code cell with the text verbatim, and in its metadata what goes in and out."""
    code: dict[str, Any] = {
        "cell_type": "code",
        "id": "cell",
        "metadata": {},
        "execution_count": None,
        "outputs": [],
        "source": cell,
    }
    metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        METADATA: {"inputs": list(inputs), "outputs": list(outputs), "python": python},
    }
    notebook = {"cells": [code], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(notebook, indent=1, sort_keys=True).encode()


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _import_of(name: str, module: ModuleType) -> str:
    return f"import {module.__name__}" if name == module.__name__ else f"import {module.__name__} as {name}"


def _used_globally(table: symtable.SymbolTable) -> set[str]:
    """Names that a scope or a scope within it looks up in the module."""
    at_module = table.get_type() == "module"
    used = {
        symbol.get_name()
        for symbol in table.get_symbols()
        if symbol.is_referenced() and (at_module or (symbol.is_global() and not symbol.is_assigned()))
    }
    for child in table.get_children():
        used |= _used_globally(child)
    return used


def _declared_global(table: symtable.SymbolTable) -> set[str]:
    """Names that functions bind in the module through a ``global`` statement."""
    found: set[str] = set()
    for child in table.get_children():
        found |= {s.get_name() for s in child.get_symbols() if s.is_declared_global() and s.is_assigned()}
        found |= _declared_global(child)
    return found


def _binds_unseen(tree: ast.Module) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
            return True
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in _RUNS_OTHER_CODE:
                return True
    return False


class _UsedBeforeBound(ast.NodeVisitor):
    """Finds names that module-level code reads before anything binds them: ``x = x + 1`` needs ``x`` from outside.

    Follows the text from top to bottom, in the order of evaluation. Functions run later and are left to the symbol
    table; a name bound on any branch counts as bound.
    """

    def __init__(self) -> None:
        self.bound: set[str] = set()
        self.early: set[str] = set()

    @classmethod
    def of(cls, tree: ast.Module) -> set[str]:
        """The names of a whole module that are bound too late."""
        visitor = cls()
        visitor.visit(tree)
        return visitor.early & visitor.bound

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Store) and node.id not in self.bound:
            self.early.add(node.id)
        if not isinstance(node.ctx, ast.Load):
            self.bound.add(node.id)  # a deletion, too, makes the name the cell's own

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        self.visit(node.value)
        if isinstance(node.target, ast.Name) and node.target.id not in self.bound:
            self.early.add(node.target.id)
        self.visit(node.target)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.annotation)
        if node.value:
            self.visit(node.value)
            self.visit(node.target)

    def visit_For(self, node: ast.For | ast.AsyncFor) -> None:
        self.visit(node.iter)
        self.visit(node.target)
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    visit_AsyncFor = visit_For  # noqa: N815

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type:
            self.visit(node.type)
        if node.name:
            self.bound.add(node.name)
        for statement in node.body:
            self.visit(statement)

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.bound |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}

    visit_ImportFrom = visit_Import  # noqa: N815

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for outside in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(outside)
        self.bound.add(node.name)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for outside in (*node.decorator_list, *node.bases, *node.keywords):
            self.visit(outside)
        self.bound.add(node.name)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        for outside in (*node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(outside)

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        # Only the first iterable is surely read here and now in the module's scope.
        self.visit(node.generators[0].iter)

    visit_SetComp = visit_GeneratorExp = visit_DictComp = visit_ListComp  # noqa: N815
