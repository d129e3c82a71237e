"""Jobs benchmark, jupyter-scheduler's side: a Jupyter server with that extension, from a Python of its own."""

from __future__ import annotations

import itertools
import json
import os
import secrets
import socket
import subprocess
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path
from typing import Any

REQUIREMENT = "jupyter-scheduler>=2.12,<3"
POLL_SECONDS = 0.001


def install(folder: Path) -> Path:
    """A virtual environment with jupyter-scheduler in this folder; the path of its Python."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", REQUIREMENT, "ipykernel"], check=True)
    return python


def version(python: Path) -> str | None:
    """jupyter-scheduler's version in this Python; None when it is not there."""
    code = "from importlib.metadata import version; print(version('jupyter-scheduler'))"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


class JupyterScheduler:
    """Submits through its REST API. Its job's output can be read only when all cells have run.

    So the first cell's moment is taken from the cell itself, which makes a file; that is earlier than its user sees it.
    """

    name = "jupyter-scheduler"

    def __init__(self, folder: Path, python: Path) -> None:
        folder.mkdir()
        self._folder, self._python = folder, python
        self._token = secrets.token_hex(16)
        self._numbers = itertools.count(1)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])

    def __enter__(self) -> JupyterScheduler:
        (self._folder / "home").mkdir()
        with (self._folder / "server.log").open("wb") as log:
            self._server = subprocess.Popen(self._command(), env=self._environment(), stdout=log, stderr=log)
        until = time.monotonic() + 60
        while True:
            try:
                self._call("scheduler/runtime_environments")
            except (OSError, urllib.error.URLError):
                if self._server.poll() is not None or time.monotonic() > until:
                    self.__exit__()
                    log_text = (self._folder / "server.log").read_text(errors="replace")
                    raise RuntimeError(f"jupyter-scheduler did not start:\n{log_text[-2000:]}") from None
                time.sleep(0.1)
            else:
                return self

    def __exit__(self, *_: object) -> None:
        self._server.terminate()
        try:
            self._server.wait(15)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def _command(self) -> list[str]:
        return [
            *(str(self._python), "-m", "jupyter_server", "--allow-root", "--no-browser", "--ip=127.0.0.1"),
            f"--port={self._port}",
            f"--ServerApp.root_dir={self._folder}",
            f"--IdentityProvider.token={self._token}",
            f"--SchedulerApp.db_url=sqlite:///{self._folder}/scheduler.sqlite",
        ]

    def _environment(self) -> dict[str, str]:
        foreign = ("JUPYTERHUB_", "PYTHONPATH", "JUPYTER_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        path = f"{self._python.parent}{os.pathsep}{kept.get('PATH', os.defpath)}"
        return {**kept, "HOME": str(self._folder / "home"), "PATH": path, "JUPYTER_PREFER_ENV_PATH": "1"}

    def first_cell(self) -> float:
        """Seconds from before a notebook is submitted until its first cell has run."""
        number = next(self._numbers)
        mark = self._folder / f"mark-{number}"
        source = f"import os; print('first cell of {number}'); os.close(os.open({str(mark)!r}, os.O_CREAT))"
        path = self._folder / f"n{number}.ipynb"
        path.write_text(json.dumps(notebook(source)), encoding="utf-8")
        asked = {
            "name": path.stem,
            "input_uri": path.name,
            "runtime_environment_name": "python",
            "output_formats": ["ipynb"],
        }
        began = time.perf_counter()
        job = self._call("scheduler/jobs", asked)["job_id"]
        while not mark.exists():
            time.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
        while (status := self._call(f"scheduler/jobs/{job}")["status"]) != "COMPLETED":
            if status == "FAILED":
                raise SystemExit("jupyter-scheduler: the notebook failed")
            time.sleep(0.05)
        return seconds

    def _call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {self._token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)


def notebook(first: str) -> dict[str, object]:
    """A notebook whose second cell runs for a fifth of a second."""
    cells = [
        {"cell_type": "code", "id": f"c{n}", "metadata": {}, "execution_count": None, "outputs": [], "source": source}
        for n, source in enumerate((first, "import time; time.sleep(0.2)"))
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
