"""The project's own rules about its source: short modules, the layering, one vocabulary."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fastgpu_hub.service.routes import ROUTES

ROOT = Path(__file__).resolve().parent.parent
MOST_LINES = 400
LONGER_FOR_A_REASON = {
    "fastgpu_hub/engines/shepherd.py": "started alone, with -I -S, to come up fast: it can import none of ours",
    "tests/contracts/test_store.py": "one contract, one suite: every store passes all of it",
    "tests/service/test_access_matrix.py": "one table: every route, every verb, everybody",
    "fastgpu/models.py": "the wire's whole vocabulary in one place, data only, read top to bottom",
}
PACKAGES = ("fastgpu/", "fastgpu_hub/", "fastgpu_magics/")
# Each function here answers the row of its name in the route table, and the row's summary is its sentence.
ANSWER_ROUTES = ("fastgpu_hub/service/endpoints.py", "fastgpu_hub/service/pages/views.py")


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
    summaries = {row.name: row.summary.strip() for row in ROUTES}
    silent = []
    for path in sources():
        name = str(path.relative_to(ROOT))
        if path.suffix != ".py" or not name.startswith(PACKAGES) or "migrations/versions" in name:
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name[0] == "_":
                continue
            sentence = ast.get_docstring(node)
            if not sentence and name in ANSWER_ROUTES:
                sentence = summaries.get(node.name)
            if not sentence:
                silent.append(f"{name}:{node.lineno} {node.name}")
    assert silent == []


def test_no_tracked_file_names_a_registry_or_an_absolute_home():
    lock = (ROOT / "labextension" / "package-lock.json").read_text(encoding="utf-8")
    assert not re.search(r'"resolved":\s*"http', lock)
