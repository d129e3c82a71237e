"""What is installed from a wheel is whole, and the student's half of it needs nothing of the hub's half."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tools.install import BUILT, ROOT

pytestmark = pytest.mark.slow  # many processes, or every step of a life: too long for the quick run

WITHOUT_THE_HUB = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("jupyterhub", "sqlalchemy", "alembic", "jupyterlab", "kubespawner"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
"""


def build(kind: str, folder: Path) -> Path:
    if not BUILT.is_file():
        pytest.skip("needs the built JupyterLab extension: `make test` builds it")
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [built] = folder.iterdir()
    return built


def files(*suffixes: str) -> set[str]:
    """Files of the packages with these endings."""
    packages = [ROOT / name for name in ("fastgpu", "fastgpu_hub", "fastgpu_magics")]
    found = [path for package in packages for path in package.rglob("*") if path.suffix in suffixes]
    return {str(path.relative_to(ROOT)) for path in found if not path.is_relative_to(BUILT.parent)}


def test_a_wheel_holds_modules_pages_migrations_and_the_labextension(tmp_path: Path) -> None:
    wheel = build("wheel", tmp_path)
    names = set(zipfile.ZipFile(wheel).namelist())
    wanted = files(".py", ".html", ".css", ".js", ".mako", ".typed")
    assert {"fastgpu_hub/service/templates/home.html", "fastgpu_hub/spawner/templates/spawn_form.html"} <= wanted
    assert wanted <= names
    data = "-".join(wheel.name.split("-")[:2]) + ".data/data"
    assert f"{data}/etc/jupyter/jupyter_server_config.d/fastgpu_magics.json" in names
    lab = f"{data}/share/jupyter/labextensions/fastgpu"
    assert f"{lab}/package.json" in names
    assert [name for name in names if name.startswith(f"{lab}/static/remoteEntry.")]
    assert not [name for name in names if name.startswith(("tests", "tools", "docs", "labextension"))]


def test_a_source_distribution_can_be_built_and_tested_without_node(tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert files(".py", ".html") <= names
    wanted = [
        "fastgpu_magics/labextension/package.json",
        "hatch_build.py",
        "labextension/package-lock.json",
        "Makefile",
    ]
    assert names.issuperset([*wanted, "tools/install.py", "tests/conftest.py"])
    assert not [name for name in names if "node_modules" in name or name.startswith((".venv", ".fastgpu"))]


def run(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT_THE_HUB + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "module",
    ["fastgpu", "fastgpu.aio", "fastgpu.cli", "fastgpu_magics", "fastgpu_magics.execution", "fastgpu_magics.server"],
)
def test_the_students_half_works_without_the_hubs(module: str) -> None:
    done = run(f"import {module}")
    assert done.returncode == 0, done.stderr


def test_the_service_without_the_hubs_half_says_what_to_install() -> None:
    done = run("from fastgpu_hub.service.__main__ import main; main()")
    assert done.returncode == 1
    assert done.stderr.endswith("is not installed. The service needs: pip install 'fastgpu-hub[hub]'\n")
    assert "Traceback" not in done.stderr
