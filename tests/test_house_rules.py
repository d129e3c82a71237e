"""The project's own rules about its source: short modules, the layering, one vocabulary."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MOST_LINES = 400
LONGER_FOR_A_REASON = {
    "tests/contracts/test_store.py": "one contract, one suite: every store passes all of it",
    "fastgpu/models.py": "the wire's whole vocabulary in one place, data only, read top to bottom",
}


def sources() -> list[Path]:
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py", "*.ts"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if tracked.returncode:
        pytest.skip("needs a git checkout")
    return [ROOT / name for name in tracked.stdout.splitlines() if (ROOT / name).exists()]


def test_a_module_over_four_hundred_lines_has_a_written_reason():
    long = {
        str(path.relative_to(ROOT)): lines
        for path in sources()
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert set(long) <= set(LONGER_FOR_A_REASON), f"split these, or write down why not: {long}"
    assert set(LONGER_FOR_A_REASON) <= set(long), "a reason for a module that is short by now"


def test_the_layers_import_only_what_they_may():
    program = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("needs import-linter: make lint installs it")
    done = subprocess.run([program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_public_function_and_class_says_what_it_is_for():
    import ast

    silent = []
    for path in sources():
        if path.suffix != ".py" or path.relative_to(ROOT).parts[0] not in ("fastgpu", "fastgpu_hub", "fastgpu_magics"):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            public = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_"
            if public and not ast.get_docstring(node) and "migrations/versions" not in str(path):
                silent.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert silent == []


def test_no_tracked_file_names_a_registry_or_an_absolute_home():
    lock = (ROOT / "labextension" / "package-lock.json").read_text(encoding="utf-8")
    assert not re.search(r'"resolved":\s*"http', lock)
