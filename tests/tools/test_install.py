"""``tools/install.py``: quiet when all is well, all of a step's output when it is not, nothing done twice."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import install


def test_a_step_that_works_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    install.run(sys.executable, "-c", "import sys; print('npm warn'); print('Compilation starting…', file=sys.stderr)")
    assert capfd.readouterr() == ("", "")


def test_a_step_that_fails_shows_its_output_and_ends_the_installation(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"This step failed \(exit code 3\), see above why: .*python"):
        install.run(sys.executable, "-c", "import sys; print('the reason', file=sys.stderr); sys.exit(3)")
    assert capfd.readouterr().out == "the reason\n"


def test_a_long_step_shows_that_it_is_alive(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "SIGN_OF_LIFE_SECONDS", 0.05)
    install.run(sys.executable, "-S", "-c", "import time; time.sleep(0.3)")
    assert "   still working, 0 s\n" in capfd.readouterr().out


def test_a_digest_changes_with_content_and_with_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "ROOT", tmp_path)
    source = tmp_path / "src"
    source.mkdir()
    (source / "a").write_text("1")
    first = install.digest(source)
    assert install.digest(source) == first
    (source / "a").write_text("2")
    assert install.digest(source) != first
    (source / "a").rename(source / "b")
    (source / "b").write_text("1")
    assert install.digest(source) != first


@pytest.mark.parametrize(
    ("printed", "version"),
    [("v20.19.4", (20, 19)), ("v22.1.0", (22, 1)), ("nonsense", (0, 0)), (None, (0, 0))],
)
def test_the_version_of_node_is_read(printed: str | None, version: tuple[int, int], tmp_path: Path) -> None:
    if printed is not None:
        node = tmp_path / "node"
        node.write_text(f"#!/bin/sh\necho {printed}\n")
        node.chmod(0o755)
    assert install.node_version(str(tmp_path)) == version


def test_what_is_installed_already_is_not_installed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(install, "STAMPS", tmp_path / "stamps.json")
    steps: list[tuple[object, ...]] = []
    monkeypatch.setattr(install, "run", lambda *command, **_: steps.append(command))
    stamps: dict[str, str] = {}
    install.install_packages("test", stamps, {})
    assert len(steps) == 1
    install.install_packages("test", stamps, {})
    install.install_packages("hub", stamps, {})  # less than what is there
    assert len(steps) == 1
    install.install_packages("dev", stamps, {})
    assert len(steps) == 2
    install.install_packages("hub", stamps, {})
    install.install_packages("dev", {**stamps, "labextension": "another"}, {})
    assert len(steps) == 3
    assert "installing Python packages (dev)" in capsys.readouterr().out


def test_every_kind_of_installation_is_an_extra_of_the_package() -> None:
    text = (install.ROOT / "pyproject.toml").read_text()
    for extras in install.EXTRAS.values():
        assert all(f"\n{extra} = [" in text for extra in extras.split(","))


def test_a_kind_that_does_not_exist_is_named() -> None:
    command = [sys.executable, str(install.ROOT / "tools" / "install.py"), "everything"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "What is 'everything'? Use one of: hub, test, dev, bench\n"


def test_the_continuous_integration_fails_when_the_checks_fail_and_still_shows_the_tests(tmp_path: Path) -> None:
    (tmp_path / ".ci").mkdir()
    run = tmp_path / ".ci" / "run"
    run.write_bytes((install.ROOT / ".ci" / "run").read_bytes())
    make = tmp_path / "make"
    make.write_text('#!/bin/sh\necho "ran $1 in $PWD"\n[ "$1" != "$FAILING" ]\n')
    make.chmod(0o755)

    def ci(failing: str) -> tuple[bool, list[str]]:
        environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FAILING": failing}
        done = subprocess.run(["bash", str(run)], env=environment, capture_output=True, text=True, check=False)
        return done.returncode == 0, done.stdout.splitlines()

    lint, test = f"ran lint in {tmp_path}", f"ran test in {tmp_path}"
    assert ci("") == (True, [lint, test])
    assert ci("test") == (False, [lint, test])
    assert ci("lint") == (False, [lint, test, "make lint failed, see above."])
